"""Driver services as the service control manager and the loader treat them: create, start, stop, delete.

Sources: Microsoft Learn, "StartServiceW", "ControlService", "DeleteService", "DriverEntry return values",
"DRIVER_UNLOAD", "Bug Check 0xC4" (0x62: pool that the driver did not free before it was unloaded).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vm import ntstatus, win32
from vm.emulated.faults import Bugcheck
from vm.emulated.ke.irql import wrong_irql_after
from vm.emulated.loader.code_integrity import Signature
from vm.emulated.loader.image import LoadedImage
from vm.emulated.loader.pe import DriverImage
from vm.emulated.mm.pool import tag_text
from vm.emulated.mm.release_checks import memory_goes_away
from vm.emulated.ntstatus import NtStatusError
from vm.emulated.processor.cpu import Parked
from vm.errors import Win32Error
from vm.machine import RegistryValue, ServiceState

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

ERROR_INVALID_NAME = 123
ERROR_BAD_EXE_FORMAT = 193
ERROR_INVALID_IMAGE_HASH = 577
ERROR_INVALID_SERVICE_CONTROL = 1052
ERROR_SERVICE_ALREADY_RUNNING = 1056
ERROR_SERVICE_DOES_NOT_EXIST = 1060
ERROR_SERVICE_NOT_ACTIVE = 1062
ERROR_SERVICE_MARKED_FOR_DELETE = 1072
ERROR_SERVICE_EXISTS = 1073

STATUS_INVALID_IMAGE_HASH = 0xC0000428
_SERVICES_KEY = "\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\"
_DRIVERS = "\\??\\C:\\Windows\\System32\\drivers\\"
_DRIVER_UNLOAD = 0x68
"""DRIVER_OBJECT.DriverUnload (wdm.h, x64)."""
_LEAKS_SHOWN = 8
_SIGNATURE_ADVICE = {
    Signature.ABSENT: "carries no signature; test-sign it",
    Signature.ALTERED: "was changed after it was signed; sign it again",
}
_SERVICE_KERNEL_DRIVER = 1
_SERVICE_DEMAND_START = 3


def win32_error(code: int, call: str, *, status: int | None = None, detail: str = "") -> Win32Error:
    """The error a user-mode call sets."""
    return Win32Error(code, win32.error_name(code), call, status=status, detail=detail)


def from_status(status: int, call: str, detail: str = "") -> Win32Error:
    """The error a user-mode call sets for a failure status of the kernel."""
    return win32_error(ntstatus.to_win32(status), call, status=status, detail=detail)


@dataclass
class Service:
    """One kernel driver service.

    Attributes:
        name: service name.
        image: the driver, already read.
        state: as QueryServiceStatus answers.
        driver: its DRIVER_OBJECT while it is loaded, else 0.
        loaded: its image in memory.
        deleted: DeleteService was called while it ran.
    """

    name: str
    image: DriverImage
    state: ServiceState = ServiceState.STOPPED
    driver: int = 0
    loaded: LoadedImage | None = None
    deleted: bool = False


@dataclass
class ServicesState:
    """What a checkpoint keeps: services by upper-case name, and the names of those that wait to be unloaded."""

    services: dict[str, Service] = field(default_factory=dict)
    stopping: list[str] = field(default_factory=list)


class Services:
    """The service database and the driver loader."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = ServicesState()

    def rebind(self) -> None:
        """Nothing is cached."""

    def create(self, name: str, image: Path, parameters: Mapping[str, RegistryValue]) -> None:
        """CreateService. Raises Win32Error, and BadImage for a file that cannot be a driver here."""
        if not name or len(name) > 256 or "\\" in name or "/" in name:
            raise win32_error(ERROR_INVALID_NAME, "CreateServiceW", detail=f"service name {name!r}")
        existing = self.state.services.get(name.upper())
        if existing is not None:
            code = ERROR_SERVICE_MARKED_FOR_DELETE if existing.deleted else ERROR_SERVICE_EXISTS
            raise win32_error(code, "CreateServiceW", detail=f"service {name}")
        parsed = DriverImage.parse(image)
        registry = self._kernel.registry
        key = _SERVICES_KEY + name
        registry.create(key)
        registry.set_value(key, "Type", _SERVICE_KERNEL_DRIVER)
        registry.set_value(key, "Start", _SERVICE_DEMAND_START)
        registry.set_value(key, "ImagePath", _DRIVERS + image.name)
        registry.create(f"{key}\\Parameters")
        for value_name, value in parameters.items():
            registry.set_value(f"{key}\\Parameters", value_name, value)
        self.state.services[name.upper()] = Service(name, parsed)

    def _service(self, name: str, call: str) -> Service:
        service = self.state.services.get(name.upper())
        if service is None:
            raise win32_error(ERROR_SERVICE_DOES_NOT_EXIST, call, detail=f"service {name}")
        return service

    def query(self, name: str) -> ServiceState:
        """QueryServiceStatus."""
        return self._service(name, "QueryServiceStatus").state

    def start(self, name: str) -> None:
        """StartService: load the image and call its entry point."""
        service = self._service(name, "StartServiceW")
        if service.state != ServiceState.STOPPED:
            raise win32_error(ERROR_SERVICE_ALREADY_RUNNING, "StartServiceW", detail=f"service {name}")
        if service.deleted:
            raise win32_error(ERROR_SERVICE_MARKED_FOR_DELETE, "StartServiceW", detail=f"service {name}")
        if service.image.signature is not Signature.MATCHES:
            raise win32_error(
                ERROR_INVALID_IMAGE_HASH, "StartServiceW", status=STATUS_INVALID_IMAGE_HASH,
                detail=f"{service.image.name} {_SIGNATURE_ADVICE[service.image.signature]}",
            )  # fmt: skip
        if not service.image.entry:
            raise win32_error(ERROR_BAD_EXE_FORMAT, "StartServiceW", detail=f"{service.image.name} has no entry point")
        kernel = self._kernel
        loaded = kernel.load_image(service.image)
        key = _SERVICES_KEY + service.name
        try:
            driver = kernel.io.create_driver(service.name, loaded.base, loaded.size, loaded.entry, key)
        except NtStatusError as error:
            kernel.unload_image(loaded)
            raise from_status(error.status, "StartServiceW", f"driver object of {name}") from None
        service.driver, service.loaded = driver, loaded
        kernel.events.driver_loaded(loaded, _DRIVERS + service.image.name)
        path = key.encode("utf-16-le")
        registry_path = kernel.heap.allocate(16 + len(path) + 2)
        kernel.mem.set_unicode_string(registry_path, len(path), len(path), registry_path + 16)
        kernel.mem.write(registry_path + 16, path)
        status = self._on_system_thread(loaded.entry, driver, registry_path) & 0xFFFFFFFF
        kernel.heap.free(registry_path)
        if status & 0x80000000:
            self._gone(service)
            raise from_status(status, "StartServiceW", f"the entry point of {loaded.name} failed")
        loaded.discard_init(kernel)
        service.state = ServiceState.RUNNING
        kernel.io.driver_started(driver)

    def stop(self, name: str) -> None:
        """ControlService(STOP): unload now, or when the last handle to the driver's devices is closed."""
        service = self._service(name, "ControlService")
        if service.state != ServiceState.RUNNING:
            raise win32_error(ERROR_SERVICE_NOT_ACTIVE, "ControlService", detail=f"service {name}")
        if not self._kernel.mem.u64(service.driver + _DRIVER_UNLOAD):
            raise win32_error(
                ERROR_INVALID_SERVICE_CONTROL, "ControlService", detail=f"{service.image.name} has no unload routine"
            )
        service.state = ServiceState.STOP_PENDING
        self.state.stopping.append(service.name.upper())
        self._unload_if_idle(service)

    def unload_idle(self) -> None:
        """Finish stops that waited for handles to be closed."""
        for name in tuple(self.state.stopping):
            self._unload_if_idle(self.state.services[name])

    def delete(self, name: str) -> None:
        """DeleteService: at once when stopped, else when it stops."""
        service = self._service(name, "DeleteService")
        if service.deleted:
            raise win32_error(ERROR_SERVICE_MARKED_FOR_DELETE, "DeleteService", detail=f"service {name}")
        service.deleted = True
        self._forget_deleted(service)

    def _forget_deleted(self, service: Service) -> None:
        if service.deleted and service.state == ServiceState.STOPPED:
            self._kernel.registry.delete_tree(_SERVICES_KEY + service.name)
            del self.state.services[service.name.upper()]

    def _unload_if_idle(self, service: Service) -> None:
        kernel = self._kernel
        if kernel.io.is_busy(service.driver):
            return
        self.state.stopping.remove(service.name.upper())
        self._on_system_thread(kernel.mem.u64(service.driver + _DRIVER_UNLOAD), service.driver)
        self._gone(service)
        self._forget_deleted(service)

    def _on_system_thread(self, routine: int, *arguments: int) -> int:
        """Call a driver's entry point or unload routine as Windows does: in the system process, at PASSIVE_LEVEL."""
        kernel = self._kernel
        thread = kernel.threads.current
        kernel.threads.set_current(kernel.ps.system_worker())
        try:
            result = kernel.call(routine, *arguments)
        except Parked:
            raise RuntimeError("a system routine was parked without a continuation") from None
        if kernel.irql:
            raise wrong_irql_after(routine, kernel.irql, 0, "a driver routine")
        kernel.threads.set_current(thread)
        return result

    def _text(self, text: str) -> int:
        """Address of a NUL-terminated string, for a bugcheck parameter that points at a name."""
        data = text.encode("utf-16-le") + b"\0\0"
        address = self._kernel.heap.allocate(len(data))
        self._kernel.mem.write(address, data)
        return address

    def _gone(self, service: Service) -> None:
        """Unmap a driver and check what it left behind."""
        kernel, loaded = self._kernel, service.loaded
        assert loaded is not None
        service.state = ServiceState.STOPPED
        leaks = [block for block in kernel.pool.state.blocks.values() if loaded.contains(block.site)]
        if leaks:
            notes = tuple(kernel.pool.describe(block.address) or "" for block in leaks[:_LEAKS_SHOWN])
            tags = ", ".join(sorted({repr(tag_text(block.tag)) for block in leaks}))
            size = sum(block.size for block in leaks)
            raise Bugcheck(
                0xC4, 0x62, self._text(loaded.name), 0, len(leaks),
                reason=f"{loaded.name} was unloaded without freeing {len(leaks)} pool blocks ({size} bytes, "
                f"tags {tags})",
                notes=notes,
            )  # fmt: skip
        memory_goes_away(kernel, loaded.base, loaded.size)
        for remark in kernel.io.leftovers(service.driver):
            kernel.debug.line(f"left behind by {loaded.name}: {remark}")
        kernel.io.delete_driver(service.driver)
        kernel.unload_image(loaded)
        service.driver, service.loaded = 0, None
