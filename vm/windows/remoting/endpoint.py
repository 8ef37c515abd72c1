"""Where a guest listens, what identifies it, and with which credentials it is addressed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vm.errors import MachineConfigurationError

Authentication: TypeAlias = Literal["negotiate", "ntlm", "basic"]

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Credentials:
    """A user of the guest. The password is in no representation of it."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Endpoint:
    """A WinRM listener over HTTPS.

    Attributes:
        host: name or address.
        port: TCP port, 5986 on Windows.
        fingerprint: SHA-256 of the listener's certificate in DER as hexadecimal digits; colons and case are ignored.
        authentication: what WinRM is asked for.

    Raises:
        MachineConfigurationError: the fingerprint is none.
    """

    host: str
    port: int
    fingerprint: str
    authentication: Authentication = "negotiate"

    def __post_init__(self) -> None:
        plain = self.fingerprint.replace(":", "").lower()
        if not _FINGERPRINT.fullmatch(plain):
            raise MachineConfigurationError(
                f"{self}: {self.fingerprint!r} is no SHA-256 fingerprint of a certificate; give 64 hexadecimal digits"
            )
        object.__setattr__(self, "fingerprint", plain)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
