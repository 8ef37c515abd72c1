"""The C runtime's formatted output and number conversion that ntoskrnl exports.

Sources: Microsoft Learn, C runtime reference: sprintf, _snprintf, _snwprintf, sprintf_s, _snprintf_s and their v-forms;
_itoa and _itow. The secure forms have no invalid-parameter handler in the kernel: they empty the buffer and return -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vm.emulated.exports import ExportTable
from vm.emulated.rtl import codepage, printf

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

TRUNCATE = 0xFFFF_FFFF_FFFF_FFFF
"""_TRUNCATE: as much as fits."""
FAILED = 0xFFFFFFFF
"""-1 as an int."""
EINVAL = 22
ERANGE = 34


def _format(kernel: Kernel, template: int, arguments: Iterator[int], *, wide: bool) -> tuple[bytes, int]:
    """The output in the units of its family, and the size of one unit."""
    if wide:
        return codepage.wide(printf.render(kernel.mem, kernel.mem.wide(template), arguments, wide=True).text), 2
    text = codepage.decode(kernel.mem.ascii(template).encode("latin-1"))
    return codepage.encode(printf.render(kernel.mem, text, arguments).text), 1


def _unbounded(kernel: Kernel, buffer: int, output: bytes, unit: int) -> int:
    """sprintf: the caller vouches for the room."""
    kernel.mem.write(buffer, output + bytes(unit))
    return len(output) // unit


def _counted(kernel: Kernel, buffer: int, count: int, output: bytes, unit: int) -> int:
    """_snprintf: no terminator when the output fills the buffer exactly, -1 when it does not fit.

    Without a buffer and with a count of 0 the answer is the length of the output.
    """
    length = len(output) // unit
    if not count:
        return length if not buffer or not length else FAILED
    if length < count:
        output += bytes(unit)
    kernel.mem.write(buffer, output[: count * unit])
    return length if length <= count else FAILED


def _secure(kernel: Kernel, buffer: int, size: int, count: int, output: bytes, unit: int) -> int:
    """_snprintf_s and, with the size as count, sprintf_s."""
    if not buffer or not size:
        return FAILED
    length = len(output) // unit
    kept = min(length, count) if count != TRUNCATE else min(length, size - 1)
    if kept >= size:
        kernel.mem.write(buffer, bytes(unit))
        return FAILED
    kernel.mem.write(buffer, output[: kept * unit] + bytes(unit))
    return length if kept == length else FAILED


def _declare(plain: tuple[str, ...], counted: str, secure: str, *, wide: bool, listed: bool) -> None:
    """Declare one family of functions.

    Args:
        plain: names of sprintf's kind.
        counted: name of _snprintf's kind; its secure form has the suffix _s.
        secure: name of sprintf_s's kind.
        wide: the family writes UTF-16.
        listed: its arguments are behind a va_list.
    """

    def output(kernel: Kernel, template: int, first: int) -> tuple[bytes, int]:
        """What is to be written; `first` is the index of the first argument, or of the va_list."""
        if listed:
            arguments = printf.from_list(kernel.mem, kernel.cpu.argument(first))
        else:
            arguments = printf.from_call(kernel.cpu.argument, first)
        return _format(kernel, template, arguments, wide=wide)

    @EXPORTS.function(*plain, args="ptr ptr ...")
    def write(kernel: Kernel, buffer: int, template: int) -> int:
        return _unbounded(kernel, buffer, *output(kernel, template, 2))

    @EXPORTS.function(counted, args="ptr size ptr ...")
    def write_counted(kernel: Kernel, buffer: int, count: int, template: int) -> int:
        return _counted(kernel, buffer, count, *output(kernel, template, 3))

    @EXPORTS.function(secure, args="ptr size ptr ...")
    def write_secure(kernel: Kernel, buffer: int, size: int, template: int) -> int:
        text, unit = output(kernel, template, 3)
        return _secure(kernel, buffer, size, len(text) // unit, text, unit)

    @EXPORTS.function(f"{counted}_s", args="ptr size size ptr ...")
    def write_secure_counted(kernel: Kernel, buffer: int, size: int, count: int, template: int) -> int:
        return _secure(kernel, buffer, size, count, *output(kernel, template, 4))


_declare(("sprintf",), "_snprintf", "sprintf_s", wide=False, listed=False)
_declare(("vsprintf",), "_vsnprintf", "vsprintf_s", wide=False, listed=True)
_declare(("swprintf", "_swprintf"), "_snwprintf", "swprintf_s", wide=True, listed=False)
_declare(("_vswprintf",), "_vsnwprintf", "vswprintf_s", wide=True, listed=True)


# Numbers


def digits_of(value: int, radix: int, bits: int, *, signed: bool) -> str:
    """A number as _itoa writes it: only radix 10 knows a sign.

    Args:
        value: raw bits.
        radix: 2 to 36.
        bits: width of the type.
        signed: the type is signed.
    """
    value &= (1 << bits) - 1
    negative = signed and radix == 10 and bool(value >> (bits - 1))
    if negative:
        value = (1 << bits) - value
    digits = ""
    while value or not digits:
        value, digit = divmod(value, radix)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return "-" + digits if negative else digits


@EXPORTS.function("_itoa", args="u32 ptr i32")
def itoa(kernel: Kernel, value: int, buffer: int, radix: int) -> int:
    """C runtime reference, _itoa."""
    kernel.mem.write(buffer, digits_of(value, radix, 32, signed=True).encode() + b"\0")
    return buffer


@EXPORTS.function("_itow", args="u32 ptr i32")
def itow(kernel: Kernel, value: int, buffer: int, radix: int) -> int:
    """C runtime reference, _itow."""
    kernel.mem.write(buffer, codepage.wide(digits_of(value, radix, 32, signed=True) + "\0"))
    return buffer


def _declare_secure_conversion(name: str, bits: int, *, signed: bool, wide: bool) -> None:
    @EXPORTS.function(name, args=f"{'u64' if bits == 64 else 'u32'} ptr size i32")
    def convert(kernel: Kernel, value: int, buffer: int, size: int, radix: int) -> int:
        if not buffer or not size or not 2 <= radix <= 36:
            return EINVAL
        text = digits_of(value, radix, bits, signed=signed) + "\0"
        if len(text) > size:
            kernel.mem.write(buffer, bytes(2 if wide else 1))
            return ERANGE
        kernel.mem.write(buffer, codepage.wide(text) if wide else text.encode())
        return 0


_TYPES = (("i", 32, True), ("l", 32, True), ("ul", 32, False), ("i64", 64, True), ("ui64", 64, False))
for _stem, _bits, _signed in _TYPES:
    _declare_secure_conversion(f"_{_stem}toa_s", _bits, signed=_signed, wide=False)
    _declare_secure_conversion(f"_{_stem}tow_s", _bits, signed=_signed, wide=True)
