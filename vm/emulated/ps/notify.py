"""Process notify routines: registration, the create and exit calls, denial, and the checks around each call.

Behaviour is that of Microsoft Learn, "PsSetCreateProcessNotifyRoutine", "...Ex", "...Ex2" and "PS_CREATE_NOTIFY_INFO";
where shipping builds are reported to differ from the documentation, the kernel's profile decides. The differences:

- a routine registered twice: `documented` refuses it with STATUS_INVALID_PARAMETER, `observed` gives it a second slot;
- the legacy API with a routine outside any module: refused in `observed` only.

The structures handed to a routine are valid during the call alone. They are overwritten after it, and each string ends
at an unmapped page, so that a driver that keeps a pointer or expects a terminator is found out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import PASSIVE_LEVEL, ExportTable
from vm.emulated.faults import Bugcheck
from vm.emulated.ke.irql import wrong_irql_after
from vm.emulated.ke.threads import Deadlock, WaitBlock
from vm.emulated.layout import (
    FILE_OBJECT_SIZE,
    NOTIFY_TEXT,
    NOTIFY_TEXT_PAGEABLE,
    PAGE,
    PCR_HELD_COUNT,
    PCR_IRQL,
    PS_CREATE_NOTIFY_INFO_SIZE,
)
from vm.emulated.mm.memory import PAGEABLE, READ, WRITE
from vm.emulated.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_INVALID_PARAMETER,
    STATUS_PROCEDURE_NOT_FOUND,
    STATUS_SUCCESS,
)
from vm.emulated.processor.cpu import BudgetExceeded

if TYPE_CHECKING:
    from vm.emulated.ke.threads import Thread
    from vm.emulated.kernel import Kernel
    from vm.emulated.ps.manager import Process

EXPORTS = ExportTable()

MAXIMUM_ROUTINES = 64
"""Slots since Windows Vista (Microsoft Learn, PsSetCreateProcessNotifyRoutine)."""

LEGACY = "PsSetCreateProcessNotifyRoutine"
EX = "PsSetCreateProcessNotifyRoutineEx"
EX2 = "PsSetCreateProcessNotifyRoutineEx2"

_KINDS = {"PsSetCreateThreadNotifyRoutine": "thread", "PsSetLoadImageNotifyRoutine": "image"}
_FILE_OPEN_NAME_AVAILABLE = 1
_IS_SUBSYSTEM_PROCESS = 2
_INFO = struct.Struct("<QIxxxxQQQQQQIxxxx")
_UNICODE_STRING = struct.Struct("<HHxxxxQ")
_CREATION_STATUS = 0x40
_FILE_NAME = 0x58
"""FILE_OBJECT.FileName (wdm.h, x64)."""
_TEXT_PAGES = 17
_TEXT_STRIDE = 0x10_0000
_ALWAYS_PAGEABLE = 32
_PAGEABLE_EVERY = 64
"""The texts may be pageable: touching them at DISPATCH_LEVEL is a defect. Seeing that costs a flushed TLB each time
IRQL is raised, so it is looked for in the first calls and now and then, at fixed numbers."""
_NOT_RUNNING = "notify routine not running"
_GONE_INFO = b"\xdd" * PS_CREATE_NOTIFY_INFO_SIZE
_SPIN_LOCK_RULE = 0x40009
"""First parameter of bugcheck 0xC4 for the rule that spin locks are released in the routine that took them."""
_WORKER_ROUTINE = 1
"""Fourth parameter of bugcheck 0x1: the first names a routine, not a system call."""
_APC_DISABLED_ONCE = struct.pack("<ii", -1, 0)


@dataclass(frozen=True, slots=True)
class Slot:
    """One registration."""

    api: str
    routine: int

    @property
    def kind(self) -> str:
        """Words for the routine in reports."""
        return f"{_KINDS.get(self.api, 'process')} notify routine"


@dataclass
class NotifyState:
    """What a checkpoint keeps."""

    slots: list[Slot | None] = field(default_factory=lambda: [None] * MAXIMUM_ROUTINES)
    info: int = 0
    strings: int = 0
    file_object: int = 0
    creations: int = 0
    """Create calls so far."""


class NotifyRoutines:
    """The table of process notify routines."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._cpu = kernel.cpu
        self._arena = kernel.mem.arena
        self.state = NotifyState()
        self.state.info = kernel.heap.allocate(PS_CREATE_NOTIFY_INFO_SIZE)
        self.state.strings = kernel.heap.allocate(48)
        self.state.file_object = kernel.ob.create("File", FILE_OBJECT_SIZE)
        self._texts = []
        for area in range(3):
            offset = kernel.mem.map(NOTIFY_TEXT + area * _TEXT_STRIDE, _TEXT_PAGES * PAGE, READ | WRITE)
            pages = list(range(offset, offset + _TEXT_PAGES * PAGE, PAGE))
            kernel.mem.map_pages(NOTIFY_TEXT_PAGEABLE + area * _TEXT_STRIDE, pages, READ | WRITE | PAGEABLE)
            self._texts.append(offset)
        self._info_at = kernel.mem.locate(self.state.info)
        self._strings_at = kernel.mem.locate(self.state.strings)
        self._file_name_at = kernel.mem.locate(self.state.file_object + _FILE_NAME)
        self._irql_at = kernel.pcr_offset + PCR_IRQL
        self._held_at = kernel.pcr_offset + PCR_HELD_COUNT
        self._text_base = NOTIFY_TEXT
        self._used = [0, 0, 0]
        self._active: tuple[Slot, ...] = ()
        self._running: list[tuple[Slot, int]] = []
        """Calls under way, with the thread that makes each."""
        kernel.threads.conditions[_NOT_RUNNING] = self._try_not_running

    def rebind(self) -> None:
        """Recompute the list of routines to call."""
        self._active = tuple(slot for slot in self.state.slots if slot is not None)
        self._running.clear()
        self._used = [_TEXT_PAGES * PAGE] * 3
        self._overwrite()

    # Registration

    def register(self, api: str, routine: int) -> int:
        """Add a routine; the NTSTATUS that the API returns."""
        image = self._kernel.driver_image_at(routine)
        if api != LEGACY and (image is None or not image.image.force_integrity):
            return STATUS_ACCESS_DENIED
        if api == LEGACY and image is None and self._kernel.options.profile == "observed":
            return STATUS_ACCESS_DENIED
        slots = self.state.slots
        if self._kernel.options.profile == "documented" and Slot(api, routine) in slots:
            return STATUS_INVALID_PARAMETER
        if None not in slots:
            return STATUS_INVALID_PARAMETER
        slots[slots.index(None)] = Slot(api, routine)
        self._active = tuple(slot for slot in slots if slot is not None)
        return STATUS_SUCCESS

    def remove(self, api: str, routine: int) -> int:
        """Remove a routine that this API added; the NTSTATUS that the API returns.

        Raises:
            Deadlock, Block: see wait_until_returned.
        """
        slots = self.state.slots
        if Slot(api, routine) not in slots:
            return STATUS_PROCEDURE_NOT_FOUND
        slot = Slot(api, routine)
        slots[slots.index(slot)] = None
        self._active = tuple(slot for slot in slots if slot is not None)
        self.wait_until_returned(slot)
        return STATUS_SUCCESS

    def wait_until_returned(self, slot: Slot) -> None:
        """Wait for the calls of a removed routine that are under way.

        Raises:
            Deadlock: the routine waits for itself.
            Block: another thread runs it, and the caller has to wait.
        """
        tid = self._kernel.current_thread.tid
        if any(running == slot and caller == tid for running, caller in self._running):
            raise Deadlock(f"removes its {slot.kind} from inside that routine, which waits for itself")
        where = self._kernel.describe_code(slot.routine + 1)
        wait = WaitBlock(_NOT_RUNNING, (slot.routine,), f"the {slot.kind} {where} to return")
        self._kernel.threads.wait(wait)

    def _try_not_running(self, _thread: Thread, wait: WaitBlock) -> int | None:
        busy = any(slot.routine == wait.objects[0] for slot, _ in self._running)
        return None if busy else STATUS_SUCCESS

    def runs_in(self, pid: int) -> bool:
        """True while a routine runs in a thread of a process."""
        threads = self._kernel.threads.state.threads
        return any(threads[tid].pid == pid for _, tid in self._running)

    # Calls

    def process_created(self, process: Process, creator: Thread) -> int:
        """Call the routines for a new process in its creator's thread; the status that they leave, 0 or a denial."""
        slots = self._active
        if not slots:
            return STATUS_SUCCESS
        status_at = self._info_at + _CREATION_STATUS
        self.fill_info(process, creator)
        arena = self._arena
        info = self.state.info
        status = 0
        for slot in slots:
            if slots is not self._active and slot not in self._active:
                continue  # an earlier routine of this loop removed it
            if slot.api == LEGACY:
                if not process.subsystem:
                    self.call(slot, creator, process.parent_pid, process.pid, 1)
                continue
            if process.subsystem and slot.api != EX2:
                continue
            self.call(slot, creator, process.object, process.pid, info)
            status = int.from_bytes(arena[status_at : status_at + 4], "little")
            if status & 0x8000_0000:
                break
        self._overwrite()
        return status if status & 0x8000_0000 else STATUS_SUCCESS

    def process_exited(self, process: Process, thread: Thread) -> None:
        """Call the routines for a process that ends, in its last thread."""
        slots = self._active
        for slot in slots:
            if slots is not self._active and slot not in self._active:
                continue
            if slot.api == LEGACY:
                if not process.subsystem:
                    self.call(slot, thread, process.parent_pid, process.pid, 0)
            elif not process.subsystem or slot.api == EX2:
                self.call(slot, thread, process.object, process.pid, 0)

    def call(self, slot: Slot, thread: Thread, a: int, b: int, c: int) -> None:
        """Call a routine on a thread as Windows does, in a critical region, and check what it left changed."""
        arena, apc_at = self._arena, thread.apc_at
        self._kernel.threads.set_current(thread)
        before = arena[apc_at : apc_at + 8]
        arena[apc_at : apc_at + 8] = _APC_DISABLED_ONCE
        self._running.append((slot, thread.tid))
        try:
            self._cpu.call(slot.routine, a, b, c)
        except (Bugcheck, Deadlock, BudgetExceeded) as event:
            event.add_note(f"in the {slot.kind} {self._kernel.describe_code(slot.routine + 1)}")
            raise
        finally:
            self._running.pop()
        if arena[self._irql_at] or arena[self._held_at] or arena[apc_at : apc_at + 8] != _APC_DISABLED_ONCE:
            self._check_after(slot, arena[apc_at : apc_at + 8])
        arena[apc_at : apc_at + 8] = before

    def _check_after(self, slot: Slot, apc_counts: bytes) -> None:
        """Say what a routine that returned left changed."""
        where = self._kernel.describe_code(slot.routine + 1)
        irql = self._kernel.irql
        if irql:
            raise wrong_irql_after(slot.routine, irql, 0, f"the {slot.kind} {where}")
        if self._kernel.pcr_u8(PCR_HELD_COUNT):
            raise Bugcheck(
                0xC4, _SPIN_LOCK_RULE, reason=f"the {slot.kind} {where} returned holding a spin lock",
                rip=slot.routine,
            )  # fmt: skip
        kernel_apc, special_apc = struct.unpack("<ii", apc_counts)
        raise Bugcheck(
            0x1, slot.routine, 0, (special_apc & 0xFFFF) << 16 | kernel_apc & 0xFFFF, _WORKER_ROUTINE,
            reason=f"the {slot.kind} {where} returned with another APC-disable count: {kernel_apc} and "
            f"{special_apc} instead of -1 and 0, so a critical region was entered and not left, or left twice",
            rip=slot.routine,
        )  # fmt: skip

    def fill_info(self, process: Process, creator: Thread) -> None:
        """Write PS_CREATE_NOTIFY_INFO and its strings for a process."""
        state = self.state
        pageable = state.creations < _ALWAYS_PAGEABLE or state.creations % _PAGEABLE_EVERY == 0
        state.creations += 1
        self._text_base = NOTIFY_TEXT_PAGEABLE if pageable else NOTIFY_TEXT
        name = process.image_name if process.open_name_available else process.file_name
        image = self._text(0, name)
        command = self._text(1, process.command_line) if process.command_line is not None else None
        strings = self.state.strings
        _UNICODE_STRING.pack_into(self._arena, self._strings_at, *image)
        if command is not None:
            _UNICODE_STRING.pack_into(self._arena, self._strings_at + 16, *command)
        _UNICODE_STRING.pack_into(self._arena, self._file_name_at, *self._text(2, process.file_name))
        flags = (_FILE_OPEN_NAME_AVAILABLE if process.open_name_available else 0) | (
            _IS_SUBSYSTEM_PROCESS if process.subsystem else 0
        )
        _INFO.pack_into(
            self._arena, self._info_at, PS_CREATE_NOTIFY_INFO_SIZE, flags, process.parent_pid, creator.pid, creator.tid,
            self.state.file_object, strings, strings + 16 if command is not None else 0, STATUS_SUCCESS,
        )  # fmt: skip

    def _text(self, area: int, text: str) -> tuple[int, int, int]:
        """Place text so that it ends at an unmapped page; fields of a UNICODE_STRING for it."""
        raw = text.encode("utf-16-le", "surrogatepass")
        size = len(raw)
        end = self._texts[area] + _TEXT_PAGES * PAGE
        self._arena[end - size : end] = raw
        self._used[area] = size
        return size, size, self._text_base + area * _TEXT_STRIDE + _TEXT_PAGES * PAGE - size

    def _overwrite(self) -> None:
        """Make what a driver kept a pointer to unrecognisable."""
        arena = self._arena
        arena[self._info_at : self._info_at + PS_CREATE_NOTIFY_INFO_SIZE] = _GONE_INFO
        arena[self._strings_at : self._strings_at + 32] = _GONE_INFO[:32]
        for area in range(3):
            size = self._used[area]
            end = self._texts[area] + _TEXT_PAGES * PAGE
            arena[end - size : end] = _GONE_INFO[:1] * size
            self._used[area] = 0


@EXPORTS.function(LEGACY, args="ptr bool", irql=PASSIVE_LEVEL)
def ps_set_create_process_notify_routine(kernel: Kernel, routine: int, remove: int) -> int:
    """Microsoft Learn, PsSetCreateProcessNotifyRoutine."""
    return kernel.notify.remove(LEGACY, routine) if remove else kernel.notify.register(LEGACY, routine)


@EXPORTS.function(EX, args="ptr bool", irql=PASSIVE_LEVEL)
def ps_set_create_process_notify_routine_ex(kernel: Kernel, routine: int, remove: int) -> int:
    """Microsoft Learn, PsSetCreateProcessNotifyRoutineEx: the image needs IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY."""
    return kernel.notify.remove(EX, routine) if remove else kernel.notify.register(EX, routine)


@EXPORTS.function(EX2, args="u32 ptr bool", irql=PASSIVE_LEVEL)
def ps_set_create_process_notify_routine_ex2(kernel: Kernel, kind: int, routine: int, remove: int) -> int:
    """Microsoft Learn, PsSetCreateProcessNotifyRoutineEx2: PsCreateProcessNotifySubsystems (0) is the one kind."""
    if kind != 0:
        return STATUS_INVALID_PARAMETER
    return kernel.notify.remove(EX2, routine) if remove else kernel.notify.register(EX2, routine)
