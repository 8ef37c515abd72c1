"""The emulated NT kernel: composes its parts and is how they reach each other.

Nothing here knows Windows in detail; each part does. The kernel owns what they share: options, the processor control
region, loaded images, export resolution, and checkpoints of the whole.
"""

from __future__ import annotations

import io
import pickle
import struct
from dataclasses import dataclass, field
from typing import Any, Protocol

from vm.emulated import catalogue, guest_image
from vm.emulated.cm.registry import Registry
from vm.emulated.debug.log import DebugLog
from vm.emulated.debug.symbols import Symbols
from vm.emulated.exports import ExportTable
from vm.emulated.fault_injection import FaultInjector
from vm.emulated.files import Files
from vm.emulated.io.manager import IoManager
from vm.emulated.ke import sync
from vm.emulated.ke.clock import Clock
from vm.emulated.ke.locks import Locks
from vm.emulated.ke.threads import Scheduler, Thread
from vm.emulated.ke.timers import Timers
from vm.emulated.layout import DRIVER_IMAGES, PCR, PCR_IRQL, PCR_PRCB, PCR_SELF, PCR_SIZE, PRCB
from vm.emulated.loader import image
from vm.emulated.mm.heap import Heap
from vm.emulated.mm.lookaside import Lookaside
from vm.emulated.mm.memory import READ, WRITE, Memory
from vm.emulated.mm.pool import Pool
from vm.emulated.ob.manager import ObjectManager
from vm.emulated.processor.cpu import Cpu
from vm.emulated.processor.stubs import Stubs
from vm.emulated.ps.event_notify import EventRoutines
from vm.emulated.ps.manager import ProcessManager
from vm.emulated.ps.notify import NotifyRoutines
from vm.emulated.se.reference_monitor import SecurityMonitor
from vm.emulated.services import Services
from vm.verifier import VerifierSettings


@dataclass(frozen=True)
class KernelOptions:
    """How the kernel behaves.

    Attributes:
        profile: `documented` or `observed`: which of two accounts of Windows to follow where they differ.
        build: Windows build it stands for.
        block_budget: basic blocks that one call into a driver may execute before it counts as hung.
        verifier: Driver Verifier's settings; None for the checks that are always made.
    """

    profile: str = "observed"
    build: int = 17763
    block_budget: int = 30_000_000
    verifier: VerifierSettings | None = None


class Part(Protocol):
    """A part of the kernel with state that a checkpoint keeps."""

    state: Any

    def rebind(self) -> None:
        """Refresh aliases into `state` after it was replaced."""


@dataclass
class KernelState:
    """What a checkpoint keeps of the kernel itself."""

    images: list[image.LoadedImage] = field(default_factory=list)
    unloaded: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, base and size of images that are gone."""
    next_base: int = DRIVER_IMAGES
    variables: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelCheckpoint:
    """A whole machine: physical memory and the pickled state of every part."""

    arena: bytes
    states: bytes
    shared: tuple[object, ...]


class _Pickler(pickle.Pickler):
    """Keeps immutable driver images by reference instead of copying them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.shared: list[object] = []

    def persistent_id(self, obj: object) -> int | None:
        if isinstance(obj, image.DriverImage):
            self.shared.append(obj)
            return len(self.shared) - 1
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, shared: tuple[object, ...]) -> None:
        super().__init__(io.BytesIO(data))
        self._shared = shared

    def persistent_load(self, pid: Any) -> object:
        return self._shared[pid]


class Kernel:
    """One emulated NT kernel.

    Attributes:
        mem, heap, pool: guest memory, the kernel's own structures in it, and what drivers allocate.
        cpu: runs guest code.
        ob, se, io, ps, notify, events, registry, threads, timers, locks, lookaside, clock, debug, files, services: the
            parts of these names.
        exports: everything that guest code can import from the host.
        current_mode: 0 while a call came from kernel mode, 1 while it came from user mode.
    """

    def __init__(self, options: KernelOptions | None = None) -> None:
        self.options = options or KernelOptions()
        self.state = KernelState()
        self.mem = Memory()
        self.stubs = Stubs(self.mem)
        self._constant = self.mem.state.used
        self.pcr_offset = self.mem.map(PCR, PCR_SIZE, READ | WRITE)
        self._irql_at = self.pcr_offset + PCR_IRQL
        struct.pack_into("<QQ", self.mem.arena, self.pcr_offset + PCR_SELF, PCR, PCR + PRCB)
        assert PCR_PRCB == PCR_SELF + 8
        self.heap = Heap(self.mem)
        self.exports: ExportTable = catalogue.all_exports()
        self.cpu = Cpu(self)
        self.mem.on_unmap = self.cpu.engine.flush_tlb
        self.mem.refuse_pageable = lambda: self.irql >= 2
        self.clock = Clock(self)
        self.debug = DebugLog(self)
        self.pool = Pool(self)
        self.threads = Scheduler(self)
        sync.register_waits(self)
        self.timers = Timers(self)
        self.locks = Locks(self)
        self.lookaside = Lookaside(self)
        self.ob = ObjectManager(self)
        self.se = SecurityMonitor(self)
        self.registry = Registry(self)
        self.ps = ProcessManager(self)
        self.notify = NotifyRoutines(self)
        self.events = EventRoutines(self)
        self._stubs: dict[str, int] = {}
        self._translated: set[tuple[int, int, int]] = set()
        self.guest = guest_image.load(self, self._resolve_for_guest)
        self.io = IoManager(self)
        self.files = Files(self)
        self.services = Services(self)
        self.faults = FaultInjector(self)
        self._parts: list[Part] = [
            self.heap, self.clock, self.debug, self.pool, self.threads, self.timers, self.locks, self.lookaside,
            self.ob, self.se, self.registry, self.ps, self.notify, self.events, self.io, self.files, self.services,
            self.faults,
        ]  # fmt: skip
        self.cpu.initialise_registers()
        self.threads.enter_foreground()

    def add_part(self, part: Part) -> None:
        """Have checkpoints keep one more part's state."""
        self._parts.append(part)

    # The processor control region

    @property
    def irql(self) -> int:
        """The current IRQL. Setting it has no side effects; irql.set_irql has them."""
        return self.mem.arena[self._irql_at]

    @irql.setter
    def irql(self, value: int) -> None:
        self.mem.arena[self._irql_at] = value

    def pcr_u8(self, offset: int) -> int:
        """One byte of the processor control region."""
        return self.mem.arena[self.pcr_offset + offset]

    def pcr_u64(self, offset: int) -> int:
        """64 bits of the processor control region."""
        return int.from_bytes(self.pcr_bytes(offset, 8), "little")

    def pcr_bytes(self, offset: int, size: int) -> bytes:
        """Bytes of the processor control region."""
        at = self.pcr_offset + offset
        return self.mem.arena[at : at + size]

    def set_pcr_bytes(self, offset: int, data: bytes) -> None:
        """Store bytes in the processor control region."""
        at = self.pcr_offset + offset
        self.mem.arena[at : at + len(data)] = data

    # Calls

    def call(self, function: int, *arguments: int) -> int:
        """Call driver code on the current thread; returns rax."""
        return self.cpu.call(function, *arguments)

    def caller(self) -> int:
        """Return address of the export call under way."""
        return self.cpu.caller()

    @property
    def current_thread(self) -> Thread:
        """The running thread."""
        return self.threads.current

    @property
    def current_process(self) -> Any:
        """The process of the running thread."""
        return self.ps.process(self.threads.current.pid)

    @property
    def previous_mode(self) -> int:
        """Processor mode (0 kernel, 1 user) that the running thread came from."""
        return self.threads.current.previous_mode

    # Images and exports

    @property
    def images(self) -> list[image.LoadedImage]:
        """Loaded driver images."""
        return self.state.images

    def load_image(self, parsed: image.DriverImage) -> image.LoadedImage:
        """Map a driver image at the next free base and bind its imports."""
        loaded = image.load(
            self,
            parsed,
            self.state.next_base,
            self._resolve,
            guard_check=self.cpu.stubs.cfg_check,
            guard_dispatch=self.cpu.stubs.cfg_dispatch,
        )
        # Bases are never used again, so that code of an unloaded driver stays recognisable.
        self.state.next_base += (loaded.size + 0xFFFFF) & -0x100000
        self.state.images.append(loaded)
        self.cpu.hook_special_instructions(loaded)
        self._translated.add(self._place_of(loaded))
        return loaded

    def _place_of(self, loaded: image.LoadedImage) -> tuple[int, int, int]:
        """What tells whether code translated for an image is still right: the image, its base, its physical memory."""
        return id(loaded.image), loaded.base, self.mem.arena_pages(loaded.base, 1)[0]

    def _forget_code(self) -> None:
        self.cpu.forget_code(self.state.images)
        self._translated = {self._place_of(loaded) for loaded in self.state.images}

    def unload_image(self, loaded: image.LoadedImage) -> None:
        """Unmap a driver image."""
        loaded.unload(self)
        self.state.images.remove(loaded)
        self.state.unloaded.append((loaded.name, loaded.base, loaded.size))
        self._forget_code()

    def image_at(self, address: int) -> image.LoadedImage | None:
        """The loaded image, driver or kernel, that holds an address."""
        for loaded in self.state.images:
            if loaded.contains(address):
                return loaded
        return self.guest if self.guest.contains(address) else None

    def driver_image_at(self, address: int) -> image.LoadedImage | None:
        """The loaded driver image that holds an address."""
        return next((loaded for loaded in self.state.images if loaded.contains(address)), None)

    def unloaded_at(self, address: int) -> str | None:
        """Name of the unloaded driver whose code used to lie at an address."""
        return next((name for name, base, size in self.state.unloaded if base <= address < base + size), None)

    def resolve_export(self, name: str) -> int:
        """Address of an export for drivers, 0 when there is none (MmGetSystemRoutineAddress)."""
        if guest_image.is_internal(name):
            return 0
        guest = self.guest.export(name)
        if guest is not None:
            return guest
        return self._bound(name)

    def _resolve(self, module: str, name: str | int) -> int:
        if isinstance(name, str):
            address = self.resolve_export(name)
            if address:
                return address
        key = f"{module}!{name}"
        if key not in self._stubs:
            self._stubs[key] = self.cpu.bind_missing(module, str(name))
        return self._stubs[key]

    def _resolve_for_guest(self, _module: str, name: str | int) -> int:
        return self._bound(str(name))

    def _bound(self, name: str) -> int:
        variable = self.exports.data.get(name)
        if variable is not None:
            if name not in self.state.variables:
                content = variable.initialise(self)
                address = self.heap.allocate(max(len(content), 8))
                self.mem.write(address, content)
                self.state.variables[name] = address
            return self.state.variables[name]
        export = self.exports.functions.get(name)
        if export is None:
            return 0
        if name not in self._stubs:
            self._stubs[name] = self.cpu.bind(export)
        return self._stubs[name]

    def export_at(self, address: int) -> str | None:
        """Name of the export whose trap stub lies at an address."""
        return next((name for name, stub in self._stubs.items() if stub <= address < stub + 64), None)

    # Faults and reports

    def describe_code(self, address: int) -> str:
        """A code address as people read it: module!function (file:line)."""
        loaded = self.image_at(address)
        if loaded is None:
            return f"0x{address:X}"
        rva = address - loaded.base - 1
        location = Symbols.for_image(loaded.image.path).lookup(rva) if loaded.image.path else None
        if location is not None and location.function:
            return f"{loaded.name}!{location.function} ({location.file}:{location.line})"
        return f"{loaded.name}+0x{rva + 1:X}"

    # Checkpoints

    def checkpoint(self) -> KernelCheckpoint:
        """The state of the whole machine; only between user-mode calls."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        pickler.dump((self.state, self.mem.state, [part.state for part in self._parts]))
        # The stubs only ever grow, also between a checkpoint and its restoration, so they are left alone.
        arena = self.mem.arena[self._constant : self.mem.state.used]
        return KernelCheckpoint(arena, buffer.getvalue(), tuple(pickler.shared))

    def restore(self, checkpoint: KernelCheckpoint) -> None:
        """Go back to a checkpoint of this kernel."""
        self.state, self.mem.state, states = _Unpickler(checkpoint.states, checkpoint.shared).load()
        self.mem.arena[self._constant : self._constant + len(checkpoint.arena)] = checkpoint.arena
        self.mem.rebind()
        for part, state in zip(self._parts, states, strict=True):
            part.state = state
            part.rebind()
        self.cpu.abandon()
        self.cpu.initialise_registers()
        self.threads.enter_foreground()
        places = {self._place_of(loaded) for loaded in self.state.images}
        if self._translated - places:
            self._forget_code()
        elif self._translated != places:
            self._translated = places
            for loaded in self.state.images:
                self.cpu.hook_special_instructions(loaded)

    def close(self) -> None:
        """Release the machine's memory."""
        self.cpu.close()
        self.mem.close()
