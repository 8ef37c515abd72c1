/*
 * shim.c - the kernel functions of shim/ntifs.h, and what the Python tests see of the driver's queue and rules.
 */
#include <stdlib.h>

#include "queue.h"
#include "rules.h"

#define EXPORT __attribute__((visibility("default")))
#define POISON 0xDD
#define FRESH 0xA5

typedef struct _BLOCK {
    size_t Bytes;
    ULONG Tag;
    ULONG Freed;
} BLOCK;

EXPORT void (*shim_copy_hook)(const void *source, size_t bytes);
EXPORT void (*shim_upcase_hook)(void);
EXPORT int shim_spin_locks_held;
EXPORT int shim_mutexes_held;
EXPORT int shim_live_blocks;
EXPORT int shim_allocations_until_failure = -1;
EXPORT LONG64 shim_time;

/* Freed blocks are poisoned and never reused, so that a use after free reads nonsense instead of plausible data. */
PVOID ExAllocatePoolWithTag(int PoolType, size_t Bytes, ULONG Tag)
{
    BLOCK *block;

    (void)PoolType;
    if (shim_allocations_until_failure == 0) {
        return NULL;
    }
    if (shim_allocations_until_failure > 0) {
        shim_allocations_until_failure--;
    }
    block = malloc(sizeof(*block) + Bytes);
    if (block == NULL) {
        abort();
    }
    block->Bytes = Bytes;
    block->Tag = Tag;
    block->Freed = 0;
    memset(block + 1, FRESH, Bytes);
    shim_live_blocks++;
    return block + 1;
}

void ExFreePoolWithTag(PVOID Block, ULONG Tag)
{
    BLOCK *block = (BLOCK *)Block - 1;

    if (block->Freed || block->Tag != Tag) {
        abort();
    }
    block->Freed = 1;
    memset(Block, POISON, block->Bytes);
    shim_live_blocks--;
}

void KeInitializeSpinLock(KSPIN_LOCK *Lock)
{
    *Lock = 0;
}

void KeAcquireSpinLock(KSPIN_LOCK *Lock, KIRQL *Irql)
{
    if (*Lock != 0) {
        abort();
    }
    *Lock = 1;
    *Irql = 0;
    shim_spin_locks_held++;
}

void KeReleaseSpinLock(KSPIN_LOCK *Lock, KIRQL Irql)
{
    (void)Irql;
    if (*Lock != 1) {
        abort();
    }
    *Lock = 0;
    shim_spin_locks_held--;
}

void KeQuerySystemTime(LARGE_INTEGER *Time)
{
    Time->QuadPart = ++shim_time;
}

void ExInitializeFastMutex(FAST_MUTEX *Mutex)
{
    Mutex->Held = 0;
}

void ExAcquireFastMutex(FAST_MUTEX *Mutex)
{
    if (Mutex->Held) {
        abort();
    }
    Mutex->Held = 1;
    shim_mutexes_held++;
}

void ExReleaseFastMutex(FAST_MUTEX *Mutex)
{
    if (!Mutex->Held) {
        abort();
    }
    Mutex->Held = 0;
    shim_mutexes_held--;
}

void RtlCopyMemory(void *Target, const void *Source, size_t Bytes)
{
    if (shim_copy_hook != NULL && Bytes != 0) {
        shim_copy_hook(Source, Bytes);
    }
    memcpy(Target, Source, Bytes);
}

/* Enough of the NT upcase table to tell folding from not folding: Latin-1 letters and y with diaeresis. */
WCHAR RtlUpcaseUnicodeChar(WCHAR Unit)
{
    if (shim_upcase_hook != NULL) {
        shim_upcase_hook();
    }
    if (Unit == 0xFF) {
        return 0x178;
    }
    return (WCHAR)(Unit >= 0xE0 && Unit <= 0xFE && Unit != 0xF7 ? Unit - 0x20 : Unit);
}

EXPORT PN_QUEUE *shim_queue_new(uint32_t capacity)
{
    PN_QUEUE *queue = calloc(1, sizeof(*queue));

    if (queue == NULL || !NT_SUCCESS(PnQueueInitialize(queue, capacity))) {
        abort();
    }
    return queue;
}

EXPORT void shim_queue_delete(PN_QUEUE *queue)
{
    PnQueueFree(queue);
    free(queue);
}

EXPORT void shim_queue_create(PN_QUEUE *queue, const PROCNOTIFY_CREATE *fields, const void *image, const void *command,
                              int denied)
{
    PROCNOTIFY_CREATE record = *fields;

    PnQueueCreate(queue, &record, image, command, (BOOLEAN)denied);
}

EXPORT void shim_queue_exit(PN_QUEUE *queue, uint32_t pid, int32_t status)
{
    PROCNOTIFY_EXIT record;

    memset(&record, FRESH, sizeof(record));
    record.ProcessId = pid;
    record.ExitStatus = status;
    PnQueueExit(queue, &record);
}

EXPORT int32_t shim_queue_drain(PN_QUEUE *queue, uint8_t *buffer, uint32_t length, uint32_t *moved)
{
    return PnQueueDrain(queue, buffer, length, moved);
}

EXPORT int shim_queue_readable(PN_QUEUE *queue)
{
    return PnQueueIsReadable(queue);
}

EXPORT void shim_queue_statistics(PN_QUEUE *queue, PROCNOTIFY_STATISTICS *statistics)
{
    PnQueueStatistics(queue, statistics);
}

EXPORT PN_RULES *shim_rules_new(void)
{
    PN_RULES *rules = aligned_alloc(16, sizeof(*rules));

    if (rules == NULL) {
        abort();
    }
    PnRulesInitialize(rules);
    return rules;
}

EXPORT void shim_rules_delete(PN_RULES *rules)
{
    PnRulesFree(rules);
    free(rules);
}

EXPORT int32_t shim_rules_replace(PN_RULES *rules, const void *buffer, uint32_t length)
{
    return PnRulesReplace(rules, buffer, length);
}

EXPORT int32_t shim_rules_query(PN_RULES *rules, void *buffer, uint32_t length, uint32_t *written)
{
    return PnRulesQuery(rules, buffer, length, written);
}

EXPORT void shim_rules_statistics(PN_RULES *rules, PROCNOTIFY_STATISTICS *statistics)
{
    PnRulesStatistics(rules, statistics);
}

EXPORT int32_t shim_rules_match(PN_RULES *rules, const void *name, uint32_t bytes)
{
    UNICODE_STRING text = {(USHORT)bytes, (USHORT)bytes, (PWCHAR)name};

    return PnRulesMatch(rules, &text);
}
