"""Signs with a command of the user's: AzureSignTool, signtool, osslsigncode, a signing server's client.

The command is a list of arguments, run without a shell. It is given a copy of the image, and what it leaves is believed
only after it was verified: the same image, signed with the certificate that was named.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.build.files import digest_of
from harness.build.pe import ALL_64_BIT, parse
from harness.build.signing.authenticode import same_but_for_signature
from harness.build.signing.files import NamedFile
from harness.build.signing.signature import SignatureInfo, verify_image
from harness.build.signing.signer import SignedImage
from harness.build.signing.usable import read_certificates, require_code_signing
from harness.errors import ImageError, SignatureError, SigningFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.x509 import Certificate

FILE: Final = "{file}"
INPUT: Final = "{input}"
OUTPUT: Final = "{output}"
TIMESTAMP: Final = "{timestamp}"
PLACEHOLDERS: Final = (FILE, INPUT, OUTPUT, TIMESTAMP)
_LINES_SHOWN: Final = 12
_CHARACTERS_SHOWN: Final = 4096
_BYTES_READ: Final = 1 << 20
"""Of the end of the output: much more than is shown, so that no secret is cut before it can be recognised."""
_LARGEST_RESULT: Final = 1 << 28
_SHORTEST_HIDDEN: Final = 4
_SHORTEST_ARGUMENT: Final = 8
_SECRET_NAME: Final = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|PIN(?![A-Z])|CREDENTIAL", re.IGNORECASE)
_FOLDERS: Final = ("PWD", "OLDPWD")
"""Variables of the shell's that are named like passwords."""


@dataclass(frozen=True)
class ExternalCommand:
    """A command that signs a file.

    Attributes:
        command: program and arguments, with placeholders that are arguments of their own.
        certificate: the certificate that the command signs with.
        deadline: seconds that the command may take.
        page_hashes: whether the signature must have page hashes.
        timestamp: the time stamp server that the command is told, None where it is told none.
        option: the option that holds the command, for messages.
    """

    # The arguments may hold something secret, whatever the documentation says.
    command: tuple[str, ...] = field(repr=False)
    certificate: NamedFile
    deadline: int
    page_hashes: bool
    timestamp: str | None
    option: str

    @property
    def identity(self) -> str:
        """See `Signer.identity`."""
        return digest_of(
            *("command", self.certificate.sha256, str(self.page_hashes), self.timestamp or "", *self.command)
        )

    @property
    def _place(self) -> str:
        return f"{self.option}: {self.command[0]}"

    def sign(self, image: bytes) -> SignedImage:
        """See `Signer.sign`."""
        from cryptography.hazmat.primitives.serialization import Encoding

        certificate = read_certificates(self.certificate.read(), self.certificate.place)[0]
        require_code_signing(certificate, self.certificate.place)
        with tempfile.TemporaryDirectory(prefix="ntproof-signing-") as name:
            source = Path(name) / "driver.sys"
            target = Path(name) / "signed.sys" if OUTPUT in self.command else source
            source.write_bytes(image)
            self._run(source, target, Path(name) / "output")
            signed = self._result(target)
        self._verify(image, signed, certificate)
        return SignedImage(signed, certificate.public_bytes(Encoding.DER))

    def _run(self, source: Path, target: Path, log: Path) -> None:
        values = {FILE: str(source), INPUT: str(source), OUTPUT: str(target), TIMESTAMP: self.timestamp or ""}
        arguments = [values.get(argument, argument) for argument in self.command]
        # The output goes to a file: a program that the command leaves behind cannot hold up its end.
        with log.open("w+b") as output:
            try:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A session of its own, so that all it started can be ended with it.
                    start_new_session=True,
                )
            except OSError as error:
                raise SigningFailed(
                    f"{self._place}: cannot be run: {error.strerror}; install it, or correct it"
                ) from error
            try:
                status = process.wait(self.deadline)
            except subprocess.TimeoutExpired:
                raise SigningFailed(
                    f"{self._place}: did not end within {self.deadline} s and was stopped; see why it waits, or "
                    f"raise the option deadline{self._told(log)}"
                ) from None
            finally:
                _end(process)
        if status:
            raise SigningFailed(f"{self._place}: failed with exit status {status}{self._told(log)}")

    def _result(self, target: Path) -> bytes:
        try:
            # Nor a pipe, which would be waited for.
            if not target.is_file():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with target.open("rb") as file:
                data = file.read(_LARGEST_RESULT + 1)
        except OSError as error:
            raise SigningFailed(
                f"{self._place}: ended well but left no {target.name} ({error.strerror}); see what it does with "
                f"{OUTPUT if target.name == 'signed.sys' else FILE}"
            ) from error
        if len(data) > _LARGEST_RESULT:
            raise SigningFailed(f"{self._place}: left a file of more than {_LARGEST_RESULT} bytes, which is no driver")
        return data

    def _verify(self, image: bytes, signed: bytes, certificate: Certificate) -> None:
        from cryptography.hazmat.primitives import hashes

        try:
            same = same_but_for_signature(image, signed)
        except (ImageError, SignatureError) as error:
            raise SigningFailed(f"{self._place}: left a file that is no driver image ({error})") from error
        if not same:
            raise SigningFailed(
                f"{self._place}: left another image than the one that it was to sign; see what it signs"
            )
        try:
            info = verify_image(parse(signed, ALL_64_BIT))
        except (ImageError, SignatureError) as error:
            raise SigningFailed(f"{self._place}: ended well but {error}; see what it does") from error
        expected = certificate.fingerprint(hashes.SHA256()).hex()
        if info.certificate_sha256 != expected:
            raise SigningFailed(
                f"{self._place}: signed as {info.subject}, whose certificate is not that of {self.certificate.place}; "
                "correct one of them"
            )
        self._require_extras(info)

    def _require_extras(self, info: SignatureInfo) -> None:
        if self.page_hashes and not info.page_hashes:
            raise SigningFailed(
                f"{self._place}: signed without page hashes; add its option for them (signtool /ph, osslsigncode -ph), "
                "or set page_hashes = false"
            )
        if self.timestamp is not None and info.timestamp is None:
            raise SigningFailed(f"{self._place}: signed without a time stamp; see what it does with {TIMESTAMP}")

    def _told(self, log: Path) -> str:
        """The end of what the command wrote, without what may be secret."""
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _BYTES_READ))
            text = file.read().decode("utf-8", "replace")
        shown = without_secrets(text, self.command, os.environ)[-_CHARACTERS_SHOWN:]
        lines = [line for line in shown.splitlines() if line.strip()][-_LINES_SHOWN:]
        return "".join(f"\n    {line}" for line in lines)


def without_secrets(text: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A command's output without its own longer arguments and without variables whose name speaks of a secret."""
    hidden = {
        value: f"(value of {name})"
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and name not in _FOLDERS and len(value) >= _SHORTEST_HIDDEN
    }
    for number, argument in enumerate(command):
        if number and len(argument) >= _SHORTEST_ARGUMENT and argument not in PLACEHOLDERS:
            hidden[argument] = f"(argument {number})"
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, hidden[value])
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and everything it started that is still there."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
