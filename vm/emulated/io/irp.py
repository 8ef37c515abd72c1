"""IRPs: allocation, dispatch to drivers, completion, cancellation, and the checks on what drivers do with them.

A user's IRP lies in special pool and its pages go when it is completed, so that a driver that touches it afterwards
faults at once. What Driver Verifier's I/O Verification checks is checked here always, with its codes (Microsoft: Bug
Check 0xC9: DRIVER_VERIFIER_IOMANAGER_VIOLATION, Bug Check 0x44: MULTIPLE_IRP_COMPLETE_REQUESTS).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.faults import Bugcheck, KernelEvent
from vm.emulated.io import layout as at
from vm.emulated.ke.irql import set_irql
from vm.emulated.ke.threads import Deadlock
from vm.emulated.layout import IO_STACK_LOCATION_SIZE, IRP_SIZE
from vm.emulated.ntstatus import (
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_PENDING,
    NtStatusError,
)
from vm.emulated.processor.cpu import Parked

if TYPE_CHECKING:
    from vm.emulated.io.manager import File, IoManager
    from vm.emulated.kernel import Kernel

IO_VERIFICATION = 0xC9
MULTIPLE_IRP_COMPLETE_REQUESTS = 0x44
NO_MORE_IRP_STACK_LOCATIONS = 0x35
CANCEL_STATE_IN_COMPLETED_IRP = 0x48
APC_INDEX_MISMATCH = 0x1
IRP_TAG = int.from_bytes(b"Irp ", "little")
DISPATCH_LEVEL = 2

USER = "user"
"""Made by the I/O manager for a user-mode call; it frees it."""
SIMPLE = "simple"
"""Cleanup and close: made and freed by the I/O manager, nobody sees the result."""
THREADED = "threaded"
"""Built by a driver with IoBuildDeviceIoControlRequest or IoBuildSynchronousFsdRequest; the I/O manager frees it."""
ALLOCATED = "allocated"
"""Allocated by a driver with IoAllocateIrp; the driver frees it."""
INITIALIZED = "initialized"
"""Memory of the driver's own, made an IRP with IoInitializeIrp."""

_HEADER = struct.Struct("<HHIQIIQQQIIQBBBBBBBBQQQQQQ")
_TAIL = struct.Struct("<11Q")
_STACK = struct.Struct("<BBBB4x32sQQQQ")
_COMPLETION = struct.Struct("<I4xQ2xBB36xQ")
"""From IoStatus on: status, information, StackCount, CurrentLocation, CancelRoutine."""
_ROUTINE_AT = IRP_SIZE + at.STACK_COMPLETION_ROUTINE


@dataclass(slots=True)
class Irp:
    """What the kernel knows of an IRP beside its bytes.

    Attributes:
        body: guest address.
        kind: who made it and who frees it.
        major: major function it was sent with.
        device: device it was sent to last, 0 before.
        site: return address of the driver call that made it, 0 for the kernel's own.
        file: file object of a user's IRP.
        request: id of the user's request, 0 for none.
        completed: IoCompleteRequest has run to its end.
        status, information: as completed.
        marked_pending: IoMarkIrpPending was called by the topmost driver before completion.
        forwarded: the topmost driver passed it on.
        dispatching: the topmost dispatch routine runs.
        system_buffer: memory to free with the IRP, 0 for none.
        output: where a threaded request's output goes, and its size.
    """

    body: int
    kind: str
    major: int = 0
    device: int = 0
    site: int = 0
    file: int = 0
    request: int = 0
    completed: bool = False
    status: int = 0
    information: int = 0
    marked_pending: bool = False
    forwarded: bool = False
    dispatching: bool = False
    system_buffer: int = 0
    output: int = 0
    output_size: int = 0

    def describe(self) -> str:
        """In words, for reports."""
        name = at.MAJOR_NAMES.get(self.major, f"major function 0x{self.major:X}")
        return f"IRP 0x{self.body:X} ({name}) " + ("completed" if self.completed else "not completed")


class Irps:
    """The IRPs of the machine."""

    def __init__(self, kernel: Kernel, manager: object) -> None:
        self._kernel = kernel
        self._io: IoManager = manager  # type: ignore[assignment]
        kernel.threads.continuations["irp"] = self._dispatch_returned

    # Allocation

    def initialize(self, body: int, size: int, stack_count: int, *, mode: int = 0, thread: int = 0) -> None:
        """Fill in an IRP with no stack location in use, as IoInitializeIrp does."""
        last = body + IRP_SIZE + stack_count * IO_STACK_LOCATION_SIZE
        list_entry = body + at.IRP_THREAD_LIST_ENTRY
        header = _HEADER.pack(
            at.IO_TYPE_IRP, size, 0, 0, 0, 0, 0, list_entry, list_entry, 0, 0, 0,
            mode, 0, stack_count, stack_count + 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        tail = _TAIL.pack(0, 0, 0, 0, thread, 0, 0, 0, last, 0, 0)
        self._kernel.mem.write(body, header + tail + bytes(stack_count * IO_STACK_LOCATION_SIZE))

    def allocate(self, kind: str, stack_count: int, *, site: int = 0, mode: int = 0, thread: int = 0) -> Irp:
        """A new IRP of a driver in special pool. Raises NtStatusError STATUS_INSUFFICIENT_RESOURCES."""
        size = IRP_SIZE + stack_count * IO_STACK_LOCATION_SIZE
        body = 0
        if not self._kernel.faults.memory_is_short("the allocation of an IRP"):
            body = self._kernel.pool.allocate(size, IRP_TAG, zero=True, site=site)
        if not body:
            raise NtStatusError(STATUS_INSUFFICIENT_RESOURCES, "no memory for an IRP")
        self.initialize(body, size, stack_count, mode=mode, thread=thread)
        irp = self._io.state.irps[body] = Irp(body, kind, site=site)
        return irp

    def build(
        self,
        kind: str,
        device: int,
        file: int,
        major: int,
        parameters: bytes,
        *,
        system_buffer: int = 0,
        mdl: int = 0,
        user_buffer: int = 0,
        flags: int = 0,
        mode: int = 0,
    ) -> Irp:
        """An IRP of the I/O manager's own for the top of a device stack, its first stack location filled in.

        Raises:
            NtStatusError: STATUS_INSUFFICIENT_RESOURCES; the buffers are still the caller's then.
        """
        kernel = self._kernel
        count = kernel.mem.u8(device + at.DEVICE_STACK_SIZE)
        size = IRP_SIZE + count * IO_STACK_LOCATION_SIZE
        body = kernel.pool.allocate(size, IRP_TAG)
        if not body:
            raise NtStatusError(STATUS_INSUFFICIENT_RESOURCES, "no memory for an IRP")
        links = body + at.IRP_THREAD_LIST_ENTRY
        location = body + size - IO_STACK_LOCATION_SIZE
        header = _HEADER.pack(
            at.IO_TYPE_IRP, size, 0, mdl, flags, 0, system_buffer, links, links, 0, 0, 0,
            mode, 0, count, count, 0, 0, 0, 0, 0, 0, 0, 0, 0, user_buffer,
        )  # fmt: skip
        tail = _TAIL.pack(0, 0, 0, 0, kernel.threads.current.object, 0, 0, 0, location, file, 0)
        stack = _STACK.pack(major, 0, 0, 0, parameters, device, file, 0, 0)
        kernel.mem.write(body, header + tail + bytes(size - IRP_SIZE - IO_STACK_LOCATION_SIZE) + stack)
        irp = self._io.state.irps[body] = Irp(body, kind, major, device, file=file, system_buffer=system_buffer)
        return irp

    def free(self, irp: Irp) -> None:
        """Give an IRP's memory and its system buffer back."""
        del self._io.state.irps[irp.body]
        self._io.state.finished_irps.append(irp)
        if irp.system_buffer:
            self._kernel.pool.free(irp.system_buffer)
        if irp.kind != INITIALIZED:
            self._kernel.pool.free(irp.body)

    def find(self, body: int) -> Irp | None:
        """What is known of a live IRP."""
        return self._io.state.irps.get(body)

    def finished(self, body: int) -> Irp | None:
        """What was known of an IRP that is gone."""
        return next((irp for irp in reversed(self._io.state.finished_irps) if irp.body == body), None)

    # Dispatch

    def set_next(self, irp: Irp, major: int, parameters: bytes) -> None:
        """Fill in the next stack location (IoGetNextIrpStackLocation); IoCallDriver adds the device."""
        next_location = self._kernel.mem.u64(irp.body + at.IRP_CURRENT_STACK_LOCATION) - IO_STACK_LOCATION_SIZE
        self._kernel.mem.write(next_location, _STACK.pack(major, 0, 0, 0, parameters, 0, 0, 0, 0))

    def prepare_call(self, device: int, body: int) -> int:
        """The first half of IoCallDriver: take a stack location; returns the dispatch routine's address.

        Raises:
            Bugcheck: 0x35 no stack location left; 0xC9 with 0x3, 0x4, 0x203, 0x10 for what must not be sent.
        """
        mem = self._kernel.mem
        irp = self.find(body)
        if irp is None or mem.u16(body) != at.IO_TYPE_IRP:
            raise Bugcheck(IO_VERIFICATION, 0x3, body, reason=f"IoCallDriver was given 0x{body:X}, which is no IRP")
        if self._kernel.irql > DISPATCH_LEVEL:
            raise Bugcheck(IO_VERIFICATION, 0x10, self._kernel.irql, reason="IoCallDriver above DISPATCH_LEVEL")
        driver = self._io.device(device).driver
        routine = mem.u64(body + at.IRP_CANCEL_ROUTINE)
        if routine:
            raise self._verifier(0x203, irp, "an IRP was passed on while its cancel routine was set")
        current = mem.u8(body + at.IRP_CURRENT_LOCATION)
        if current <= 1:
            raise Bugcheck(NO_MORE_IRP_STACK_LOCATIONS, body, reason=f"{irp.describe()} has no stack location left")
        location = mem.u64(body + at.IRP_CURRENT_STACK_LOCATION) - IO_STACK_LOCATION_SIZE
        mem.set_u8(body + at.IRP_CURRENT_LOCATION, current - 1)
        mem.set_u64(body + at.IRP_CURRENT_STACK_LOCATION, location)
        mem.set_u64(location + at.STACK_DEVICE_OBJECT, device)
        major = mem.u8(location)
        if irp.dispatching:
            irp.forwarded = True
        else:
            irp.major = major
        irp.device = device
        return mem.u64(driver + at.DRIVER_MAJOR_FUNCTION + 8 * major)

    def send(self, irp: Irp) -> int:
        """Call the topmost driver for an IRP from `build`; returns what its dispatch routine returned.

        Raises:
            Parked: the dispatch routine waits; the IRP ends later.
            Bugcheck: the driver broke a rule.
        """
        kernel = self._kernel
        driver = self._io.state.devices[irp.device].driver
        routine = kernel.mem.u64(driver + at.DRIVER_MAJOR_FUNCTION + 8 * irp.major)
        irp.dispatching = True
        thread = kernel.threads.current
        apcs = kernel.threads.apc_state(thread)
        before = thread.continuation
        # Only overlapped requests may go on without their caller; for any other, waiting without end is a hang.
        thread.continuation = ("irp", irp.body) if irp.request else None
        try:
            status = kernel.call(routine, irp.device, irp.body) & 0xFFFFFFFF
        except Parked:
            raise
        except KernelEvent:
            thread.continuation = before
            raise
        thread.continuation = before
        self._check_after_dispatch(irp, status, routine)
        after = kernel.threads.apc_state(thread)
        if after != apcs:
            raise Bugcheck(
                APC_INDEX_MISMATCH, routine, 0, int.from_bytes(after, "little"),
                reason="a dispatch routine returned inside a critical or guarded region that it entered, or left one "
                "too many",
            )  # fmt: skip
        return status

    def send_simple(self, major: int, file: File) -> None:
        """Send cleanup or close for a file object and wait for its end; the driver's answer does not matter."""
        device = self._io.top_of_stack(file.device)
        irp = self.build(SIMPLE, device, file.body, major, b"")
        self.send(irp)
        self.wait(irp)

    def wait(self, irp: Irp) -> None:
        """Let other threads run and time pass until an IRP that was left pending is completed.

        Raises:
            Deadlock: nothing in the machine completes it, so that its caller hangs.
        """
        if irp.completed or self._kernel.threads.run_until(lambda: irp.completed):
            return
        driver = self._io.device(irp.device).driver
        routine = self._kernel.mem.u64(driver + at.DRIVER_MAJOR_FUNCTION + 8 * irp.major)
        raise Deadlock(
            f"left {irp.describe()} pending in {self._kernel.describe_code(routine + 1)}: its caller waits for it, and "
            "nothing in the machine completes it"
        )

    def _dispatch_returned(self, body: int, result: int) -> None:
        """A dispatch routine that had been waiting on a parked thread has returned."""
        irp = self.find(body) or self.finished(body)
        if irp is not None:
            self._check_after_dispatch(irp, result & 0xFFFFFFFF, 0)

    def _check_after_dispatch(self, irp: Irp, status: int, routine: int) -> None:
        irp.dispatching = False
        irql = self._kernel.irql
        if irql:
            raise Bugcheck(
                IO_VERIFICATION, 0x5, irp.device, 0, irql,
                reason=f"the dispatch routine for {irp.describe()} returned at IRQL {irql}", rip=routine or None,
            )  # fmt: skip
        if irp.forwarded:
            return
        if not irp.completed:
            marked = self._marked_pending(irp.body)
            if status == STATUS_PENDING and marked:
                return
            if status != STATUS_PENDING and not marked:
                raise self._verifier(
                    0x226, irp,
                    f"a dispatch routine returned 0x{status:08X} without completing {irp.describe()}, passing it on or "
                    "marking it pending", routine,
                )  # fmt: skip
        else:
            marked = irp.marked_pending
        if status == STATUS_PENDING and not marked:
            raise self._verifier(
                0x23D, irp, "a dispatch routine returned STATUS_PENDING without calling IoMarkIrpPending", routine
            )
        if status != STATUS_PENDING and marked:
            raise self._verifier(
                0x23E, irp,
                f"a dispatch routine marked an IRP pending and returned 0x{status:08X}, not STATUS_PENDING", routine,
            )  # fmt: skip
        if irp.completed and status not in (STATUS_PENDING, irp.status):
            raise self._verifier(
                0x224, irp,
                f"a dispatch routine returned 0x{status:08X} but completed the IRP with 0x{irp.status:08X}", routine,
            )  # fmt: skip

    def _marked_pending(self, body: int) -> bool:
        location = body + IRP_SIZE + (self._kernel.mem.u8(body + at.IRP_STACK_COUNT) - 1) * IO_STACK_LOCATION_SIZE
        return bool(self._kernel.mem.u8(location + at.STACK_CONTROL) & at.SL_PENDING_RETURNED)

    def _verifier(self, code: int, irp: Irp, reason: str, routine: int = 0) -> Bugcheck:
        return Bugcheck(IO_VERIFICATION, code, routine, irp.body, irp.device, reason=reason, rip=routine or None)

    # Completion

    def complete(self, body: int) -> None:
        """IoCompleteRequest.

        Raises:
            Bugcheck: 0x44 completed twice or no IRP; 0xC9 with 0x6 (status pending), 0x7 (cancel routine still set),
                0xE (IRQL above DISPATCH_LEVEL).
        """
        mem = self._kernel.mem
        irp = self.find(body)
        if irp is None or irp.completed:
            raise self._completed_twice(body)
        if self._kernel.irql > DISPATCH_LEVEL:
            raise Bugcheck(
                IO_VERIFICATION, 0xE, self._kernel.irql, body, reason="IoCompleteRequest above DISPATCH_LEVEL"
            )
        data = mem.read(body, IRP_SIZE + IO_STACK_LOCATION_SIZE)
        status, information, count, current, cancel_routine = _COMPLETION.unpack_from(data, at.IRP_STATUS)
        if status in (STATUS_PENDING, 0xFFFFFFFF):
            raise Bugcheck(
                IO_VERIFICATION, 0x6, status, body, reason=f"{irp.describe()} was completed with status 0x{status:08X}"
            )
        if cancel_routine:
            raise Bugcheck(
                IO_VERIFICATION, 0x7, cancel_routine, body,
                reason=f"{irp.describe()} was completed while its cancel routine was still set",
            )  # fmt: skip
        if current > count + 1:
            raise self._completed_twice(body)
        if count == current == 1 and data[_ROUTINE_AT : _ROUTINE_AT + 8] == bytes(8):
            irp.marked_pending = bool(data[IRP_SIZE + at.STACK_CONTROL] & at.SL_PENDING_RETURNED)
        elif current <= count:
            if not self._unwind_stack(irp, count, current):
                return
            status, information = mem.u32(body + at.IRP_STATUS), mem.u64(body + at.IRP_INFORMATION)
        irp.completed = True
        irp.status, irp.information = status, information
        self._io.requests.irp_completed(irp)

    def _unwind_stack(self, irp: Irp, count: int, current: int) -> bool:
        """Call completion routines from the current location upwards; False when one took the IRP back."""
        kernel, mem, body = self._kernel, self._kernel.mem, irp.body
        location = mem.u64(body + at.IRP_CURRENT_STACK_LOCATION)
        while current <= count:
            control = mem.u8(location + at.STACK_CONTROL)
            routine, context = struct.unpack("<QQ", mem.read(location + at.STACK_COMPLETION_ROUTINE, 16))
            pending = control & at.SL_PENDING_RETURNED
            mem.set_u8(body + at.IRP_PENDING_RETURNED, pending)
            current += 1
            above = location + IO_STACK_LOCATION_SIZE
            mem.set_u8(body + at.IRP_CURRENT_LOCATION, current)
            mem.set_u64(body + at.IRP_CURRENT_STACK_LOCATION, above)
            if current == count + 1:
                irp.marked_pending = bool(pending)
            if routine and self._wants(control, body):
                mem.write(location, bytes(4))
                mem.write(location + at.STACK_COMPLETION_ROUTINE, bytes(16))
                device = mem.u64(above + at.STACK_DEVICE_OBJECT) if current <= count else 0
                if kernel.call(routine, device, body, context) & 0xFFFFFFFF == STATUS_MORE_PROCESSING_REQUIRED:
                    return False
                if self.find(body) is not irp:
                    raise self._completed_twice(body)
            elif pending and current <= count:
                mem.set_u8(above + at.STACK_CONTROL, mem.u8(above + at.STACK_CONTROL) | at.SL_PENDING_RETURNED)
            location = above
        return True

    def _wants(self, control: int, body: int) -> bool:
        mem = self._kernel.mem
        failed = mem.u32(body + at.IRP_STATUS) & 0x80000000
        if control & (at.SL_INVOKE_ON_ERROR if failed else at.SL_INVOKE_ON_SUCCESS):
            return True
        return bool(control & at.SL_INVOKE_ON_CANCEL and mem.u8(body + at.IRP_CANCEL))

    def _completed_twice(self, body: int) -> Bugcheck:
        earlier = self.find(body) or self.finished(body)
        if earlier is None:
            return Bugcheck(
                MULTIPLE_IRP_COMPLETE_REQUESTS, body, reason=f"IoCompleteRequest of 0x{body:X}, which is no IRP"
            )
        return Bugcheck(
            MULTIPLE_IRP_COMPLETE_REQUESTS, body, reason=f"{earlier.describe()} was completed a second time"
        )

    # Cancellation

    def acquire_cancel_lock(self) -> int:
        """IoAcquireCancelSpinLock: returns the IRQL before.

        Raises:
            Bugcheck: 0xF SPIN_LOCK_ALREADY_OWNED, the machine has one processor (Microsoft: Bug Check 0xF).
        """
        old = self._kernel.irql
        if self._io.state.cancel_held:
            raise Bugcheck(0xF, 0, reason="the cancel spin lock was acquired by its owner")
        self._io.state.cancel_held = True
        set_irql(self._kernel, DISPATCH_LEVEL)
        return old

    def release_cancel_lock(self, irql: int) -> None:
        """IoReleaseCancelSpinLock. Raises Bugcheck 0x10 SPIN_LOCK_NOT_OWNED."""
        if not self._io.state.cancel_held:
            raise Bugcheck(0x10, 0, reason="the cancel spin lock was released but is not held")
        self._io.state.cancel_held = False
        set_irql(self._kernel, irql)

    def cancel(self, body: int) -> bool:
        """IoCancelIrp: True when the driver's cancel routine was called (Microsoft Learn, IoCancelIrp).

        Raises:
            Bugcheck: 0x48 for an IRP that was completed (Microsoft: Bug Check 0x48).
        """
        mem, kernel = self._kernel.mem, self._kernel
        irp = self.find(body)
        if irp is None or irp.completed:
            raise Bugcheck(CANCEL_STATE_IN_COMPLETED_IRP, body, reason="a completed IRP was cancelled")
        old = self.acquire_cancel_lock()
        mem.set_u8(body + at.IRP_CANCEL, 1)
        routine = mem.u64(body + at.IRP_CANCEL_ROUTINE)
        if not routine:
            self.release_cancel_lock(old)
            return False
        mem.set_u64(body + at.IRP_CANCEL_ROUTINE, 0)
        mem.set_u8(body + at.IRP_CANCEL_IRQL, old)
        location = mem.u64(body + at.IRP_CURRENT_STACK_LOCATION)
        device = mem.u64(location + at.STACK_DEVICE_OBJECT)
        kernel.call(routine, device, body)
        if self._io.state.cancel_held:
            raise Bugcheck(
                IO_VERIFICATION, 0x5, device, old, kernel.irql,
                reason="a cancel routine returned without releasing the cancel spin lock", rip=routine,
            )  # fmt: skip
        if kernel.irql != old:
            raise Bugcheck(
                IO_VERIFICATION, 0x5, device, old, kernel.irql,
                reason=f"a cancel routine was entered with CancelIrql {old} and left IRQL {kernel.irql}", rip=routine,
            )  # fmt: skip
        return True
