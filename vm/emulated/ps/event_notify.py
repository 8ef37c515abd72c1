"""Thread and image notify routines: registration and the calls.

Thread creation is told in the creator's thread, its end in the thread that ends, before the exit of its process. The
main image of a program is told in its first thread when that begins to run, a driver's image in the system process
before its entry point. Images of libraries are not: programs of this machine have none, and their images no contents,
so that the size told is a constant.

Sources: Microsoft Learn, "PsSetCreateThreadNotifyRoutine", "PsSetLoadImageNotifyRoutine", "PLOAD_IMAGE_NOTIFY_ROUTINE",
"IMAGE_INFO", "IMAGE_INFO_EX".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated.exports import PASSIVE_LEVEL, ExportTable
from vm.emulated.io.layout import FILE_FILE_NAME
from vm.emulated.layout import FILE_OBJECT_SIZE
from vm.emulated.ntstatus import STATUS_INSUFFICIENT_RESOURCES, STATUS_PROCEDURE_NOT_FOUND, STATUS_SUCCESS
from vm.emulated.ps.notify import MAXIMUM_ROUTINES, Slot

if TYPE_CHECKING:
    from vm.emulated.ke.threads import Thread
    from vm.emulated.kernel import Kernel
    from vm.emulated.loader.image import LoadedImage
    from vm.emulated.ps.manager import Process

EXPORTS = ExportTable()

THREAD, IMAGE = "PsSetCreateThreadNotifyRoutine", "PsSetLoadImageNotifyRoutine"

_IMAGE_INFO_EX = struct.Struct("<QIxxxxQIxxxxQIxxxxQ")
_INFO_IN_EX = 8
_ADDRESSING_MODE, _SYSTEM_MODE_IMAGE, _EXTENDED_INFO_PRESENT = 3, 1 << 8, 1 << 10
_PROGRAM_BASE = 0x7FF6_0000_0000
_PROGRAM_SIZE = 0x1_0000
_GONE = b"\xdd"


@dataclass
class EventState:
    """What a checkpoint keeps."""

    slots: dict[str, list[int]] = field(default_factory=lambda: {THREAD: [], IMAGE: []})
    file_object: int = 0
    """IMAGE_INFO_EX.FileObject; its name is valid during the call."""
    told: set[int] = field(default_factory=set)
    """Tids whose creation was due to be told: their end is, too."""


class EventRoutines:
    """The tables of thread and image notify routines."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = EventState(file_object=kernel.ob.create("File", FILE_OBJECT_SIZE))

    def rebind(self) -> None:
        """Nothing is cached."""

    def register(self, api: str, routine: int) -> int:
        """Add a routine; the NTSTATUS that the API returns."""
        slots = self.state.slots[api]
        if len(slots) >= MAXIMUM_ROUTINES:
            return STATUS_INSUFFICIENT_RESOURCES
        slots.append(routine)
        return STATUS_SUCCESS

    def remove(self, api: str, routine: int) -> int:
        """Remove a routine, after its running calls have returned; the NTSTATUS that the API returns."""
        slots = self.state.slots[api]
        if routine not in slots:
            return STATUS_PROCEDURE_NOT_FOUND
        slots.remove(routine)
        self._kernel.notify.wait_until_returned(Slot(api, routine))
        return STATUS_SUCCESS

    def thread_created(self, creator: Thread, thread: Thread) -> None:
        """Tell of a new thread."""
        self.state.told.add(thread.tid)
        self._call(THREAD, creator, thread.pid, thread.tid, 1)

    def thread_ended(self, thread: Thread) -> None:
        """Tell of the end of a thread whose creation was told."""
        if thread.tid in self.state.told:
            self.state.told.remove(thread.tid)
            self._call(THREAD, thread, thread.pid, thread.tid, 0)

    def program_started(self, process: Process, thread: Thread) -> None:
        """Tell of the main image of a process whose first thread begins to run."""
        name = self._kernel.files.device_path(process.file_name)
        self._image(thread, name, process.pid, _PROGRAM_BASE, _PROGRAM_SIZE, 0)

    def driver_loaded(self, loaded: LoadedImage, name: str) -> None:
        """Tell of a driver's image."""
        self._image(self._kernel.ps.system_worker(), name, 0, loaded.base, loaded.size, _SYSTEM_MODE_IMAGE)

    def _image(self, thread: Thread, name: str, pid: int, base: int, size: int, properties: int) -> None:
        if not self.state.slots[IMAGE]:
            return
        kernel = self._kernel
        text = name.encode("utf-16-le", "surrogatepass")
        on_volume = kernel.files.file_name(name).encode("utf-16-le", "surrogatepass")
        total = _IMAGE_INFO_EX.size + 16 + len(text) + len(on_volume)
        block = kernel.heap.allocate(total)
        string = block + _IMAGE_INFO_EX.size
        properties |= _ADDRESSING_MODE | _EXTENDED_INFO_PRESENT
        file_object = self.state.file_object
        kernel.mem.write(block, _IMAGE_INFO_EX.pack(_IMAGE_INFO_EX.size, properties, base, 0, size, 0, file_object))
        kernel.mem.set_unicode_string(string, len(text), len(text), string + 16)
        kernel.mem.write(string + 16, text + on_volume)
        kernel.mem.set_unicode_string(
            file_object + FILE_FILE_NAME, len(on_volume), len(on_volume), string + 16 + len(text)
        )
        self._call(IMAGE, thread, string, pid, block + _INFO_IN_EX)
        kernel.mem.write(block, _GONE * total)
        kernel.heap.free(block)

    def _call(self, api: str, thread: Thread, a: int, b: int, c: int) -> None:
        slots = self.state.slots[api]
        if not slots:
            return
        before = self._kernel.threads.current
        for routine in tuple(slots):
            if routine in slots:
                self._kernel.notify.call(Slot(api, routine), thread, a, b, c)
        self._kernel.threads.set_current(before)


@EXPORTS.function("PsSetCreateThreadNotifyRoutine", args="ptr", irql=PASSIVE_LEVEL)
def ps_set_create_thread_notify_routine(kernel: Kernel, routine: int) -> int:
    """Microsoft Learn, PsSetCreateThreadNotifyRoutine."""
    return kernel.events.register(THREAD, routine)


@EXPORTS.function("PsRemoveCreateThreadNotifyRoutine", args="ptr", irql=PASSIVE_LEVEL)
def ps_remove_create_thread_notify_routine(kernel: Kernel, routine: int) -> int:
    """Microsoft Learn, PsRemoveCreateThreadNotifyRoutine."""
    return kernel.events.remove(THREAD, routine)


@EXPORTS.function("PsSetLoadImageNotifyRoutine", "PsSetLoadImageNotifyRoutineEx", args="ptr", irql=PASSIVE_LEVEL)
def ps_set_load_image_notify_routine(kernel: Kernel, routine: int) -> int:
    """Microsoft Learn, PsSetLoadImageNotifyRoutine(Ex): the flag adds images of other architectures; there are none."""
    return kernel.events.register(IMAGE, routine)


@EXPORTS.function("PsRemoveLoadImageNotifyRoutine", args="ptr", irql=PASSIVE_LEVEL)
def ps_remove_load_image_notify_routine(kernel: Kernel, routine: int) -> int:
    """Microsoft Learn, PsRemoveLoadImageNotifyRoutine."""
    return kernel.events.remove(IMAGE, routine)
