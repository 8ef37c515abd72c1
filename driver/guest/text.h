/* Memory, counted UTF-16 text and base64 for the guest programs, which link no C runtime. */
#pragma once

#define WIN32_LEAN_AND_MEAN
#define UNICODE
#include <windows.h>

/* Longest text that CreateProcessW takes, its terminating NUL included (Microsoft's page on CreateProcessW). */
#define TEXT_UNITS_MAXIMUM 32767u

/* A counted text that is also NUL-terminated. `units` is NULL for an absent text. */
typedef struct TEXT {
    WCHAR *units;
    ULONG length;
} TEXT;

/* Zeroed memory, NULL when there is none. */
void *memory_get(SIZE_T size);

/* Frees memory of memory_get; NULL is allowed. */
void memory_free(void *memory);

/* A copy of its own; units is NULL when there is no memory or the text is absent. */
TEXT text_copy(const TEXT *text);

BOOL text_equal(const TEXT *left, const TEXT *right);
BOOL text_is(const TEXT *text, const char *ascii);
BOOL text_has_nul(const TEXT *text);

/* Writes `prefix` and the decimal digits of `number`, NUL-terminated. Returns the units written without the NUL. */
ULONG text_numbered(WCHAR *target, ULONG capacity, const char *prefix, ULONG number);

/* Reads decimal digits, or hexadecimal ones after 0x, up to a blank or the end; FALSE for anything else. */
BOOL text_to_number(const WCHAR *text, ULONG *number);

/* Bytes that `length` units of base64 stand for at most. */
SIZE_T base64_bytes(SIZE_T length);

/* Decodes padded base64 (RFC 4648, section 4). FALSE for any other character, length, padding or stray bits. */
BOOL base64_decode(const WCHAR *text, SIZE_T length, BYTE *target, SIZE_T *size);

/* The system clock in 100 ns units since 1601 UTC. */
ULONGLONG clock_now(void);

/* The NTSTATUS that a system service last failed with in this thread, 0 when none did since status_forget. A function of
 * Windows that fails by itself leaves there what was there before (ntdll; winternl.h does not declare it). */
NTSYSAPI LONG NTAPI RtlGetLastNtStatus(void);
void status_forget(void);
