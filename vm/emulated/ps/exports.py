"""What drivers import about processes and threads.

Sources are the pages of the same names on Microsoft Learn, and ntddk.h and ntifs.h for what has no page of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vm.emulated.exports import APC_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.ke.threads import SYSTEM_PID
from vm.emulated.ntstatus import (
    STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INVALID_CID,
    STATUS_INVALID_INFO_CLASS,
    STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
)

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.ps.manager import Process

EXPORTS = ExportTable()

_IMAGE_FILE_NAME_LENGTH = 15
_PROCESS_BASIC_INFORMATION = 0
_PROCESS_IMAGE_FILE_NAME = 27


def _system_process(kernel: Kernel) -> bytes:
    return struct.pack("<Q", kernel.ps.process(SYSTEM_PID).object)


EXPORTS.variable("PsInitialSystemProcess", _system_process)


def device_path(kernel: Kernel, process: Process) -> str:
    """Full path of a process's image in device form, as SeLocateProcessImageName gives it."""
    return kernel.files.device_path(process.file_name) if process.pid != SYSTEM_PID else ""


@EXPORTS.function("IoGetCurrentProcess", "PsGetCurrentProcess")
def io_get_current_process(kernel: Kernel) -> int:
    """IoGetCurrentProcess: the process of the running thread, or the one it is attached to."""
    return kernel.ps.current().object


@EXPORTS.function("PsGetCurrentProcessId")
def ps_get_current_process_id(kernel: Kernel) -> int:
    """PsGetCurrentProcessId."""
    return kernel.ps.current().pid


@EXPORTS.function("PsGetCurrentThreadProcessId")
def ps_get_current_thread_process_id(kernel: Kernel) -> int:
    """ntifs.h: the process the running thread belongs to, attached or not."""
    return kernel.current_thread.pid


@EXPORTS.function("KeGetCurrentThread", "PsGetCurrentThread")
def ke_get_current_thread(kernel: Kernel) -> int:
    """KeGetCurrentThread."""
    return kernel.current_thread.object


@EXPORTS.function("PsGetCurrentThreadId")
def ps_get_current_thread_id(kernel: Kernel) -> int:
    """PsGetCurrentThreadId."""
    return kernel.current_thread.tid


@EXPORTS.function("ExGetPreviousMode")
def ex_get_previous_mode(kernel: Kernel) -> int:
    """ExGetPreviousMode."""
    return kernel.previous_mode


@EXPORTS.function("PsGetProcessId", args="ptr")
def ps_get_process_id(kernel: Kernel, process: int) -> int:
    """PsGetProcessId."""
    return kernel.ps.of_object(process).pid


@EXPORTS.function("PsGetThreadId", args="ptr")
def ps_get_thread_id(kernel: Kernel, thread: int) -> int:
    """PsGetThreadId."""
    return kernel.ps.thread_of_object(thread).tid


@EXPORTS.function("PsGetThreadProcessId", args="ptr")
def ps_get_thread_process_id(kernel: Kernel, thread: int) -> int:
    """PsGetThreadProcessId."""
    return kernel.ps.thread_of_object(thread).pid


@EXPORTS.function("IoThreadToProcess", "PsGetThreadProcess", args="ptr")
def io_thread_to_process(kernel: Kernel, thread: int) -> int:
    """IoThreadToProcess."""
    return kernel.ps.process(kernel.ps.thread_of_object(thread).pid).object


@EXPORTS.function("PsIsSystemThread", args="ptr")
def ps_is_system_thread(kernel: Kernel, thread: int) -> int:
    """PsIsSystemThread."""
    return kernel.ps.thread_of_object(thread).pid == SYSTEM_PID


@EXPORTS.function("PsIsThreadTerminating", args="ptr")
def ps_is_thread_terminating(kernel: Kernel, thread: int) -> int:
    """PsIsThreadTerminating."""
    return kernel.ps.thread_of_object(thread).state == "ended"


@EXPORTS.function("PsGetProcessExitStatus", args="ptr")
def ps_get_process_exit_status(kernel: Kernel, process: int) -> int:
    """ntifs.h, PsGetProcessExitStatus: STATUS_PENDING while it runs."""
    return kernel.ps.of_object(process).exit_status


@EXPORTS.function("PsGetProcessCreateTimeQuadPart", args="ptr")
def ps_get_process_create_time_quad_part(kernel: Kernel, process: int) -> int:
    """PsGetProcessCreateTimeQuadPart."""
    return kernel.ps.of_object(process).create_time


@EXPORTS.function("PsGetProcessInheritedFromUniqueProcessId", args="ptr")
def ps_get_process_inherited_from(kernel: Kernel, process: int) -> int:
    """Exported, in no public header: the parent's pid."""
    return kernel.ps.of_object(process).parent_pid


@EXPORTS.function("PsGetProcessImageFileName", args="ptr")
def ps_get_process_image_file_name(kernel: Kernel, process: int) -> int:
    """Exported, in no public header: the last component's first 15 characters as a byte string inside EPROCESS."""
    found = kernel.ps.of_object(process)
    name = found.file_name.rpartition("\\")[2][:_IMAGE_FILE_NAME_LENGTH]
    address = process + 0x100
    kernel.mem.write(address, name.encode("latin-1", "replace") + b"\0")
    return address


@EXPORTS.function("PsGetProcessSessionId", "PsGetProcessSessionIdEx", args="ptr")
def ps_get_process_session_id(kernel: Kernel, process: int) -> int:
    """Exported, in no public header: everything runs in session 0."""
    kernel.ps.of_object(process)
    return 0


@EXPORTS.function("PsGetProcessWow64Process", args="ptr")
def ps_get_process_wow64_process(kernel: Kernel, process: int) -> int:
    """Exported, in no public header: no 32-bit processes here."""
    kernel.ps.of_object(process)
    return 0


@EXPORTS.function("PsLookupProcessByProcessId", args="handle ptr", irql=APC_LEVEL)
def ps_lookup_process_by_process_id(kernel: Kernel, pid: int, result: int) -> int:
    """PsLookupProcessByProcessId: a referenced process, also one that is ending, until its object is gone."""
    process = kernel.ps.state.processes.get(pid)
    if process is None or not process.inserted:
        return STATUS_INVALID_CID
    kernel.ob.reference(process.object)
    kernel.mem.set_u64(result, process.object)
    return STATUS_SUCCESS


@EXPORTS.function("PsLookupThreadByThreadId", args="handle ptr", irql=APC_LEVEL)
def ps_lookup_thread_by_thread_id(kernel: Kernel, tid: int, result: int) -> int:
    """PsLookupThreadByThreadId: a referenced thread."""
    thread = kernel.threads.state.threads.get(tid)
    if thread is None:
        return STATUS_INVALID_CID
    kernel.ob.reference(thread.object)
    kernel.mem.set_u64(result, thread.object)
    return STATUS_SUCCESS


@EXPORTS.function("SeLocateProcessImageName", args="ptr ptr", irql=PASSIVE_LEVEL)
def se_locate_process_image_name(kernel: Kernel, process: int, result: int) -> int:
    """SeLocateProcessImageName: a UNICODE_STRING in paged pool that the caller frees with ExFreePool."""
    text = device_path(kernel, kernel.ps.of_object(process)).encode("utf-16-le", "surrogatepass")
    block = kernel.pool.allocate(
        16 + len(text) + 2, int.from_bytes(b"SeNm", "little"), paged=True, site=kernel.caller()
    )
    kernel.mem.set_unicode_string(block, len(text), len(text) + 2, block + 16)
    kernel.mem.write(block + 16, text)
    kernel.mem.set_u64(result, block)
    return STATUS_SUCCESS


@EXPORTS.function("PsCreateSystemThread", args="ptr u32 ptr handle ptr ptr ptr", irql=PASSIVE_LEVEL)
def ps_create_system_thread(
    kernel: Kernel, handle: int, access: int, _attributes: int, process: int, client_id: int, routine: int, context: int
) -> int:
    """PsCreateSystemThread: a kernel handle to a new thread of the system process or of a given one."""
    pid = SYSTEM_PID
    if process:
        record = kernel.ob.handles.resolve(process, kind="Process")
        pid = kernel.ps.of_object(record.body).pid
    thread = kernel.ps.create_system_thread(routine, context, pid=pid)
    kernel.events.thread_created(kernel.current_thread, thread)
    kernel.mem.set_u64(handle, kernel.ob.handles.create(thread.object, access))
    if client_id:
        kernel.mem.write(client_id, struct.pack("<QQ", pid, thread.tid))
    return STATUS_SUCCESS


@EXPORTS.function("PsTerminateSystemThread", args="u32", irql=APC_LEVEL)
def ps_terminate_system_thread(kernel: Kernel, status: int) -> int:
    """PsTerminateSystemThread: does not return in a system thread, STATUS_INVALID_PARAMETER in any other."""
    if not kernel.current_thread.routine:
        return STATUS_INVALID_PARAMETER
    kernel.threads.end_current(status)
    return STATUS_SUCCESS


@EXPORTS.function("ZwOpenProcess", "NtOpenProcess", args="ptr u32 ptr ptr", irql=PASSIVE_LEVEL)
def zw_open_process(kernel: Kernel, handle: int, access: int, attributes: int, client_id: int) -> int:
    """ZwOpenProcess: by client id."""
    if not client_id:
        return STATUS_INVALID_PARAMETER
    process = kernel.ps.state.processes.get(kernel.mem.u64(client_id))
    if process is None or not process.running:
        return STATUS_INVALID_CID
    kernel_handle = kernel.mem.u32(attributes + 0x18) & 0x200  # OBJ_KERNEL_HANDLE
    owner = None if kernel_handle else kernel.ps.current().pid
    kernel.mem.set_u64(handle, kernel.ob.handles.create(process.object, access, process=owner))
    return STATUS_SUCCESS


@EXPORTS.function("ZwTerminateProcess", "NtTerminateProcess", args="handle u32", irql=PASSIVE_LEVEL)
def zw_terminate_process(kernel: Kernel, handle: int, status: int) -> int:
    """ZwTerminateProcess: the exit callbacks run in the process that ends."""
    record = kernel.ob.handles.resolve(handle, kind="Process")
    kernel.ps.terminate(kernel.ps.of_object(record.body), status)
    return STATUS_SUCCESS


@EXPORTS.function(
    "ZwQueryInformationProcess", "NtQueryInformationProcess", args="handle u32 ptr u32 ptr", irql=PASSIVE_LEVEL
)
def zw_query_information_process(kernel: Kernel, handle: int, kind: int, buffer: int, size: int, length: int) -> int:
    """ZwQueryInformationProcess: ProcessBasicInformation and ProcessImageFileName."""
    record = kernel.ob.handles.resolve(handle, kind="Process")
    process = kernel.ps.of_object(record.body)
    if kind == _PROCESS_BASIC_INFORMATION:
        data = struct.pack("<IxxxxQQIxxxxQQ", process.exit_status, 0, 1, 8, process.pid, process.parent_pid)
    elif kind == _PROCESS_IMAGE_FILE_NAME:
        text = device_path(kernel, process).encode("utf-16-le", "surrogatepass")
        data = struct.pack("<HHxxxxQ", len(text), len(text) + 2, buffer + 16) + text + b"\0\0"
    else:
        return STATUS_INVALID_INFO_CLASS
    if length:
        kernel.mem.set_u32(length, len(data))
    if size < len(data):
        return STATUS_INFO_LENGTH_MISMATCH
    kernel.mem.write(buffer, data)
    return STATUS_SUCCESS


@EXPORTS.function("KeStackAttachProcess", args="ptr ptr", irql=1)
def ke_stack_attach_process(kernel: Kernel, process: int, state: int) -> None:
    """KeStackAttachProcess: the running thread takes another process's address space."""
    target = kernel.ps.of_object(process)
    kernel.mem.set_u64(state, kernel.ps.attached_pid())
    kernel.ps.attach(target.pid)


@EXPORTS.function("KeUnstackDetachProcess", args="ptr", irql=1)
def ke_unstack_detach_process(kernel: Kernel, state: int) -> None:
    """KeUnstackDetachProcess."""
    kernel.ps.attach(kernel.mem.u64(state))
