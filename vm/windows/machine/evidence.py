"""What is kept of a crash or a hang: the hypervisor's view of the guest, its dump, and what was being asked of it."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vm.errors import MachineError
from vm.windows.hypervisor.crash import GuestPanic, same_bugcheck
from vm.windows.leased_domain import LeasedDomain
from vm.windows.machine.access import Patience
from vm.windows.machine.dump_header import SIZE, NoDumpHeader, parse_dump_header
from vm.windows.machine.link import GuestLink
from vm.windows.remoting.guest import CrashDump

logger = logging.getLogger(__name__)

AGENT_LINES: Final = "agent.txt"
DUMP_SUFFIX: Final = ".dmp"
_FULL_DUMP: Final = "MEMORY.DMP"
_DUMP_NAME: Final = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,60}\.DMP", re.IGNORECASE)
"""What a file of this computer may be called after a dump, whose path is only what the guest says."""


class Evidence:
    """Collects into a folder of its own for each fault.

    Args:
        domain: shows the guest from outside.
        link: its connections.
        patience: for a guest that starts again.
        folder: says where the folder of the next fault is made; None to keep nothing.
        progress: is told in a line what takes long.
    """

    def __init__(
        self,
        domain: LeasedDomain,
        link: GuestLink,
        patience: Patience,
        folder: Callable[[], Path | None],
        progress: Callable[[str], None],
    ) -> None:
        self._domain = domain
        self._link = link
        self._patience = patience
        self._folder = folder
        self._progress = progress

    def collect(self, kind: str, activity: str) -> tuple[Path | None, tuple[Path, ...]]:
        """Keep what shows the guest as it is now, and the last lines of its agents.

        Args:
            kind: ``crash`` or ``hang``, for the folder's name.
            activity: what the machine was doing.

        Returns:
            The folder, None where nothing is kept, and the files in it.
        """
        above = self._folder()
        if above is None:
            return None, ()
        files: tuple[Path, ...] = ()
        # Evidence never hides what it is evidence of.
        try:
            folder = self._new_folder(above, kind)
        except OSError as error:
            logger.warning("nothing can be kept in %s: %s", above, error)
            return None, ()
        try:
            files = self._domain.collect(folder)
        except MachineError as error:
            logger.warning("%s: the hypervisor shows nothing: %s", self._domain.name, error)
        lines = folder / AGENT_LINES
        text = "\n".join([f"while: {activity}", *self._link.transcript()])
        try:
            lines.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            logger.warning("%s: %s", lines, error)
            return folder, files
        return folder, (*files, lines)

    def from_dump(self, panic: GuestPanic, folder: Path | None) -> tuple[GuestPanic, tuple[Path, ...]]:
        """Have the guest boot again and hand out its dump; what the dump says of the panic, and the files kept.

        The panic comes back as it is where there is no dump to be had.
        """
        self._progress(f"{self._domain.name}: the guest starts again to hand out its dump")
        try:
            self._domain.boot_again()
            self._link.drop(keep_lines=True)
            session = self._link.session_when_ready(self._patience.dump)
            dump = self._newest_dump()
            if dump is None:
                logger.warning("%s: the guest has no dump", self._domain.name)
                return panic, ()
            found = self._read(dump, panic)
            kept = () if folder is None else (self._fetch(dump, folder),)
            logger.debug("%s: read the dump of %s", session.endpoint, dump.path)
        except (MachineError, NoDumpHeader, OSError) as error:
            logger.warning("%s: the dump cannot be had: %s", self._domain.name, error)
            return panic, ()
        return found, kept

    def _newest_dump(self) -> CrashDump | None:
        dumps = self._link.guest().crash_dumps()
        full = [dump for dump in dumps if dump.path.upper().endswith(_FULL_DUMP)]
        return next(reversed(full or dumps), None)

    def _read(self, dump: CrashDump, panic: GuestPanic) -> GuestPanic:
        header = parse_dump_header(self._link.guest().read_file(dump.path, SIZE))
        if panic.code is not None:
            if same_bugcheck(panic.code, header.bugcheck_code):
                return panic
            raise NoDumpHeader(
                f"{dump.path} is of bugcheck 0x{header.bugcheck_code:X}, not of 0x{panic.code:X}: an earlier one"
            )
        return GuestPanic(header.bugcheck_code, header.bugcheck_parameters, f"header of {dump.path}")

    def _fetch(self, dump: CrashDump, folder: Path) -> Path:
        name = dump.path.rpartition("\\")[2]
        target = folder / (name if _DUMP_NAME.fullmatch(name) else _FULL_DUMP)
        self._progress(f"{self._domain.name}: fetching {dump.path}, {dump.length / 1e6:.0f} MB")
        self._link.files().fetch(dump.path, target, deadline=self._patience.dump)
        return target

    def _new_folder(self, above: Path, kind: str) -> Path:
        now = datetime.datetime.now(datetime.UTC)
        stem = f"{kind}-{self._domain.name}-{now:%Y%m%d-%H%M%S}"
        number = 1
        while True:
            folder = above / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return folder


def has_dump(files: tuple[Path, ...]) -> bool:
    """Whether a memory dump is among them."""
    return any(file.suffix.lower() == DUMP_SUFFIX for file in files)
