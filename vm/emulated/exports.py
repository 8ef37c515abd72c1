"""The table of kernel exports: name, argument list, IRQL range, implementation.

Each subsystem module owns an `ExportTable` named `EXPORTS` and adds its functions with a decorator; the kernel merges
the tables. A handler is a plain function of the kernel and the decoded arguments:

    @EXPORTS.function("ExFreePoolWithTag", args="ptr u32", irql=DISPATCH_LEVEL)
    def ex_free_pool_with_tag(kernel: Kernel, block: int, tag: int) -> None: ...

Its return value lands in rax (None is 0). It may raise the events of `vm.emulated.faults`, and NtStatusError, whose
status is then the return value.

Argument types: `ptr`, `u64`, `size`, `handle` (64 bits), `i64`, `u32`, `i32`, `u16`, `u8`, and `bool` (a BOOLEAN: the
low byte). `...` ends the list of a variadic function: its handler reads the rest with `kernel.cpu.argument(index)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

PASSIVE_LEVEL = 0
APC_LEVEL = 1
DISPATCH_LEVEL = 2
HIGH_LEVEL = 15

Handler: TypeAlias = Callable[..., int | None]


def _u32(value: int) -> int:
    return value & 0xFFFFFFFF


def _i32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def _i64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _u16(value: int) -> int:
    return value & 0xFFFF


def _u8(value: int) -> int:
    return value & 0xFF


def _bool(value: int) -> bool:
    return bool(value & 0xFF)


_DECODERS: dict[str, Callable[[int], int] | None] = {
    "ptr": None,
    "u64": None,
    "size": None,
    "handle": None,
    "i64": _i64,
    "u32": _u32,
    "i32": _i32,
    "u16": _u16,
    "u8": _u8,
    "bool": _bool,
}


@dataclass(frozen=True)
class Export:
    """One exported function.

    Attributes:
        name: its name in the export table.
        decoders: one per declared argument, None for a plain 64-bit value.
        irql: highest IRQL at which it may be called.
        minimum_irql: lowest.
        handler: the implementation.
    """

    name: str
    decoders: tuple[Callable[[int], int] | None, ...]
    irql: int
    minimum_irql: int
    handler: Handler


@dataclass(frozen=True)
class DataExport:
    """One exported variable: `initialise(kernel)` returns the bytes that the export's address points at."""

    name: str
    initialise: Callable[[Kernel], bytes]


class ExportTable:
    """Exports of one subsystem, by name."""

    def __init__(self) -> None:
        self.functions: dict[str, Export] = {}
        self.data: dict[str, DataExport] = {}

    def function(
        self, *names: str, args: str = "", irql: int = HIGH_LEVEL, minimum_irql: int = PASSIVE_LEVEL
    ) -> Callable[[Handler], Handler]:
        """Declare a function under one or more names.

        Args:
            names: export names that share this implementation.
            args: argument types separated by spaces.
            irql: highest documented IRQL of the caller.
            minimum_irql: lowest documented IRQL of the caller.
        """
        decoders = tuple(_DECODERS[kind] for kind in args.split() if kind != "...")

        def declare(handler: Handler) -> Handler:
            for name in names:
                if name in self.functions:
                    raise ValueError(f"export {name} is declared twice")
                self.functions[name] = Export(name, decoders, irql, minimum_irql, handler)
            return handler

        return declare

    def variable(self, name: str, initialise: Callable[[Kernel], bytes]) -> None:
        """Declare an exported variable; a driver's import slot receives the address of its bytes."""
        self.data[name] = DataExport(name, initialise)


def merge(tables: Iterable[ExportTable]) -> ExportTable:
    """One table of all; a name declared by two subsystems is a programming error."""
    merged = ExportTable()
    for table in tables:
        both = (table.functions.keys() & merged.functions.keys()) | (table.data.keys() & merged.data.keys())
        if both:
            raise ValueError(f"exports declared twice: {', '.join(sorted(both))}")
        merged.functions.update(table.functions)
        merged.data.update(table.data)
    return merged


def decode(export: Export, registers: tuple[int, int, int, int], stack: Callable[[int], int]) -> list[Any]:
    """Arguments of a call: the first four from rcx, rdx, r8, r9, the rest through `stack(index)` (index from 4)."""
    arguments = []
    for index, decoder in enumerate(export.decoders):
        value = registers[index] if index < 4 else stack(index)
        arguments.append(value if decoder is None else decoder(value))
    return arguments
