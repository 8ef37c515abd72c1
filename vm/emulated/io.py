"""The I/O manager's objects: drivers, devices and files, and what a driver leaves behind.

Requests are made in `vm.emulated.io_requests`, IRPs move in `vm.emulated.irp`, and what drivers import for devices is in
`vm.emulated.io_exports`. Layouts are those of wdm.h (`vm.emulated.io_layout`).
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vm.emulated import io_layout as at
from vm.emulated.faults import Bugcheck
from vm.emulated.io_requests import Request, Requests
from vm.emulated.irp import Irp, Irps
from vm.emulated.layout import DEVICE_OBJECT_SIZE, DRIVER_OBJECT_SIZE, FILE_OBJECT_SIZE
from vm.emulated.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_DEVICE_ALREADY_ATTACHED,
    STATUS_NO_SUCH_DEVICE,
    NtStatusError,
)
from vm.emulated.security import DEFAULT_DEVICE_SECURITY
from vm.machine import Account

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel
    from vm.emulated.mdl import MdlState
    from vm.emulated.ob import ObjectRecord
    from vm.emulated.work_items import WorkItem

IO_VERIFICATION = 0xC9
_DEVICE_EXTENSION_ALIGNMENT = 16


@dataclass(slots=True)
class Driver:
    """A driver object: its name, and where its image lies."""

    body: int
    name: str
    base: int
    size: int
    reinitialize: list[tuple[int, int]] = field(default_factory=list)

    def holds(self, address: int) -> bool:
        """True for an address in the driver's image."""
        return self.base <= address < self.base + self.size


@dataclass(slots=True)
class Device:
    """A device object.

    Attributes:
        body: guest address.
        driver: its driver object.
        name: full name, empty for none.
        site: where the driver created it.
        deleted: IoDeleteDevice was called while something still referred to it.
        lower: the device below it that it is attached to, 0 for none.
    """

    body: int
    driver: int
    name: str
    site: int
    deleted: bool = False
    lower: int = 0


@dataclass(slots=True)
class File:
    """A file object.

    Attributes:
        body: guest address.
        device: the device it was opened on.
        name: what followed the device's name.
        granted: access granted at open.
        opened: the driver accepted it, so that cleanup and close are due.
        buffer: memory of its name, 0 for none.
        account: whose program opened it, None for the system.
    """

    body: int
    device: int
    name: str
    granted: int
    opened: bool = False
    buffer: int = 0
    account: Account | None = None


@dataclass
class IoState:
    """What a checkpoint keeps of the I/O manager."""

    drivers: dict[int, Driver] = field(default_factory=dict)
    devices: dict[int, Device] = field(default_factory=dict)
    files: dict[int, File] = field(default_factory=dict)
    links: dict[int, int] = field(default_factory=dict)
    """Symbolic links that drivers made: object to the return address of the call."""
    irps: dict[int, Irp] = field(default_factory=dict)
    finished_irps: deque[Irp] = field(default_factory=lambda: deque(maxlen=1024))
    requests: dict[int, Request] = field(default_factory=dict)
    next_request: int = 1
    user_buffers: dict[int, list[int]] = field(default_factory=dict)
    """Free user-mode buffers by number of pages."""
    next_user_page: int = 0
    mdls: MdlState | None = None
    work_items: dict[int, WorkItem] = field(default_factory=dict)
    shutdown: list[int] = field(default_factory=list)
    """Devices that asked for IRP_MJ_SHUTDOWN."""
    cancel_held: bool = False


class IoManager:
    """Drivers, devices and files.

    Attributes:
        irps: allocation, dispatch, completion and cancellation of IRPs.
        requests: what user-mode programs ask of devices.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = IoState()
        self.irps = Irps(kernel, self)
        self.requests = Requests(kernel, self)
        kernel.ob.on_last_handle("File", self._cleanup)
        kernel.ob.on_delete("File", self._close)
        self.open = self.requests.open
        self.close = self.requests.close
        self.duplicate = self.requests.duplicate
        self.device_control = self.requests.device_control
        self.read = self.requests.read
        self.write = self.requests.write
        self.cancel = self.requests.cancel
        self.request = self.requests.request

    def rebind(self) -> None:
        """Nothing here aliases the state."""

    # Drivers

    def create_driver(self, name: str, base: int, size: int, entry: int, service_key: str) -> int:
        """A driver object for a loaded image; returns its address.

        Args:
            name: service name; the object is \\Driver\\name.
            base, size: the image.
            entry: its entry point.
            service_key: registry path of the service key, for DriverExtension and HardwareDatabase users.

        Raises:
            NtStatusError: STATUS_OBJECT_NAME_COLLISION.
        """
        kernel, mem = self._kernel, self._kernel.mem
        full = f"\\Driver\\{name}"
        body = kernel.ob.create("Driver", DRIVER_OBJECT_SIZE, full, body=0)
        extension = kernel.heap.allocate(at.DRIVER_EXTENSION_SIZE)
        mem.write(body, struct.pack("<HH", at.IO_TYPE_DRIVER, DRIVER_OBJECT_SIZE))
        mem.set_u32(body + at.DRIVER_FLAGS, at.DRVO_LEGACY_DRIVER)
        mem.set_u64(body + at.DRIVER_START, base)
        mem.set_u32(body + at.DRIVER_SIZE, size)
        mem.set_u64(body + at.DRIVER_EXTENSION, extension)
        mem.set_u64(body + at.DRIVER_INIT, entry)
        mem.set_u64(extension, body)
        self._string(body + at.DRIVER_NAME, full)
        self._string(extension + at.EXTENSION_SERVICE_KEY_NAME, name)
        hardware = kernel.heap.allocate(16)
        self._string(hardware, "\\REGISTRY\\MACHINE\\HARDWARE\\DESCRIPTION\\SYSTEM")
        mem.set_u64(body + at.DRIVER_HARDWARE_DATABASE, hardware)
        invalid = kernel.guest.export("HostInvalidDeviceRequest")
        if invalid is None:
            raise RuntimeError("guest/io.c does not export HostInvalidDeviceRequest")
        for major in range(at.IRP_MJ_MAXIMUM_FUNCTION + 1):
            mem.set_u64(body + at.DRIVER_MAJOR_FUNCTION + 8 * major, invalid)
        self.state.drivers[body] = Driver(body, name, base, size)
        return body

    def driver_started(self, driver: int) -> None:
        """What follows a successful DriverEntry: its devices can be opened, reinitialization routines run."""
        mem = self._kernel.mem
        mem.set_u32(driver + at.DRIVER_FLAGS, mem.u32(driver + at.DRIVER_FLAGS) | at.DRVO_INITIALIZED)
        for device in self.devices_of(driver):
            flags = mem.u32(device.body + at.DEVICE_FLAGS)
            mem.set_u32(device.body + at.DEVICE_FLAGS, flags & ~at.DO_DEVICE_INITIALIZING)
        known = self.state.drivers[driver]
        count = 0
        while known.reinitialize:
            routine, context = known.reinitialize.pop(0)
            count += 1
            self._kernel.call(routine, driver, context, count)

    def delete_driver(self, driver: int) -> None:
        """Forget a driver object whose image is about to be unloaded; devices left behind stay, as on Windows."""
        self.state.drivers.pop(driver)
        self._kernel.ob.make_temporary(driver)
        self._kernel.ob.dereference(driver)

    def is_busy(self, driver: int) -> bool:
        """True while something refers to one of the driver's devices, so that an unload has to wait."""
        mem = self._kernel.mem
        return any(mem.u32(device.body + at.DEVICE_REFERENCE_COUNT) for device in self.devices_of(driver))

    def devices_of(self, driver: int) -> list[Device]:
        """The driver's devices in order of creation."""
        return [device for device in self.state.devices.values() if device.driver == driver]

    def leftovers(self, driver: int) -> list[str]:
        """What a driver that is being unloaded did not give back, in words."""
        kernel, state = self._kernel, self.state
        known = state.drivers[driver]
        where = kernel.describe_code
        found = [
            f"device {device.name or '(no name)'} created at {where(device.site)}" for device in self.devices_of(driver)
        ]
        found += [
            f"symbolic link {kernel.ob.full_name(kernel.ob.record(link))} created at {where(site)}"
            for link, site in state.links.items()
            if known.holds(site)
        ]
        found += [f"{irp.describe()}" for irp in state.irps.values() if self._belongs(irp, known)]
        found += [
            f"work item {'queued' if item.queued else 'allocated'} at {where(item.site)}"
            for item in state.work_items.values()
            if known.holds(item.site) or known.holds(item.routine)
        ]
        return found

    def _belongs(self, irp: Irp, driver: Driver) -> bool:
        device = self.state.devices.get(irp.device)
        return driver.holds(irp.site) or (device is not None and device.driver == driver.body)

    # Devices

    def create_device(
        self,
        driver: int,
        extension_size: int,
        name: str | None,
        kind: int,
        characteristics: int,
        *,
        exclusive: bool,
        site: int,
        security: bytes | None = None,
    ) -> int:
        """IoCreateDevice. Returns the device object's address.

        Raises:
            NtStatusError: STATUS_OBJECT_NAME_COLLISION and what the namespace says of a bad name.
        """
        kernel, mem = self._kernel, self._kernel.mem
        extension_at = (DEVICE_OBJECT_SIZE + _DEVICE_EXTENSION_ALIGNMENT - 1) & -_DEVICE_EXTENSION_ALIGNMENT
        total = extension_at + extension_size
        body = kernel.ob.create(
            "Device",
            total + at.DEVICE_OBJECT_EXTENSION_SIZE,
            name,
            security=security or DEFAULT_DEVICE_SECURITY.to_bytes(),
        )
        flags = at.DO_DEVICE_INITIALIZING
        flags |= at.DO_EXCLUSIVE if exclusive else 0
        flags |= at.DO_DEVICE_HAS_NAME if name is not None else 0
        extension = body + ((total + 15) & -16)
        mem.write(body, struct.pack("<HHI", at.IO_TYPE_DEVICE, (DEVICE_OBJECT_SIZE + extension_size) & 0xFFFF, 0))
        mem.set_u64(body + at.DEVICE_DRIVER_OBJECT, driver)
        mem.set_u64(body + at.DEVICE_NEXT_DEVICE, mem.u64(driver + at.DRIVER_DEVICE_OBJECT))
        mem.set_u32(body + at.DEVICE_FLAGS, flags)
        mem.set_u32(body + at.DEVICE_CHARACTERISTICS, characteristics)
        mem.set_u64(body + at.DEVICE_EXTENSION, body + extension_at if extension_size else 0)
        mem.set_u32(body + at.DEVICE_DEVICE_TYPE, kind)
        mem.set_u8(body + at.DEVICE_STACK_SIZE, 1)
        for head in (body + at.DEVICE_QUEUE_LIST, body + at.DEVICE_LOCK_EVENT + 8):
            mem.write(head, struct.pack("<QQ", head, head))
        mem.set_u64(body + at.DEVICE_OBJECT_EXTENSION, extension)
        mem.write(extension, struct.pack("<HHIQ", 13, at.DEVICE_OBJECT_EXTENSION_SIZE, 0, body))
        mem.set_u64(driver + at.DRIVER_DEVICE_OBJECT, body)
        self.state.devices[body] = Device(body, driver, name or "", site)
        return body

    def device(self, body: int) -> Device:
        """The record of a device object. Raises Bugcheck 0xC9 for an address that is none."""
        device = self.state.devices.get(body)
        if device is None:
            raise Bugcheck(
                IO_VERIFICATION, 0x4, body, reason=f"0x{body:X} was used as a device object but is none"
            )
        return device

    def delete_device(self, body: int) -> None:
        """IoDeleteDevice: its name goes at once, the object when nothing refers to it any more.

        Raises:
            Bugcheck: 0xC9 0x240 for a device that was deleted already, 0x201 for one still attached to another
                (Microsoft: Bug Check 0xC9).
        """
        device = self.state.devices.get(body)
        if device is None or device.deleted:
            raise Bugcheck(
                IO_VERIFICATION, 0x240, self._kernel.caller(), 0, body,
                reason=f"device object 0x{body:X} was deleted already",
            )  # fmt: skip
        if device.lower:
            raise Bugcheck(
                IO_VERIFICATION, 0x201, self._kernel.caller(), 0, body,
                reason=f"device object 0x{body:X} was deleted while attached to another",
            )  # fmt: skip
        device.deleted = True
        self._kernel.ob.make_temporary(body)
        if body in self.state.shutdown:
            self.state.shutdown.remove(body)
        self._finish_deletion(device)

    def reference_device(self, body: int, change: int) -> None:
        """Count opens of a device; the last one gone completes a deletion that was waiting."""
        mem = self._kernel.mem
        count = mem.u32(body + at.DEVICE_REFERENCE_COUNT) + change
        mem.set_u32(body + at.DEVICE_REFERENCE_COUNT, count)
        device = self.state.devices.get(body)
        if count == 0 and device is not None and device.deleted:
            self._finish_deletion(device)

    def _finish_deletion(self, device: Device) -> None:
        mem = self._kernel.mem
        if mem.u32(device.body + at.DEVICE_REFERENCE_COUNT):
            return
        link = device.driver + at.DRIVER_DEVICE_OBJECT
        while mem.u64(link) not in (device.body, 0):
            link = mem.u64(link) + at.DEVICE_NEXT_DEVICE
        if mem.u64(link) == device.body:
            mem.set_u64(link, mem.u64(device.body + at.DEVICE_NEXT_DEVICE))
        del self.state.devices[device.body]
        self._kernel.ob.dereference(device.body)

    def top_of_stack(self, body: int) -> int:
        """The device that requests to `body` go to: the highest one attached (IoGetAttachedDevice)."""
        mem = self._kernel.mem
        while upper := mem.u64(body + at.DEVICE_ATTACHED_DEVICE):
            body = upper
        return body

    def attach(self, source: int, target: int) -> int:
        """IoAttachDeviceToDeviceStack: the device attached to. Raises NtStatusError."""
        mem = self._kernel.mem
        lower = self.top_of_stack(self.device(target).body)
        flags = mem.u32(lower + at.DEVICE_FLAGS)
        if self.device(lower).deleted or flags & at.DO_DEVICE_INITIALIZING:
            raise NtStatusError(STATUS_NO_SUCH_DEVICE)
        if self.device(source).lower:
            raise NtStatusError(STATUS_DEVICE_ALREADY_ATTACHED)
        mem.set_u64(lower + at.DEVICE_ATTACHED_DEVICE, source)
        mem.set_u8(source + at.DEVICE_STACK_SIZE, mem.u8(lower + at.DEVICE_STACK_SIZE) + 1)
        mem.set_u16(source + at.DEVICE_SECTOR_SIZE, mem.u16(lower + at.DEVICE_SECTOR_SIZE))
        self.device(source).lower = lower
        return lower

    def detach(self, lower: int) -> None:
        """IoDetachDevice. Raises Bugcheck 0xC9 0x202 when nothing is attached."""
        mem = self._kernel.mem
        upper = mem.u64(self.device(lower).body + at.DEVICE_ATTACHED_DEVICE)
        if not upper:
            raise Bugcheck(
                IO_VERIFICATION, 0x202, self._kernel.caller(), 0, lower, reason="nothing is attached to this device"
            )
        mem.set_u64(lower + at.DEVICE_ATTACHED_DEVICE, 0)
        self.device(upper).lower = 0

    # Files

    def create_file(self, device: int, name: str, granted: int) -> int:
        """A file object on a device, not yet known to its driver; returns its address."""
        kernel, mem = self._kernel, self._kernel.mem
        body = kernel.ob.create("File", FILE_OBJECT_SIZE, permanent=False)
        mem.write(body, struct.pack("<HHIQ", at.IO_TYPE_FILE, FILE_OBJECT_SIZE, 0, device))
        mem.set_u8(body + at.FILE_READ_ACCESS_GRANTED, granted & 1)
        mem.set_u8(body + at.FILE_WRITE_ACCESS_GRANTED, granted >> 1 & 1)
        buffer = self._string(body + at.FILE_FILE_NAME, name) if name else 0
        self.state.files[body] = File(body, device, name, granted, buffer=buffer)
        if device:
            self.reference_device(device, 1)
        return body

    def name_of_file(self, body: int) -> tuple[int, str]:
        """Device and name of a file object."""
        file = self.state.files[body]
        return file.device, file.name

    def check_device_for_open(self, record: ObjectRecord) -> None:
        """Refuse what cannot be opened now. Raises NtStatusError."""
        mem = self._kernel.mem
        flags = mem.u32(record.body + at.DEVICE_FLAGS)
        if self.device(record.body).deleted or flags & at.DO_DEVICE_INITIALIZING:
            raise NtStatusError(STATUS_NO_SUCH_DEVICE, "the device is being created or deleted")
        if flags & at.DO_EXCLUSIVE and mem.u32(record.body + at.DEVICE_REFERENCE_COUNT):
            raise NtStatusError(STATUS_ACCESS_DENIED, "the device is exclusive and open")

    def _cleanup(self, record: ObjectRecord) -> None:
        file = self.state.files[record.body]
        if file.opened:
            self.irps.send_simple(at.IRP_MJ_CLEANUP, file)
            flags = self._kernel.mem.u32(file.body + at.FILE_FLAGS)
            self._kernel.mem.set_u32(file.body + at.FILE_FLAGS, flags | at.FO_CLEANUP_COMPLETE)

    def _close(self, record: ObjectRecord) -> None:
        file = self.state.files[record.body]
        if file.opened:
            self.irps.send_simple(at.IRP_MJ_CLOSE, file)
        del self.state.files[record.body]
        if file.buffer:
            self._kernel.heap.free(file.buffer)
        if file.device:
            self.reference_device(file.device, -1)

    def _string(self, field_address: int, text: str) -> int:
        """Fill in a UNICODE_STRING with kernel-owned memory; returns the buffer."""
        data = text.encode("utf-16-le", "surrogatepass")
        buffer = self._kernel.heap.allocate(len(data) + 2)
        self._kernel.mem.write(buffer, data + b"\0\0")
        self._kernel.mem.set_unicode_string(field_address, len(data), len(data) + 2, buffer)
        return buffer
