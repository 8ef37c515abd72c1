"""A tunnel to a hypervisor's host with the system's own ssh: one connection, and ports added to it as they are needed.

The user's SSH configuration, keys and known hosts apply, as they do to libvirt's own qemu+ssh connection. Nothing is
asked (BatchMode), and no host key is taken unseen.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.port_forwarding import LOOPBACK
from vm.windows.hypervisor.uri import HypervisorUri

PROGRAM: Final = "ssh"
CONNECTS_WITHIN: Final = 20
"""Seconds."""
_ENDS_WITHIN: Final = 5.0
_TRIES: Final = 5
_CONTROL: Final = "control"


class SshTunnel:
    """A tunnel. It is made with the first port; closing it twice does nothing.

    Args:
        uri: a qemu+ssh URI: its user, port, ``keyfile`` and ``command`` are used, as libvirt does ("SSH transport",
            libvirt).
    """

    def __init__(self, uri: HypervisorUri) -> None:
        self._uri = uri
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
        """Take every port back; the connection stays."""
        for forward in self._forwards:
            self._control("cancel", "-L", forward)
        self._forwards.clear()

    def close(self) -> None:
        """End the connection."""
        if self._master is not None:
            self._master.terminate()
            try:
                self._master.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            if self._master.stderr is not None:
                self._master.stderr.close()
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
        command += ["-o", "ExitOnForwardFailure=yes", "-o", f"ConnectTimeout={CONNECTS_WITHIN}"]
        command += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4", "-o", "ControlPersist=no"]
        # The child tells on standard output that it is connected, so that nothing is waited for in vain.
        command += ["-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo connected"]
        self._master = subprocess.Popen(
            [*command, *self._destination()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._master.stdout is not None
        with self._master.stdout as told:
            connected = told.readline()
        if not connected:
            self._master.wait()
            assert self._master.stderr is not None
            words = _one_line(self._master.stderr.read())
            self.close()
            raise MachineBroken(
                f"{self._uri.text}: ssh does not connect: {words};"
                f" check that this works without a question: {self._program} {' '.join(self._destination())} true"
            )

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / _CONTROL

    def _control(self, command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        words = [self._program, "-S", str(self._socket), "-O", command, *arguments, *self._destination()]
        try:
            return subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=CONNECTS_WITHIN
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
