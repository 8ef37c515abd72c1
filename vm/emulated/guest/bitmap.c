/* Bitmaps (wdm.h, RTL_BITMAP): bit n is bit n % 32 of ULONG n / 32. Callable at any IRQL where the bits are resident. */
#include "kernel.h"

typedef struct {
    uint32_t SizeOfBitMap;
    uint32_t *Buffer;
} RTL_BITMAP;

typedef struct {
    uint32_t StartingIndex;
    uint32_t NumberOfBits;
} RTL_BITMAP_RUN;

#define NOT_FOUND 0xFFFFFFFFu

static uint32_t bit(const RTL_BITMAP *map, uint32_t index)
{
    return map->Buffer[index / 32] >> (index % 32) & 1;
}

static void put(RTL_BITMAP *map, uint32_t start, uint32_t count, uint32_t value)
{
    while (count) {
        uint32_t within = start % 32, length = 32 - within < count ? 32 - within : count;
        uint32_t mask = (length == 32 ? ~0u : (1u << length) - 1) << within;

        if (value)
            map->Buffer[start / 32] |= mask;
        else
            map->Buffer[start / 32] &= ~mask;
        start += length;
        count -= length;
    }
}

/* How many bits from an index on have a value. */
static uint32_t run_length(const RTL_BITMAP *map, uint32_t start, uint32_t value)
{
    uint32_t at = start, same = value ? ~0u : 0;

    while (at < map->SizeOfBitMap) {
        if (at % 32 == 0 && map->SizeOfBitMap - at >= 32 && map->Buffer[at / 32] == same)
            at += 32;
        else if (bit(map, at) == value)
            at++;
        else
            break;
    }
    return at - start;
}

/* First run of `count` bits of a value that starts in [from, until), NOT_FOUND without one. */
static uint32_t find_between(const RTL_BITMAP *map, uint32_t count, uint32_t from, uint32_t until, uint32_t value)
{
    uint32_t at = from;

    while (at < until && map->SizeOfBitMap - at >= count) {
        uint32_t length = run_length(map, at, value);
        if (length >= count)
            return at;
        at += length;
        at += run_length(map, at, !value);
    }
    return NOT_FOUND;
}

/* The search wraps around; a hint beyond the end starts at 0; no bits are found at the hint rounded down to a byte. */
static uint32_t find(const RTL_BITMAP *map, uint32_t count, uint32_t hint, uint32_t value)
{
    uint32_t found;

    if (hint >= map->SizeOfBitMap)
        hint = 0;
    if (count > map->SizeOfBitMap)
        return NOT_FOUND;
    if (!count)
        return hint & ~7u;
    found = find_between(map, count, hint, map->SizeOfBitMap, value);
    return found == NOT_FOUND && hint ? find_between(map, count, 0, hint, value) : found;
}

EXPORT void RtlInitializeBitMap(RTL_BITMAP *map, uint32_t *buffer, uint32_t size)
{
    map->SizeOfBitMap = size;
    map->Buffer = buffer;
}

EXPORT void RtlSetBit(RTL_BITMAP *map, uint32_t index)
{
    put(map, index, 1, 1);
}

EXPORT void RtlClearBit(RTL_BITMAP *map, uint32_t index)
{
    put(map, index, 1, 0);
}

EXPORT BOOLEAN RtlTestBit(const RTL_BITMAP *map, uint32_t index)
{
    return (BOOLEAN)bit(map, index);
}

EXPORT void RtlSetBits(RTL_BITMAP *map, uint32_t start, uint32_t count)
{
    put(map, start, count, 1);
}

EXPORT void RtlClearBits(RTL_BITMAP *map, uint32_t start, uint32_t count)
{
    put(map, start, count, 0);
}

EXPORT void RtlSetAllBits(RTL_BITMAP *map)
{
    memset(map->Buffer, 0xFF, (map->SizeOfBitMap + 31) / 32 * sizeof(uint32_t));
}

EXPORT void RtlClearAllBits(RTL_BITMAP *map)
{
    memset(map->Buffer, 0, (map->SizeOfBitMap + 31) / 32 * sizeof(uint32_t));
}

EXPORT BOOLEAN RtlAreBitsSet(const RTL_BITMAP *map, uint32_t start, uint32_t count)
{
    return count && start < map->SizeOfBitMap && count <= map->SizeOfBitMap - start &&
           run_length(map, start, 1) >= count;
}

EXPORT BOOLEAN RtlAreBitsClear(const RTL_BITMAP *map, uint32_t start, uint32_t count)
{
    return count && start < map->SizeOfBitMap && count <= map->SizeOfBitMap - start &&
           run_length(map, start, 0) >= count;
}

EXPORT uint32_t RtlNumberOfSetBits(const RTL_BITMAP *map)
{
    uint32_t count = 0;

    for (uint32_t at = 0; at < map->SizeOfBitMap; at++)
        count += bit(map, at);
    return count;
}

EXPORT uint32_t RtlNumberOfClearBits(const RTL_BITMAP *map)
{
    return map->SizeOfBitMap - RtlNumberOfSetBits(map);
}

EXPORT uint32_t RtlFindClearBits(const RTL_BITMAP *map, uint32_t count, uint32_t hint)
{
    return find(map, count, hint, 0);
}

EXPORT uint32_t RtlFindSetBits(const RTL_BITMAP *map, uint32_t count, uint32_t hint)
{
    return find(map, count, hint, 1);
}

EXPORT uint32_t RtlFindClearBitsAndSet(RTL_BITMAP *map, uint32_t count, uint32_t hint)
{
    uint32_t found = find(map, count, hint, 0);

    if (found != NOT_FOUND)
        put(map, found, count, 1);
    return found;
}

EXPORT uint32_t RtlFindSetBitsAndClear(RTL_BITMAP *map, uint32_t count, uint32_t hint)
{
    uint32_t found = find(map, count, hint, 1);

    if (found != NOT_FOUND)
        put(map, found, count, 0);
    return found;
}

EXPORT uint32_t RtlFindNextForwardRunClear(const RTL_BITMAP *map, uint32_t from, uint32_t *start)
{
    uint32_t at;

    if (from >= map->SizeOfBitMap) {
        *start = from;
        return 0;
    }
    at = from + run_length(map, from, 1);
    *start = at;
    return run_length(map, at, 0);
}

EXPORT uint32_t RtlFindFirstRunClear(const RTL_BITMAP *map, uint32_t *start)
{
    return RtlFindNextForwardRunClear(map, 0, start);
}

/* The longest first, of equal ones the first first, when asked to sort; else the first runs in order. */
EXPORT uint32_t RtlFindClearRuns(const RTL_BITMAP *map, RTL_BITMAP_RUN *runs, uint32_t room, BOOLEAN longest)
{
    uint32_t at = 0, used = 0;

    while (at < map->SizeOfBitMap && room) {
        RTL_BITMAP_RUN run;
        uint32_t place;

        run.NumberOfBits = RtlFindNextForwardRunClear(map, at, &run.StartingIndex);
        if (!run.NumberOfBits)
            break;
        at = run.StartingIndex + run.NumberOfBits;
        if (!longest) {
            runs[used++] = run;
            if (used == room)
                break;
            continue;
        }
        for (place = used; place && runs[place - 1].NumberOfBits < run.NumberOfBits; place--) {
            if (place < room)
                runs[place] = runs[place - 1];
        }
        if (place < room)
            runs[place] = run;
        if (used < room)
            used++;
    }
    return used;
}

EXPORT uint32_t RtlFindLongestRunClear(const RTL_BITMAP *map, uint32_t *start)
{
    RTL_BITMAP_RUN run = {0, 0};

    RtlFindClearRuns(map, &run, 1, TRUE);
    *start = run.StartingIndex;
    return run.NumberOfBits;
}

EXPORT int8_t RtlFindLeastSignificantBit(uint64_t set)
{
    return (int8_t)(set ? __builtin_ctzll(set) : -1);
}

EXPORT int8_t RtlFindMostSignificantBit(uint64_t set)
{
    return (int8_t)(set ? 63 - __builtin_clzll(set) : -1);
}
