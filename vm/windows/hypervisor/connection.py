"""A connection to a hypervisor: opened with words for what is wrong, watched, and the door to its domains."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import libvirt

from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.domain_handle import DomainHandle
from vm.windows.hypervisor.domain_xml import Accelerator, Domain
from vm.windows.hypervisor.event_loop import start_event_loop
from vm.windows.hypervisor.libvirt_errors import NO_DOMAIN, code_of, translated, words_of
from vm.windows.hypervisor.uri import HypervisorUri, chosen_uri
from vm.windows.hypervisor.xml_fields import XmlError, parse

_LOG = logging.getLogger(__name__)

KEEPALIVE_SECONDS: Final = 5
KEEPALIVE_COUNT: Final = 5
"""A connection that is silent for this many times this long is closed by libvirt: half a minute."""
OPENS_WITHIN: Final = 60.0
"""Seconds for a connection, with the log-in on another computer."""
QEMU: Final = "QEMU"
_REASONS: Final = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "the connection broke",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirt ended",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirt did not answer any more",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "it was closed",
}


class Connection:
    """An open connection. A context manager; closing twice does nothing.

    Args:
        uri: what it leads to.
        raw: libvirt's own object.
    """

    def __init__(self, uri: HypervisorUri, raw: Any) -> None:
        self.uri = uri
        self.raw = raw
        self._lost: str | None = None
        self._on_lost: list[Callable[[str], None]] = []
        self._lock = threading.Lock()
        self._closed = False
        try:
            # The first call: none is waited for without end from here on.
            raw.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            # A driver inside this process has no connection that could be lost.
            _LOG.debug("%s: no keepalive: %s", uri.text, words_of(error))
        with translated(f"{uri.text}: the connection cannot be watched"):
            raw.registerCloseCallback(self._closing, None)

    @classmethod
    def open(cls, uri: str | None = None, *, within: float = OPENS_WITHIN) -> Connection:
        """Connect.

        Args:
            uri: a libvirt URI; None for LIBVIRT_DEFAULT_URI, else ``qemu:///session``.
            within: seconds to wait for it.

        Raises:
            MachineConfigurationError: it is no URI, nothing answers there, or this user may not connect.
            MachineBroken: libvirt does not answer in time, or fails otherwise.
        """
        target = HypervisorUri.parse(chosen_uri(uri, os.environ))
        _check_user(target)
        start_event_loop()
        try:
            raw = _opened(target, within)
        except libvirt.libvirtError as error:
            raise _not_opened(target, error) from error
        return cls(target, raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; domains that were started to end with it end now."""
        if self._closed:
            return
        self._closed = True
        # Each for itself: on a connection that was lost the first one fails, and what it watches would stay for good.
        self.attempt(self.raw.unregisterCloseCallback)
        self.attempt(self.raw.close)

    def attempt(self, undo: Callable[[], object]) -> None:
        """Take something back or end it as far as that is possible; that it is not is only logged."""
        try:
            undo()
        except libvirt.libvirtError as error:
            _LOG.debug("%s: not taken back: %s", self.uri.text, words_of(error))

    @property
    def is_qemu(self) -> bool:
        """Whether it leads to QEMU, and not to libvirt's own test driver."""
        with self.doing("cannot say what it is"):
            return str(self.raw.getType()) == QEMU

    def require_alive(self) -> None:
        """Do nothing while the connection stands.

        Raises:
            MachineBroken: it is gone; says why.
        """
        if self._lost is not None:
            raise MachineBroken(f"{self.uri.text}: {self._lost}; look into libvirt's log, then start it again")

    def when_lost(self, callback: Callable[[str], None]) -> None:
        """Have a function called with the reason once the connection is lost; at once if it is."""
        with self._lock:
            self._on_lost.append(callback)
            lost = self._lost
        if lost is not None:
            callback(lost)

    def doing(self, failed: str) -> Any:
        """A context in which libvirt is called: its errors come out as the machine's, the loss of the connection first.

        Args:
            failed: what it means when it fails, as ``domain a: cannot be started``.
        """
        self.require_alive()
        return translated(f"{self.uri.text}: {failed}")

    def version(self) -> tuple[int, int, int]:
        """Version of the hypervisor's libvirt."""
        with self.doing("does not tell its version"):
            return _dotted(int(self.raw.getLibVersion()))

    def versions(self) -> Mapping[str, str]:
        """Versions by name: of libvirt, of the hypervisor, and of the client here."""
        with self.doing("does not tell its versions"):
            kind = str(self.raw.getType()).lower()
            found = {"libvirt": self.raw.getLibVersion(), kind: self.raw.getVersion(), "client": libvirt.getVersion()}
        return {name: ".".join(map(str, _dotted(int(number)))) for name, number in found.items()}

    def offers(self, accelerator: Accelerator) -> bool:
        """Whether the hypervisor says that it has an accelerator. It says so also of one that crawls."""
        try:
            xml = self.raw.getDomainCapabilities(None, "x86_64", "q35", accelerator.value, 0)
        except libvirt.libvirtError:
            self.require_alive()
            return False
        return parse(xml, "domain capabilities").findtext("domain") == accelerator.value

    def domains(self) -> tuple[DomainHandle, ...]:
        """All domains, running or not, whoever they belong to."""
        with self.doing("does not list its domains"):
            return tuple(DomainHandle(self, one) for one in self.raw.listAllDomains())

    def find(self, name: str) -> DomainHandle | None:
        """A domain by its name, None where there is none."""
        with self.doing(f"domain {name}: cannot be looked up"):
            try:
                return DomainHandle(self, self.raw.lookupByName(name))
            except libvirt.libvirtError as error:
                if code_of(error) == NO_DOMAIN:
                    return None
                raise

    def start(self, domain: Domain, *, ends_with_connection: bool = False, paused: bool = False) -> DomainHandle:
        """Start a domain that is gone when it goes off.

        Args:
            domain: the domain.
            ends_with_connection: whether the hypervisor destroys it when this connection ends.
            paused: whether it waits until it is resumed.
        """
        flags = libvirt.VIR_DOMAIN_START_AUTODESTROY if ends_with_connection else 0
        flags |= libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        with self.doing(f"domain {domain.name}: cannot be started"):
            return DomainHandle(self, self.raw.createXML(domain.to_xml(), flags))

    def define(self, domain: Domain) -> DomainHandle:
        """Define a domain that stays when it goes off."""
        with self.doing(f"domain {domain.name}: cannot be defined"):
            return DomainHandle(self, self.raw.defineXML(domain.to_xml()))

    def restore(self, saved: str, domain: Domain) -> DomainHandle:
        """Start a domain from its saved memory.

        Args:
            saved: path of the saved memory on the hypervisor's host.
            domain: the domain to start; its name, identity and devices are those that were saved.
        """
        with self.doing(f"domain {domain.name}: its saved memory cannot be restored"):
            self.raw.restoreFlags(saved, domain.to_xml(), libvirt.VIR_DOMAIN_SAVE_RUNNING)
        handle = self.find(domain.name)
        if handle is None:
            raise MachineBroken(f"domain {domain.name}: it ended while it was restored; look into its log")
        return handle

    def saved_domain(self, saved: str) -> Domain:
        """The domain of a saved memory.

        Args:
            saved: its path on the hypervisor's host.
        """
        with self.doing(f"{saved}: the saved memory cannot be read"):
            xml = self.raw.saveImageGetXMLDesc(saved, 0)
        try:
            return Domain.from_xml(xml)
        except XmlError as error:
            raise MachineBroken(f"{saved}: the saved memory is of no machine of this project: {error}") from error

    def _closing(self, _raw: Any, reason: int, _opaque: Any) -> None:
        with self._lock:
            self._lost = _REASONS.get(reason, "the connection ended")
            callbacks = list(self._on_lost)
        _LOG.warning("%s: %s", self.uri.text, self._lost)
        for callback in callbacks:
            callback(self._lost)


def _opened(uri: HypervisorUri, seconds: float) -> Any:
    """Libvirt's own object; its call has no deadline, so it is made in a thread that can be left behind."""
    answers = queue.SimpleQueue[Any]()

    def call() -> None:
        try:
            answers.put(libvirt.open(uri.text))
        except libvirt.libvirtError as error:
            answers.put(error)

    threading.Thread(target=call, name=f"opens {uri.text}", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        # A connection that comes after all ends with the queue, which nobody else has.
        raise MachineBroken(
            f"{uri.text}: no answer within {seconds:g} s; see whether this works: virsh --connect '{uri.text}' version"
        ) from None
    if isinstance(answer, libvirt.libvirtError):
        raise answer
    return answer


def _dotted(number: int) -> tuple[int, int, int]:
    """Libvirt's numbers: 1,000,000 * major + 1,000 * minor + release (virGetVersion)."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _check_user(uri: HypervisorUri) -> None:
    # A socket that is named belongs to a daemon that was started on purpose.
    if os.geteuid() == 0 and uri.driver == "qemu" and uri.path == "/session" and "socket" not in uri.parameters:
        raise MachineConfigurationError(
            f"{uri.text}: root has no session; give --connect qemu:///system, or run as an ordinary user"
        )


def _not_opened(uri: HypervisorUri, error: libvirt.libvirtError) -> MachineBroken | MachineConfigurationError:
    words = words_of(error)
    if "authentication" in words or "Permission denied" in words:
        remedy = "let this user connect (on Debian: adduser NAME libvirt, then log in again), or give --connect qemu:///session"
        return MachineConfigurationError(f"{uri.text}: {words}; {remedy}")
    if uri.is_local and ("Failed to connect socket" in words or "Cannot find" in words):
        return MachineConfigurationError(
            f"{uri.text}: {words}; start libvirt (systemctl start libvirtd, or virtqemud.socket),"
            " or install it: apt-get install libvirt-daemon-system"
        )
    if code_of(error) in {libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED}:
        return MachineConfigurationError(f"{uri.text}: {words}; give --connect a URI such as qemu:///system")
    if not uri.is_local:
        return MachineConfigurationError(
            f"{uri.text}: {words}; check that this works: virsh --connect '{uri.text}' version"
        )
    return MachineBroken(f"{uri.text}: {words}; look into libvirt's log")
