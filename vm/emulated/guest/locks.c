/*
 * Fast mutexes and rundown protection: the uncontended case. The host does the rest.
 */
#include "kernel.h"
#include "processor.h"

typedef struct {
    volatile int32_t count; /* 1 free, 0 owned */
    volatile uint64_t owner;
    uint32_t contention;
    uint64_t event[3]; /* KEVENT */
    uint32_t old_irql;
} fast_mutex;

_Static_assert(sizeof(fast_mutex) == 0x38, "FAST_MUTEX, wdm.h");
_Static_assert(offsetof(fast_mutex, old_irql) == 0x30, "FAST_MUTEX, wdm.h");

extern uint8_t HostRaiseIrql(uint8_t irql, uint64_t caller);
extern void HostAcquireFastMutex(fast_mutex *mutex, uint8_t irql);
extern void HostReleaseFastMutex(fast_mutex *mutex);
extern KIRQL KfRaiseIrql(KIRQL irql);
extern void KeLowerIrql(KIRQL irql);

static inline void own(fast_mutex *mutex, uint8_t old)
{
    if (mutex->count == 1) {
        mutex->count = 0;
        mutex->owner = PCR_CELL(uint64_t, PCR_CURRENT_THREAD);
    } else {
        HostAcquireFastMutex(mutex, PASSIVE_LEVEL);
    }
    mutex->old_irql = old;
}

EXPORT void ExAcquireFastMutex(fast_mutex *mutex)
{
    uint8_t old = CURRENT_IRQL;
    if (old > APC_LEVEL) {
        HostAcquireFastMutex(mutex, old);
    }
    CURRENT_IRQL = APC_LEVEL;
    own(mutex, old);
}

EXPORT void ExReleaseFastMutex(fast_mutex *mutex)
{
    uint8_t old = (uint8_t)mutex->old_irql;
    if (CURRENT_IRQL != APC_LEVEL || mutex->owner != PCR_CELL(uint64_t, PCR_CURRENT_THREAD)) {
        HostReleaseFastMutex(mutex);
    } else {
        mutex->owner = 0;
        mutex->count = 1;
    }
    CURRENT_IRQL = old;
}

/* A guarded mutex is the same structure; it disables APCs by a guarded region instead of IRQL. */
extern void KeEnterGuardedRegion(void);
extern void KeLeaveGuardedRegion(void);
extern void ExReleaseFastMutexUnsafe(fast_mutex *mutex);

EXPORT void KeInitializeGuardedMutex(fast_mutex *mutex)
{
    mutex->count = 1;
    mutex->owner = 0;
    mutex->contention = 0;
}

EXPORT void KeAcquireGuardedMutex(fast_mutex *mutex)
{
    KeEnterGuardedRegion();
    own(mutex, PASSIVE_LEVEL);
}

EXPORT void KeReleaseGuardedMutex(fast_mutex *mutex)
{
    ExReleaseFastMutexUnsafe(mutex);
    KeLeaveGuardedRegion();
}

/* EX_RUNDOWN_REF: bit 0 says that rundown has begun, the rest counts references in steps of 2. */
#define RUNDOWN_ACTIVE 1ull

EXPORT BOOLEAN ExAcquireRundownProtection(volatile uint64_t *rundown)
{
    if (*rundown & RUNDOWN_ACTIVE) {
        return FALSE;
    }
    *rundown += 2;
    return TRUE;
}

EXPORT void ExReleaseRundownProtection(volatile uint64_t *rundown)
{
    if (*rundown < 2) {
        fast_fail(14);
    }
    *rundown -= 2;
}
