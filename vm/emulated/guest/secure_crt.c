/*
 * The bounds-checked string and memory functions of the C runtime (Microsoft Learn, "Security features in the CRT").
 * The kernel has no invalid-parameter handler: a violation empties the target where there is one and returns an error.
 */
#include "kernel.h"

#define EINVAL 22
#define ERANGE 34
#define STRUNCATE 80
#define TRUNCATE SIZE_MAX

EXPORT int memcpy_s(void *target, size_t room, const void *source, size_t size)
{
    if (!size)
        return 0;
    if (!target)
        return EINVAL;
    if (!source || room < size) {
        memset(target, 0, room);
        return source ? ERANGE : EINVAL;
    }
    memmove(target, source, size);
    return 0;
}

EXPORT int memmove_s(void *target, size_t room, const void *source, size_t size)
{
    if (!size)
        return 0;
    if (!target || !source)
        return EINVAL;
    if (room < size)
        return ERANGE;
    memmove(target, source, size);
    return 0;
}

/* Every function exists for bytes and for UTF-16 units; `put` writes at most `count` units of a source from `at` on. */
#define DEFINE(T, PUT, CPY, CAT, NCPY, NCAT)                                                                          \
    static int PUT(T *target, size_t room, size_t at, const T *source, size_t count)                                  \
    {                                                                                                                 \
        size_t length = 0;                                                                                            \
        if (!source) {                                                                                                \
            target[0] = 0;                                                                                            \
            return EINVAL;                                                                                            \
        }                                                                                                             \
        while (length < count && source[length]) {                                                                    \
            if (at + length + 1 >= room) {                                                                            \
                target[count == TRUNCATE ? at + length : 0] = 0;                                                      \
                return count == TRUNCATE ? STRUNCATE : ERANGE;                                                        \
            }                                                                                                         \
            target[at + length] = source[length];                                                                     \
            length++;                                                                                                 \
        }                                                                                                             \
        target[at + length] = 0;                                                                                      \
        return 0;                                                                                                     \
    }                                                                                                                 \
    EXPORT int NCPY(T *target, size_t room, const T *source, size_t count)                                            \
    {                                                                                                                 \
        return target && room ? PUT(target, room, 0, source, count) : EINVAL;                                         \
    }                                                                                                                 \
    EXPORT int CPY(T *target, size_t room, const T *source)                                                           \
    {                                                                                                                 \
        return NCPY(target, room, source, TRUNCATE - 1);                                                              \
    }                                                                                                                 \
    EXPORT int NCAT(T *target, size_t room, const T *source, size_t count)                                            \
    {                                                                                                                 \
        size_t at = 0;                                                                                                \
        if (!target || !room)                                                                                         \
            return EINVAL;                                                                                            \
        while (at < room && target[at])                                                                               \
            at++;                                                                                                     \
        if (at == room) {                                                                                             \
            target[0] = 0;                                                                                            \
            return EINVAL;                                                                                            \
        }                                                                                                             \
        return PUT(target, room, at, source, count);                                                                  \
    }                                                                                                                 \
    EXPORT int CAT(T *target, size_t room, const T *source)                                                           \
    {                                                                                                                 \
        return NCAT(target, room, source, TRUNCATE - 1);                                                              \
    }

DEFINE(char, put_narrow, strcpy_s, strcat_s, strncpy_s, strncat_s)
DEFINE(WCHAR, put_wide, wcscpy_s, wcscat_s, wcsncpy_s, wcsncat_s)

typedef int COMPARE(const void *first, const void *second);

/* Heap sort: in place, no recursion on the kernel stack, n log n whatever the order. */
static void swap(uint8_t *first, uint8_t *second, size_t width)
{
    while (width--) {
        uint8_t kept = *first;
        *first++ = *second;
        *second++ = kept;
    }
}

static void sift(uint8_t *base, size_t root, size_t count, size_t width, COMPARE *compare)
{
    for (;;) {
        size_t child = root * 2 + 1;
        if (child >= count)
            return;
        if (child + 1 < count && compare(base + child * width, base + (child + 1) * width) < 0)
            child++;
        if (compare(base + root * width, base + child * width) >= 0)
            return;
        swap(base + root * width, base + child * width, width);
        root = child;
    }
}

EXPORT void qsort(void *base, size_t count, size_t width, COMPARE *compare)
{
    for (size_t root = count / 2; root--;)
        sift(base, root, count, width, compare);
    while (count > 1) {
        count--;
        swap(base, (uint8_t *)base + count * width, width);
        sift(base, 0, count, width, compare);
    }
}

EXPORT void *bsearch(const void *key, const void *base, size_t count, size_t width, COMPARE *compare)
{
    const uint8_t *low = base;

    while (count) {
        const uint8_t *middle = low + count / 2 * width;
        int order = compare(key, middle);
        if (order == 0)
            return (void *)middle;
        if (order > 0) {
            low = middle + width;
            count -= count / 2 + 1;
        } else {
            count /= 2;
        }
    }
    return NULL;
}
