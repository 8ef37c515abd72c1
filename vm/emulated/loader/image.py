"""Loads a driver image into guest memory: sections with their rights, relocations, imports, the /GS cookie, CFG."""

from __future__ import annotations

import bisect
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from vm.emulated.layout import PAGE
from vm.emulated.loader.pe import BadImage, DriverImage, Import, Section, SpecialInstruction
from vm.emulated.mm.memory import EXECUTE, PAGEABLE, READ, WRITE

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

__all__ = ["BadImage", "DriverImage", "Import", "LoadedImage", "Section", "SpecialInstruction", "load"]

_U64: Final = struct.Struct("<Q")
_DEFAULT_COOKIE: Final = 0x2B992DDFA232
"""What the compiler's runtime takes for "not initialised" (/GS, Microsoft Learn)."""

Resolver = Callable[[str, "str | int"], int]
"""Address of an export by module and name or ordinal; raises to refuse the image."""


@dataclass
class LoadedImage:
    """A driver image in guest memory. Holds plain data only.

    Attributes:
        image: the file.
        base: where it lies.
        name: module name: the file name without its suffix.
        discarded: its discardable sections are gone.
        unloaded: all of it is gone.
    """

    image: DriverImage
    base: int
    name: str
    discarded: bool = False
    unloaded: bool = False
    _page_rights: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.image.size_of_image

    @property
    def entry(self) -> int:
        """Address of the entry point."""
        return self.base + self.image.entry

    def contains(self, address: int) -> bool:
        """True for an address inside the image."""
        return 0 <= address - self.base < self.image.size_of_image

    def section_at(self, address: int) -> Section | None:
        """The section that an address lies in."""
        rva = address - self.base
        return next((s for s in self.image.sections if s.contains(rva)), None)

    def export(self, name: str) -> int | None:
        """Address of a named export."""
        rva = self.image.exports.get(name)
        return None if rva is None else self.base + rva

    def function_at(self, address: int) -> tuple[int, int, int] | None:
        """The RUNTIME_FUNCTION (begin, end, unwind information; RVAs) that covers an address; leaves have none."""
        rva = address - self.base
        functions = self.image.functions
        index = bisect.bisect_right(functions, (rva, 0xFFFF_FFFF, 0xFFFF_FFFF)) - 1
        if index >= 0 and functions[index][0] <= rva < functions[index][1]:
            return functions[index]
        return None

    def nearest_export(self, address: int) -> tuple[str, int] | None:
        """Name of the last export at or before an address, and the distance in bytes."""
        rva = address - self.base
        best: tuple[int, str] | None = None
        for name, at in self.image.exports.items():
            if at <= rva and (best is None or (at, best[1]) > (best[0], name)):
                best = (at, name)
        return None if best is None else (best[1], rva - best[0])

    def special_instructions(self) -> list[tuple[int, SpecialInstruction]]:
        """Addresses of the instructions that the CPU emulator gets wrong."""
        return [(self.base + found.rva, found) for found in self.image.special_instructions]

    def discard_init(self, kernel: Kernel) -> None:
        """Unmap the discardable sections (INIT, relocations), as Windows does once DriverEntry has returned."""
        if self.discarded or self.unloaded:
            return
        self.discarded = True
        kept = _rights_of_pages(self.image, with_discardable=False)
        for page in sorted(self._page_rights.keys() - kept.keys()):
            kernel.mem.unmap(self.base + page, PAGE)
            del self._page_rights[page]

    def unload(self, kernel: Kernel) -> None:
        """Unmap everything that is still mapped."""
        if self.unloaded:
            return
        self.unloaded = True
        for page in sorted(self._page_rights):
            kernel.mem.unmap(self.base + page, PAGE)
        self._page_rights.clear()


def load(
    kernel: Kernel, image: DriverImage, base: int, resolve: Resolver, *, guard_check: int = 0, guard_dispatch: int = 0
) -> LoadedImage:
    """Map an image at a page-aligned base and make it ready to run.

    Args:
        kernel: whose memory receives it.
        image: the file.
        base: where to put it.
        resolve: address for each import; what it raises passes through with nothing left mapped.
        guard_check: code for the CFG check pointers; 0 leaves the image's own, which accept every target.
        guard_dispatch: code for the CFG dispatch pointers, likewise.

    Raises:
        OutOfPhysicalMemory: there is no room.
    """
    contents = bytearray(image.mapped)
    _relocate(image, contents, base)
    for entry in image.imports:
        _U64.pack_into(contents, entry.iat_rva, resolve(entry.dll, entry.name))
    # A cookie in read-only data is not set: drivers that lld-link made so were seen to stop the system at their entry.
    if image.security_cookie is not None and _is_writable(image, image.security_cookie):
        _U64.pack_into(contents, image.security_cookie, security_cookie(image.name, base))
    for slot, target in (
        (image.guard_check, guard_check),
        (image.xfg_check, guard_check),
        (image.guard_dispatch, guard_dispatch),
        (image.xfg_dispatch, guard_dispatch),
    ):
        if slot is not None and target:
            _U64.pack_into(contents, slot, target)
    rights = _rights_of_pages(image, with_discardable=True)
    loaded = LoadedImage(image, base, PurePath(image.name).stem, _page_rights=rights)
    memory = kernel.mem
    memory.map(base, image.size_of_image, READ)
    memory.load(base, bytes(contents))
    for page in range(0, image.size_of_image, PAGE):
        if page in rights:
            memory.protect(base + page, PAGE, rights[page])
        else:
            memory.unmap(base + page, PAGE)
    return loaded


def security_cookie(name: str, base: int) -> int:
    """The /GS cookie of an image: unpredictable in appearance, the same in every run, its top 16 bits zero."""
    digest = hashlib.blake2b(f"{name}:{base:x}".encode("utf-8", "surrogateescape"), digest_size=6).digest()
    cookie = int.from_bytes(digest, "little")
    return cookie + 1 if cookie in (0, _DEFAULT_COOKIE) else cookie


def _is_writable(image: DriverImage, rva: int) -> bool:
    return any(section.write and section.contains(rva) for section in image.sections)


def _relocate(image: DriverImage, contents: bytearray, base: int) -> None:
    delta = base - image.image_base
    if delta == 0:
        return
    for rva in image.relocations:
        (value,) = _U64.unpack_from(contents, rva)
        _U64.pack_into(contents, rva, (value + delta) & 0xFFFF_FFFF_FFFF_FFFF)


def _rights_of_pages(image: DriverImage, *, with_discardable: bool) -> dict[int, int]:
    """Rights by page offset. Sections that share a page, as small alignments make them, share their rights."""
    rights: dict[int, int] = {}
    for page in range(0, image.size_of_headers, PAGE):
        rights[page] = READ
    for section in image.sections:
        if section.discardable and not with_discardable:
            continue
        wanted = READ | (WRITE if section.write else 0) | (EXECUTE if section.execute else 0)
        for page in range(section.rva & -PAGE, section.rva + section.size, PAGE):
            shared = rights.get(page)
            if shared is None:
                rights[page] = wanted | (PAGEABLE if section.pageable else 0)
            else:
                rights[page] = (shared | wanted) & ~PAGEABLE
    return rights
