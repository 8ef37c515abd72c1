/* Copying, filling and comparing memory: the C runtime's names and the Rtl ones (wdm.h), callable at any IRQL. */
#include "kernel.h"

/*
 * Under the emulator an unrolled loop over registers takes 60 % of the time of rep movsq and as long as SSE moves do.
 * A piece is read whole before it is written, so pieces may overlap.
 */
typedef uint64_t __attribute__((aligned(1), may_alias)) unaligned64;
typedef uint32_t __attribute__((aligned(1), may_alias)) unaligned32;
typedef uint16_t __attribute__((aligned(1), may_alias)) unaligned16;

static void copy_small(uint8_t *target, const uint8_t *source, size_t size)
{
    if (size >= 8) {
        uint64_t head = *(const unaligned64 *)source;
        uint64_t tail = *(const unaligned64 *)(source + size - 8);
        *(unaligned64 *)target = head;
        *(unaligned64 *)(target + size - 8) = tail;
    } else if (size >= 4) {
        uint32_t head = *(const unaligned32 *)source;
        uint32_t tail = *(const unaligned32 *)(source + size - 4);
        *(unaligned32 *)target = head;
        *(unaligned32 *)(target + size - 4) = tail;
    } else if (size >= 2) {
        uint16_t head = *(const unaligned16 *)source;
        uint16_t tail = *(const unaligned16 *)(source + size - 2);
        *(unaligned16 *)target = head;
        *(unaligned16 *)(target + size - 2) = tail;
    } else if (size) {
        *target = *source;
    }
}

static void copy_32(uint8_t *target, const uint8_t *source)
{
    uint64_t a = *(const unaligned64 *)source;
    uint64_t b = *(const unaligned64 *)(source + 8);
    uint64_t c = *(const unaligned64 *)(source + 16);
    uint64_t d = *(const unaligned64 *)(source + 24);
    *(unaligned64 *)target = a;
    *(unaligned64 *)(target + 8) = b;
    *(unaligned64 *)(target + 16) = c;
    *(unaligned64 *)(target + 24) = d;
}

static void copy_forward(uint8_t *target, const uint8_t *source, size_t size)
{
    for (; size >= 32; size -= 32, target += 32, source += 32)
        copy_32(target, source);
    for (; size >= 8; size -= 8, target += 8, source += 8)
        *(unaligned64 *)target = *(const unaligned64 *)source;
    copy_small(target, source, size);
}

static void copy_backward(uint8_t *target, const uint8_t *source, size_t size)
{
    while (size >= 32) {
        size -= 32;
        copy_32(target + size, source + size);
    }
    while (size >= 8) {
        size -= 8;
        *(unaligned64 *)(target + size) = *(const unaligned64 *)(source + size);
    }
    copy_small(target, source, size);
}

static void fill(uint8_t *target, uint8_t value, size_t size)
{
    uint64_t word = value * 0x0101010101010101u;

    for (; size >= 32; size -= 32, target += 32) {
        *(unaligned64 *)target = word;
        *(unaligned64 *)(target + 8) = word;
        *(unaligned64 *)(target + 16) = word;
        *(unaligned64 *)(target + 24) = word;
    }
    for (; size >= 8; size -= 8, target += 8)
        *(unaligned64 *)target = word;
    for (; size; size--)
        *target++ = value;
}

/* Bytes that are equal from the start. */
static size_t common_prefix(const uint8_t *first, const uint8_t *second, size_t size)
{
    size_t at = 0;

    while (size - at >= 8 && *(const unaligned64 *)(first + at) == *(const unaligned64 *)(second + at))
        at += 8;
    while (at < size && first[at] == second[at])
        at++;
    return at;
}

EXPORT void *memmove(void *target, const void *source, size_t size)
{
    if ((uintptr_t)target - (uintptr_t)source < size)
        copy_backward(target, source, size);
    else
        copy_forward(target, source, size);
    return target;
}

/* ntoskrnl's memcpy is memmove under another name: overlapping copies are correct. */
EXPORT void *memcpy(void *target, const void *source, size_t size)
{
    return memmove(target, source, size);
}

EXPORT void *memset(void *target, int value, size_t size)
{
    fill(target, (uint8_t)value, size);
    return target;
}

EXPORT int memcmp(const void *first, const void *second, size_t size)
{
    const uint8_t *a = first, *b = second;
    size_t at = common_prefix(a, b, size);

    return at == size ? 0 : a[at] < b[at] ? -1 : 1;
}

EXPORT void *memchr(const void *block, int value, size_t size)
{
    for (const uint8_t *at = block; size; at++, size--) {
        if (*at == (uint8_t)value)
            return (void *)at;
    }
    return NULL;
}

EXPORT void RtlCopyMemory(void *target, const void *source, size_t size)
{
    memmove(target, source, size);
}

EXPORT void RtlMoveMemory(void *target, const void *source, size_t size)
{
    memmove(target, source, size);
}

EXPORT void RtlCopyMemoryNonTemporal(void *target, const void *source, size_t size)
{
    memmove(target, source, size);
}

EXPORT void RtlFillMemory(void *target, size_t size, uint8_t value)
{
    fill(target, value, size);
}

EXPORT void RtlZeroMemory(void *target, size_t size)
{
    fill(target, 0, size);
}

EXPORT size_t RtlCompareMemory(const void *first, const void *second, size_t size)
{
    return common_prefix(first, second, size);
}

/* Bytes that match a repeated ULONG; 0 unless the block is ULONG aligned, a rest of the length is ignored. */
EXPORT size_t RtlCompareMemoryUlong(const void *block, size_t size, uint32_t pattern)
{
    const uint32_t *at = block;
    size_t count = size / 4, index = 0;

    if ((uintptr_t)block & 3)
        return 0;
    while (index < count && at[index] == pattern)
        index++;
    return index * 4;
}
