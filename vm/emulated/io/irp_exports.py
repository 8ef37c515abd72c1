"""I/O manager functions that drivers import for IRPs.

Behaviour and IRQL limits are those of the functions' pages on Microsoft Learn (wdm.h, ntifs.h). IofCallDriver and the
cancel-safe queues are guest code (guest/io.c, guest/csq.c).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vm.emulated.exports import DISPATCH_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.io import layout as at
from vm.emulated.io.irp import ALLOCATED, INITIALIZED, IO_VERIFICATION, THREADED, Irp
from vm.emulated.layout import IO_STACK_LOCATION_SIZE
from vm.emulated.mm import mdl
from vm.emulated.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS, NtStatusError

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

SYSTEM_BUFFER_TAG = int.from_bytes(b"IoSB", "little")


@EXPORTS.function("HostIoPrepareCall", args="ptr ptr")
def host_io_prepare_call(kernel: Kernel, device: int, irp: int) -> int:
    """First half of IoCallDriver, for guest/io.c."""
    return kernel.io.irps.prepare_call(device, irp)


@EXPORTS.function("HostIoCallReturned", args="ptr u8")
def host_io_call_returned(kernel: Kernel, device: int, before: int) -> None:
    """A dispatch routine that IoCallDriver called came back at another IRQL."""
    raise Bugcheck(
        IO_VERIFICATION, 0x5, device, before, kernel.irql,
        reason=f"a dispatch routine was entered at IRQL {before} and returned at IRQL {kernel.irql}",
    )  # fmt: skip


@EXPORTS.function("IofCompleteRequest", "IoCompleteRequest", args="ptr")
def iof_complete_request(kernel: Kernel, irp: int) -> None:
    """Microsoft Learn, IoCompleteRequest: DISPATCH_LEVEL at most, which complete() reports as 0xC9."""
    kernel.io.irps.complete(irp)


@EXPORTS.function("IoAllocateIrp", args="u8 bool", irql=DISPATCH_LEVEL)
def io_allocate_irp(kernel: Kernel, stack_count: int, _quota: bool) -> int:
    """Microsoft Learn, IoAllocateIrp: NULL when memory is short."""
    try:
        return kernel.io.irps.allocate(ALLOCATED, stack_count, site=kernel.caller()).body
    except NtStatusError:
        return 0


@EXPORTS.function("IoAllocateIrpEx", args="ptr u8 bool", irql=DISPATCH_LEVEL)
def io_allocate_irp_ex(kernel: Kernel, _device: int, stack_count: int, quota: bool) -> int:
    """Microsoft Learn, IoAllocateIrpEx: the device only says where to account for it."""
    return io_allocate_irp(kernel, stack_count, quota) or 0


@EXPORTS.function("IoFreeIrp", args="ptr", irql=DISPATCH_LEVEL)
def io_free_irp(kernel: Kernel, body: int) -> None:
    """Microsoft Learn, IoFreeIrp."""
    irp = kernel.io.irps.find(body)
    if irp is None:
        raise Bugcheck(IO_VERIFICATION, 0x1, body, reason=f"IoFreeIrp of 0x{body:X}, which is no IRP")
    if irp.kind != ALLOCATED:
        raise Bugcheck(IO_VERIFICATION, 0x2, body, reason=f"IoFreeIrp of {irp.describe()}, which the I/O manager frees")
    if kernel.mem.u8(body + at.IRP_CURRENT_LOCATION) <= kernel.mem.u8(body + at.IRP_STACK_COUNT):
        raise Bugcheck(
            IO_VERIFICATION,
            0x20B,
            kernel.caller(),
            body,
            irp.device,
            reason=f"IoFreeIrp of {irp.describe()}, still in use",
        )
    kernel.io.irps.free(irp)


@EXPORTS.function("IoInitializeIrp", args="ptr u16 u8", irql=DISPATCH_LEVEL)
def io_initialize_irp(kernel: Kernel, body: int, size: int, stack_count: int) -> None:
    """Microsoft Learn, IoInitializeIrp: memory of the driver's own."""
    known = kernel.io.irps.find(body)
    if known is not None and known.kind != INITIALIZED:
        raise Bugcheck(
            IO_VERIFICATION, 0x20D, kernel.caller(), body, known.device,
            reason="IoInitializeIrp of an IRP from IoAllocateIrp",
        )  # fmt: skip
    kernel.io.irps.initialize(body, size, stack_count)
    kernel.io.state.irps[body] = Irp(body, INITIALIZED, site=kernel.caller())


@EXPORTS.function("IoReuseIrp", args="ptr u32", irql=DISPATCH_LEVEL)
def io_reuse_irp(kernel: Kernel, body: int, status: int) -> None:
    """Microsoft Learn, IoReuseIrp."""
    irp = kernel.io.irps.find(body)
    if irp is None:
        raise Bugcheck(IO_VERIFICATION, 0x1, body, reason=f"IoReuseIrp of 0x{body:X}, which is no IRP")
    size, count = kernel.mem.u16(body + 2), kernel.mem.u8(body + at.IRP_STACK_COUNT)
    kernel.io.irps.initialize(body, size, count)
    kernel.mem.set_u32(body + at.IRP_STATUS, status)
    irp.completed = irp.forwarded = irp.marked_pending = False


@EXPORTS.function("IoCancelIrp", args="ptr", irql=DISPATCH_LEVEL)
def io_cancel_irp(kernel: Kernel, irp: int) -> int:
    """Microsoft Learn, IoCancelIrp."""
    return int(kernel.io.irps.cancel(irp))


@EXPORTS.function("IoAcquireCancelSpinLock", args="ptr", irql=DISPATCH_LEVEL)
def io_acquire_cancel_spin_lock(kernel: Kernel, irql: int) -> None:
    """Microsoft Learn, IoAcquireCancelSpinLock."""
    kernel.mem.set_u8(irql, kernel.io.irps.acquire_cancel_lock())


@EXPORTS.function("IoReleaseCancelSpinLock", args="u8", irql=DISPATCH_LEVEL, minimum_irql=DISPATCH_LEVEL)
def io_release_cancel_spin_lock(kernel: Kernel, irql: int) -> None:
    """Microsoft Learn, IoReleaseCancelSpinLock."""
    kernel.io.irps.release_cancel_lock(irql)


@EXPORTS.function("IoBuildDeviceIoControlRequest", args="u32 ptr ptr u32 ptr u32 bool ptr ptr", irql=PASSIVE_LEVEL)
def io_build_device_io_control_request(
    kernel: Kernel,
    code: int,
    device: int,
    data: int,
    data_size: int,
    output: int,
    output_size: int,
    internal: bool,
    event: int,
    iosb: int,
) -> int:
    """Microsoft Learn, IoBuildDeviceIoControlRequest: NULL when memory is short."""
    method = code & 3
    stack_count = kernel.mem.u8(kernel.io.device(device).body + at.DEVICE_STACK_SIZE)
    try:
        irp = kernel.io.irps.allocate(THREADED, stack_count, site=kernel.caller(), thread=kernel.current_thread.object)
    except NtStatusError:
        return 0
    flags = 0
    type3 = 0
    if method == at.METHOD_NEITHER:
        type3 = data
        kernel.mem.set_u64(irp.body + at.IRP_USER_BUFFER, output)
    else:
        size = max(data_size, output_size) if method == at.METHOD_BUFFERED else data_size
        if size:
            irp.system_buffer = kernel.pool.allocate(size, SYSTEM_BUFFER_TAG, zero=False)
            if not irp.system_buffer:
                kernel.io.irps.free(irp)
                return 0
            if data and data_size:
                kernel.mem.write(irp.system_buffer, kernel.mem.read(data, data_size))
            kernel.mem.set_u64(irp.body + at.IRP_SYSTEM_BUFFER, irp.system_buffer)
            flags = at.IRP_BUFFERED_IO | at.IRP_DEALLOCATE_BUFFER
        if method == at.METHOD_BUFFERED:
            irp.output, irp.output_size = output, output_size
            flags |= at.IRP_INPUT_OPERATION if output_size else 0
        elif output and output_size:
            body = mdl.create(kernel, output, output_size)
            mdl.lock(kernel, body, write=method == at.METHOD_OUT_DIRECT)
            kernel.mem.set_u64(irp.body + at.IRP_MDL_ADDRESS, body)
    kernel.mem.set_u32(irp.body + at.IRP_FLAGS, flags)
    kernel.mem.set_u64(irp.body + at.IRP_USER_IOSB, iosb)
    kernel.mem.set_u64(irp.body + at.IRP_USER_EVENT, event)
    major = at.IRP_MJ_INTERNAL_DEVICE_CONTROL if internal else at.IRP_MJ_DEVICE_CONTROL
    kernel.io.irps.set_next(irp, major, struct.pack("<QQQQ", output_size, data_size, code, type3))
    return irp.body


@EXPORTS.function("IoBuildSynchronousFsdRequest", args="u32 ptr ptr u32 ptr ptr ptr", irql=PASSIVE_LEVEL)
def io_build_synchronous_fsd_request(
    kernel: Kernel, major: int, device: int, buffer: int, length: int, offset: int, event: int, iosb: int
) -> int:
    """Microsoft Learn, IoBuildSynchronousFsdRequest: NULL when memory is short."""
    mem = kernel.mem
    stack_count = mem.u8(kernel.io.device(device).body + at.DEVICE_STACK_SIZE)
    try:
        irp = kernel.io.irps.allocate(THREADED, stack_count, site=kernel.caller(), thread=kernel.current_thread.object)
    except NtStatusError:
        return 0
    parameters = b""
    if major in (at.IRP_MJ_READ, at.IRP_MJ_WRITE):
        parameters = struct.pack("<QQQ", length, 0, mem.u64(offset) if offset else 0)
        reading = major == at.IRP_MJ_READ
        flags = mem.u32(device + at.DEVICE_FLAGS)
        if flags & at.DO_BUFFERED_IO and length:
            irp.system_buffer = kernel.pool.allocate(length, SYSTEM_BUFFER_TAG, zero=False)
            if not irp.system_buffer:
                kernel.io.irps.free(irp)
                return 0
            mem.set_u64(irp.body + at.IRP_SYSTEM_BUFFER, irp.system_buffer)
            if reading:
                irp.output, irp.output_size = buffer, length
            else:
                mem.write(irp.system_buffer, mem.read(buffer, length))
        elif flags & at.DO_DIRECT_IO and length:
            body = mdl.create(kernel, buffer, length)
            mdl.lock(kernel, body, write=reading)
            mem.set_u64(irp.body + at.IRP_MDL_ADDRESS, body)
        else:
            mem.set_u64(irp.body + at.IRP_USER_BUFFER, buffer)
    mem.set_u64(irp.body + at.IRP_USER_IOSB, iosb)
    mem.set_u64(irp.body + at.IRP_USER_EVENT, event)
    kernel.io.irps.set_next(irp, major, parameters)
    return irp.body


@EXPORTS.function("IoSetCompletionRoutineEx", args="ptr ptr ptr ptr bool bool bool", irql=DISPATCH_LEVEL)
def io_set_completion_routine_ex(
    kernel: Kernel, _device: int, irp: int, routine: int, context: int, success: bool, error: bool, cancel: bool
) -> int:
    """Microsoft Learn, IoSetCompletionRoutineEx: IoSetCompletionRoutine that also keeps the driver loaded.

    Drivers here are never unloaded while one of their devices is open, so there is nothing more to keep.
    """
    if kernel.faults.memory_is_short("IoSetCompletionRoutineEx"):
        return STATUS_INSUFFICIENT_RESOURCES
    location = kernel.mem.u64(irp + at.IRP_CURRENT_STACK_LOCATION) - IO_STACK_LOCATION_SIZE
    control = (
        (at.SL_INVOKE_ON_SUCCESS if success else 0)
        | (at.SL_INVOKE_ON_ERROR if error else 0)
        | (at.SL_INVOKE_ON_CANCEL if cancel else 0)
    )
    kernel.mem.set_u8(location + at.STACK_CONTROL, control)
    kernel.mem.write(location + at.STACK_COMPLETION_ROUTINE, struct.pack("<QQ", routine, context))
    return STATUS_SUCCESS


@EXPORTS.function("IoGetRequestorProcess", args="ptr", irql=DISPATCH_LEVEL)
def io_get_requestor_process(kernel: Kernel, irp: int) -> int:
    """Microsoft Learn, IoGetRequestorProcess: NULL for an IRP without a thread."""
    thread = kernel.mem.u64(irp + at.IRP_THREAD)
    return kernel.ps.process(kernel.ps.thread_of_object(thread).pid).object if thread else 0


@EXPORTS.function("IoGetRequestorProcessId", args="ptr", irql=DISPATCH_LEVEL)
def io_get_requestor_process_id(kernel: Kernel, irp: int) -> int:
    """Microsoft Learn, IoGetRequestorProcessId."""
    thread = kernel.mem.u64(irp + at.IRP_THREAD)
    return kernel.ps.thread_of_object(thread).pid if thread else 0


@EXPORTS.function("IoGetRequestorSessionId", args="ptr ptr", irql=DISPATCH_LEVEL)
def io_get_requestor_session_id(kernel: Kernel, irp: int, session: int) -> int:
    """Microsoft Learn, IoGetRequestorSessionId: everything runs in session 0."""
    if not kernel.mem.u64(irp + at.IRP_THREAD):
        kernel.mem.set_u32(session, 0xFFFFFFFF)
        return STATUS_INVALID_PARAMETER
    kernel.mem.set_u32(session, 0)
    return STATUS_SUCCESS
