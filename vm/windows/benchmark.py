"""Takes the figures of Windows machines that concern no driver: how fast one is put back, reached, and given files."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm.errors import MachineBroken
from vm.windows.agent.protocol import Malformed, octets
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.psrp import Call
from vm.windows.remoting.session import DEFAULT_DEADLINE

if TYPE_CHECKING:
    from vm.machine import Machine
    from vm.windows.machine.link import GuestLink

PACKAGE_BYTES: Final = 5_000_000
PACKAGE_PATH: Final = "C:\\ntproof\\benchmark.bin"
BARE_PATH: Final = "C:\\ntproof\\benchmark-bare.bin"
TOUCHED: Final = "C:\\ntproof\\benchmark.exe"
CLONES: Final = 4
STREAM_BYTES: Final = 0x10000
STREAM_DEPTH: Final = 4
STREAM_PATIENCE: Final = 60.0
"""Seconds until the next output of a stream."""
_STREAM: Final = "benchmark"
SEED: Final = 4
"""Of the bytes that are sent: they are random, so that nothing on the way can make them smaller."""


def reverts(machine: Machine, count: int) -> list[float]:
    """Seconds from asking for a fresh machine to its first answer, each time after something was done on it."""
    found = []
    for _ in range(count):
        machine.provide_image(TOUCHED)
        begin = time.perf_counter()
        machine.reset(fresh=True)
        machine.system_time()
        found.append(time.perf_counter() - begin)
    return found


def remote_calls(link: GuestLink, count: int) -> list[float]:
    """Seconds of one command over PowerShell Remoting, on a session that is connected."""
    session = link.session()
    return _times(lambda: session.call("Get-NtproofGuestInfo"), count)


def bare_calls(link: GuestLink, count: int) -> list[float]:
    """Seconds of a cmdlet that does nothing: what PowerShell Remoting takes of a remote call."""
    session = link.session()
    return _times(lambda: session.run_builtin([Call("Out-Null")], Deadline(DEFAULT_DEADLINE)), count)


def agent_calls(link: GuestLink, count: int) -> list[float]:
    """Seconds of one line to the agent and its answer."""
    agent = link.agent()
    return _times(agent.time, count)


@dataclass
class Deployments:
    """What came of sending packages.

    Attributes:
        rates: bytes a second with which changed packages arrive, hashes compared.
        bare_rates: bytes a second of the same bytes over SFTP alone, taken in turn with the packages; none without SSH.
        unchanged: bytes that crossed the line for packages that were there already.
    """

    rates: list[float] = field(default_factory=list)
    bare_rates: list[float] = field(default_factory=list)
    unchanged: int = 0


def deployments(link: GuestLink, folder: Path, count: int) -> Deployments:
    """Send packages, and their bytes again as the link alone carries them.

    Args:
        link: connections to the guest.
        folder: for the package.
        count: how many packages.

    Raises:
        MachineBroken: not the whole package was sent, so that the figure would mean nothing.
    """
    found = Deployments()
    package = folder / "package.bin"
    source = random.Random(SEED)  # noqa: S311 - no secret, but bytes that do not compress
    for _ in range(count):
        package.write_bytes(source.randbytes(PACKAGE_BYTES))
        begin = time.perf_counter()
        sent = link.files().send({PACKAGE_PATH: package}).bytes_sent
        found.rates.append(PACKAGE_BYTES / (time.perf_counter() - begin))
        if sent != PACKAGE_BYTES:
            raise MachineBroken(f"of a package of {PACKAGE_BYTES} bytes {sent} were sent")
        found.unchanged += link.files().send({PACKAGE_PATH: package}).bytes_sent
        if link.has_ssh:
            with link.sftp() as sftp, package.open("rb") as file:
                begin = time.perf_counter()
                sftp.write(BARE_PATH, file, Deadline(DEFAULT_DEADLINE))
                found.bare_rates.append(PACKAGE_BYTES / (time.perf_counter() - begin))
    return found


def streamed(link: GuestLink, device: str, code: int, data: bytes, enough: Callable[[bytes], bool]) -> float:
    """Seconds until enough of what a device holds has arrived as a stream.

    Args:
        link: connections to the guest.
        device: its name, as ``\\\\.\\Name``.
        code: the control code that the agent keeps under way.
        data: its input.
        enough: is given each output as it arrives, and tells when it was the last one.

    Raises:
        MachineBroken: the guest sent nothing for STREAM_PATIENCE seconds, or something else than the stream.
    """
    agent = link.agent()
    agent.open(_STREAM, device, read=True, write=True)
    try:
        begin = time.perf_counter()
        agent.stream(_STREAM, _STREAM, code, data, STREAM_BYTES, depth=STREAM_DEPTH)
        try:
            for event in agent.client.events(deadline=STREAM_PATIENCE):
                if event.get("event") == "data" and enough(octets(event, "output")):
                    break
            seconds = time.perf_counter() - begin
        finally:
            # The device cannot be closed before.
            agent.stop_stream(_STREAM)
        agent.client.take_events()
    except Malformed as error:
        raise MachineBroken(f"the agent in the guest answers in a way that it should not: {error}") from error
    finally:
        agent.close(_STREAM)
    return seconds


def clones(create: Callable[[str], Machine], count: int) -> Iterator[float]:
    """Seconds until CLONES machines answer that are asked for at once; the first round prepares slots and is left out.

    Args:
        create: makes a machine for a worker of a name.
        count: rounds.
    """
    for number in range(count + 1):
        begin = time.perf_counter()
        with ExitStack() as made, ThreadPoolExecutor(CLONES) as pool:
            answering = [pool.submit(_answering, create, f"bench{worker}") for worker in range(CLONES)]
            for future in answering:
                made.enter_context(closing(future.result()))
            seconds = time.perf_counter() - begin
        if number:
            yield seconds


def _answering(create: Callable[[str], Machine], worker: str) -> Machine:
    machine = create(worker)
    machine.system_time()
    return machine


def _times(call: Callable[[], object], count: int) -> list[float]:
    call()
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return found
