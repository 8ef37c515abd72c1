"""The driver's public interface as Python sees it: read from procnotify.h, so that header and harness cannot disagree.

The header is the only source of sizes, offsets and constants. dissect.cstruct lays the structures out; the bulk decoder
then uses `struct.Struct` objects made from that layout.

Everything that a driver hands out is held against the header strictly: a byte that the header does not allow raises
`AbiViolation`, which names the offset and is the driver's fault, never the user's or the machine's.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from dissect.cstruct import cstruct

from harness.build.layout import driver_source_root
from harness.errors import HarnessError
from harness.notification import Notification
from harness.records import ALIGNMENT, HEADER_NAME, AbiViolation, RecordDecoder, aligned, signed

_STRUCT_CODES: Final = {
    "uint8": "B",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}


class Match(IntEnum):
    """How a rule's pattern is held against an image name (PROCNOTIFY_MATCH_*)."""

    EXACT = 1
    SUBTREE = 2
    SUFFIX = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: creations whose image name matches are denied.

    Attributes:
        match: how the pattern is compared.
        pattern: the pattern, in the form in which Windows reports image names (``\\\\??\\\\C:\\\\...``).
        status: NTSTATUS as an unsigned 32-bit number; 0 stands for STATUS_ACCESS_DENIED.
    """

    match: Match
    pattern: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """PROCNOTIFY_VERSION."""

    abi_version: int
    capabilities: int
    maximum_rules: int
    queue_bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """PROCNOTIFY_STATISTICS: see the header for what each number counts."""

    created: int
    exited: int
    denied: int
    queued: int
    delivered: int
    dropped: int
    high_water_bytes: int
    queued_bytes: int
    next_sequence: int
    next_record_size: int
    rule_count: int
    rules_size: int
    rules_generation: int


class Abi:
    """The interface that one procnotify.h declares.

    Attributes:
        constants: every ``#define`` whose value is an integer or a string literal.
    """

    def __init__(self, header: str) -> None:
        """Read the text of a header.

        Raises:
            HarnessError: the text lacks a declaration that the harness needs.
        """
        source = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
        self.constants = _read_constants(source)
        types = cstruct()
        types.load("\n".join(re.findall(r"typedef struct \w+ \{.*?\} \w+;", source, flags=re.DOTALL)), align=True)
        self._types = types
        self._rules = self._layout("RULES")
        self._rule = self._layout("RULE")
        self._statistics = self._layout("STATISTICS")
        self._version = self._layout("VERSION")
        self._read = self._layout("READ")
        self._record = self._layout("RECORD")
        self._create = self._layout("CREATE")
        self._exit = self._layout("EXIT")
        self._gap = self._layout("GAP")

    def integer(self, name: str) -> int:
        """The integer constant PROCNOTIFY_`name`, or IOCTL_PROCNOTIFY_... when `name` begins with ``IOCTL``."""
        return int(self._constant(name, int))

    def text(self, name: str) -> str:
        """The string constant PROCNOTIFY_`name`."""
        return str(self._constant(name, str))

    def _constant(self, name: str, kind: type[int | str]) -> int | str:
        full = name if name.startswith("IOCTL_") else f"PROCNOTIFY_{name}"
        value = self.constants.get(full)
        if not isinstance(value, kind):
            raise HarnessError(f"{HEADER_NAME} does not define {full} as {kind.__name__}; restore the definition")
        return value

    def _layout(self, name: str) -> struct.Struct:
        """A little-endian `struct.Struct` with the layout that the compiler gives PROCNOTIFY_`name`."""
        try:
            declared = getattr(self._types, f"PROCNOTIFY_{name}")
        except AttributeError as error:
            message = f"{HEADER_NAME} does not declare PROCNOTIFY_{name}; restore the declaration"
            raise HarnessError(message) from error
        form = "<" + _struct_format(declared)
        made = struct.Struct(form)
        if made.size != len(declared):
            raise HarnessError(f"{HEADER_NAME}: PROCNOTIFY_{name} has hidden padding; make it explicit")
        return made

    # Rules

    def encode_rules(self, rules: Iterable[Rule]) -> bytes:
        """The input of SET_RULES. Nothing is checked: an invalid set is encoded as it is, for the driver to refuse."""
        body = bytearray()
        count = 0
        for rule in rules:
            pattern = rule.pattern.encode("utf-16-le", "surrogatepass")
            size = aligned(self._rule.size + len(pattern))
            body += self._rule.pack(size, int(rule.match), 0, signed(rule.status), len(pattern)) + pattern
            body += bytes(-len(body) % ALIGNMENT)
            count += 1
        return self._rules.pack(self.integer("ABI_VERSION"), count, self._rules.size + len(body), 0) + bytes(body)

    def decode_rules(self, data: bytes) -> tuple[Rule, ...]:
        """The rules in an output of GET_RULES.

        Raises:
            AbiViolation: a byte is not as the header says.
        """
        _need(len(data) >= self._rules.size, 0, f"{len(data)} bytes cannot hold PROCNOTIFY_RULES")
        version, count, size, reserved = self._rules.unpack_from(data)
        _need(version == self.integer("ABI_VERSION"), 0, f"AbiVersion {version}")
        _need(size == len(data), 8, f"Size {size}, but {len(data)} bytes were returned")
        _need(reserved == 0, 12, f"Reserved is 0x{reserved:X}, not zero")
        _need(count <= self.integer("MAXIMUM_RULES"), 4, f"Count {count} is over PROCNOTIFY_MAXIMUM_RULES")
        rules = []
        offset = self._rules.size
        for _ in range(count):
            rule, offset = self._decode_rule(data, offset)
            rules.append(rule)
        _need(offset == len(data), offset, f"{len(data) - offset} bytes follow the last rule")
        return tuple(rules)

    def _decode_rule(self, data: bytes, offset: int) -> tuple[Rule, int]:
        header = self._rule.size
        _need(offset + header <= len(data), offset, "a rule's header does not fit")
        size, match, reserved, status, length = self._rule.unpack_from(data, offset)
        _need(match in set(Match), offset + 4, f"Match {match} is no PROCNOTIFY_MATCH_*")
        _need(reserved == 0, offset + 6, f"Reserved is 0x{reserved:X}, not zero")
        _need(status <= 0, offset + 8, f"Status 0x{status & 0xFFFFFFFF:08X} is neither a failure nor 0")
        legal = 0 < length <= self.integer("MAXIMUM_PATTERN_BYTES") and length % 2 == 0
        _need(legal, offset + 12, f"PatternLength {length} is zero, odd or too long")
        _need(size == aligned(header + length), offset, f"Size {size} for a pattern of {length} bytes")
        end = offset + size
        _need(end <= len(data), offset, f"Size {size} passes the end of the buffer")
        text_end = offset + header + length
        _need(not any(data[text_end:end]), text_end, "padding is not zero")
        pattern = data[offset + header : text_end].decode("utf-16-le", "surrogatepass")
        return Rule(Match(match), pattern, status & 0xFFFFFFFF), end

    # Fixed-size answers

    def decode_version(self, data: bytes) -> Version:
        """An output of GET_VERSION. Raises AbiViolation when its size is wrong."""
        _need(len(data) == self._version.size, 0, f"{len(data)} bytes are no PROCNOTIFY_VERSION")
        return Version(*self._version.unpack(data))

    def decode_statistics(self, data: bytes) -> Statistics:
        """An output of GET_STATISTICS. Raises AbiViolation when its size is wrong."""
        _need(len(data) == self._statistics.size, 0, f"{len(data)} bytes are no PROCNOTIFY_STATISTICS")
        return Statistics(*self._statistics.unpack(data))

    @property
    def version_size(self) -> int:
        """Bytes of PROCNOTIFY_VERSION."""
        return self._version.size

    @property
    def statistics_size(self) -> int:
        """Bytes of PROCNOTIFY_STATISTICS."""
        return self._statistics.size

    @property
    def rules_header_size(self) -> int:
        """Bytes of PROCNOTIFY_RULES, which is the size of an empty set."""
        return self._rules.size

    def encode_read(self, *, no_wait: bool) -> bytes:
        """The input of READ."""
        return self._read.pack(self.integer("READ_NO_WAIT") if no_wait else 0, 0)

    @property
    def maximum_record_size(self) -> int:
        """Bytes of the longest record: a creation with both texts at their longest."""
        return aligned(self._create.size + 2 * self.integer("MAXIMUM_TEXT_BYTES"))

    # Notifications

    @functools.cached_property
    def _decoder(self) -> RecordDecoder:
        return RecordDecoder(self.integer, self._record, self._create, self._exit, self._gap)

    def decode_notifications(self, data: bytes) -> list[Notification]:
        """The notifications in an output of READ, in order.

        Raises:
            AbiViolation: a byte is not as the header says, or the records are out of sequence.
        """
        return self._decoder.decode(data)

    def encode_notification(self, notification: Notification) -> bytes:
        """The record that stands for a notification: what a correct driver delivers.

        A value that the witness did not report is encoded as zero; the image name of an exit has no place in a record.
        """
        return self._decoder.encode(notification)


@functools.cache
def load_abi(header: Path | None = None) -> Abi:
    """The interface that `header` declares; by default that of the procnotify.h of this checkout or installation.

    Raises:
        HarnessError: the header is missing or lacks a declaration.
    """
    path = header if header is not None else driver_source_root() / "include" / HEADER_NAME
    try:
        return Abi(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"cannot read {path}: {error.strerror}; is the installation complete?") from error


def _read_constants(source: str) -> dict[str, int | str]:
    constants: dict[str, int | str] = {}
    for name, value in re.findall(r"^#define (\w+) +(\S.*?) *$", source, flags=re.MULTILINE):
        if re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", value):
            constants[name] = int(value, 0)
        elif literal := re.fullmatch(r'"((?:[^"\\]|\\.)*)"', value):
            constants[name] = re.sub(r"\\(.)", r"\1", literal[1])
    return constants


def _struct_format(declared: Any) -> str:
    """Format characters of a structure, its nested ones in place. Raises HarnessError for an unsupported type."""
    parts = []
    for field in declared.__fields__:
        if getattr(field.type, "__fields__", None):
            parts.append(_struct_format(field.type))
        elif field.type.__name__ in _STRUCT_CODES:
            parts.append(_STRUCT_CODES[field.type.__name__])
        else:
            raise HarnessError(f"{HEADER_NAME}: {declared.__name__}.{field.name} is of an unsupported type")
    return "".join(parts)


def _need(condition: bool, offset: int, what: str) -> None:
    if not condition:
        raise AbiViolation(offset, what)


__all__ = [
    "Abi",
    "AbiViolation",
    "Match",
    "Rule",
    "Statistics",
    "Version",
    "load_abi",
]
