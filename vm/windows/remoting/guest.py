"""The guest's commands as typed calls: what a Windows machine asks of its guest, with the schema's names behind it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from vm.windows.driver_trust import TrustStore
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.errors import CommandTimedOut, ConnectionLost, GuestProtocolError
from vm.windows.remoting.session import DEFAULT_DEADLINE, GuestSession
from vm.windows.remoting.values import Row

TOOL_SECONDS: Final = 90.0
"""For commands that run two programs of Windows, each of which the guest itself gives thirty seconds."""

AuditLog: TypeAlias = Literal["Security", "Sysmon"]

T = TypeVar("T")


@dataclass(frozen=True)
class GuestFacts:
    """What decides whether a test-signed driver can run in a guest, and what else belongs in a report.

    Attributes:
        code_integrity: kernel-mode code integrity is enforced.
        test_signing: test-signed drivers load.
        kernel_debugger: started for debugging, which relaxes signature checks.
        secure_boot: None where the firmware is no UEFI.
        memory_integrity: hypervisor-enforced code integrity runs.
        code_integrity_options: all of SYSTEM_CODEINTEGRITY_INFORMATION.CodeIntegrityOptions (winternl.h).
        verifier_flags: Driver Verifier's flags as stored for the start of the system; volatile ones do not show.
        verifier_drivers: the drivers stored with them.
        boot_id: the same as long as the guest was not restarted.
    """

    computer_name: str
    caption: str
    edition: str
    display_version: str
    build: int
    revision: int
    architecture: str
    code_integrity: bool
    test_signing: bool
    kernel_debugger: bool
    secure_boot: bool | None
    memory_integrity: bool
    code_integrity_options: int
    verifier_flags: int
    verifier_drivers: list[str]
    sysmon_running: bool
    boot_id: str

    def obstacles(self) -> list[str]:
        """Why a test-signed driver cannot run here, a sentence each with the remedy; empty when it can."""
        found = []
        if self.secure_boot:
            found.append("Secure Boot is on, under which Windows ignores testsigning: build the image with it off")
        if self.code_integrity and not self.test_signing:
            found.append("test signing is off: run `bcdedit /set testsigning on` in the guest and restart it")
        return found


@dataclass(frozen=True)
class InstalledCertificate:
    """A certificate in a store of the guest; `added` is False where it was there already."""

    thumbprint: str
    subject: str
    not_after: datetime.datetime
    added: bool


@dataclass(frozen=True)
class ProgramLine:
    """A line that a program wrote, or its end.

    Attributes:
        sequence: counts from 1 over both streams and the end.
        stream: ``out``, ``err`` or ``exit``.
        text: the line without its end; empty at the program's end.
        process_id: of the program.
        exit_code: at its end, else None.
    """

    sequence: int
    stream: str
    text: str
    process_id: int
    exit_code: int | None


@dataclass(frozen=True)
class AuditRecord:
    """A record of an event log, rendered as XML."""

    record_id: int
    event_id: int
    xml: str


@dataclass(frozen=True)
class CrashDump:
    """A dump file that the guest keeps."""

    path: str
    length: int
    written: datetime.datetime


class Guest:
    """The commands of a connected session. Each may raise what GuestSession.call raises; deadlines are seconds."""

    def __init__(self, session: GuestSession) -> None:
        self.session = session

    def facts(self) -> GuestFacts:
        """What the guest says of itself."""
        return _read(GuestFacts, self.session.one("Get-NtproofMachineFact"))

    # Trust

    def install_certificate(self, certificate: bytes, store: TrustStore) -> InstalledCertificate:
        """Put a certificate (DER) into a store. Raises GuestCommandFailed with failure BadCertificate."""
        row = self.session.one("Install-NtproofCertificate", Certificate=certificate, Store=store.value)
        return _read(InstalledCertificate, row)

    # Programs

    def run_program(
        self, path: str, arguments: Sequence[str] = (), input_data: bytes = b"", *, deadline: float = 60.0
    ) -> Iterator[ProgramLine]:
        """Run a program to its end and give each line as it is written; the last one has the exit code.

        Closing the iterator ends the program.

        Raises:
            Win32Error: CreateProcess failed.
            CommandTimedOut: it did not end; it was killed.
        """
        rows = self.session.stream(
            "Invoke-NtproofProgram",
            Path=path,
            Argument=list(arguments) or None,
            InputData=input_data or None,
            deadline=deadline,
        )
        return (line for row in rows for line in _lines(row))

    def start_agent(self, path: str, arguments: Sequence[str] = ()) -> GuestAgent:
        """Start a program that answers lines with lines. Raises Win32Error when CreateProcess fails."""
        row = self.session.one("Start-NtproofAgent", Path=path, Argument=list(arguments) or None)
        return GuestAgent(self.session, str(row["AgentId"]), _integer(row["ProcessId"]))

    # Witness

    def enable_process_auditing(self) -> None:
        """Have the system record process creations (4688) with command lines, and exits (4689)."""
        self.session.call("Enable-NtproofProcessAuditing", deadline=TOOL_SECONDS)

    def audit_mark(self, log: AuditLog = "Security") -> int:
        """The newest record of a log, to be given to audit_records after a run. Raises failure NoLog."""
        return _integer(self.session.one("Get-NtproofAuditMark", Log=log)["Newest"])

    def audit_records(
        self, after: int, log: AuditLog = "Security", *, deadline: float = 120.0
    ) -> Iterator[AuditRecord]:
        """Process creation and exit records after a mark, in the order of the log. Raises failure NoLog."""
        rows = self.session.stream("Export-NtproofAuditEvent", Log=log, After=after, deadline=deadline)
        return (_read(AuditRecord, row) for row in rows)

    def audit_is_complete(self, mark: int, log: AuditLog = "Security") -> bool:
        """Whether the log still has every record after a mark, so that what is missing in it did not happen."""
        row = self.session.one("Get-NtproofAuditMark", Log=log)
        # A log that was cleared ends before the mark.
        return _integer(row["Oldest"]) <= mark + 1 and _integer(row["Newest"]) >= mark

    # Verifier, crashes, restart

    def verify_driver(self, driver: str, flags: int, *, watch: bool = True) -> None:
        """Set Driver Verifier's flags and watch a driver (or no longer), without a restart.

        Raises:
            GuestCommandFailed: failure ToolFailed, with what verifier.exe said.
        """
        self.session.call(
            "Set-NtproofVerifier",
            Driver=driver,
            Flags=flags,
            Watch="add" if watch else "remove",
            deadline=TOOL_SECONDS,
        )

    def fail_allocations(self, driver: str, probability: float, *, pool_tag: str | None = None) -> None:
        """Fail a driver's allocations at random (Low Resources Simulation), with a probability over 0 up to 1."""
        per_10000 = max(round(probability * 10000), 1)
        self.session.call(
            "Set-NtproofLowResources",
            Driver=driver,
            ProbabilityPer10000=per_10000,
            PoolTag=pool_tag,
            deadline=TOOL_SECONDS,
        )

    def crash_dumps(self) -> list[CrashDump]:
        """The dumps that the guest keeps, newest last."""
        return [_read(CrashDump, row) for row in self.session.call("Get-NtproofCrashDump")]

    def read_file(self, path: str, count: int) -> bytes:
        """The first bytes of a file, at most 2 MiB of them. Raises Win32Error ERROR_FILE_NOT_FOUND 2 and others."""
        data = self.session.one("Read-NtproofFileChunk", Path=path, Offset=0, Count=count)["Data"]
        assert isinstance(data, bytes)
        return data

    def restart(self, *, delay: int = 1, deadline: float = 600.0) -> None:
        """Restart the guest and connect to it again.

        Args:
            delay: seconds before it goes down, so that it still answers this.
            deadline: seconds until it must be back.

        Raises:
            CommandTimedOut: it did not go down.
            Others: as GuestSession.connect_when_ready.
        """
        limit = Deadline(deadline)
        before = self.session.info.boot_id
        # A slow guest is down before its answer has arrived; its boot tells whether it restarted, not the answer.
        with suppress(ConnectionLost):
            self.session.call("Restart-NtproofMachine", DelaySeconds=delay)
        while not limit.passed:
            # One attempt may take a moment even when there is hardly a moment left.
            if self.session.connect_when_ready(max(limit.remaining(), 5.0)).boot_id != before:
                return
            limit.pause(1.0)
        raise CommandTimedOut(
            f"the guest did not restart within {deadline:g} s",
            endpoint=str(self.session.endpoint),
            command="Restart-NtproofMachine",
        )


class GuestAgent:
    """A program in the guest that answers lines with lines, as long as its session lasts.

    Lines are numbered in the guest and kept there until the next `lines` asks for later ones, so that none is lost or
    doubled when a connection breaks while they are fetched.
    """

    def __init__(self, session: GuestSession, agent_id: str, process_id: int) -> None:
        self._session = session
        self._id = agent_id
        self._seen = 0
        self.process_id = process_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def send(self, line: str) -> None:
        """Give it a line. Raises Win32Error ERROR_BROKEN_PIPE 109 once it has ended."""
        self._session.call("Send-NtproofAgentLine", AgentId=self._id, Line=line)

    def lines(self, wait: float = 1.0) -> list[ProgramLine]:
        """What it wrote since the last call, waiting at most `wait` seconds for the first line; may be empty."""
        return self._receive("Receive-NtproofAgentLine", wait)

    def ask(self, line: str, wait: float = 1.0) -> list[ProgramLine]:
        """`send` and `lines` in one call, which halves the time to an answer.

        After a lost connection the line may have been read: look at `lines` before it is sent again.
        """
        return self._receive("Request-NtproofAgentLine", wait, Line=line)

    def _receive(self, command: str, wait: float, **arguments: str) -> list[ProgramLine]:
        rows = self._session.call(
            command,
            AgentId=self._id,
            After=self._seen,
            WaitMilliseconds=round(wait * 1000),
            deadline=wait + DEFAULT_DEADLINE,
            **arguments,
        )
        found = [line for row in rows for line in _lines(row)]
        expected = range(self._seen + 1, self._seen + 1 + len(found))
        if [line.sequence for line in found] != list(expected):
            raise GuestProtocolError(
                f"lines that are not those after {self._seen}", endpoint=str(self._session.endpoint), command=command
            )
        self._seen += len(found)
        return found

    def stop(self, wait: float = 5.0) -> int | None:
        """Close its input and wait for its end; the exit code, None if it had to be killed. Stopping twice is fine."""
        row = self._session.one(
            "Stop-NtproofAgent",
            AgentId=self._id,
            WaitMilliseconds=round(wait * 1000),
            deadline=wait + DEFAULT_DEADLINE,
        )
        return None if row["ExitCode"] is None else _integer(row["ExitCode"])


def _lines(row: Row) -> Iterator[ProgramLine]:
    """The lines of a batch."""
    first, count = _integer(row["Sequence"]), _integer(row["Count"])
    exit_code = None if row["ExitCode"] is None else _integer(row["ExitCode"])
    stream, process_id = str(row["Stream"]), _integer(row["ProcessId"])
    # A program's end counts as a line, so that it has a place in the sequence.
    texts = str(row["Text"]).split("\n", count - 1)
    for offset, text in enumerate(texts):
        yield ProgramLine(first + offset, stream, text, process_id, exit_code)


def _read(kind: type[T], row: Row) -> T:
    """A data class from a row: fields are named as properties are, in another style."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {name: row[_property(name)] for name in names}
    return kind(**values)


def _property(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _integer(value: Any) -> int:
    assert isinstance(value, int)  # the schema says so, and from_guest has seen to it
    return value
