"""Runs guest code: binds imports to host functions, calls into drivers, and turns what stops the CPU into events.

`Cpu.call` is the one way from the host into guest code. It comes back with the function's result or raises: a Bugcheck,
a hang, a missing export, or `Parked` when the running thread waits and its caller agreed to go on without it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vm.emulated.exceptions import seh
from vm.emulated.exports import Export, decode
from vm.emulated.faults import STATUS_ACCESS_VIOLATION, Bugcheck, KernelEvent, NtException, PageFault, Site
from vm.emulated.layout import PCR, PCR_IRQL, PCR_SLOW_IRQL, STUBS, STUBS_SIZE, TRAP_PAGE
from vm.emulated.mm import memory_faults
from vm.emulated.mm.memory import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, EXECUTE, PAGEABLE, READ, WRITE
from vm.emulated.ntstatus import NtStatusError
from vm.emulated.processor import special_instructions, stubs
from vm.emulated.processor.engine import FILL_FETCH, FILL_WRITE, RIP, RSP, Engine

if TYPE_CHECKING:
    from vm.emulated.ke.threads import WaitBlock
    from vm.emulated.kernel import Kernel
    from vm.emulated.loader.image import LoadedImage
    from vm.emulated.loader.pe import SpecialInstruction

_TRAP = struct.Struct("<QQQQQI")
_CALL = struct.Struct("<QQQQQQQ")
_U64 = struct.Struct("<Q")
_MASK = (1 << 64) - 1
_RIGHT_OF = {FILL_WRITE: WRITE, FILL_FETCH: EXECUTE}
_ACCESS_OF = {FILL_WRITE: ACCESS_WRITE, FILL_FETCH: ACCESS_EXECUTE}
_DISPATCH_LEVEL: Final = 2

_NO_DEVICE = 0xFFFFFFFF
"""What a driver reads from an I/O port: nothing answers on this machine's bus."""
_LAST_TRAP = 0xFFFFFF
"""A larger trap number was handled already: the IN instruction is the driver's own."""

MAXIMUM_CALL_DEPTH = 48
"""Driver code calling an export that calls driver code again, and so on."""


class MissingImport(KernelEvent):
    """The driver called an export that has no implementation."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"{module}!{name}")
        self.module = module
        self.name = name


class BudgetExceeded(KernelEvent):
    """The driver ran longer than any driver may without coming back."""


class Block(KernelEvent):
    """The running thread has to wait; raised by an export handler, never seen outside this module."""

    def __init__(self, wait: WaitBlock) -> None:
        super().__init__("wait")
        self.wait = wait


class Parked(KernelEvent):
    """The running thread waits for something that only later calls of the host can bring about."""


@dataclass
class _Frame:
    """The export call that is being handled."""

    arguments: tuple[int, int, int, int] = (0, 0, 0, 0)
    rsp: int = 0
    index: int = 0


class Cpu:
    """One emulated processor and the boundary between its code and the host's.

    Attributes:
        engine: the emulator.
        stubs: the machine code of the boundary.
        page: arena offset of the trap page.
        block_budget: basic blocks that one outermost call may execute.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.mem
        self._arena = kernel.mem.arena
        self.stubs = kernel.stubs
        self.page = kernel.mem.map(TRAP_PAGE, 0x1000, READ | WRITE)
        self.engine = Engine(kernel.mem, on_trap=self._on_trap, on_fill=self._on_fill, on_interrupt=self._on_interrupt)
        self._counters = self.engine.counters
        self.block_budget = kernel.options.block_budget
        self.engine.counters.block_limit = self.block_budget
        self.engine.counters.stubs_begin, self.engine.counters.stubs_end = STUBS, STUBS + STUBS_SIZE
        self._handlers: list[Callable[[], int | None]] = []
        self._index: dict[str, int] = {}
        self._frame = _Frame()
        self._depth = 0
        self._event: BaseException | None = None
        self._fault: tuple[int, int, str] | None = None
        self._irql_at = kernel.pcr_offset + PCR_IRQL
        self._slow_at = kernel.pcr_offset + PCR_SLOW_IRQL
        self._taken_at = self.page + stubs.INDEX + 3
        self._special: dict[int, SpecialInstruction] = {}
        self._hooked: set[int] = set()
        self._at_rest = self.engine.save()

    # Binding

    def bind(self, export: Export) -> int:
        """Address of a trap stub for an export."""
        index, address = self.stubs.trap()
        self._handlers.append(self._handler(export, address))
        assert len(self._handlers) == index + 1
        self._index[export.name] = index
        return address

    def interpose(self, export: str, instead: Callable[[], int | None]) -> None:
        """From now on ask `instead` at each call of a bound export; only when it answers None is the call made."""
        index = self._index[export]
        handler = self._handlers[index]

        def interposed() -> int | None:
            result = instead()
            return handler() if result is None else result

        self._handlers[index] = interposed

    def bind_missing(self, module: str, name: str) -> int:
        """Address of a stub that ends the run when it is called."""
        index, address = self.stubs.trap()

        def missing() -> int:
            raise MissingImport(module, name)

        self._handlers.append(missing)
        assert len(self._handlers) == index + 1
        return address

    def _handler(self, export: Export, address: int) -> Callable[[], int | None]:
        kernel = self._kernel
        function = export.handler
        arena = self._arena
        irql_at = self._irql_at
        highest, lowest = export.irql, export.minimum_irql

        def check_irql() -> None:
            irql = arena[irql_at]
            if irql > highest:
                raise Bugcheck(
                    0xA,
                    address,
                    irql,
                    8,
                    self.caller(),
                    reason=f"{export.name} called at IRQL {irql}; it may be called at IRQL {highest} at most",
                )
            if irql < lowest:
                raise Bugcheck(
                    0xC4,
                    0xE5,
                    irql,
                    reason=f"{export.name} called at IRQL {irql}; it may be called at IRQL {lowest} at least",
                )

        if len(export.decoders) <= 4 and not any(export.decoders):
            count = len(export.decoders)

            def plain() -> int | None:
                check_irql()
                return function(kernel, *self._frame.arguments[:count])

            return plain

        def general() -> int | None:
            check_irql()
            return function(kernel, *decode(export, self._frame.arguments, self.argument))

        return general

    # The export call under way

    def caller(self) -> int:
        """Return address of the export call under way."""
        return self._memory.u64(self._frame.rsp)

    def argument(self, index: int) -> int:
        """Argument `index` (from 0) of the export call under way."""
        if index < 4:
            return self._frame.arguments[index]
        return self._memory.u64(self._frame.rsp + 8 + index * 8)

    def is_host_frame(self, address: int) -> bool:
        """True for the frame that separates guest code from the host that called it."""
        return self.stubs.is_invoke(address)

    # Calling guest code

    @property
    def depth(self) -> int:
        """How many calls into guest code are under way."""
        return self._depth

    def call(self, function: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0) -> int:
        """Call a guest function with up to six arguments; returns rax."""
        depth = self._depth
        if depth == 0:
            self._counters.blocks = 0
        elif depth >= MAXIMUM_CALL_DEPTH:
            raise Bugcheck(0x7F, 8, reason="driver code and exports call each other without end (double fault)")
        frame = self._frame
        self._depth = depth + 1
        try:
            _CALL.pack_into(self._arena, self.page + 64, a, b, c, d, function, e, f)
            self._run(self.stubs.invoke)
            result: int = _U64.unpack_from(self._arena, self.page + stubs.CALL_RESULT)[0]
            return result
        finally:
            self._depth = depth
            self._frame = frame

    def prepare(self, function: int, argument: int) -> None:
        """Set up the trap page so that a thread starting at the invoke stub calls `function(argument)`."""
        _CALL.pack_into(self._arena, self.page + 64, argument, 0, 0, 0, function, 0, 0)

    def resume(self, address: int) -> None:
        """Run a restored thread from `address` until its routine returns."""
        depth = self._depth
        if depth == 0:
            self.engine.counters.blocks = 0
        frame = self._frame
        self._depth = depth + 1
        try:
            self._run(address)
        finally:
            self._depth = depth
            self._frame = frame

    def _run(self, address: int) -> None:
        engine, arena, returned_at = self.engine, self._arena, self.page + stubs.CALL_RETURNED
        while True:
            self._event = None
            self._fault = None
            arena[returned_at] = 0
            error = engine.start(address)
            if arena[returned_at] and self._event is None:
                # A call that this one is nested in may still fault: it must not look as if it had returned.
                arena[returned_at] = 0
                return
            address = self._after_stop(error)

    def _after_stop(self, error: int) -> int:
        """Decide what the reason of a stop means; returns where to go on, or raises."""
        engine = self.engine
        event = self._event
        if engine.counters.stopped_at:
            stopped_at = engine.counters.stopped_at
            engine.counters.stopped_at = 0
            engine.counters.blocks = 0
            what = f"executed {self.block_budget} basic blocks without returning"
            raise self._at(BudgetExceeded(what), Site(stopped_at, tuple(engine.registers())))
        if isinstance(event, Block):
            frame, site = self._frame, self._site_of(event)
            try:
                return self._kernel.threads.block(event.wait, self.stubs.resume_at[frame.index], frame.rsp)
            except KernelEvent as failure:
                raise self._at(failure, site) from None
        if event is not None and not isinstance(event, (NtException, PageFault)):
            raise event
        site = self._site_of(event)
        if isinstance(event, NtException):
            status, information = event.status, event.information
        elif isinstance(event, PageFault):
            status, information = STATUS_ACCESS_VIOLATION, (event.access, event.address)
        elif self._fault is not None:
            page, access, why = self._fault
            exact = seh.exact_fault_address(self._kernel, site.rip, page, list(site.registers))
            status, information = STATUS_ACCESS_VIOLATION, (access, exact)
            event = PageFault(exact, access, why)
        elif not error:
            raise self._at(BudgetExceeded("halted the processor, which nothing will ever wake"), site)
        else:
            status, information = seh.STATUS_ILLEGAL_INSTRUCTION, ()
        if isinstance(event, PageFault):
            crash = memory_faults.bugcheck_for(self._kernel, event.address, event.access, event.reason, site.rip)
            if crash is not None:
                raise self._at(crash, site)
        resume = seh.dispatch(self._kernel, status, information, site.rip, list(site.registers))
        if resume is None:
            raise self._at(
                seh.unhandled(
                    self._kernel, status, information, site.rip, event.reason if isinstance(event, PageFault) else ""
                ),
                site,
            )
        engine.set_registers(resume.registers)
        return resume.rip

    def _site_of(self, event: BaseException | None) -> Site:
        """Where the driver was: behind the export call for a host event, at the instruction for a CPU fault."""
        registers = self.engine.registers()
        if isinstance(event, NtException) and event.rip is not None:
            return Site(event.rip, tuple(registers))
        if event is not None:
            registers[RSP] = self._frame.rsp + 8
            return Site(self._memory.u64(self._frame.rsp), tuple(registers))
        return Site(self.engine.read(RIP), tuple(registers))

    @staticmethod
    def _at(event: KernelEvent, site: Site) -> KernelEvent:
        if event.site is None:
            event.site = site
        return event

    # Hooks: they may not raise

    def _on_trap(self, port: int) -> int:
        a, b, c, d, rsp, index = _TRAP.unpack_from(self._arena, self.page)
        if port != stubs.TRAP_PORT or index > _LAST_TRAP:
            return _NO_DEVICE
        self._arena[self._taken_at] = 0xFF
        self._frame = _Frame((a, b, c, d), rsp, index)
        try:
            result = self._handlers[index]()
        except NtStatusError as error:
            _U64.pack_into(self._arena, self.page + stubs.RESULT, error.status)
        except Block as event:
            self._stop_with(event)
        except KernelEvent as event:
            if event.site is None and not isinstance(event, (NtException, PageFault)):
                event.site = self._site_of(event)
            self._stop_with(event)
        except BaseException as event:  # noqa: BLE001 - it must not unwind through C; raised again by _after_stop
            self._stop_with(event)
        else:
            _U64.pack_into(self._arena, self.page + stubs.RESULT, (result or 0) & _MASK)
        return 0

    def _stop_with(self, event: BaseException) -> None:
        self._event = event
        self.engine.stop()

    def _on_fill(self, address: int, access: int) -> int:
        entry = self._memory.state.pages.get(address >> 12)
        if entry is None:
            self._fault = (address, _ACCESS_OF.get(access, ACCESS_READ), "unmapped memory")
            return 0
        if not entry & _RIGHT_OF.get(access, READ):
            self._fault = (address, _ACCESS_OF.get(access, ACCESS_READ), "memory without that right")
            return 0
        if entry & PAGEABLE:
            if self._arena[self._irql_at] >= _DISPATCH_LEVEL:
                self._fault = (address, _ACCESS_OF.get(access, ACCESS_READ), "pageable memory at raised IRQL")
                return 0
            self._arena[self._slow_at] |= 1
        return entry

    def _on_interrupt(self, vector: int) -> None:
        self._event = seh.event_of_interrupt(self._kernel, vector, self.engine.read(RIP), self.engine.registers())

    # IRQL and the TLB

    def irql_was_raised(self) -> None:
        """Forget cached translations of pageable memory; called when IRQL reaches DISPATCH_LEVEL."""
        if self._arena[self._slow_at] & 1:
            self._arena[self._slow_at] &= ~1 & 0xFF
            self.engine.flush_tlb()

    def registers(self) -> list[int]:
        """General registers in encoding order."""
        return self.engine.registers()

    def set_result(self, value: int) -> None:
        """What the interrupted export call returns when its thread goes on."""
        _U64.pack_into(self._arena, self.page + stubs.RESULT, value & _MASK)

    def call_result(self) -> int:
        """The result (rax) of the guest function that returned last."""
        result: int = _U64.unpack_from(self._arena, self.page + stubs.CALL_RESULT)[0]
        return result

    def initialise_registers(self) -> None:
        """Registers of a processor at rest in kernel mode: gs points at the processor control region."""
        self.engine.load(self._at_rest)
        self.engine.set_gs_base(PCR)
        self.engine.flush_tlb()

    def hook_special_instructions(self, loaded: LoadedImage) -> None:
        """Take over the instructions of an image that the emulator gets wrong."""
        for address, instruction in loaded.special_instructions():
            self._special[address] = instruction
            if address not in self._hooked:
                self._hooked.add(address)
                self.engine.hook_code(address, functools.partial(self._on_special, address))

    def forget_code(self, images: Iterable[LoadedImage]) -> None:
        """Forget every translated block; `images` are what is loaded from now on."""
        self._special.clear()
        for loaded in images:
            self.hook_special_instructions(loaded)
        self.engine.flush_code()

    def _on_special(self, address: int) -> None:
        instruction = self._special.get(address)
        if instruction is None:
            return  # another image lies there now
        try:
            special_instructions.emulate(self._kernel, address, instruction)
        except BaseException as event:  # noqa: BLE001 - it must not unwind through C; raised again by _after_stop
            self._stop_with(event)

    def close(self) -> None:
        """Release the emulator."""
        self.engine.close()

    def abandon(self) -> None:
        """Forget calls under way, after a crash or a restore."""
        self._depth = 0
        self._event = None
        self.engine.counters.blocks = 0
        self.engine.counters.stopped_at = 0
