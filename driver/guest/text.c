#include "text.h"

/* ntdll; winternl.h has it, and with it what the kernel's headers have. */
NTSYSAPI ULONG NTAPI RtlNtStatusToDosError(LONG status);

void *memory_get(SIZE_T size)
{
    return HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, size);
}

void memory_free(void *memory)
{
    if (memory != NULL) {
        HeapFree(GetProcessHeap(), 0, memory);
    }
}

TEXT text_copy(const TEXT *text)
{
    TEXT copy = {NULL, 0};

    if (text->units != NULL) {
        copy.units = memory_get(((SIZE_T)text->length + 1) * sizeof(WCHAR));
        if (copy.units != NULL) {
            memcpy(copy.units, text->units, text->length * sizeof(WCHAR));
            copy.length = text->length;
        }
    }
    return copy;
}

BOOL text_equal(const TEXT *left, const TEXT *right)
{
    return left->length == right->length && memcmp(left->units, right->units, left->length * sizeof(WCHAR)) == 0;
}

BOOL text_is(const TEXT *text, const char *ascii)
{
    ULONG index;

    for (index = 0; index < text->length && ascii[index] != '\0'; index++) {
        if (text->units[index] != (WCHAR)ascii[index]) {
            return FALSE;
        }
    }
    return index == text->length && ascii[index] == '\0';
}

BOOL text_has_nul(const TEXT *text)
{
    for (ULONG index = 0; index < text->length; index++) {
        if (text->units[index] == L'\0') {
            return TRUE;
        }
    }
    return FALSE;
}

ULONG text_numbered(WCHAR *target, ULONG capacity, const char *prefix, ULONG number)
{
    WCHAR digits[10];
    ULONG count = 0;
    ULONG length = 0;

    do {
        digits[count++] = (WCHAR)(L'0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (prefix[length] != '\0' && length + count + 1 < capacity) {
        target[length] = (WCHAR)prefix[length];
        length++;
    }
    while (count > 0) {
        target[length++] = digits[--count];
    }
    target[length] = L'\0';
    return length;
}

static int digit_of(WCHAR unit)
{
    if (unit >= L'0' && unit <= L'9') {
        return unit - L'0';
    }
    if (unit >= L'a' && unit <= L'f') {
        return unit - L'a' + 10;
    }
    return unit >= L'A' && unit <= L'F' ? unit - L'A' + 10 : -1;
}

BOOL text_to_number(const WCHAR *text, ULONG *number)
{
    ULONGLONG value = 0;
    int base = 10;
    ULONG count = 0;

    if (text[0] == L'0' && text[1] == L'x') {
        base = 16;
        text += 2;
    }
    for (; *text != L'\0' && *text != L' '; text++, count++) {
        int digit = digit_of(*text);

        if (digit < 0 || digit >= base) {
            return FALSE;
        }
        value = value * (ULONGLONG)base + (ULONGLONG)digit;
        if (value > MAXDWORD) {
            return FALSE;
        }
    }
    *number = (ULONG)value;
    return count > 0;
}

SIZE_T base64_bytes(SIZE_T length)
{
    return length / 4 * 3;
}

static int base64_value(WCHAR unit)
{
    if (unit >= L'A' && unit <= L'Z') {
        return unit - L'A';
    }
    if (unit >= L'a' && unit <= L'z') {
        return unit - L'a' + 26;
    }
    if (unit >= L'0' && unit <= L'9') {
        return unit - L'0' + 52;
    }
    return unit == L'+' ? 62 : unit == L'/' ? 63 : -1;
}

BOOL base64_decode(const WCHAR *text, SIZE_T length, BYTE *target, SIZE_T *size)
{
    SIZE_T written = 0;
    ULONG padding = 0;

    if (length % 4 != 0) {
        return FALSE;
    }
    while (padding < 2 && length > padding && text[length - 1 - padding] == L'=') {
        padding++;
    }
    for (SIZE_T index = 0; index < length; index += 4) {
        ULONG used = index + 4 == length ? 4 - padding : 4;
        ULONG group = 0;

        for (ULONG place = 0; place < 4; place++) {
            int value = place < used ? base64_value(text[index + place]) : 0;

            if (value < 0) {
                return FALSE;
            }
            group = group << 6 | (ULONG)value;
        }
        if ((used == 3 && (group & 0xFF) != 0) || (used == 2 && (group & 0xFFFF) != 0)) {
            return FALSE;
        }
        for (ULONG place = 0; place + 1 < used; place++) {
            target[written++] = (BYTE)(group >> (16 - 8 * place));
        }
    }
    *size = written;
    return TRUE;
}

void status_forget(void)
{
    /* It keeps what it is asked to translate. */
    (void)RtlNtStatusToDosError(0);
}

ULONGLONG clock_now(void)
{
    FILETIME now;

    GetSystemTimePreciseAsFileTime(&now);
    return (ULONGLONG)now.dwHighDateTime << 32 | now.dwLowDateTime;
}
