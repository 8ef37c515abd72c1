/*
 * Interlocked lists (wdm.h). One processor runs at a time and is not taken away inside these functions, so the spin
 * lock that the Ex functions take needs no code; the sanity checks of Windows 8 and later on list links are made.
 */
#include "kernel.h"

typedef union __attribute__((aligned(16))) {
    struct {
        uint64_t depth_and_sequence; /* Depth 16 bits, Sequence 48 */
        uint64_t next;               /* address of the first entry, 16-byte aligned, low 4 bits reserved */
    } parts;
    uint16_t Depth;
} SLIST_HEADER;

typedef struct _SLIST_ENTRY {
    struct _SLIST_ENTRY *Next;
} SLIST_ENTRY;

_Static_assert(sizeof(SLIST_HEADER) == 16, "SLIST_HEADER");

#define SEQUENCE_ONE 0x10000u
#define DEPTH_MASK 0xFFFFu
#define NEXT_MASK (~(uint64_t)15)

EXPORT LIST_ENTRY *ExInterlockedInsertHeadList(LIST_ENTRY *head, LIST_ENTRY *entry, uint64_t *lock)
{
    LIST_ENTRY *first = head->Flink;

    (void)lock;
    if (first->Blink != head)
        fast_fail(FAST_FAIL_CORRUPT_LIST_ENTRY);
    entry->Flink = first;
    entry->Blink = head;
    first->Blink = entry;
    head->Flink = entry;
    return first == head ? NULL : first;
}

EXPORT LIST_ENTRY *ExInterlockedInsertTailList(LIST_ENTRY *head, LIST_ENTRY *entry, uint64_t *lock)
{
    LIST_ENTRY *last = head->Blink;

    (void)lock;
    if (last->Flink != head)
        fast_fail(FAST_FAIL_CORRUPT_LIST_ENTRY);
    entry->Flink = head;
    entry->Blink = last;
    last->Flink = entry;
    head->Blink = entry;
    return last == head ? NULL : last;
}

EXPORT LIST_ENTRY *ExInterlockedRemoveHeadList(LIST_ENTRY *head, uint64_t *lock)
{
    LIST_ENTRY *entry = head->Flink, *next = entry->Flink;

    (void)lock;
    if (entry == head)
        return NULL;
    if (entry->Blink != head || next->Blink != entry)
        fast_fail(FAST_FAIL_CORRUPT_LIST_ENTRY);
    head->Flink = next;
    next->Blink = head;
    return entry;
}

EXPORT SINGLE_LIST_ENTRY *ExInterlockedPushEntryList(SINGLE_LIST_ENTRY *head, SINGLE_LIST_ENTRY *entry, uint64_t *lock)
{
    SINGLE_LIST_ENTRY *first = head->Next;

    (void)lock;
    entry->Next = first;
    head->Next = entry;
    return first;
}

EXPORT SINGLE_LIST_ENTRY *ExInterlockedPopEntryList(SINGLE_LIST_ENTRY *head, uint64_t *lock)
{
    SINGLE_LIST_ENTRY *first = head->Next;

    (void)lock;
    if (first)
        head->Next = first->Next;
    return first;
}

EXPORT void InitializeSListHead(SLIST_HEADER *head)
{
    head->parts.depth_and_sequence = 0;
    head->parts.next = 0;
}

EXPORT uint16_t ExQueryDepthSList(const SLIST_HEADER *head)
{
    return head->Depth;
}

static SLIST_ENTRY *first_entry(const SLIST_HEADER *head)
{
    return (SLIST_ENTRY *)(head->parts.next & NEXT_MASK);
}

EXPORT SLIST_ENTRY *ExpInterlockedPushEntrySList(SLIST_HEADER *head, SLIST_ENTRY *entry)
{
    SLIST_ENTRY *first = first_entry(head);
    uint64_t counts = head->parts.depth_and_sequence;

    entry->Next = first;
    head->parts.next = (uint64_t)entry;
    head->parts.depth_and_sequence = ((counts + SEQUENCE_ONE) & ~(uint64_t)DEPTH_MASK) | ((counts + 1) & DEPTH_MASK);
    return first;
}

EXPORT SLIST_ENTRY *ExpInterlockedPopEntrySList(SLIST_HEADER *head)
{
    SLIST_ENTRY *first = first_entry(head);
    uint64_t counts = head->parts.depth_and_sequence;

    if (!first)
        return NULL;
    head->parts.next = (uint64_t)first->Next;
    head->parts.depth_and_sequence = (counts & ~(uint64_t)DEPTH_MASK) | ((counts - 1) & DEPTH_MASK);
    return first;
}

EXPORT SLIST_ENTRY *ExpInterlockedFlushSList(SLIST_HEADER *head)
{
    SLIST_ENTRY *first = first_entry(head);

    head->parts.next = 0;
    head->parts.depth_and_sequence &= ~(uint64_t)DEPTH_MASK;
    return first;
}

EXPORT uint32_t ExInterlockedAddUlong(uint32_t *addend, uint32_t increment, uint64_t *lock)
{
    uint32_t old = *addend;

    (void)lock;
    *addend = old + increment;
    return old;
}

EXPORT int64_t ExInterlockedAddLargeInteger(int64_t *addend, int64_t increment, uint64_t *lock)
{
    int64_t old = *addend;

    (void)lock;
    *addend = (int64_t)((uint64_t)old + (uint64_t)increment);
    return old;
}
