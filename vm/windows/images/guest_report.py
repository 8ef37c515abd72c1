"""What a guest tells the host over its serial port while it is set up: one line of JSON for each event.

The port is the host's own, so that the certificate and the host key in the last event can be pinned: nobody on a
network can have put others in their place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.strict import flag, read, text, texts, whole, write

MARK: Final = b"ntproof "
LONGEST_LINE: Final = 1 << 16
"""Bytes of the longest event; a certificate takes about 2,000."""

LONGEST_STEP: Final = 1e9
"""Seconds of the longest step that is believed."""

_SHORT: Final = r"[^\x00-\x1f\x7f-\x9f]{0,4000}"
_DIGEST: Final = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class GuestFacts:
    """What the set-up found and made in the guest.

    Attributes:
        build: Windows build number.
        revision: update build revision, the number behind the build.
        edition: edition, such as ``Professional``.
        powershell: version of Windows PowerShell.
        certificate: the remoting certificate, DER in base64.
        certificate_sha256: its fingerprint, small hexadecimal digits.
        ssh_host_key: type and base64 blob of the SSH host key, as in known_hosts.
        firewall_rules: names of the rules that let something in.
        secure_boot: whether Secure Boot is on.
        test_signing: whether test signing was turned on, which counts from the next boot.
        memory_integrity: whether memory integrity was turned on, likewise.
        crash_dump: kind of dump that is kept.
        process_audit: whether processes are recorded in the security log.
        defender: whether Defender's real-time protection is still on.
    """

    build: int = whole(1, 1 << 20, "build number")
    revision: int = whole(0, 1 << 20, "revision")
    edition: str = text(r"[\w .-]{1,80}", "an edition")
    powershell: str = text(r"[0-9.]{1,40}", "a version")
    certificate: str = text(r"[A-Za-z0-9+/]+={0,2}", "a certificate in base64")
    certificate_sha256: str = text(_DIGEST, "64 hexadecimal digits")
    ssh_host_key: str = text(r"ssh-ed25519 [A-Za-z0-9+/]+={0,2}", "an ed25519 host key")
    firewall_rules: tuple[str, ...] = texts(r"[^\x00-\x1f]{1,200}", "a rule's name")
    secure_boot: bool = flag()
    test_signing: bool = flag()
    memory_integrity: bool = flag()
    crash_dump: str = text(r"complete|kernel|small", "a kind of dump")
    process_audit: bool = flag()
    defender: bool = flag()

    @classmethod
    def from_mapping(cls, value: object, source: str) -> GuestFacts:
        """Make facts from what a guest sent.

        Raises:
            MachineBroken: a fact is missing or malformed, or the fingerprint is not the certificate's.
        """
        try:
            facts = read(cls, value, source)
        except MachineConfigurationError as error:
            raise MachineBroken(f"the guest's report is malformed: {error}") from error
        try:
            der = base64.b64decode(facts.certificate, validate=True)
            base64.b64decode(facts.ssh_host_key.split(" ")[1], validate=True)
        except binascii.Error as error:
            raise MachineBroken(f"the guest's report is malformed: {source}: {error}") from error
        if hashlib.sha256(der).hexdigest() != facts.certificate_sha256:
            raise MachineBroken("the guest's certificate has another fingerprint than the guest says; build anew")
        return facts

    def to_mapping(self) -> dict[str, object]:
        """What `from_mapping` makes these facts from."""
        return write(self)

    @property
    def certificate_der(self) -> bytes:
        """The remoting certificate, to be pinned."""
        return base64.b64decode(self.certificate)

    @property
    def ssh_fingerprint(self) -> str:
        """Fingerprint of the SSH host key as ``ssh-keygen -l`` prints it."""
        blob = base64.b64decode(self.ssh_host_key.split(" ")[1])
        return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


@dataclass(frozen=True)
class StepStarted:
    """A step of the set-up began."""

    step: str


@dataclass(frozen=True)
class StepEnded:
    """A step of the set-up is done."""

    step: str
    seconds: float


@dataclass(frozen=True)
class SetupFailed:
    """A step of the set-up failed, and the set-up with it.

    Attributes:
        step: the step.
        message: what PowerShell says.
        where: script and line.
    """

    step: str
    message: str
    where: str


@dataclass(frozen=True)
class SetupDone:
    """All steps are done; the guest shuts down next."""

    facts: GuestFacts


GuestEvent = StepStarted | StepEnded | SetupFailed | SetupDone


class ReportReader:
    """Finds the guest's events in the bytes of its serial port, in whatever pieces they come.

    Firmware and loader print to the same port; what has no mark is left out.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[GuestEvent]:
        """The events that are complete with these bytes.

        Raises:
            MachineBroken: an event is malformed.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            # What has no end is no event. Its tail may hold the mark of the next one.
            self._rest = self._rest[-len(MARK) :]
        return [event for line in lines if (event := _event(line)) is not None]


def _event(line: bytes) -> GuestEvent | None:
    start = line.find(MARK)
    if start < 0:
        return None
    try:
        value = json.loads(line[start + len(MARK) :].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MachineBroken(
            f"the guest sent {line[start:][:80]!r}, which is no event: {type(error).__name__}"
        ) from error
    if not isinstance(value, dict):
        raise MachineBroken(f"the guest sent {line[start:][:80]!r}, which is no event")
    return _made(value)


@dataclass(frozen=True)
class _Step:
    event: str = text("started", "started")
    step: str = text(_SHORT, "a step")


@dataclass(frozen=True)
class _Failure:
    event: str = text("failed", "failed")
    step: str = text(_SHORT, "a step")
    message: str = text(r"(?s:.{0,20000})", "a message")
    where: str = text(_SHORT, "a place")


def _made(value: Mapping[str, object]) -> GuestEvent:
    source = "serial port"
    try:
        match value.get("event"):
            case "started":
                return StepStarted(read(_Step, value, source).step)
            case "ended":
                seconds = value.get("seconds")
                if (
                    isinstance(seconds, bool)
                    or not isinstance(seconds, (int, float))
                    or not 0 <= seconds <= LONGEST_STEP
                ):
                    raise MachineBroken(f"the guest sent {value!r:.80}, whose seconds are no number")
                step = read(_Step, {"event": "started", "step": value.get("step")}, source).step
                return StepEnded(step, float(seconds))
            case "failed":
                failure = read(_Failure, value, source)
                return SetupFailed(failure.step, _printable(failure.message), failure.where)
            case "result":
                return SetupDone(GuestFacts.from_mapping(value.get("facts"), source))
            case other:
                raise MachineBroken(f"the guest sent an event {other!r:.40}, which this version does not know")
    except MachineConfigurationError as error:
        raise MachineBroken(f"the guest's report is malformed: {error}") from error


def _printable(text: str) -> str:
    """A text of lines without what a terminal would obey."""
    shown = (
        character if character == "\n" or character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.replace("\r\n", "\n")
    )
    return "".join(shown)
