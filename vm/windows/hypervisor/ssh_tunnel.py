"""A tunnel to a hypervisor's host with the system's own ssh: one connection, and ports added to it as they are needed.

The user's SSH configuration, keys and known hosts apply, as they do to libvirt's own qemu+ssh connection. Nothing is
asked (BatchMode): a host key that this configuration does not take ends the connection.
"""

from __future__ import annotations

import logging
import selectors
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.port_forwarding import LOOPBACK
from vm.windows.hypervisor.uri import HypervisorUri

_LOG = logging.getLogger(__name__)

PROGRAM: Final = "ssh"
CONNECTS_WITHIN: Final = 20
"""Seconds for the connection to the host, and for each answer of a tunnel that stands."""
_STANDS_WITHIN: Final = 60.0
"""Seconds until the tunnel stands, with every host on the way (ProxyJump) and the log-in."""
_ENDS_WITHIN: Final = 5.0
_TRIES: Final = 5
_CONTROL: Final = "control"
_SAID: Final = "said"


class SshTunnel:
    """A tunnel. It is made with the first port; closing it twice does nothing.

    Args:
        uri: a qemu+ssh URI: its user, port, ``keyfile`` and ``command`` are used, as libvirt does ("SSH transport",
            libvirt).
        within: seconds until it must stand, and for each of its answers.
    """

    def __init__(self, uri: HypervisorUri, *, within: float = _STANDS_WITHIN) -> None:
        self._uri = uri
        self._within = within
        self._program = uri.parameters.get("command", PROGRAM)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._forwards: list[str] = []

    def forward(self, remote_port: int) -> int:
        """Have a port of this computer lead to one of the hypervisor's loopback address; the port here.

        Raises:
            MachineConfigurationError: ssh is not installed.
            MachineBroken: no connection, or the port cannot be forwarded; with ssh's words.
        """
        self._connect()
        words = ""
        for _ in range(_TRIES):
            # ssh does not say which port it took where it is given none. Another program may take the one found here.
            local = _free_port()
            forward = f"{LOOPBACK}:{local}:{LOOPBACK}:{remote_port}"
            done = self._control("forward", "-L", forward)
            if done.returncode == 0:
                self._forwards.append(forward)
                return local
            words = _one_line(done.stderr)
        raise MachineBroken(f"{self._uri.text}: ssh does not forward a port: {words}")

    def close_forwards(self) -> None:
        """Take every port back; the connection stays, unless it does not answer: then it is made again as needed."""
        try:
            cancelled = all(self._control("cancel", "-L", forward).returncode == 0 for forward in self._forwards)
        except MachineBroken as error:
            _LOG.debug("%s", error)
            cancelled = False
        self._forwards.clear()
        if not cancelled:
            self.close()

    def close(self) -> None:
        """End the connection."""
        if self._master is not None:
            self._master.terminate()
            try:
                self._master.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            self._master = None
        self._forwards.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _connect(self) -> None:
        if self._master is not None and self._master.poll() is None:
            return
        self.close()
        if shutil.which(self._program) is None:
            raise MachineConfigurationError(
                f"{self._uri.text}: {self._program} is not installed: apt-get install openssh-client"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="ntproof-ssh-")
        command = [self._program, "-M", "-S", str(self._socket), "-N", "-T", "-o", "BatchMode=yes"]
        # Ports that the user's configuration forwards are not this connection's; libvirt's own ssh has them already.
        command += ["-o", "ClearAllForwardings=yes", "-o", f"ConnectTimeout={CONNECTS_WITHIN}"]
        command += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4", "-o", "ControlPersist=no"]
        # The child tells on standard output that it is connected, so that nothing is waited for in vain.
        command += ["-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo connected"]
        # What ssh says goes to a file: nobody reads a pipe while the tunnel stands, and a full one would stop it.
        with self._said.open("wb") as said:
            self._master = subprocess.Popen(
                [*command, *self._destination()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
        assert self._master.stdout is not None
        with self._master.stdout as told, selectors.DefaultSelector() as selector:
            selector.register(told, selectors.EVENT_READ)
            answered = bool(selector.select(self._within))
            connected = answered and bool(told.readline())
        if connected:
            return
        if answered:
            # It ends by itself, and says why until then.
            with suppress(subprocess.TimeoutExpired):
                self._master.wait(_ENDS_WITHIN)
        words = _one_line(self._said.read_bytes())
        self.close()
        late = "" if answered else f" within {self._within:g} s"
        raise MachineBroken(
            f"{self._uri.text}: ssh does not connect{late}: {words};"
            f" check that this works without a question: {self._program} {' '.join(self._destination())} true"
        )

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / _CONTROL

    @property
    def _said(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / _SAID

    def _control(self, command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        # Without a configuration: ssh would ask for the ports that it forwards as well.
        words = [self._program, "-F", "none", "-S", str(self._socket), "-O", command, *arguments, *self._destination()]
        try:
            return subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=min(CONNECTS_WITHIN, self._within),
            )
        except subprocess.TimeoutExpired as error:
            raise MachineBroken(f"{self._uri.text}: ssh does not answer; see the connection to its host") from error

    def _destination(self) -> list[str]:
        options: list[str] = []
        if self._uri.port is not None:
            options += ["-p", str(self._uri.port)]
        if self._uri.user is not None:
            options += ["-l", self._uri.user]
        if keyfile := self._uri.parameters.get("keyfile"):
            options += ["-i", keyfile]
        # A host that begins with a hyphen is none, and must not become an option.
        return [*options, "--", self._uri.host]


def _one_line(words: bytes) -> str:
    """What ssh says, for a message."""
    return " ".join(words.decode(errors="replace").split())


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((str(LOOPBACK), 0))
        return int(probe.getsockname()[1])
