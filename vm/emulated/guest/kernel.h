/*
 * What the parts of the kernel that run as machine code share: types of the public headers (ntdef.h, wdm.h) for x64.
 *
 * These files are compiled freestanding into one image whose exports drivers import. They may call any other export
 * of the kernel, declared here or extern where it is used.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define EXPORT __declspec(dllexport)

typedef int32_t NTSTATUS;
typedef uint8_t BOOLEAN;
typedef uint8_t KIRQL;
typedef uint16_t WCHAR;

#define TRUE 1
#define FALSE 0

#define STATUS_SUCCESS ((NTSTATUS)0x00000000)
#define STATUS_BUFFER_OVERFLOW ((NTSTATUS)0x80000005)
#define STATUS_INVALID_PARAMETER ((NTSTATUS)0xC000000D)
#define STATUS_BUFFER_TOO_SMALL ((NTSTATUS)0xC0000023)
#define STATUS_NAME_TOO_LONG ((NTSTATUS)0xC0000106)

/* winnt.h */
#define FAST_FAIL_CORRUPT_LIST_ENTRY 3

typedef struct _UNICODE_STRING {
    uint16_t Length;
    uint16_t MaximumLength;
    WCHAR *Buffer;
} UNICODE_STRING;

typedef struct _STRING {
    uint16_t Length;
    uint16_t MaximumLength;
    char *Buffer;
} STRING;

typedef struct _LIST_ENTRY {
    struct _LIST_ENTRY *Flink;
    struct _LIST_ENTRY *Blink;
} LIST_ENTRY;

typedef struct _SINGLE_LIST_ENTRY {
    struct _SINGLE_LIST_ENTRY *Next;
} SINGLE_LIST_ENTRY;

_Static_assert(sizeof(UNICODE_STRING) == 16, "UNICODE_STRING");
_Static_assert(sizeof(STRING) == 16, "STRING");
_Static_assert(sizeof(LIST_ENTRY) == 16, "LIST_ENTRY");

/* Filled by the loader with the table of vm.emulated.rtl.upcase. */
EXPORT extern uint16_t NtUpcaseTable[65536];

/* RtlFailFast, wdm.h: bugcheck 0x139 with the code as first parameter. */
static inline __attribute__((noreturn)) void fast_fail(uint32_t code)
{
    __asm__ volatile("int $0x29" : : "c"(code));
    __builtin_unreachable();
}

EXPORT void *memcpy(void *target, const void *source, size_t size);
EXPORT void *memmove(void *target, const void *source, size_t size);
EXPORT void *memset(void *target, int value, size_t size);
EXPORT int memcmp(const void *first, const void *second, size_t size);
EXPORT size_t wcslen(const WCHAR *text);
EXPORT size_t strlen(const char *text);
