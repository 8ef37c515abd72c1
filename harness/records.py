"""Decodes and encodes the records that READ hands out, byte by byte as procnotify.h allows them and no other way."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from harness.errors import HarnessError
from harness.notification import Create, Exit, Gap, Notification

HEADER_NAME: Final = "procnotify.h"
ALIGNMENT: Final = 8
"""Records and rules begin at multiples of this."""


class AbiViolation(HarnessError):
    """The driver handed out bytes that its public header does not allow: owner driver.

    Attributes:
        offset: byte offset within the output buffer.
        what: what is wrong there.
    """

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"driver output violates {HEADER_NAME} at offset {offset} (0x{offset:X}): {what}")
        self.offset = offset
        self.what = what


class RecordDecoder:
    """Records to notifications and back, with every size and flag of one header at hand."""

    def __init__(
        self,
        integer: Callable[[str], int],
        head: struct.Struct,
        create: struct.Struct,
        exit_: struct.Struct,
        gap: struct.Struct,
    ) -> None:
        self._head, self._create, self._exit, self._gap = head, create, exit_, gap
        self._type_create = integer("RECORD_CREATE")
        self._type_exit = integer("RECORD_EXIT")
        self._type_gap = integer("RECORD_GAP")
        self._name = integer("FLAG_FILE_OPEN_NAME_AVAILABLE")
        self._subsystem = integer("FLAG_IS_SUBSYSTEM_PROCESS")
        self._has_image = integer("FLAG_HAS_IMAGE_NAME")
        self._has_command = integer("FLAG_HAS_COMMAND_LINE")
        self._flags = self._name | self._subsystem | self._has_image | self._has_command
        self._limit = integer("MAXIMUM_TEXT_BYTES")

    def decode(self, data: bytes) -> list[Notification]:
        """See `harness.abi.Abi.decode_notifications`."""
        found: list[Notification] = []
        append = found.append
        unpack_head = self._head.unpack_from
        head_size = self._head.size
        create, exit_ = self._type_create, self._type_exit
        total = len(data)
        offset = 0
        next_sequence = 1
        while offset < total:
            if total - offset < head_size:
                raise AbiViolation(offset, f"{total - offset} bytes are left, too few for a record")
            size, kind, _flags, sequence, _time = unpack_head(data, offset)
            if size < head_size or size % ALIGNMENT or size > total - offset:
                what = f"Size {size} is under {head_size}, no multiple of {ALIGNMENT} or over {total - offset}"
                raise AbiViolation(offset, what)
            if sequence < next_sequence:
                raise AbiViolation(offset + 8, f"Sequence {sequence} follows {next_sequence - 1}")
            if kind == create:
                append(self._decode_create(data, offset, size))
                next_sequence = sequence + 1
            elif kind == exit_:
                append(self._decode_exit(data, offset, size))
                next_sequence = sequence + 1
            else:
                gap = self._decode_gap(data, offset, size, kind)
                append(gap)
                next_sequence = sequence + gap.count
            offset += size
        return found

    def _decode_create(self, data: bytes, offset: int, size: int) -> Create:
        fixed = self._create.size
        if size < fixed:
            raise AbiViolation(offset, f"Size {size} of a create record is under {fixed}")
        (_size, _kind, flags, sequence, time, pid, parent, creator_pid, creator_tid, status, image_length,
         command_length, reserved) = self._create.unpack_from(data, offset)  # fmt: skip
        if flags & ~self._flags:
            raise AbiViolation(offset + 6, f"Flags 0x{flags:X} hold unknown bits")
        if reserved:
            raise AbiViolation(offset + fixed - 4, f"Reserved is 0x{reserved:X}, not zero")
        image_at = offset + fixed
        command_at = image_at + image_length
        end = command_at + command_length
        record_end = offset + size
        if record_end - end not in range(ALIGNMENT):
            what = f"texts of {image_length} and {command_length} bytes in a record of {size}"
            raise AbiViolation(offset + fixed - 12, what)
        image = command = None
        if flags & self._has_image:
            image = self._text(data, image_at, image_length, offset + fixed - 12)
        elif image_length:
            raise AbiViolation(offset + fixed - 12, f"ImageNameLength {image_length} without its flag")
        if flags & self._has_command:
            command = self._text(data, command_at, command_length, offset + fixed - 8)
        elif command_length:
            raise AbiViolation(offset + fixed - 8, f"CommandLineLength {command_length} without its flag")
        if end != record_end and any(data[end:record_end]):
            raise AbiViolation(end, "padding is not zero")
        return Create(
            sequence,
            time,
            pid,
            parent,
            creator_pid,
            creator_tid,
            status & 0xFFFFFFFF,
            image,
            command,
            bool(flags & self._name),
            bool(flags & self._subsystem),
        )

    def _text(self, data: bytes, start: int, length: int, length_at: int) -> str:
        if length % 2 or length > self._limit:
            raise AbiViolation(length_at, f"text length {length} is odd or over {self._limit}")
        return data[start : start + length].decode("utf-16-le", "surrogatepass")

    def _decode_exit(self, data: bytes, offset: int, size: int) -> Exit:
        if size != self._exit.size:
            raise AbiViolation(offset, f"Size {size} of an exit record is not {self._exit.size}")
        _size, _kind, flags, sequence, time, pid, status = self._exit.unpack_from(data, offset)
        if flags:
            raise AbiViolation(offset + 6, f"Flags 0x{flags:X} of an exit record are not zero")
        return Exit(sequence, time, pid, status & 0xFFFFFFFF)

    def _decode_gap(self, data: bytes, offset: int, size: int, kind: int) -> Gap:
        if kind != self._type_gap:
            raise AbiViolation(offset + 4, f"Type {kind} is no PROCNOTIFY_RECORD_*")
        if size != self._gap.size:
            raise AbiViolation(offset, f"Size {size} of a gap record is not {self._gap.size}")
        _size, _kind, flags, sequence, time, count = self._gap.unpack_from(data, offset)
        if flags:
            raise AbiViolation(offset + 6, f"Flags 0x{flags:X} of a gap record are not zero")
        if count == 0:
            raise AbiViolation(offset + self._head.size, "Count of a gap record is zero")
        return Gap(sequence, time, count)

    def encode(self, notification: Notification) -> bytes:
        """See `harness.abi.Abi.encode_notification`."""
        time = notification.time or 0
        if isinstance(notification, Gap):
            head = (self._gap.size, self._type_gap, 0, notification.sequence, time)
            return self._gap.pack(*head, notification.count)
        if isinstance(notification, Exit):
            head = (self._exit.size, self._type_exit, 0, notification.sequence, time)
            return self._exit.pack(*head, notification.pid, signed(notification.status or 0))
        return self._encode_create(notification, time)

    def _encode_create(self, create: Create, time: int) -> bytes:
        flags = self._name if create.file_open_name_available else 0
        flags |= self._subsystem if create.is_subsystem_process else 0
        flags |= 0 if create.image_name is None else self._has_image
        flags |= 0 if create.command_line is None else self._has_command
        image = (create.image_name or "").encode("utf-16-le", "surrogatepass")
        command = (create.command_line or "").encode("utf-16-le", "surrogatepass")
        used = self._create.size + len(image) + len(command)
        head = (aligned(used), self._type_create, flags, create.sequence, time)
        body = (create.pid, create.parent_pid, create.creator_pid or 0, create.creator_tid or 0)
        tail = (signed(create.status or 0), len(image), len(command), 0)
        return self._create.pack(*head, *body, *tail) + image + command + bytes(-used % ALIGNMENT)


def aligned(size: int) -> int:
    """A size rounded up as records and rules are."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def signed(status: int) -> int:
    """An unsigned 32-bit status as the int32_t of the header."""
    return status - (1 << 32) if status & 0x80000000 else status
