/*
 * IRQL and spin locks.
 *
 * Callbacks take and release spin locks so often that leaving the guest for each would double their cost. The correct,
 * uncontended case is handled here; everything else (a lock already owned, a wrong IRQL, pageable memory that has to
 * leave the TLB) goes to the host, which decides what Windows would do.
 *
 * The machine has one processor, so a spin lock that is owned when it is asked for will never become free.
 */
#include "kernel.h"
#include "processor.h"

/* Host functions: they perform the whole operation, or stop the machine. */
extern uint8_t HostRaiseIrql(uint8_t irql, uint64_t caller);
extern void HostLowerIrql(uint8_t irql, uint64_t caller);
extern uint8_t HostAcquireSpinLock(volatile uint64_t *lock, uint8_t raise, uint64_t caller);
extern void HostReleaseSpinLock(volatile uint64_t *lock, uint8_t irql, uint64_t caller);

#define STAY 0xFF /* a release that leaves IRQL alone */
#define CALLER ((uint64_t)__builtin_return_address(0))

static inline int take(volatile uint64_t *lock, uint64_t caller)
{
    uint64_t held = HELD_COUNT;
    if (*lock != 0 || held >= PCR_HELD_MAXIMUM) {
        return 0;
    }
    *lock = 1;
    HELD_LOCKS[held].lock = (uint64_t)lock;
    HELD_LOCKS[held].taken_at = caller;
    HELD_COUNT = held + 1;
    return 1;
}

static inline int drop(volatile uint64_t *lock)
{
    uint64_t held = HELD_COUNT;
    if (held == 0 || HELD_LOCKS[held - 1].lock != (uint64_t)lock) {
        return 0;
    }
    HELD_COUNT = held - 1;
    *lock = 0;
    return 1;
}

static inline uint8_t acquire_and_raise(volatile uint64_t *lock, uint64_t caller)
{
    uint8_t old = CURRENT_IRQL;
    if (old > DISPATCH_LEVEL || SLOW_IRQL || !take(lock, caller)) {
        return HostAcquireSpinLock(lock, 1, caller);
    }
    CURRENT_IRQL = DISPATCH_LEVEL;
    return old;
}

static inline void release_and_lower(volatile uint64_t *lock, uint8_t irql, uint64_t caller)
{
    if (CURRENT_IRQL != DISPATCH_LEVEL || irql > DISPATCH_LEVEL || SLOW_IRQL || !drop(lock)) {
        HostReleaseSpinLock(lock, irql, caller);
        return;
    }
    CURRENT_IRQL = irql;
}

EXPORT uint8_t KeGetCurrentIrql(void)
{
    return CURRENT_IRQL;
}

EXPORT uint8_t KfRaiseIrql(uint8_t irql)
{
    uint8_t old = CURRENT_IRQL;
    if (irql < old || irql > HIGH_LEVEL || SLOW_IRQL) {
        return HostRaiseIrql(irql, CALLER);
    }
    CURRENT_IRQL = irql;
    return old;
}

EXPORT uint8_t KeRaiseIrqlToDpcLevel(void)
{
    return KfRaiseIrql(DISPATCH_LEVEL);
}

EXPORT void KeLowerIrql(uint8_t irql)
{
    if (irql > CURRENT_IRQL || SLOW_IRQL) {
        HostLowerIrql(irql, CALLER);
        return;
    }
    CURRENT_IRQL = irql;
}

EXPORT void KeInitializeSpinLock(volatile uint64_t *lock)
{
    *lock = 0;
}

EXPORT uint8_t KeAcquireSpinLockRaiseToDpc(volatile uint64_t *lock)
{
    return acquire_and_raise(lock, CALLER);
}

EXPORT void KeReleaseSpinLock(volatile uint64_t *lock, uint8_t irql)
{
    release_and_lower(lock, irql, CALLER);
}

EXPORT void KeAcquireSpinLockAtDpcLevel(volatile uint64_t *lock)
{
    if (CURRENT_IRQL < DISPATCH_LEVEL || !take(lock, CALLER)) {
        HostAcquireSpinLock(lock, 0, CALLER);
    }
}

EXPORT void KeReleaseSpinLockFromDpcLevel(volatile uint64_t *lock)
{
    if (CURRENT_IRQL < DISPATCH_LEVEL || !drop(lock)) {
        HostReleaseSpinLock(lock, STAY, CALLER);
    }
}

EXPORT uint8_t KeTryToAcquireSpinLockAtDpcLevel(volatile uint64_t *lock)
{
    return (uint8_t)take(lock, CALLER);
}

EXPORT uint8_t KeTestSpinLock(volatile uint64_t *lock)
{
    return *lock == 0;
}

/* Queued spin locks: KLOCK_QUEUE_HANDLE of wdm.h is {Next, Lock, OldIrql}. */
typedef struct {
    uint64_t next;
    volatile uint64_t *lock;
    uint8_t old_irql;
} queue_handle;

EXPORT void KeAcquireInStackQueuedSpinLock(volatile uint64_t *lock, queue_handle *handle)
{
    handle->next = 0;
    handle->lock = lock;
    handle->old_irql = acquire_and_raise(lock, CALLER);
}

EXPORT void KeReleaseInStackQueuedSpinLock(queue_handle *handle)
{
    release_and_lower(handle->lock, handle->old_irql, CALLER);
}

EXPORT void KeAcquireInStackQueuedSpinLockAtDpcLevel(volatile uint64_t *lock, queue_handle *handle)
{
    handle->next = 0;
    handle->lock = lock;
    handle->old_irql = DISPATCH_LEVEL;
    if (CURRENT_IRQL < DISPATCH_LEVEL || !take(lock, CALLER)) {
        HostAcquireSpinLock(lock, 0, CALLER);
    }
}

EXPORT void KeReleaseInStackQueuedSpinLockFromDpcLevel(queue_handle *handle)
{
    if (CURRENT_IRQL < DISPATCH_LEVEL || !drop(handle->lock)) {
        HostReleaseSpinLock(handle->lock, STAY, CALLER);
    }
}

/* Reader-writer spin locks (EX_SPIN_LOCK, a LONG): the sign bit is the writer, the rest counts readers. */
#define EXCLUSIVE 0x80000000u

EXPORT uint8_t ExAcquireSpinLockShared(volatile uint32_t *lock)
{
    uint8_t old = KfRaiseIrql(DISPATCH_LEVEL);
    if (*lock & EXCLUSIVE) {
        HostAcquireSpinLock((volatile uint64_t *)lock, 0, CALLER);
    }
    *lock += 1;
    return old;
}

EXPORT void ExReleaseSpinLockShared(volatile uint32_t *lock, uint8_t irql)
{
    if (*lock == 0 || (*lock & EXCLUSIVE)) {
        HostReleaseSpinLock((volatile uint64_t *)lock, irql, CALLER);
    }
    *lock -= 1;
    KeLowerIrql(irql);
}

EXPORT uint8_t ExAcquireSpinLockExclusive(volatile uint32_t *lock)
{
    uint8_t old = KfRaiseIrql(DISPATCH_LEVEL);
    if (*lock) {
        HostAcquireSpinLock((volatile uint64_t *)lock, 0, CALLER);
    }
    *lock = EXCLUSIVE;
    return old;
}

EXPORT void ExReleaseSpinLockExclusive(volatile uint32_t *lock, uint8_t irql)
{
    if (*lock != EXCLUSIVE) {
        HostReleaseSpinLock((volatile uint64_t *)lock, irql, CALLER);
    }
    *lock = 0;
    KeLowerIrql(irql);
}

/* Critical and guarded regions: counts below zero in the current thread, as in KTHREAD. */

EXPORT void KeEnterCriticalRegion(void)
{
    THREAD_CELL(int32_t, ETHREAD_KERNEL_APC_DISABLE) -= 1;
}

extern void HostUnbalancedRegion(uint64_t caller);

EXPORT void KeLeaveCriticalRegion(void)
{
    if (THREAD_CELL(int32_t, ETHREAD_KERNEL_APC_DISABLE) >= 0) {
        HostUnbalancedRegion(CALLER);
    }
    THREAD_CELL(int32_t, ETHREAD_KERNEL_APC_DISABLE) += 1;
}

EXPORT void KeEnterGuardedRegion(void)
{
    THREAD_CELL(int32_t, ETHREAD_SPECIAL_APC_DISABLE) -= 1;
}

EXPORT void KeLeaveGuardedRegion(void)
{
    if (THREAD_CELL(int32_t, ETHREAD_SPECIAL_APC_DISABLE) >= 0) {
        HostUnbalancedRegion(CALLER);
    }
    THREAD_CELL(int32_t, ETHREAD_SPECIAL_APC_DISABLE) += 1;
}

EXPORT uint8_t KeAreApcsDisabled(void)
{
    return CURRENT_IRQL >= APC_LEVEL || THREAD_CELL(int32_t, ETHREAD_KERNEL_APC_DISABLE) != 0 ||
           THREAD_CELL(int32_t, ETHREAD_SPECIAL_APC_DISABLE) != 0;
}

EXPORT uint8_t KeAreAllApcsDisabled(void)
{
    return CURRENT_IRQL >= APC_LEVEL || THREAD_CELL(int32_t, ETHREAD_SPECIAL_APC_DISABLE) != 0;
}
