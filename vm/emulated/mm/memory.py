"""Physical memory, the page table, and the host's access to guest memory.

One anonymous mapping (the arena) is the physical memory; the CPU sees it through `physical_base`. The page table is a
dictionary from page number to arena offset and rights, asked by the CPU's TLB-fill hook. The host reads and writes
guest memory through the same table, so that a bad pointer handed to an export faults as it would on Windows.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from vm.emulated.faults import PageFault
from vm.emulated.layout import PAGE

READ = 1
WRITE = 2
EXECUTE = 4
PAGEABLE = 8
"""The page may not be touched at DISPATCH_LEVEL or above."""
RIGHTS = READ | WRITE | EXECUTE

_OFFSET = ~(PAGE - 1)
_IN_PAGE = PAGE - 1

ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE = 0, 1, 8

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")

ARENA_SIZE = 256 << 20
"""Physical memory: address space only, the host commits what is touched."""


class OutOfPhysicalMemory(Exception):
    """The arena is used up. An allocation for a driver turns this into a failed allocation."""


@dataclass
class MemoryState:
    """What a checkpoint keeps beside the arena's bytes."""

    pages: dict[int, int] = field(default_factory=dict)
    """Page number to arena offset, rights in the low bits."""
    free: list[int] = field(default_factory=list)
    """Arena offsets of single pages given back."""
    used: int = PAGE
    """Arena bytes handed out so far; offset 0 stays unused."""


class Memory:
    """Guest memory as the host sees it.

    Attributes:
        arena: the physical bytes.
        on_unmap: called after pages lose a mapping or rights, to flush the CPU's TLB.
        refuse_pageable: asked at each host access to a pageable page; True makes the access fault.
    """

    def __init__(self) -> None:
        self.arena = mmap.mmap(-1, ARENA_SIZE)
        self._buffer = ctypes.c_char.from_buffer(self.arena)
        self.arena_address = ctypes.addressof(self._buffer)
        self.state = MemoryState()
        self._pages = self.state.pages
        self.on_unmap: Callable[[], None] = lambda: None
        self.refuse_pageable: Callable[[], bool] = lambda: False

    def rebind(self) -> None:
        """Refresh aliases after `state` was replaced by a checkpoint's."""
        self._pages = self.state.pages

    def close(self) -> None:
        """Give the arena back. The CPU that maps it must be gone."""
        del self._buffer
        self.arena.close()

    # Mapping

    def take_pages(self, count: int) -> list[int]:
        """Arena offsets of `count` pages, contents undefined. Contiguous unless made of single freed pages.

        Raises:
            OutOfPhysicalMemory: there are not so many.
        """
        state = self.state
        if count <= len(state.free):
            taken = state.free[-count:] if count else []
            del state.free[len(state.free) - count :]
            return taken
        first = state.used
        if first + count * PAGE > ARENA_SIZE:
            raise OutOfPhysicalMemory
        state.used = first + count * PAGE
        return list(range(first, state.used, PAGE))

    def map(self, address: int, size: int, rights: int) -> int:
        """Map fresh zeroed contiguous memory at a page-aligned address; returns its arena offset."""
        count = (size + _IN_PAGE) >> 12
        first = self.state.used
        if first + count * PAGE > ARENA_SIZE:
            raise OutOfPhysicalMemory
        self.state.used = first + count * PAGE
        self.arena[first : first + count * PAGE] = bytes(count * PAGE)
        page = address >> 12
        for index in range(count):
            self._pages[page + index] = (first + index * PAGE) | rights
        return first

    def map_pages(self, address: int, offsets: list[int], rights: int) -> None:
        """Map given arena pages one after the other, as an alias where they are mapped already."""
        page = address >> 12
        for index, offset in enumerate(offsets):
            self._pages[page + index] = offset | rights

    def unmap(self, address: int, size: int, *, release: bool = True) -> None:
        """Remove a mapping; with `release` its pages can be used again."""
        first = address >> 12
        for page in range(first, first + ((size + _IN_PAGE) >> 12)):
            offset = self._pages.pop(page) & _OFFSET
            if release:
                self.state.free.append(offset)
        self.on_unmap()

    def protect(self, address: int, size: int, rights: int) -> None:
        """Change the rights of mapped pages."""
        first = address >> 12
        for page in range(first, first + ((size + _IN_PAGE) >> 12)):
            self._pages[page] = (self._pages[page] & _OFFSET) | rights
        self.on_unmap()

    def is_mapped(self, address: int, size: int = 1, rights: int = READ) -> bool:
        """True when every byte of the range can be accessed with `rights`."""
        if size <= 0:
            return True
        pages = self._pages
        return all(
            pages.get(page, 0) & rights == rights for page in range(address >> 12, ((address + size - 1) >> 12) + 1)
        )

    def arena_pages(self, address: int, size: int, access: int = ACCESS_READ) -> list[int]:
        """Arena offsets of the pages under a range, for an alias. Raises PageFault."""
        first, last = address >> 12, (address + max(size, 1) - 1) >> 12
        return [self.locate(page << 12, access) & _OFFSET for page in range(first, last + 1)]

    # Host access

    def locate(self, address: int, access: int = ACCESS_READ) -> int:
        """Arena offset of an address. Raises PageFault when the page table refuses the access."""
        entry = self._pages.get(address >> 12)
        if entry is None:
            raise PageFault(address, access, "unmapped memory")
        if access == ACCESS_WRITE and not entry & WRITE:
            raise PageFault(address, access, "memory that is not writable")
        if entry & PAGEABLE and self.refuse_pageable():
            raise PageFault(address, access, "pageable memory touched at raised IRQL")
        return (entry & _OFFSET) + (address & _IN_PAGE)

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address. Raises PageFault."""
        offset = address & _IN_PAGE
        if offset + size <= PAGE:
            at = self.locate(address)
            return self.arena[at : at + size]
        parts = []
        while size > 0:
            chunk = min(size, PAGE - (address & _IN_PAGE))
            at = self.locate(address)
            parts.append(self.arena[at : at + chunk])
            address += chunk
            size -= chunk
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Store bytes. Raises PageFault."""
        size = len(data)
        if size == 0:
            return
        if (address & _IN_PAGE) + size <= PAGE:
            at = self.locate(address, ACCESS_WRITE)
            self.arena[at : at + size] = data
            return
        start = 0
        while start < size:
            chunk = min(size - start, PAGE - (address & _IN_PAGE))
            at = self.locate(address, ACCESS_WRITE)
            self.arena[at : at + chunk] = data[start : start + chunk]
            address += chunk
            start += chunk

    def load(self, address: int, data: bytes) -> None:
        """Store bytes whatever the rights, as a loader does. The pages must be mapped."""
        start = 0
        while start < len(data):
            chunk = min(len(data) - start, PAGE - (address & _IN_PAGE))
            at = (self._pages[address >> 12] & _OFFSET) + (address & _IN_PAGE)
            self.arena[at : at + chunk] = data[start : start + chunk]
            address += chunk
            start += chunk

    def arena_bytes(self, address: int, size: int) -> bytes:
        """Bytes of one page whatever the rights or IRQL; the page must be mapped."""
        if size == 0:
            return b""
        at = (self._pages[address >> 12] & _OFFSET) + (address & _IN_PAGE)
        return self.arena[at : at + size]

    def fill(self, address: int, size: int, value: int = 0) -> None:
        """Set bytes. Raises PageFault."""
        while size > 0:
            chunk = min(size, PAGE - (address & _IN_PAGE))
            at = self.locate(address, ACCESS_WRITE)
            self.arena[at : at + chunk] = bytes([value]) * chunk
            address += chunk
            size -= chunk

    def u8(self, address: int) -> int:
        """One unsigned byte."""
        return self.arena[self.locate(address)]

    def u16(self, address: int) -> int:
        """Unsigned 16 bits."""
        if address & _IN_PAGE > PAGE - 2:
            return int.from_bytes(self.read(address, 2), "little")
        value: int = _U16.unpack_from(self.arena, self.locate(address))[0]
        return value

    def u32(self, address: int) -> int:
        """Unsigned 32 bits."""
        if address & _IN_PAGE > PAGE - 4:
            return int.from_bytes(self.read(address, 4), "little")
        value: int = _U32.unpack_from(self.arena, self.locate(address))[0]
        return value

    def i32(self, address: int) -> int:
        """Signed 32 bits."""
        value: int = _I32.unpack(self.read(address, 4))[0]
        return value

    def u64(self, address: int) -> int:
        """Unsigned 64 bits."""
        if address & _IN_PAGE > PAGE - 8:
            return int.from_bytes(self.read(address, 8), "little")
        value: int = _U64.unpack_from(self.arena, self.locate(address))[0]
        return value

    def i64(self, address: int) -> int:
        """Signed 64 bits."""
        value: int = _I64.unpack(self.read(address, 8))[0]
        return value

    def set_u8(self, address: int, value: int) -> None:
        """Store one byte."""
        self.arena[self.locate(address, ACCESS_WRITE)] = value & 0xFF

    def set_u16(self, address: int, value: int) -> None:
        """Store 16 bits, truncating."""
        self.write(address, (value & 0xFFFF).to_bytes(2, "little"))

    def set_u32(self, address: int, value: int) -> None:
        """Store 32 bits, truncating."""
        self.write(address, (value & 0xFFFFFFFF).to_bytes(4, "little"))

    def set_u64(self, address: int, value: int) -> None:
        """Store 64 bits, truncating."""
        self.write(address, (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little"))

    # Text

    def ascii(self, address: int, limit: int = 4096) -> str:
        """A NUL-terminated byte string, as Latin-1, at most `limit` characters."""
        out = bytearray()
        while len(out) < limit:
            byte = self.u8(address + len(out))
            if byte == 0:
                break
            out.append(byte)
        return out.decode("latin-1")

    def wide(self, address: int, limit: int = 32768) -> str:
        """A NUL-terminated UTF-16 string, lone surrogates kept, at most `limit` units."""
        out = bytearray()
        while len(out) < limit * 2:
            unit = self.read(address + len(out), 2)
            if unit == b"\0\0":
                break
            out += unit
        return out.decode("utf-16-le", "surrogatepass")

    def unicode_string(self, address: int) -> str:
        """The text of a UNICODE_STRING (ntdef.h: Length, MaximumLength, Buffer), lone surrogates kept."""
        length = self.u16(address)
        if length == 0:
            return ""
        return self.read(self.u64(address + 8), length & ~1).decode("utf-16-le", "surrogatepass")

    def set_unicode_string(self, address: int, length: int, maximum: int, buffer: int) -> None:
        """Fill in a UNICODE_STRING structure; lengths in bytes."""
        self.write(address, struct.pack("<HHxxxxQ", length, maximum, buffer))
