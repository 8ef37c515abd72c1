"""Drivers on a Windows machine: their images by content, the certificates that they need trusted, Driver Verifier."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vm.errors import MachineConfigurationError
from vm.machine import RegistryValue, ServiceState
from vm.verifier import VerifierSettings
from vm.windows.driver_trust import TrustStore, stores_for
from vm.windows.machine.access import Patience
from vm.windows.machine.embedded_certificates import certificates_of
from vm.windows.machine.link import GuestLink
from vm.windows.machine.programs import FOLDER
from vm.windows.remoting.guest import GuestFacts

logger = logging.getLogger(__name__)

DRIVER_FOLDER: Final = f"{FOLDER}\\drivers"
_DIGITS: Final = 16
"""Of the image's SHA-256 in its path: each content has one of its own, so that none is written while it is loaded."""

_NO_FILE_NAME: Final = re.compile(r'[\x00-\x1f<>:"/\\|?*]|[ .]$')
"""What no file name has (Microsoft Learn, "Naming Files, Paths, and Namespaces")."""
_VERIFIABLE: Final = re.compile(r"[A-Za-z0-9_.-]+\.sys", re.IGNORECASE)
"""File names that the guest module passes on to verifier.exe."""


class Drivers:
    """The services that were created since the machine was put back.

    Args:
        link: to the guest.
        patience: for entry points and unload routines.
        verifier: what Driver Verifier does with drivers; None for nothing.

    Attributes:
        hashes: SHA-256 of the image of each service that was installed since the machine was put back.
        changed_others: whether a service was started, stopped or deleted that was not created here.
    """

    def __init__(self, link: GuestLink, patience: Patience, verifier: VerifierSettings | None) -> None:
        self._link = link
        self._patience = patience
        self._verifier = verifier
        self._present: set[str] = set()
        self._trusted: set[tuple[bytes, TrustStore]] = set()
        self._verified: set[str] = set()
        self._services: dict[str, tuple[str, str]] = {}
        self.hashes: dict[str, str] = {}
        self.changed_others = False

    def clear(self, *, reverted: bool) -> None:
        """No service is left; where the guest was put back, no file and no certificate either."""
        self._services.clear()
        self.hashes.clear()
        self.changed_others = False
        if reverted:
            self._present.clear()
            self._trusted.clear()
            self._verified.clear()

    def services(self) -> list[str]:
        """Names of the services that were created, deleted or not."""
        return [name for name, _ in self._services.values()]

    def install(self, service: str, image: Path, parameters: Mapping[str, RegistryValue]) -> None:
        """Send an image and create its service. Raises as Machine.install_driver."""
        content = _content_of(image)
        if _NO_FILE_NAME.search(image.name):
            raise MachineConfigurationError(f"{image}: Windows has no file of this name; give the image another one")
        trusted = _trust_of(content, image)
        digest = hashlib.sha256(content).hexdigest()
        path = f"{DRIVER_FOLDER}\\{digest[:_DIGITS]}\\{image.name}"
        if path not in self._present:
            report = self._link.files().send({path: image})
            if _content_of(image) != content:
                raise MachineConfigurationError(f"{image} was changed while it was sent; run it again once it is built")
            logger.info("%s: %d bytes sent by %s", path, report.bytes_sent, report.method)
            self._present.add(path)
        for certificate, store in trusted:
            if (certificate, store) not in self._trusted:
                self._link.guest().install_certificate(certificate, store)
                self._trusted.add((certificate, store))
        agent = self._link.agent()
        agent.create_service(service, path)
        self._services[service.lower()] = (service, image.name)
        self.hashes[service] = digest
        if parameters:
            agent.set_parameters(service, parameters)

    def start(self, service: str, facts: GuestFacts) -> None:
        """Start a service. Raises as Machine.start_driver, and MachineConfigurationError where none can run."""
        if obstacles := facts.obstacles():
            raise MachineConfigurationError(f"no test-signed driver can run in this guest: {'; '.join(obstacles)}")
        known = self._services.get(service.lower())
        if known is not None:
            self._verify(known[1], facts.build)
        self._link.agent().start_service(service, deadline=self._patience.driver)
        self._note_change(service)

    def stop(self, service: str) -> ServiceState:
        """Stop a service; its state afterwards. Raises as Machine.stop_driver."""
        state = self._link.agent().stop_service(service, deadline=self._patience.driver)
        self._note_change(service)
        return state

    def delete(self, service: str) -> None:
        """Delete a service. Raises as Machine.delete_driver."""
        self._link.agent().delete_service(service)
        self._note_change(service)

    def state(self, service: str) -> ServiceState:
        """A service's state. Raises as Machine.driver_state."""
        return self._link.agent().service_state(service)

    def verifies(self) -> bool:
        """Whether Driver Verifier was set up since the machine was put back."""
        return bool(self._verified)

    def _note_change(self, service: str) -> None:
        self.changed_others |= service.lower() not in self._services

    def _verify(self, driver: str, build: int) -> None:
        """Have Driver Verifier watch a driver from its load on."""
        settings = self._verifier
        if settings is None or driver.lower() in self._verified:
            return
        if late := settings.needs_restart(build):
            raise MachineConfigurationError(
                f"--verifier {','.join(late)}: Windows build {build} takes that up only when it starts; leave it out, "
                "or set it in the guest before its image is sealed"
            )
        if _VERIFIABLE.fullmatch(driver) is None:
            raise MachineConfigurationError(
                f"--verifier: {driver} is no file name that verifier.exe can be told; give the image one of letters, "
                "digits, dots, hyphens and underscores that ends in .sys"
            )
        guest = self._link.guest()
        self._verified.add(driver.lower())
        if settings.flags:
            guest.verify_driver(driver, settings.flags)
        if settings.chances is not None:
            guest.fail_allocations(driver, settings.probability, pool_tag=settings.pool_tag)


def _content_of(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise MachineConfigurationError(f"{image} cannot be read: {error.strerror}") from error


def _trust_of(content: bytes, image: Path) -> tuple[tuple[bytes, TrustStore], ...]:
    """What the guest has to trust for an image. Raises MachineConfigurationError."""
    try:
        return stores_for(certificates_of(content, str(image)))
    except ValueError as error:
        raise MachineConfigurationError(f"{image}: its certificates cannot be read ({error}); sign it again") from error
