/*
 * rules.c - immutable rule sets: validation, replacement and lookup (see rules.h).
 *
 * Every pattern is upcased once and entered in one hash table by a hash of its text and kind. An image name is
 * upcased and hashed unit by unit: forward for exact and subtree rules, probing at each backslash and at the end;
 * backward for suffix rules, probing at each component boundary. The cost of a lookup depends on the name's length,
 * not on the number of rules.
 */
#include "rules.h"

#define PN_RULES_TAG 'RnPN'
#define PN_ORIGINAL_TAG 'OnPN'
#define PN_NO_RULE MAXUSHORT
#define PN_HASH_SEED 0xCBF29CE484222325ull
#define PN_HASH_PRIME 0x100000001B3ull

typedef struct _PN_RULE_ENTRY {
    ULONG64 Key;   /* hash of text and kind */
    PWCHAR Text;   /* upcased */
    ULONG Units;
    NTSTATUS Status;
    USHORT Match;  /* PROCNOTIFY_MATCH_* */
    USHORT Next;   /* in the bucket's chain, or PN_NO_RULE */
} PN_RULE_ENTRY, *PPN_RULE_ENTRY;

struct _PN_RULE_SET {
    volatile LONG64 Balance; /* see rules.h */
    PVOID Original;          /* the bytes as they were set, in paged memory */
    ULONG Size;              /* of Original */
    ULONG Count;
    ULONG BucketMask;
    BOOLEAN HasForward;      /* exact or subtree rules */
    BOOLEAN HasBackward;     /* suffix rules */
    PUSHORT Buckets;         /* index of the first entry, or PN_NO_RULE */
    PN_RULE_ENTRY Entries[]; /* in the order of the rules; buckets and texts follow in the same block */
};

C_ASSERT(PROCNOTIFY_MAXIMUM_RULES < PN_NO_RULE);
/* The sum of all lengths in the largest set fits in 32 bits. */
C_ASSERT(PROCNOTIFY_MAXIMUM_RULES * (sizeof(PROCNOTIFY_RULE) + PROCNOTIFY_MAXIMUM_PATTERN_BYTES + 8ull) < MAXULONG / 4);

_IRQL_requires_(PASSIVE_LEVEL)
static __inline WCHAR PnUpcase(_In_ WCHAR Unit)
{
    if (Unit < 0x80) {
        return (WCHAR)(Unit >= L'a' && Unit <= L'z' ? Unit - (L'a' - L'A') : Unit);
    }
    return RtlUpcaseUnicodeChar(Unit);
}

static __inline ULONG64 PnHashUnit(_In_ ULONG64 Hash, _In_ WCHAR Unit)
{
    return (Hash ^ Unit) * PN_HASH_PRIME;
}

static __inline ULONG64 PnRuleKey(_In_ ULONG64 Hash, _In_ USHORT Match)
{
    ULONG64 key = PnHashUnit(Hash, Match);

    return key ^ (key >> 32);
}

/* The hash of an upcased pattern, in the direction in which names are hashed for its kind. */
static ULONG64 PnHashPattern(_In_reads_(Units) const WCHAR *Text, _In_ ULONG Units, _In_ USHORT Match)
{
    ULONG64 hash = PN_HASH_SEED;
    ULONG i;

    for (i = 0; i < Units; i++) {
        hash = PnHashUnit(hash, Match == PROCNOTIFY_MATCH_SUFFIX ? Text[Units - 1 - i] : Text[i]);
    }
    return PnRuleKey(hash, Match);
}

/* The first entry before `Best` that equals the text, or `Best`. */
_IRQL_requires_(PASSIVE_LEVEL)
static ULONG PnRuleFind(_In_ const PN_RULE_SET *Set, _In_ ULONG64 Hash, _In_ USHORT Match,
                        _In_reads_(Units) const WCHAR *Text, _In_ ULONG Units, _In_ ULONG Best)
{
    ULONG64 key = PnRuleKey(Hash, Match);
    USHORT index = Set->Buckets[key & Set->BucketMask];

    while (index != PN_NO_RULE) {
        const PN_RULE_ENTRY *entry = &Set->Entries[index];

        if (entry->Key == key && entry->Match == Match && entry->Units == Units && index < Best) {
            ULONG i = 0;

            while (i < Units && PnUpcase(Text[i]) == entry->Text[i]) {
                i++;
            }
            if (i == Units) {
                Best = index;
            }
        }
        index = entry->Next;
    }
    return Best;
}

_IRQL_requires_(PASSIVE_LEVEL)
static ULONG PnRuleFindForward(_In_ const PN_RULE_SET *Set, _In_reads_(Units) const WCHAR *Name, _In_ ULONG Units)
{
    ULONG best = Set->Count;
    ULONG64 hash = PN_HASH_SEED;
    ULONG i;

    for (i = 0; i < Units; i++) {
        if (Name[i] == L'\\') {
            best = PnRuleFind(Set, hash, PROCNOTIFY_MATCH_SUBTREE, Name, i, best);
        }
        hash = PnHashUnit(hash, PnUpcase(Name[i]));
    }
    return PnRuleFind(Set, hash, PROCNOTIFY_MATCH_EXACT, Name, Units, best);
}

_IRQL_requires_(PASSIVE_LEVEL)
static ULONG PnRuleFindBackward(_In_ const PN_RULE_SET *Set, _In_reads_(Units) const WCHAR *Name, _In_ ULONG Units,
                                _In_ ULONG Best)
{
    ULONG64 hash = PN_HASH_SEED;
    ULONG i;

    for (i = Units; i > 0; i--) {
        if (Name[i - 1] == L'\\') {
            Best = PnRuleFind(Set, hash, PROCNOTIFY_MATCH_SUFFIX, Name + i, Units - i, Best);
        }
        hash = PnHashUnit(hash, PnUpcase(Name[i - 1]));
    }
    return PnRuleFind(Set, hash, PROCNOTIFY_MATCH_SUFFIX, Name, Units, Best);
}

_IRQL_requires_max_(APC_LEVEL)
static VOID PnRuleSetFree(_In_ _Post_invalid_ PPN_RULE_SET Set)
{
    ExFreePoolWithTag(Set->Original, PN_ORIGINAL_TAG);
    ExFreePoolWithTag(Set, PN_RULES_TAG);
}

/* Check one rule with `Remaining` bytes from its start to the end of the set. */
static NTSTATUS PnRuleValidate(_In_reads_bytes_(Remaining) const PROCNOTIFY_RULE *Rule, _In_ ULONG Remaining)
{
    const UCHAR *pattern = (const UCHAR *)(Rule + 1);
    ULONG i;

    if (Remaining < sizeof(*Rule) || Rule->Size < sizeof(*Rule) || Rule->Size > Remaining) {
        return STATUS_INVALID_PARAMETER;
    }
    if (Rule->PatternLength == 0 || Rule->PatternLength > PROCNOTIFY_MAXIMUM_PATTERN_BYTES ||
        Rule->PatternLength % sizeof(WCHAR) != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    if (Rule->Size != ((ULONG)sizeof(*Rule) + Rule->PatternLength + 7) / 8 * 8) {
        return STATUS_INVALID_PARAMETER;
    }
    if (Rule->Match < PROCNOTIFY_MATCH_EXACT || Rule->Match > PROCNOTIFY_MATCH_SUFFIX || Rule->Reserved != 0 ||
        Rule->Status > 0) {
        return STATUS_INVALID_PARAMETER;
    }
    for (i = Rule->PatternLength; i < Rule->Size - sizeof(*Rule); i++) {
        if (pattern[i] != 0) {
            return STATUS_INVALID_PARAMETER;
        }
    }
    return STATUS_SUCCESS;
}

/* Check a whole set; `PatternBytes` receives the sum of its patterns' lengths. */
static NTSTATUS PnRulesValidate(_In_reads_bytes_(Length) const PROCNOTIFY_RULES *Header, _In_ ULONG Length,
                                _Out_ PULONG PatternBytes)
{
    ULONG offset = sizeof(*Header);
    ULONG i;

    *PatternBytes = 0;
    if (Length < sizeof(*Header)) {
        return STATUS_INVALID_PARAMETER;
    }
    if (Header->AbiVersion != PROCNOTIFY_ABI_VERSION) {
        return STATUS_REVISION_MISMATCH;
    }
    if (Header->Size != Length || Header->Reserved != 0 || Header->Count > PROCNOTIFY_MAXIMUM_RULES) {
        return STATUS_INVALID_PARAMETER;
    }
    for (i = 0; i < Header->Count; i++) {
        const PROCNOTIFY_RULE *rule = (const VOID *)((const UCHAR *)Header + offset);
        NTSTATUS status = PnRuleValidate(rule, Length - offset);

        if (!NT_SUCCESS(status)) {
            return status;
        }
        offset += rule->Size;
        *PatternBytes += rule->PatternLength;
    }
    return offset == Length ? STATUS_SUCCESS : STATUS_INVALID_PARAMETER;
}

/* Enter a rule that has been validated. An equal rule that comes earlier hides it, so it need not be found. */
_IRQL_requires_(PASSIVE_LEVEL)
static VOID PnRuleSetAdd(_Inout_ PPN_RULE_SET Set, _In_ USHORT Index, _In_ const PROCNOTIFY_RULE *Rule,
                         _Out_writes_bytes_(Rule->PatternLength) PWCHAR Text)
{
    const WCHAR *pattern = (const VOID *)(Rule + 1);
    PPN_RULE_ENTRY entry = &Set->Entries[Index];
    PUSHORT link;
    ULONG i;

    entry->Text = Text;
    entry->Units = Rule->PatternLength / (ULONG)sizeof(WCHAR);
    entry->Status = Rule->Status == 0 ? STATUS_ACCESS_DENIED : Rule->Status;
    entry->Match = Rule->Match;
    entry->Next = PN_NO_RULE;
    for (i = 0; i < entry->Units; i++) {
        Text[i] = PnUpcase(pattern[i]);
    }
    if (entry->Match == PROCNOTIFY_MATCH_SUBTREE && Text[entry->Units - 1] == L'\\') {
        entry->Units--;
    }
    if (entry->Match == PROCNOTIFY_MATCH_SUFFIX) {
        Set->HasBackward = TRUE;
    } else {
        Set->HasForward = TRUE;
    }
    entry->Key = PnHashPattern(Text, entry->Units, entry->Match);
    link = &Set->Buckets[entry->Key & Set->BucketMask];
    while (*link != PN_NO_RULE) {
        const PN_RULE_ENTRY *other = &Set->Entries[*link];

        if (other->Key == entry->Key && other->Match == entry->Match && other->Units == entry->Units &&
            RtlEqualMemory(other->Text, Text, entry->Units * sizeof(WCHAR))) {
            return;
        }
        link = &Set->Entries[*link].Next;
    }
    *link = Index;
}

/* Make a set of at least one rule from a buffer that has been validated. */
_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnRuleSetCreate(_In_ const PROCNOTIFY_RULES *Header, _In_ ULONG PatternBytes,
                                _Out_ PPN_RULE_SET *Result)
{
    const UCHAR *source = (const UCHAR *)(Header + 1);
    PPN_RULE_SET set;
    PWCHAR text;
    ULONG buckets = 2;
    ULONG i;

    *Result = NULL;
    while (buckets < Header->Count * 2) {
        buckets *= 2;
    }
    set = ExAllocatePoolWithTag(NonPagedPoolNx,
                                sizeof(*set) + Header->Count * sizeof(set->Entries[0]) + buckets * sizeof(USHORT) +
                                    PatternBytes,
                                PN_RULES_TAG);
    if (set == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlZeroMemory(set, sizeof(*set));
    set->Original = ExAllocatePoolWithTag(PagedPool, Header->Size, PN_ORIGINAL_TAG);
    if (set->Original == NULL) {
        ExFreePoolWithTag(set, PN_RULES_TAG);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlCopyMemory(set->Original, Header, Header->Size);
    set->Size = Header->Size;
    set->Count = Header->Count;
    set->BucketMask = buckets - 1;
    set->Buckets = (PUSHORT)(VOID *)&set->Entries[Header->Count];
    for (i = 0; i < buckets; i++) {
        set->Buckets[i] = PN_NO_RULE;
    }
    text = (PWCHAR)(VOID *)(set->Buckets + buckets);
    for (i = 0; i < Header->Count; i++) {
        const PROCNOTIFY_RULE *rule = (const VOID *)source;

        PnRuleSetAdd(set, (USHORT)i, rule, text);
        text += rule->PatternLength / sizeof(WCHAR);
        source += rule->Size;
    }
    *Result = set;
    return STATUS_SUCCESS;
}

_IRQL_requires_max_(DISPATCH_LEVEL)
static PPN_RULE_SET PnRulesAcquire(_Inout_ PPN_RULES Rules)
{
    LONG64 seen[2];

    /* A torn read of the two halves only costs another turn: the exchange compares both. */
    seen[0] = *(volatile LONG64 *)(VOID *)&Rules->Current.Set;
    seen[1] = *(volatile LONG64 *)&Rules->Current.Taken;
    while (seen[0] != 0) {
        if (InterlockedCompareExchange128((volatile LONG64 *)(VOID *)&Rules->Current, seen[1] + 1, seen[0], seen)) {
            return (PPN_RULE_SET)seen[0];
        }
    }
    return NULL;
}

_IRQL_requires_(PASSIVE_LEVEL)
static VOID PnRulesRelease(_In_ PPN_RULE_SET Set)
{
    if (InterlockedDecrement64(&Set->Balance) == 0) {
        PnRuleSetFree(Set);
    }
}

/* Make `Set` current and give up the one before it. */
_IRQL_requires_max_(APC_LEVEL)
static VOID PnRulesSwap(_Inout_ PPN_RULES Rules, _In_opt_ PPN_RULE_SET Set)
{
    PPN_RULE_SET old;
    LONG64 seen[2];

    seen[0] = *(volatile LONG64 *)(VOID *)&Rules->Current.Set;
    seen[1] = *(volatile LONG64 *)&Rules->Current.Taken;
    while (!InterlockedCompareExchange128((volatile LONG64 *)(VOID *)&Rules->Current, 0, (LONG64)Set, seen)) {
    }
    old = (PPN_RULE_SET)seen[0];
    if (old != NULL && InterlockedExchangeAdd64(&old->Balance, seen[1]) + seen[1] == 0) {
        PnRuleSetFree(old);
    }
}

_Use_decl_annotations_
VOID PnRulesInitialize(PPN_RULES Rules)
{
    RtlZeroMemory(Rules, sizeof(*Rules));
    ExInitializeFastMutex(&Rules->Lock);
}

_Use_decl_annotations_
VOID PnRulesFree(PPN_RULES Rules)
{
    PnRulesSwap(Rules, NULL);
}

_Use_decl_annotations_
NTSTATUS PnRulesReplace(PPN_RULES Rules, const VOID *Buffer, ULONG Length)
{
    const PROCNOTIFY_RULES *header = Buffer;
    PPN_RULE_SET set = NULL;
    ULONG patternBytes;
    NTSTATUS status;

    status = PnRulesValidate(header, Length, &patternBytes);
    if (NT_SUCCESS(status) && header->Count != 0) {
        status = PnRuleSetCreate(header, patternBytes, &set);
    }
    if (!NT_SUCCESS(status)) {
        return status;
    }
    ExAcquireFastMutex(&Rules->Lock);
    PnRulesSwap(Rules, set);
    Rules->Generation++;
    ExReleaseFastMutex(&Rules->Lock);
    return STATUS_SUCCESS;
}

_Use_decl_annotations_
NTSTATUS PnRulesQuery(PPN_RULES Rules, VOID *Buffer, ULONG Length, PULONG Written)
{
    static const PROCNOTIFY_RULES empty = {PROCNOTIFY_ABI_VERSION, 0, sizeof(PROCNOTIFY_RULES), 0};
    NTSTATUS status = STATUS_BUFFER_TOO_SMALL;
    const VOID *source = &empty;
    ULONG size = sizeof(empty);

    *Written = 0;
    /* Only the holder of the lock replaces the set, so it needs no reference. */
    ExAcquireFastMutex(&Rules->Lock);
    if (Rules->Current.Set != NULL) {
        source = Rules->Current.Set->Original;
        size = Rules->Current.Set->Size;
    }
    if (size <= Length) {
        RtlCopyMemory(Buffer, source, size);
        *Written = size;
        status = STATUS_SUCCESS;
    }
    ExReleaseFastMutex(&Rules->Lock);
    return status;
}

_Use_decl_annotations_
VOID PnRulesStatistics(PPN_RULES Rules, PROCNOTIFY_STATISTICS *Statistics)
{
    ExAcquireFastMutex(&Rules->Lock);
    Statistics->RuleCount = Rules->Current.Set == NULL ? 0 : Rules->Current.Set->Count;
    Statistics->RulesSize = Rules->Current.Set == NULL ? (ULONG)sizeof(PROCNOTIFY_RULES) : Rules->Current.Set->Size;
    Statistics->RulesGeneration = Rules->Generation;
    ExReleaseFastMutex(&Rules->Lock);
}

_Use_decl_annotations_
NTSTATUS PnRulesMatch(PPN_RULES Rules, PCUNICODE_STRING ImageName)
{
    ULONG units = ImageName->Length / (ULONG)sizeof(WCHAR);
    NTSTATUS status = STATUS_SUCCESS;
    PPN_RULE_SET set;
    ULONG best;

    set = PnRulesAcquire(Rules);
    if (set == NULL) {
        return STATUS_SUCCESS;
    }
    best = set->Count;
    if (set->HasForward) {
        best = PnRuleFindForward(set, ImageName->Buffer, units);
    }
    if (set->HasBackward) {
        best = PnRuleFindBackward(set, ImageName->Buffer, units, best);
    }
    if (best < set->Count) {
        status = set->Entries[best].Status;
    }
    PnRulesRelease(set);
    return status;
}
