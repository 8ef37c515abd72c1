"""Locks that put a thread to sleep: fast and guarded mutexes, ERESOURCE, push locks, rundown protection.

Who owns what is kept beside the driver's memory, keyed by address, so that a report can name owners; the memory itself
holds what the public headers say it holds.

Sources: Microsoft Learn, "ExAcquireFastMutex", "ExAcquireResourceExclusiveLite", "ExAcquirePushLockExclusive",
"ExAcquireRundownProtection", "Bug Check 0xC4" (0x33 to 0x3A, 0xD0 to 0xD2, 0xEA, 0xEB, 0x1000 to 0x100B).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.ke.irql import set_irql
from vm.emulated.ke.threads import Thread, WaitBlock

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

# FAST_MUTEX (wdm.h)
_COUNT, _OWNER, _OLD_IRQL = 0, 8, 0x30

_RUNDOWN_ACTIVE = 1

MUTEX = "fast mutex"
SHARED = "shared lock"
EXCLUSIVE = "exclusive lock"
RUNDOWN = "rundown"


@dataclass
class Lock:
    """State of one ERESOURCE or push lock: the exclusive owner's tid or 0, and shared owners with their counts."""

    kind: str
    owner: int = 0
    depth: int = 0
    shared: dict[int, int] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """True when nobody owns it."""
        return not self.owner and not self.shared


@dataclass
class LocksState:
    """What a checkpoint keeps."""

    locks: dict[int, Lock] = field(default_factory=dict)


class Locks:
    """Every sleeping lock of the machine."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = LocksState()
        conditions = kernel.threads.conditions
        conditions[MUTEX] = self._try_mutex
        conditions[SHARED] = self._try_shared
        conditions[EXCLUSIVE] = self._try_exclusive
        conditions[RUNDOWN] = self._try_rundown

    def rebind(self) -> None:
        """Nothing is cached."""

    def get(self, address: int, kind: str) -> Lock:
        """The lock at an address; push locks need no more than zeroed memory, resources have to be initialised."""
        lock = self.state.locks.get(address)
        if lock is None:
            if kind == "ERESOURCE":
                raise Bugcheck(0xC4, 0x1002, address, reason=f"ERESOURCE 0x{address:X} is used but not initialised")
            lock = self.state.locks[address] = Lock(kind)
        return lock

    def check_gone(self, first: int, size: int) -> None:
        """No initialised ERESOURCE may lie in memory that goes away. Raises Bugcheck 0xC4 0xD2."""
        for address, lock in tuple(self.state.locks.items()):
            if first <= address < first + size:
                if lock.kind == "ERESOURCE":
                    raise Bugcheck(
                        0xC4, 0xD2, address, first, size,
                        reason=f"memory that holds ERESOURCE 0x{address:X} was freed or unloaded; it was never deleted",
                    )  # fmt: skip
                del self.state.locks[address]

    def _try_mutex(self, thread: Thread, wait: WaitBlock) -> int | None:
        address = wait.objects[0]
        memory = self._kernel.mem
        if memory.i32(address + _COUNT) <= 0:
            return None
        memory.set_u32(address + _COUNT, 0)
        memory.set_u64(address + _OWNER, thread.object)
        return 0

    def _try_shared(self, thread: Thread, wait: WaitBlock) -> int | None:
        lock = self.get(wait.objects[0], "ERESOURCE")
        if lock.owner and lock.owner != thread.tid:
            return None
        if lock.owner == thread.tid:
            lock.depth += 1
        else:
            lock.shared[thread.tid] = lock.shared.get(thread.tid, 0) + 1
        return 0

    def _try_exclusive(self, thread: Thread, wait: WaitBlock) -> int | None:
        lock = self.get(wait.objects[0], "ERESOURCE")
        if lock.owner == thread.tid:
            lock.depth += 1
            return 0
        if not lock.free:
            return None
        lock.owner, lock.depth = thread.tid, 1
        return 0

    def _try_rundown(self, _thread: Thread, wait: WaitBlock) -> int | None:
        return 0 if self._kernel.mem.u64(wait.objects[0]) == _RUNDOWN_ACTIVE else None

    def acquire(self, address: int, kind: str, mode: str, *, may_wait: bool = True, recursive: bool = True) -> bool:
        """Take a lock on the running thread; False when it may not wait and would have to.

        Raises:
            Bugcheck: 0xC4/0x1000 for a thread that waits for itself.
        """
        kernel = self._kernel
        thread = kernel.current_thread
        lock = self.get(address, kind)
        own_shared = thread.tid in lock.shared
        if (mode == EXCLUSIVE and own_shared) or (not recursive and (own_shared or lock.owner == thread.tid)):
            if not may_wait:
                return False
            raise Bugcheck(
                0xC4, 0x1000, address, reason=f"the thread waits for {kind} 0x{address:X}, which it owns itself"
            )
        wait = WaitBlock(mode, (address,), f"{kind} 0x{address:X}")
        if not may_wait:
            return kernel.threads.conditions[mode](thread, wait) is not None
        kernel.threads.wait(wait)
        return True

    def release(self, address: int, kind: str, tid: int | None = None) -> None:
        """Give a lock up for a thread. Raises Bugcheck when the thread does not own it."""
        tid = self._kernel.current_thread.tid if tid is None else tid
        lock = self.get(address, kind)
        if lock.owner == tid:
            lock.depth -= 1
            if lock.depth == 0:
                lock.owner = 0
        elif tid in lock.shared:
            lock.shared[tid] -= 1
            if not lock.shared[tid]:
                del lock.shared[tid]
        else:
            raise self._not_owned(address, kind, lock)

    def _not_owned(self, address: int, kind: str, lock: Lock) -> Bugcheck:
        thread = self._kernel.current_thread.object
        reason = f"{kind} 0x{address:X} released by a thread that does not own it"
        if kind == "ERESOURCE":
            return Bugcheck(0xE3, address, thread, reason=reason)
        return not_owner(self._kernel, address, self._kernel.threads.state.threads.get(lock.owner), reason)


def not_owner(kernel: Kernel, address: int, owner: Thread | None, reason: str) -> Bugcheck:
    """The bugcheck for a lock that is released by a thread that does not own it, or that nobody owns."""
    if owner is None:
        return Bugcheck(0xC4, 0x1007, address, reason=reason)
    return Bugcheck(0xC4, 0x1004, address, owner.object, kernel.current_thread.object, reason=reason)


def _apc_count(kernel: Kernel) -> int:
    return int.from_bytes(kernel.threads.apc_state(kernel.current_thread)[:4], "little")


def _acquire_mutex(kernel: Kernel, mutex: int) -> None:
    if kernel.mem.u64(mutex + _OWNER) == kernel.current_thread.object:
        raise Bugcheck(0xC4, 0x1000, mutex, reason=f"the thread waits for fast mutex 0x{mutex:X}, which it owns itself")
    kernel.threads.wait(WaitBlock(MUTEX, (mutex,), f"fast mutex 0x{mutex:X}"))


def _release_mutex(kernel: Kernel, mutex: int) -> None:
    holder = kernel.mem.u64(mutex + _OWNER)
    if holder != kernel.current_thread.object:
        threads = kernel.threads.state
        owner = threads.threads.get(threads.by_object.get(holder, 0))
        raise not_owner(kernel, mutex, owner, f"fast mutex 0x{mutex:X} released by a thread that does not own it")
    kernel.mem.set_u64(mutex + _OWNER, 0)
    kernel.mem.set_u32(mutex + _COUNT, 1)


@EXPORTS.function("HostAcquireFastMutex", args="ptr u8")
def host_acquire_fast_mutex(kernel: Kernel, mutex: int, irql: int) -> None:
    """ExAcquireFastMutex where it is not simple; `irql` is the caller's."""
    if irql > APC_LEVEL:
        raise Bugcheck(0xC4, 0x33, irql, mutex, reason=f"fast mutex 0x{mutex:X} acquired at IRQL {irql}")
    _acquire_mutex(kernel, mutex)


@EXPORTS.function("ExAcquireFastMutexUnsafe", args="ptr", irql=APC_LEVEL)
def ex_acquire_fast_mutex_unsafe(kernel: Kernel, mutex: int) -> None:
    """Microsoft Learn, ExAcquireFastMutexUnsafe: the caller has disabled APCs."""
    if not _apcs_disabled(kernel):
        raise Bugcheck(
            0xC4, 0x39, kernel.irql, _apc_count(kernel), mutex,
            reason=f"fast mutex 0x{mutex:X} acquired by ExAcquireFastMutexUnsafe with normal kernel APCs enabled",
        )  # fmt: skip
    _acquire_mutex(kernel, mutex)


@EXPORTS.function("ExReleaseFastMutexUnsafe", args="ptr", irql=APC_LEVEL)
def ex_release_fast_mutex_unsafe(kernel: Kernel, mutex: int) -> None:
    """Microsoft Learn, ExReleaseFastMutexUnsafe."""
    _release_mutex(kernel, mutex)


@EXPORTS.function("HostReleaseFastMutex", args="ptr")
def host_release_fast_mutex(kernel: Kernel, mutex: int) -> None:
    """The wrong cases of ExReleaseFastMutex."""
    if kernel.irql != APC_LEVEL:
        raise Bugcheck(0xC4, 0x34, kernel.irql, mutex, reason=f"fast mutex 0x{mutex:X} released at IRQL {kernel.irql}")
    _release_mutex(kernel, mutex)


@EXPORTS.function("ExTryToAcquireFastMutex", args="ptr", irql=APC_LEVEL)
def ex_try_to_acquire_fast_mutex(kernel: Kernel, mutex: int) -> int:
    """Microsoft Learn, ExTryToAcquireFastMutex: raises to APC_LEVEL when it succeeds."""
    if kernel.mem.i32(mutex + _COUNT) <= 0:
        return 0
    old = kernel.irql
    set_irql(kernel, APC_LEVEL)
    kernel.mem.set_u32(mutex + _COUNT, 0)
    kernel.mem.set_u64(mutex + _OWNER, kernel.current_thread.object)
    kernel.mem.set_u32(mutex + _OLD_IRQL, old)
    return 1


@EXPORTS.function("ExInitializeResourceLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_initialize_resource_lite(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExInitializeResourceLite."""
    if resource in kernel.locks.state.locks:
        raise Bugcheck(0xC4, 0xD0, resource, reason=f"ERESOURCE 0x{resource:X} is initialised a second time")
    kernel.mem.write(resource, bytes(0x68))
    kernel.locks.state.locks[resource] = Lock("ERESOURCE")
    return 0


@EXPORTS.function("ExReinitializeResourceLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_reinitialize_resource_lite(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExReinitializeResourceLite."""
    kernel.locks.get(resource, "ERESOURCE")
    kernel.locks.state.locks[resource] = Lock("ERESOURCE")
    return 0


@EXPORTS.function("ExDeleteResourceLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_delete_resource_lite(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExDeleteResourceLite: nobody may own it."""
    lock = kernel.locks.state.locks.get(resource)
    if lock is None:
        raise Bugcheck(0xC4, 0xD1, resource, reason=f"ERESOURCE 0x{resource:X} is deleted but not initialised")
    if not lock.free:
        owner = kernel.threads.state.threads.get(lock.owner or next(iter(lock.shared)))
        raise Bugcheck(
            0xC4, 0x100B, resource, owner.object if owner else 0,
            reason=f"ERESOURCE 0x{resource:X} deleted while it is owned",
        )  # fmt: skip
    del kernel.locks.state.locks[resource]
    return 0


def _resource(kernel: Kernel, resource: int, mode: str, wait: int) -> int:
    if not _apcs_disabled(kernel):
        raise Bugcheck(
            0xC4, 0x37, kernel.irql, _apc_count(kernel), resource,
            reason="ERESOURCE acquired with normal kernel APCs enabled",
        )  # fmt: skip
    return int(kernel.locks.acquire(resource, "ERESOURCE", mode, may_wait=bool(wait)))


def _apcs_disabled(kernel: Kernel) -> bool:
    return kernel.irql >= APC_LEVEL or any(kernel.threads.apc_state(kernel.current_thread))


@EXPORTS.function("ExAcquireResourceExclusiveLite", args="ptr bool", irql=APC_LEVEL)
def ex_acquire_resource_exclusive_lite(kernel: Kernel, resource: int, wait: int) -> int:
    """Microsoft Learn, ExAcquireResourceExclusiveLite."""
    return _resource(kernel, resource, EXCLUSIVE, wait)


@EXPORTS.function(
    "ExAcquireResourceSharedLite", "ExAcquireSharedStarveExclusive", "ExAcquireSharedWaitForExclusive",
    args="ptr bool", irql=APC_LEVEL,
)  # fmt: skip
def ex_acquire_resource_shared_lite(kernel: Kernel, resource: int, wait: int) -> int:
    """Microsoft Learn, ExAcquireResourceSharedLite and its two variants, which differ in whom they let pass first."""
    return _resource(kernel, resource, SHARED, wait)


@EXPORTS.function("ExReleaseResourceLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_release_resource_lite(kernel: Kernel, resource: int) -> None:
    """Microsoft Learn, ExReleaseResourceLite."""
    kernel.locks.release(resource, "ERESOURCE")


@EXPORTS.function("ExReleaseResourceForThreadLite", args="ptr u64", irql=DISPATCH_LEVEL)
def ex_release_resource_for_thread_lite(kernel: Kernel, resource: int, thread: int) -> None:
    """Microsoft Learn, ExReleaseResourceForThreadLite: the thread is named by its ETHREAD."""
    kernel.locks.release(resource, "ERESOURCE", kernel.threads.state.by_object.get(thread, -1))


@EXPORTS.function("ExConvertExclusiveToSharedLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_convert_exclusive_to_shared_lite(kernel: Kernel, resource: int) -> None:
    """Microsoft Learn, ExConvertExclusiveToSharedLite."""
    lock = kernel.locks.get(resource, "ERESOURCE")
    tid = kernel.current_thread.tid
    if lock.owner != tid:
        reason = "ERESOURCE converted by a thread that is not its owner"
        raise Bugcheck(0xE3, resource, kernel.current_thread.object, reason=reason)
    lock.shared[tid] = lock.depth
    lock.owner = lock.depth = 0


@EXPORTS.function("ExIsResourceAcquiredExclusiveLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_is_resource_acquired_exclusive_lite(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExIsResourceAcquiredExclusiveLite."""
    return kernel.locks.get(resource, "ERESOURCE").owner == kernel.current_thread.tid


@EXPORTS.function("ExIsResourceAcquiredSharedLite", args="ptr", irql=DISPATCH_LEVEL)
def ex_is_resource_acquired_shared_lite(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExIsResourceAcquiredSharedLite: how often, exclusively or shared."""
    lock = kernel.locks.get(resource, "ERESOURCE")
    tid = kernel.current_thread.tid
    return lock.depth if lock.owner == tid else lock.shared.get(tid, 0)


def _enter_region(kernel: Kernel, change: int) -> None:
    kernel.threads.change_apc_disable(kernel.current_thread, change)


@EXPORTS.function("ExEnterCriticalRegionAndAcquireResourceExclusive", args="ptr", irql=APC_LEVEL)
def ex_enter_critical_region_and_acquire_resource_exclusive(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExEnterCriticalRegionAndAcquireResourceExclusive."""
    _enter_region(kernel, -1)
    return _resource(kernel, resource, EXCLUSIVE, 1)


@EXPORTS.function("ExEnterCriticalRegionAndAcquireResourceShared", args="ptr", irql=APC_LEVEL)
def ex_enter_critical_region_and_acquire_resource_shared(kernel: Kernel, resource: int) -> int:
    """Microsoft Learn, ExEnterCriticalRegionAndAcquireResourceShared."""
    _enter_region(kernel, -1)
    return _resource(kernel, resource, SHARED, 1)


@EXPORTS.function("ExReleaseResourceAndLeaveCriticalRegion", args="ptr", irql=DISPATCH_LEVEL)
def ex_release_resource_and_leave_critical_region(kernel: Kernel, resource: int) -> None:
    """Microsoft Learn, ExReleaseResourceAndLeaveCriticalRegion."""
    kernel.locks.release(resource, "ERESOURCE")
    _enter_region(kernel, 1)


def _push_lock(kernel: Kernel, lock: int, mode: str) -> None:
    if not _apcs_disabled(kernel):
        raise Bugcheck(
            0xC4, 0xEA, kernel.irql, _apc_count(kernel), lock, reason="push lock acquired outside a critical region"
        )
    kernel.locks.acquire(lock, "push lock", mode, recursive=False)


@EXPORTS.function("ExInitializePushLock", args="ptr")
def ex_initialize_push_lock(kernel: Kernel, lock: int) -> None:
    """Microsoft Learn, ExInitializePushLock."""
    kernel.mem.set_u64(lock, 0)
    kernel.locks.state.locks[lock] = Lock("push lock")


@EXPORTS.function("ExAcquirePushLockExclusiveEx", "ExfAcquirePushLockExclusive", args="ptr", irql=APC_LEVEL)
def ex_acquire_push_lock_exclusive(kernel: Kernel, lock: int) -> None:
    """Microsoft Learn, ExAcquirePushLockExclusive."""
    _push_lock(kernel, lock, EXCLUSIVE)


@EXPORTS.function("ExAcquirePushLockSharedEx", "ExfAcquirePushLockShared", args="ptr", irql=APC_LEVEL)
def ex_acquire_push_lock_shared(kernel: Kernel, lock: int) -> None:
    """Microsoft Learn, ExAcquirePushLockShared."""
    _push_lock(kernel, lock, SHARED)


@EXPORTS.function(
    "ExReleasePushLockExclusiveEx", "ExReleasePushLockSharedEx", "ExReleasePushLockEx", "ExfReleasePushLock",
    "ExfReleasePushLockExclusive", "ExfReleasePushLockShared", args="ptr", irql=APC_LEVEL,
)  # fmt: skip
def ex_release_push_lock(kernel: Kernel, lock: int) -> None:
    """Microsoft Learn, ExReleasePushLockExclusive, ExReleasePushLockShared."""
    if not _apcs_disabled(kernel):
        raise Bugcheck(
            0xC4, 0xEB, kernel.irql, _apc_count(kernel), lock, reason="push lock released outside a critical region"
        )
    kernel.locks.release(lock, "push lock")


@EXPORTS.function("ExInitializeRundownProtection", "ExReInitializeRundownProtection", args="ptr")
def ex_initialize_rundown_protection(kernel: Kernel, rundown: int) -> None:
    """Microsoft Learn, ExInitializeRundownProtection."""
    kernel.mem.set_u64(rundown, 0)


@EXPORTS.function("ExWaitForRundownProtectionRelease", args="ptr", irql=APC_LEVEL)
def ex_wait_for_rundown_protection_release(kernel: Kernel, rundown: int) -> None:
    """Microsoft Learn, ExWaitForRundownProtectionRelease: no new acquisitions, then wait for the old."""
    kernel.mem.set_u64(rundown, kernel.mem.u64(rundown) | _RUNDOWN_ACTIVE)
    kernel.threads.wait(WaitBlock(RUNDOWN, (rundown,), f"rundown protection 0x{rundown:X}"))


@EXPORTS.function("ExRundownCompleted", args="ptr")
def ex_rundown_completed(kernel: Kernel, rundown: int) -> None:
    """Microsoft Learn, ExRundownCompleted."""
    kernel.mem.set_u64(rundown, _RUNDOWN_ACTIVE)
