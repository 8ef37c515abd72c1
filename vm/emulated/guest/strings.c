/*
 * Counted strings (wdm.h, ntddk.h): what is called often. Lengths are in bytes; a case-insensitive comparison upcases
 * each UTF-16 unit by itself.
 */
#include "kernel.h"
#include "processor.h"

#define MAXIMUM_STRING 0xFFFE

uint16_t NtUpcaseTable[65536];

static WCHAR upcase(WCHAR unit)
{
    return NtUpcaseTable[unit];
}

/* Windows keeps the table in paged memory; at raised IRQL these functions fail as soon as it is paged out. */
extern void HostUpcaseAtRaisedIrql(const void *table, void *caller);

#define REQUIRE_TABLE(Needed)                                                                                          \
    do {                                                                                                               \
        if ((Needed) && CURRENT_IRQL >= DISPATCH_LEVEL)                                                                \
            HostUpcaseAtRaisedIrql(NtUpcaseTable, __builtin_return_address(0));                                        \
    } while (0)

/* A longer text gives the longest even length; RtlInitUnicodeStringEx refuses it instead. */
EXPORT void RtlInitUnicodeString(UNICODE_STRING *string, const WCHAR *text)
{
    size_t bytes;

    string->Length = 0;
    string->MaximumLength = 0;
    string->Buffer = (WCHAR *)text;
    if (!text)
        return;
    bytes = wcslen(text) * sizeof(WCHAR);
    if (bytes > MAXIMUM_STRING - sizeof(WCHAR))
        bytes = MAXIMUM_STRING - sizeof(WCHAR);
    string->Length = (uint16_t)bytes;
    string->MaximumLength = (uint16_t)(bytes + sizeof(WCHAR));
}

EXPORT NTSTATUS RtlInitUnicodeStringEx(UNICODE_STRING *string, const WCHAR *text)
{
    string->Length = 0;
    string->MaximumLength = 0;
    string->Buffer = (WCHAR *)text;
    if (text) {
        size_t bytes = wcslen(text) * sizeof(WCHAR);
        if (bytes > MAXIMUM_STRING - sizeof(WCHAR))
            return STATUS_NAME_TOO_LONG;
        string->Length = (uint16_t)bytes;
        string->MaximumLength = (uint16_t)(bytes + sizeof(WCHAR));
    }
    return STATUS_SUCCESS;
}

EXPORT void RtlInitAnsiString(STRING *string, const char *text)
{
    size_t bytes;

    string->Length = 0;
    string->MaximumLength = 0;
    string->Buffer = (char *)text;
    if (!text)
        return;
    bytes = strlen(text);
    if (bytes > MAXIMUM_STRING)
        bytes = MAXIMUM_STRING;
    string->Length = (uint16_t)bytes;
    string->MaximumLength = (uint16_t)(bytes + 1);
}

EXPORT void RtlInitString(STRING *string, const char *text)
{
    RtlInitAnsiString(string, text);
}

EXPORT void RtlCopyUnicodeString(UNICODE_STRING *target, const UNICODE_STRING *source)
{
    uint16_t bytes;

    if (!source) {
        target->Length = 0;
        return;
    }
    bytes = source->Length < target->MaximumLength ? source->Length : target->MaximumLength;
    memmove(target->Buffer, source->Buffer, bytes);
    target->Length = bytes;
    if (bytes + sizeof(WCHAR) <= target->MaximumLength)
        target->Buffer[bytes / sizeof(WCHAR)] = 0;
}

static NTSTATUS append(UNICODE_STRING *target, const WCHAR *text, size_t bytes)
{
    size_t total = target->Length + bytes;

    if (total > target->MaximumLength)
        return STATUS_BUFFER_TOO_SMALL;
    memmove((uint8_t *)target->Buffer + target->Length, text, bytes);
    target->Length = (uint16_t)total;
    if (total + sizeof(WCHAR) <= target->MaximumLength)
        target->Buffer[total / sizeof(WCHAR)] = 0;
    return STATUS_SUCCESS;
}

EXPORT NTSTATUS RtlAppendUnicodeStringToString(UNICODE_STRING *target, const UNICODE_STRING *source)
{
    return source->Length ? append(target, source->Buffer, source->Length) : STATUS_SUCCESS;
}

EXPORT NTSTATUS RtlAppendUnicodeToString(UNICODE_STRING *target, const WCHAR *text)
{
    return text ? append(target, text, wcslen(text) * sizeof(WCHAR)) : STATUS_SUCCESS;
}

EXPORT WCHAR RtlUpcaseUnicodeChar(WCHAR unit)
{
    REQUIRE_TABLE(TRUE);
    return upcase(unit);
}

static int32_t compare_units(const WCHAR *first, size_t first_units, const WCHAR *second, size_t second_units,
                             BOOLEAN insensitive)
{
    size_t common = first_units < second_units ? first_units : second_units;

    for (size_t at = 0; at < common; at++) {
        WCHAR a = first[at], b = second[at];
        if (a != b && insensitive) {
            a = upcase(a);
            b = upcase(b);
        }
        if (a != b)
            return (int32_t)a - (int32_t)b;
    }
    return (int32_t)(first_units - second_units);
}

EXPORT int32_t RtlCompareUnicodeStrings(const WCHAR *first, size_t first_units, const WCHAR *second,
                                        size_t second_units, BOOLEAN insensitive)
{
    REQUIRE_TABLE(insensitive);
    return compare_units(first, first_units, second, second_units, insensitive);
}

EXPORT int32_t RtlCompareUnicodeString(const UNICODE_STRING *first, const UNICODE_STRING *second, BOOLEAN insensitive)
{
    REQUIRE_TABLE(insensitive);
    return compare_units(first->Buffer, first->Length / sizeof(WCHAR), second->Buffer, second->Length / sizeof(WCHAR),
                         insensitive);
}

static int equal_units(const WCHAR *first, const WCHAR *second, size_t units, BOOLEAN insensitive)
{
    for (size_t at = 0; at < units; at++) {
        if (first[at] != second[at] && (!insensitive || upcase(first[at]) != upcase(second[at])))
            return FALSE;
    }
    return TRUE;
}

EXPORT BOOLEAN RtlEqualUnicodeString(const UNICODE_STRING *first, const UNICODE_STRING *second, BOOLEAN insensitive)
{
    REQUIRE_TABLE(insensitive);
    return first->Length == second->Length &&
           equal_units(first->Buffer, second->Buffer, first->Length / sizeof(WCHAR), insensitive);
}

EXPORT BOOLEAN RtlPrefixUnicodeString(const UNICODE_STRING *prefix, const UNICODE_STRING *string, BOOLEAN insensitive)
{
    REQUIRE_TABLE(insensitive);
    return prefix->Length <= string->Length &&
           equal_units(prefix->Buffer, string->Buffer, prefix->Length / sizeof(WCHAR), insensitive);
}

EXPORT BOOLEAN RtlSuffixUnicodeString(const UNICODE_STRING *suffix, const UNICODE_STRING *string, BOOLEAN insensitive)
{
    size_t units = suffix->Length / sizeof(WCHAR), all = string->Length / sizeof(WCHAR);

    REQUIRE_TABLE(insensitive);
    return units <= all && equal_units(suffix->Buffer, string->Buffer + (all - units), units, insensitive);
}

/* The documented x65599 algorithm (RtlHashUnicodeString, wdm.h); 0 is HASH_STRING_ALGORITHM_DEFAULT, the same. */
EXPORT NTSTATUS RtlHashUnicodeString(const UNICODE_STRING *string, BOOLEAN insensitive, uint32_t algorithm,
                                     uint32_t *value)
{
    uint32_t hash = 0;

    if (!string || !value || algorithm > 1)
        return STATUS_INVALID_PARAMETER;
    REQUIRE_TABLE(insensitive);
    for (size_t at = 0; at < string->Length / sizeof(WCHAR); at++) {
        WCHAR unit = string->Buffer[at];
        hash = hash * 65599 + (insensitive ? upcase(unit) : unit);
    }
    *value = hash;
    return STATUS_SUCCESS;
}

static uint8_t ascii_upper(uint8_t unit)
{
    return unit - 'a' < 26u ? (uint8_t)(unit - ('a' - 'A')) : unit;
}

EXPORT char RtlUpperChar(char unit)
{
    return (char)ascii_upper((uint8_t)unit);
}

EXPORT int32_t RtlCompareString(const STRING *first, const STRING *second, BOOLEAN insensitive)
{
    size_t common = first->Length < second->Length ? first->Length : second->Length;

    for (size_t at = 0; at < common; at++) {
        uint8_t a = (uint8_t)first->Buffer[at], b = (uint8_t)second->Buffer[at];
        if (insensitive) {
            a = ascii_upper(a);
            b = ascii_upper(b);
        }
        if (a != b)
            return (int32_t)a - (int32_t)b;
    }
    return (int32_t)first->Length - (int32_t)second->Length;
}

EXPORT BOOLEAN RtlEqualString(const STRING *first, const STRING *second, BOOLEAN insensitive)
{
    return first->Length == second->Length && RtlCompareString(first, second, insensitive) == 0;
}

EXPORT BOOLEAN RtlPrefixString(const STRING *prefix, const STRING *string, BOOLEAN insensitive)
{
    STRING start = {prefix->Length, prefix->Length, string->Buffer};

    return prefix->Length <= string->Length && RtlCompareString(prefix, &start, insensitive) == 0;
}

EXPORT void RtlCopyString(STRING *target, const STRING *source)
{
    uint16_t bytes;

    if (!source) {
        target->Length = 0;
        return;
    }
    bytes = source->Length < target->MaximumLength ? source->Length : target->MaximumLength;
    memmove(target->Buffer, source->Buffer, bytes);
    target->Length = bytes;
}
