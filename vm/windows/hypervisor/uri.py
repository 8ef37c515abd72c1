"""libvirt URIs: where a hypervisor is, and how its guests' ports are reached ("Connection URIs", libvirt)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from vm.errors import MachineConfigurationError

VARIABLE: Final = "LIBVIRT_DEFAULT_URI"
DEFAULT: Final = "qemu:///session"

DRIVERS: Final = ("qemu", "test")
"""QEMU's, and libvirt's own for tests, whose domains are in memory."""
QEMU_PATHS: Final = ("/system", "/session", "/embed")


@dataclass(frozen=True)
class HypervisorUri:
    """A URI in its parts.

    Attributes:
        text: as it was given.
        driver: ``qemu`` or ``test``.
        transport: ``ssh``, ``tls``, ``tcp``, ``libssh2`` and so on; empty for a local socket.
        user: who logs in there, None for the default.
        host: the hypervisor's computer, empty for this one.
        port: TCP port, None for the default.
        path: ``/system``, ``/session`` or ``/embed``.
        parameters: what follows the question mark.
    """

    text: str
    driver: str
    transport: str
    user: str | None
    host: str
    port: int | None
    path: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> HypervisorUri:
        """Read a URI.

        Raises:
            MachineConfigurationError: it is none.
        """
        try:
            parts = urlsplit(text)
            if parts.password is not None:
                # Before anything that repeats the text.
                raise MachineConfigurationError(
                    "a libvirt URI carries no password; use a key or an authentication file"
                )
            port = parts.port
        except ValueError as error:
            raise MachineConfigurationError(f"{text!r} is no libvirt URI: {error}; as {DEFAULT}") from error
        driver, _, transport = parts.scheme.partition("+")
        if driver not in DRIVERS:
            raise MachineConfigurationError(
                f"{text!r} is no libvirt URI of QEMU; give --connect a URI as {DEFAULT} or qemu+ssh://host/system"
            )
        if driver == "qemu" and parts.path not in QEMU_PATHS:
            raise MachineConfigurationError(
                f"{text!r} ends in none of {', '.join(QEMU_PATHS)}; give --connect a URI as {DEFAULT}"
            )
        return cls(
            text=text,
            driver=driver,
            transport="" if transport == "unix" else transport,
            user=parts.username,
            host=parts.hostname or "",
            port=port,
            path=parts.path,
            parameters=dict(parse_qsl(parts.query, keep_blank_values=True)),
        )

    @property
    def is_local(self) -> bool:
        """Whether the hypervisor is on this computer, by a local socket."""
        return not self.host and not self.transport

    @property
    def is_session(self) -> bool:
        """Whether guests run as the user that connects."""
        return self.path.startswith(("/session", "/embed"))


def chosen_uri(given: str | None, environment: Mapping[str, str]) -> str:
    """The URI to use: the given one, else LIBVIRT_DEFAULT_URI, else the user's own session.

    Args:
        given: what the user asked for.
        environment: the environment.
    """
    return given or environment.get(VARIABLE) or DEFAULT
