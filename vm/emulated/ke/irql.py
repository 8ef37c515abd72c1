"""IRQL changes and spin locks beyond the simple case that guest/irql.c handles.

Sources: Microsoft Learn, "Bug Check 0xF: SPIN_LOCK_ALREADY_OWNED", "Bug Check 0x10: SPIN_LOCK_NOT_OWNED", "Bug Check
0xC4: DRIVER_VERIFIER_DETECTED_VIOLATION" (0x30 to 0x32, 0x3E, 0x40 to 0x42), "Bug Check 0xC8: IRQL_UNEXPECTED_VALUE".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vm.emulated.exports import DISPATCH_LEVEL, HIGH_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.layout import PCR_HELD, PCR_HELD_COUNT, PCR_HELD_MAXIMUM, PCR_SLOW_IRQL
from vm.errors import MachineBroken

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

DPC_PENDING = 2
"""Bit of the slow-IRQL cell: a DPC waits for IRQL to fall."""
IN_DPC = 4
"""Bit of the slow-IRQL cell: a DPC runs, which may not go below DISPATCH_LEVEL."""
_STAY = 0xFF
"""What the release of a spin lock says that leaves IRQL alone."""
_CALLOUT = 2
"""UniqueValue of bugcheck 0xC8 for a routine that the kernel called."""


def wrong_irql_after(routine: int, irql: int, expected: int, what: str) -> Bugcheck:
    """Bugcheck 0xC8 for a routine that the kernel called and that came back at another IRQL."""
    packed = irql << 16 | expected << 8 | _CALLOUT
    return Bugcheck(0xC8, packed, routine, reason=f"{what} returned at IRQL {irql}", rip=routine or None)


def set_irql(kernel: Kernel, irql: int) -> None:
    """Change IRQL with all that follows: cached pageable translations go, waiting DPCs run."""
    old = kernel.irql
    kernel.irql = irql
    if old < DISPATCH_LEVEL <= irql:
        kernel.cpu.irql_was_raised()
    elif irql < DISPATCH_LEVEL <= old and kernel.pcr_u8(PCR_SLOW_IRQL) & DPC_PENDING:
        kernel.timers.run_dpcs()


def held_locks(kernel: Kernel) -> list[tuple[int, int]]:
    """Spin locks held now: address of each, and the return address of the call that took it."""
    count = min(kernel.pcr_u64(PCR_HELD_COUNT), PCR_HELD_MAXIMUM)
    raw = kernel.pcr_bytes(PCR_HELD, count * 16)
    return [(lock, site) for lock, site in struct.iter_unpack("<QQ", raw)]


def _set_held(kernel: Kernel, held: list[tuple[int, int]]) -> None:
    kernel.set_pcr_bytes(PCR_HELD, b"".join(struct.pack("<QQ", *pair) for pair in held))
    kernel.set_pcr_bytes(PCR_HELD_COUNT, len(held).to_bytes(8, "little"))


@EXPORTS.function("HostRaiseIrql", args="u8 ptr")
def host_raise_irql(kernel: Kernel, irql: int, _caller: int) -> int:
    """KfRaiseIrql where it is not simple."""
    old = kernel.irql
    if irql < old or irql > HIGH_LEVEL:
        what = "would lower it" if irql < old else "is above HIGH_LEVEL"
        raise Bugcheck(0xC4, 0x30, old, irql, reason=f"KeRaiseIrql to {irql} at IRQL {old} {what}")
    set_irql(kernel, irql)
    return old


@EXPORTS.function("HostLowerIrql", args="u8 ptr")
def host_lower_irql(kernel: Kernel, irql: int, _caller: int) -> None:
    """KeLowerIrql where it is not simple."""
    old = kernel.irql
    if irql > old:
        raise Bugcheck(0xC4, 0x31, old, irql, 0, reason=f"KeLowerIrql to {irql} at IRQL {old} would raise it")
    if irql < DISPATCH_LEVEL and kernel.pcr_u8(PCR_SLOW_IRQL) & IN_DPC:
        raise Bugcheck(0xC4, 0x31, old, irql, 1, reason=f"a DPC lowered IRQL to {irql}")
    set_irql(kernel, irql)


@EXPORTS.function("HostAcquireSpinLock", args="ptr bool ptr")
def host_acquire_spin_lock(kernel: Kernel, lock: int, raises: int, caller: int) -> int:
    """A spin lock acquisition where it is not simple: IRQL is wrong, the lock is owned, or the TLB needs a flush."""
    old = kernel.irql
    where = kernel.describe_code
    if old > DISPATCH_LEVEL or (not raises and old < DISPATCH_LEVEL):
        kind = 0x42 if old > DISPATCH_LEVEL else 0x40
        raise Bugcheck(0xC4, kind, old, lock, reason=f"spin lock 0x{lock:X} acquired at IRQL {old}")
    held = held_locks(kernel)
    if kernel.mem.u32(lock):
        owner = next((f", taken at {where(site)}" for address, site in held if address == lock), "")
        raise Bugcheck(0xF, reason=f"spin lock 0x{lock:X} is already owned{owner}: the processor would spin forever")
    if len(held) >= PCR_HELD_MAXIMUM:
        raise MachineBroken(f"the driver holds {PCR_HELD_MAXIMUM} spin locks at once; no more are tracked")
    kernel.mem.set_u64(lock, 1)
    _set_held(kernel, [*held, (lock, caller)])
    set_irql(kernel, DISPATCH_LEVEL)
    return old


@EXPORTS.function("HostReleaseSpinLock", args="ptr u8 ptr")
def host_release_spin_lock(kernel: Kernel, lock: int, irql: int, _caller: int) -> None:
    """A spin lock release where it is not simple: not owned, out of order, or at the wrong IRQL."""
    now = kernel.irql
    if now < DISPATCH_LEVEL:
        kind = 0x41 if irql == _STAY else 0x32
        raise Bugcheck(0xC4, kind, now, lock, reason=f"spin lock 0x{lock:X} released at IRQL {now}")
    irql = now if irql == _STAY else irql
    if irql > now:
        raise Bugcheck(
            0xC4, 0x31, now, irql, 0,
            reason=f"spin lock 0x{lock:X} released to IRQL {irql}, which was never saved for it",
        )  # fmt: skip
    held = held_locks(kernel)
    if all(address != lock for address, _ in held):
        raise Bugcheck(0x10, reason=f"spin lock 0x{lock:X} released, but not owned")
    kernel.mem.set_u64(lock, 0)
    _set_held(kernel, [pair for pair in held if pair[0] != lock])
    if irql != now:
        host_lower_irql(kernel, irql, 0)


@EXPORTS.function("HostUnbalancedRegion", args="ptr")
def host_unbalanced_region(_kernel: Kernel, _caller: int) -> None:
    """KeLeaveCriticalRegion or KeLeaveGuardedRegion by a thread that is in none."""
    raise Bugcheck(0xC4, 0x3E, reason="critical or guarded region left by a thread that is in none")
