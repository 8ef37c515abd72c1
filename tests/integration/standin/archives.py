"""Archives as the kernel and the guest unpack them, written without being root: all of them belong to root there."""

from __future__ import annotations

import io
import stat
import tarfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """What is at one place: a file's content, None for a folder, a text for a symbolic link, or a device's numbers."""

    content: bytes | str | None
    mode: int
    device: tuple[int, int] | None = None


def members_of(folder, prefix="", wanted=lambda _path: True):
    """What is in a folder, by path; of files, those for whose path `wanted` is true."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = f"{prefix}{path.relative_to(folder).as_posix()}"
        if path.is_symlink():
            if wanted(name):
                found[name] = Member(str(path.readlink()), 0o777)
        elif path.is_file() and wanted(name):
            executable = path.stat().st_mode & stat.S_IXUSR
            found[name] = Member(path.read_bytes(), 0o755 if executable else 0o644)
    return found


def with_folders(members):
    """The members with the folders that lead to them, each before what is in it."""
    found = {}
    for path, member in sorted(members.items()):
        *parents, _ = path.split("/")
        for depth in range(1, len(parents) + 1):
            found.setdefault("/".join(parents[:depth]), Member(None, 0o755))
        found[path] = member
    return found


def write_tar(stream, members):
    """A tape archive of the members."""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, member in with_folders(members).items():
            entry = tarfile.TarInfo(path)
            entry.mode = member.mode
            if isinstance(member.content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, member.content
            elif member.content is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(member.content)
            archive.addfile(entry, io.BytesIO(member.content) if isinstance(member.content, bytes) else None)


def cpio(members):
    """An initial RAM disk of the members (Linux, "initramfs buffer format", newc)."""
    parts = []
    listed = [*with_folders(members).items(), ("TRAILER!!!", Member(b"", 0))]
    for number, (path, member) in enumerate(listed, 1):
        kind, data = stat.S_IFREG, member.content
        if isinstance(data, str):
            kind, data = stat.S_IFLNK, data.encode()
        elif data is None:
            kind, data = (stat.S_IFDIR if member.device is None else stat.S_IFCHR), b""
        name = path.encode() + b"\0"
        major, minor = member.device or (0, 0)
        fields = (number, kind | member.mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(parts)
