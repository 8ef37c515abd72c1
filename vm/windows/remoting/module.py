"""The guest module as it is shipped, and how a guest gets it.

A session imports the module by its path. Where there is none, or another one, the files are sent with cmdlets that
every Windows has, so that a guest needs nothing but PowerShell Remoting to begin with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from vm.windows.remoting.errors import GuestProtocolError
from vm.windows.remoting.module_files import FILES, FOLDER
from vm.windows.remoting.psrp import Call, properties

if TYPE_CHECKING:
    from vm.windows.remoting.deadline import Deadline
    from vm.windows.remoting.session import GuestSession

CHUNK: Final = 64 * 1024
"""Bytes in one Set-Content or Add-Content: these take each byte as an object, so larger ones cost memory."""


@dataclass(frozen=True)
class GuestModule:
    """The files of the module by name."""

    files: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """Hash of all files one after the other, as the module computes it of itself."""
        return hashlib.sha256(b"".join(self.files[name] for name in FILES)).hexdigest()

    def load_into(self, session: GuestSession, deadline: Deadline) -> Mapping[str, Any] | None:
        """Import the module.

        Returns:
            What it says of itself (Get-NtproofGuestInfo), None if it is another module than this one.

        Raises:
            GuestCommandFailed: there is none, or it cannot be loaded.
            Others: as GuestSession.call.
        """
        calls = [
            # Windows 10 and 11 run no script files unless told so; this lasts as long as the session.
            Call("Set-ExecutionPolicy", {"ExecutionPolicy": "Bypass", "Scope": "Process", "Force": None}),
            Call("Import-Module", {"Name": rf"{FOLDER}\NtproofGuest.psd1"}),
            Call("Get-NtproofGuestInfo"),
        ]
        answers = session.run_builtin(calls, deadline)
        found = properties(answers[-1]) if answers else None
        return found if found is not None and found.get("ModuleSha256") == self.sha256 else None

    def send(self, session: GuestSession, deadline: Deadline) -> None:
        """Put the files into the guest. Raises as GuestSession.call, and GuestProtocolError if they arrive changed."""
        session.run_builtin([Call("New-Item", {"Path": FOLDER, "ItemType": "Directory", "Force": None})], deadline)
        for name in FILES:
            content, path = self.files[name], rf"{FOLDER}\{name}"
            for offset in range(0, max(len(content), 1), CHUNK):
                cmdlet = "Add-Content" if offset else "Set-Content"
                chunk = content[offset : offset + CHUNK]
                session.run_builtin([Call(cmdlet, {"LiteralPath": path, "Value": chunk, "Encoding": "Byte"})], deadline)
            answer = session.run_builtin([Call("Get-FileHash", {"LiteralPath": path, "Algorithm": "SHA256"})], deadline)
            found = properties(answer[-1]) if answer else None
            if found is None or str(found.get("Hash")).lower() != hashlib.sha256(content).hexdigest():
                raise GuestProtocolError(f"{path} did not arrive as it was sent", endpoint=str(session.endpoint))


@cache
def load_module() -> GuestModule:
    """The module that this package ships."""
    folder = resources.files(__package__) / "guest"
    return GuestModule({name: (folder / name).read_bytes() for name in FILES})
