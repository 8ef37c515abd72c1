"""What user-mode programs ask of devices: open, close, device control, read, write, cancel.

Each call makes an IRP as the I/O manager does, sends it to the top of the device's stack, and copies back what the
driver answered. Sources: Microsoft Learn, "Buffer Descriptions for I/O Control Codes", "Methods for Accessing Data
Buffers", "IRP_MJ_CREATE", "IRP_MJ_CLEANUP", "Controlling Device Namespace Access", "Defining I/O Control Codes".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm.emulated.faults import Bugcheck
from vm.emulated.io import layout as at
from vm.emulated.io.irp import SIMPLE, THREADED, USER, Irp
from vm.emulated.ke.sync import set_event
from vm.emulated.layout import PAGE, USER_BASE
from vm.emulated.mm import mdl
from vm.emulated.mm.memory import READ, WRITE
from vm.emulated.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_ACCESS_VIOLATION,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_OBJECT_TYPE_MISMATCH,
    NtStatusError,
    nt_error,
)
from vm.emulated.ob.object_types import FILE_APPEND_DATA, FILE_MAPPING, FILE_READ_DATA, FILE_WRITE_DATA, MAXIMUM_ALLOWED
from vm.emulated.processor.cpu import Parked
from vm.machine import Account

if TYPE_CHECKING:
    from vm.emulated.io.manager import File, IoManager
    from vm.emulated.kernel import Kernel
    from vm.emulated.ob.manager import ObjectRecord

SYSTEM_BUFFER_TAG = int.from_bytes(b"IoSB", "little")
FILE_OPEN = 1
FILE_NON_DIRECTORY_FILE = 0x40
FILE_SHARE_ALL = 7
ACCESS_STATE_SIZE = 0xA0
SECURITY_CONTEXT_SIZE = 0x18
PAGE_FAULT_BEYOND_END_OF_ALLOCATION = 0xCD


@dataclass
class Request:
    """One request of a program, and how it ended.

    Attributes:
        id: its number.
        done: the driver has completed it.
        status: NTSTATUS, once done.
        information: IoStatus.Information, once done.
        output: what reached the program's output buffer, once done.
        irp: the IRP under way, 0 once done.
    """

    id: int
    done: bool = False
    status: int = 0
    information: int = 0
    output: bytes = b""
    irp: int = 0
    method: int = at.METHOD_BUFFERED
    input_address: int = 0
    input_pages: int = 0
    output_address: int = 0
    output_pages: int = 0
    output_size: int = 0
    mdl: int = 0
    returns_data: bool = True


@dataclass(frozen=True)
class _Buffers:
    """What an IRP's header says of its buffers beside the request's own."""

    system: int = 0
    flags: int = 0


def _caller(account: Account | None) -> tuple[int, str]:
    """Previous mode and account of a thread that makes a call; None is a driver's, from kernel mode."""
    return (0, "system") if account is None else (1, account.value)


class Requests:
    """The user side of the I/O manager."""

    def __init__(self, kernel: Kernel, manager: object) -> None:
        self._kernel = kernel
        self._io: IoManager = manager  # type: ignore[assignment]

    # Open and close

    def open(self, path: str, access: int, account: Account | None = Account.ADMINISTRATOR) -> int:
        """NtCreateFile on a device; returns a handle of the current process.

        Args:
            path: NT path such as ``\\??\\Name``.
            access: desired access, generic rights allowed.
            account: who asks, None for a driver, whose access is not checked.

        Raises:
            NtStatusError: not found, STATUS_ACCESS_DENIED, or what the driver completed IRP_MJ_CREATE with.
        """
        kernel, io = self._kernel, self._io
        record, rest = kernel.ob.resolve(path)
        if record.type != "Device":
            raise NtStatusError(STATUS_OBJECT_TYPE_MISMATCH, path)
        io.check_device_for_open(record)
        granted = self._granted(record, rest, access, account)
        device = io.top_of_stack(record.body)
        body = io.create_file(record.body, rest, granted)
        file = io.state.files[body]
        file.account = account
        with self._as_user(account):
            try:
                status, _ = self._create(file, device, access, granted)
            except NtStatusError as error:
                status = error.status
            if status & 0x80000000:
                kernel.ob.dereference(body)
                raise NtStatusError(status, path)
        file.opened = True
        flags = kernel.mem.u32(body + at.FILE_FLAGS)
        kernel.mem.set_u32(body + at.FILE_FLAGS, flags | at.FO_HANDLE_CREATED | at.FO_FILE_OPEN)
        handle = kernel.ob.handles.create(body, granted, process=kernel.current_process.pid)
        kernel.ob.dereference(body)
        return handle

    def close(self, handle: int) -> None:
        """NtClose: cleanup with the last handle, close with the last reference. Raises NtStatusError."""
        file = self._file(handle)[0]
        with self._as_user(file.account):
            self._kernel.ob.handles.close(handle)

    def duplicate(self, handle: int) -> int:
        """NtDuplicateObject within the process, with the same access. Raises NtStatusError."""
        file, granted = self._file(handle)
        return self._kernel.ob.handles.create(file.body, granted, process=self._kernel.current_process.pid)

    def _granted(self, record: ObjectRecord, rest: str, access: int, account: Account | None) -> int:
        """Access check against the device's descriptor.

        A name behind the device's is the driver's own namespace: unless the device says FILE_DEVICE_SECURE_OPEN, the
        driver alone decides about it (Microsoft: Controlling Device Namespace Access).
        """
        kernel = self._kernel
        characteristics = kernel.mem.u32(record.body + at.DEVICE_CHARACTERISTICS)
        if account is None:
            return FILE_MAPPING.map(access & ~MAXIMUM_ALLOWED)
        if rest and not characteristics & at.FILE_DEVICE_SECURE_OPEN:
            return FILE_MAPPING.map(access) & FILE_MAPPING.all
        return kernel.se.check(record, account, access, FILE_MAPPING)

    def _create(self, file: File, device: int, access: int, granted: int) -> tuple[int, int]:
        """Send IRP_MJ_CREATE and wait for its end: status and information."""
        kernel, mem = self._kernel, self._kernel.mem
        context = kernel.heap.allocate(SECURITY_CONTEXT_SIZE + 8)
        state = kernel.heap.allocate(ACCESS_STATE_SIZE)
        try:
            desired = FILE_MAPPING.map(access)
            mem.write(state + 0x10, struct.pack("<III", desired & ~granted, granted, desired))
            token = kernel.se.current_token()
            mem.write(state + 0x20, struct.pack("<QIIQQ", 0, 0, 0, token, kernel.current_process.pid))
            mem.write(context, struct.pack("<QQII", 0, state, desired, FILE_NON_DIRECTORY_FILE))
            options = FILE_OPEN << 24 | FILE_NON_DIRECTORY_FILE
            parameters = struct.pack("<QI4xHHI", context, options, 0, FILE_SHARE_ALL, 0)
            mode = int(file.account is not None)
            irp = self._io.irps.build(SIMPLE, device, file.body, at.IRP_MJ_CREATE, parameters, mode=mode)
            self._io.irps.send(irp)
            self._io.irps.wait(irp)
            return irp.status, irp.information
        finally:
            kernel.heap.free(state)
            kernel.heap.free(context)

    # Transfers

    def device_control(self, handle: int, code: int, data: bytes = b"", output_size: int = 0) -> Request:
        """NtDeviceIoControlFile. A refused request is a done one with its status.

        Args:
            handle: an open file.
            code: control code; bits 14 and 15 say which access the handle needs, bits 0 and 1 how data moves.
            data: input buffer.
            output_size: bytes of the output buffer.
        """
        needed = code >> 14 & 3
        access = (FILE_READ_DATA if needed & at.CONTROL_READ_ACCESS else 0) | (
            FILE_WRITE_DATA if needed & at.CONTROL_WRITE_ACCESS else 0
        )
        file, granted = self._file(handle)
        request = self._request(code & 3, output_size)
        if access & ~granted:
            return self._refused(request, STATUS_ACCESS_DENIED)
        try:
            buffers = self._control_buffers(request, data, output_size)
        except NtStatusError as error:
            return self._refused(request, error.status)
        parameters = struct.pack("<QQQQ", output_size, len(data), code, request.input_address)
        return self._send(file, request, at.IRP_MJ_DEVICE_CONTROL, parameters, buffers)

    def read(self, handle: int, size: int) -> Request:
        """NtReadFile at offset 0, as on a device without a position."""
        return self._transfer(handle, at.IRP_MJ_READ, FILE_READ_DATA, b"", size)

    def write(self, handle: int, data: bytes) -> Request:
        """NtWriteFile at offset 0."""
        return self._transfer(handle, at.IRP_MJ_WRITE, FILE_WRITE_DATA | FILE_APPEND_DATA, data, 0)

    def cancel(self, request: Request) -> bool:
        """NtCancelIoFileEx for one request: False when it is done already; otherwise its end tells what happened."""
        if request.done or not request.irp:
            return False
        self._io.irps.cancel(request.irp)
        return True

    def request(self, number: int) -> Request:
        """A request that has not been forgotten, by its number. Raises KeyError."""
        return self._io.state.requests[number]

    def _transfer(self, handle: int, major: int, access: int, data: bytes, size: int) -> Request:
        file, granted = self._file(handle)
        device = self._io.top_of_stack(file.device)
        flags = self._kernel.mem.u32(device + at.DEVICE_FLAGS)
        reading = major == at.IRP_MJ_READ
        method = at.METHOD_NEITHER
        if flags & at.DO_BUFFERED_IO:
            method = at.METHOD_BUFFERED
        elif flags & at.DO_DIRECT_IO:
            method = at.METHOD_OUT_DIRECT if reading else at.METHOD_IN_DIRECT
        request = self._request(method, size)
        request.returns_data = reading
        if not access & granted:
            return self._refused(request, STATUS_ACCESS_DENIED)
        length = size if reading else len(data)
        try:
            buffers = self._transfer_buffers(request, data, length)
        except NtStatusError as error:
            return self._refused(request, error.status)
        return self._send(file, request, major, struct.pack("<QQQ", length, 0, 0), buffers)

    def _send(self, file: File, request: Request, major: int, parameters: bytes, buffers: _Buffers) -> Request:
        io = self._io
        device = io.top_of_stack(file.device)
        try:
            irp = io.irps.build(
                USER, device, file.body, major, parameters, system_buffer=buffers.system, mdl=request.mdl,
                user_buffer=request.output_address, flags=buffers.flags, mode=int(file.account is not None),
            )  # fmt: skip
        except NtStatusError as error:
            if buffers.system:
                self._kernel.pool.free(buffers.system)
            self._release(request)
            return self._refused(request, error.status)
        irp.request = request.id
        request.irp = irp.body
        io.state.requests[request.id] = request
        # The IRP keeps the file alive until it is completed.
        self._kernel.ob.reference(file.body)
        thread = self._kernel.threads.current
        before = thread.previous_mode, thread.account
        thread.previous_mode, thread.account = _caller(file.account)
        try:
            io.irps.send(irp)
        except Parked:
            return request  # the thread is still in the kernel on behalf of its caller
        thread.previous_mode, thread.account = before
        if request.done:
            io.state.requests.pop(request.id, None)
        return request

    # Buffers

    def _control_buffers(self, request: Request, data: bytes, output_size: int) -> _Buffers:
        """Put a device control's buffers where its method says. Raises NtStatusError when memory is short."""
        method = request.method
        if method == at.METHOD_NEITHER:
            if data:
                request.input_address, request.input_pages = self._user_buffer(len(data), data)
            if output_size:
                request.output_address, request.output_pages = self._user_buffer(output_size)
            return _Buffers()
        size = max(len(data), output_size) if method == at.METHOD_BUFFERED else len(data)
        system = self._system_buffer(size, data) if size else 0
        flags = at.IRP_BUFFERED_IO | at.IRP_DEALLOCATE_BUFFER if size else 0
        if method == at.METHOD_BUFFERED:
            flags |= at.IRP_INPUT_OPERATION if output_size else 0
        elif output_size:
            self._lock(request, output_size, write=method == at.METHOD_OUT_DIRECT)
        return _Buffers(system, flags)

    def _transfer_buffers(self, request: Request, data: bytes, length: int) -> _Buffers:
        """Put a transfer's buffer where the device's flags say. Raises NtStatusError when memory is short."""
        if request.method == at.METHOD_BUFFERED:
            system = self._system_buffer(length, data) if length else 0
            return _Buffers(system, at.IRP_BUFFERED_IO | at.IRP_DEALLOCATE_BUFFER)
        if length and request.method == at.METHOD_NEITHER:
            request.output_address, request.output_pages = self._user_buffer(length, data)
        elif length:
            self._lock(request, length, write=request.returns_data, data=data)
        return _Buffers()

    def _system_buffer(self, size: int, data: bytes) -> int:
        """Memory for a buffered transfer: what the input does not fill keeps the pattern of fresh pool."""
        block = self._kernel.pool.allocate(size, SYSTEM_BUFFER_TAG, zero=False)
        if not block:
            raise NtStatusError(STATUS_INSUFFICIENT_RESOURCES, "no memory for a system buffer")
        if data:
            self._kernel.mem.write(block, data)
        return block

    def _lock(self, request: Request, size: int, *, write: bool, data: bytes = b"") -> None:
        request.output_address, request.output_pages = self._user_buffer(size, data)
        request.mdl = mdl.create(self._kernel, request.output_address, size)
        mdl.lock(self._kernel, request.mdl, write=write)

    def _user_buffer(self, size: int, data: bytes = b"") -> tuple[int, int]:
        """User-mode memory that ends where its last page ends, zeroed: address of the buffer, and pages."""
        kernel, state = self._kernel, self._io.state
        pages = (size + PAGE - 1) // PAGE
        free = state.user_buffers.setdefault(pages, [])
        if free:
            base = free.pop()
            kernel.mem.fill(base, pages * PAGE)
        else:
            base = USER_BASE + state.next_user_page * PAGE
            state.next_user_page += pages + 1
            kernel.mem.map(base, pages * PAGE, READ | WRITE)
        address = base + (pages * PAGE - size & ~7)
        if data:
            kernel.mem.write(address, data)
        return address, pages

    def _release(self, request: Request) -> None:
        for address, pages in (
            (request.input_address, request.input_pages),
            (request.output_address, request.output_pages),
        ):
            if pages:
                self._io.state.user_buffers[pages].append(address & -PAGE)
        if request.mdl:
            mdl.destroy(self._kernel, request.mdl)
        request.input_pages = request.output_pages = request.mdl = 0

    # The end of an IRP

    def irp_completed(self, irp: Irp) -> None:
        """What the I/O manager does with an IRP whose stack is unwound."""
        if irp.kind == SIMPLE:
            self._io.irps.free(irp)
        elif irp.kind == THREADED:
            self._finish_threaded(irp)
        elif irp.kind == USER:
            request = self._io.state.requests[irp.request]
            self._copy_back(irp, request)
            self._io.irps.free(irp)
            self._release(request)
            request.irp = 0
            request.done = True
            self._kernel.ob.dereference(irp.file)

    def _copy_back(self, irp: Irp, request: Request) -> None:
        """Give the program what the driver answered: Information bytes, unless the status is an error."""
        request.status, request.information = irp.status, irp.information
        if nt_error(irp.status) or not request.returns_data:
            return
        if request.method != at.METHOD_BUFFERED:
            if request.output_pages:
                size = min(irp.information, request.output_size)
                request.output = self._kernel.mem.read(request.output_address, size)
            return
        size = irp.information
        if not size or not request.output_size:
            return
        if irp.system_buffer:
            block = self._kernel.pool.state.blocks[irp.system_buffer]
            if size > block.size:
                raise Bugcheck(
                    PAGE_FAULT_BEYOND_END_OF_ALLOCATION, irp.system_buffer + block.size, 0, 0,
                    reason=f"{irp.describe()} was completed with Information {size}, more than its system buffer of "
                    f"{block.size} bytes: the I/O manager reads past the end",
                )  # fmt: skip
            if size > request.output_size:
                # The program's buffer ends at a page that is not there: the copy faults, the request fails with it.
                request.status = STATUS_ACCESS_VIOLATION
                request.information = 0
                return
            request.output = self._kernel.mem.read(irp.system_buffer, size)

    def _finish_threaded(self, irp: Irp) -> None:
        """Copy back, fill in the status block and signal the event of a request that a driver built."""
        kernel, mem = self._kernel, self._kernel.mem
        iosb, event = mem.u64(irp.body + at.IRP_USER_IOSB), mem.u64(irp.body + at.IRP_USER_EVENT)
        if irp.output and irp.system_buffer and not nt_error(irp.status):
            mem.write(irp.output, mem.read(irp.system_buffer, min(irp.information, irp.output_size)))
        lock = mem.u64(irp.body + at.IRP_MDL_ADDRESS)
        self._io.irps.free(irp)
        if lock:
            mdl.destroy(kernel, lock)
        if iosb:
            mem.write(iosb, struct.pack("<I4xQ", irp.status, irp.information))
        if event:
            set_event(kernel, event)

    # Helpers

    def _file(self, handle: int) -> tuple[File, int]:
        record, granted = self._kernel.ob.handles.resolve_with_access(handle, "File", user=True)
        return self._io.state.files[record.body], granted

    def _request(self, method: int, output_size: int) -> Request:
        state = self._io.state
        request = Request(state.next_request, method=method, output_size=output_size)
        state.next_request += 1
        return request

    @staticmethod
    def _refused(request: Request, status: int) -> Request:
        request.done, request.status = True, status
        return request

    @contextmanager
    def _as_user(self, account: Account | None) -> Iterator[None]:
        """The current thread makes a call on behalf of an account, from user mode unless that is None."""
        thread = self._kernel.current_thread
        before = thread.previous_mode, thread.account
        thread.previous_mode, thread.account = _caller(account)
        try:
            yield
        finally:
            thread.previous_mode, thread.account = before
