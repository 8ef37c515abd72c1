"""What runs on a SmallWindows: services, devices and processes of an emulated machine with the real driver binary.

The emulated machine belongs to one thread at a time, so every use of it holds one lock. Requests that are pending wait
outside of it: what another agent does completes them, and the machine's time passes as time does.

A bugcheck or a hang of a driver stops everything that runs here: agents answer no more, as those of a guest.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.standin.event_log import record_creation, record_exit
from tests.standin.windows import Refused
from vm import win32
from vm.emulated.cm.registry import upcase
from vm.emulated.kernel import KernelOptions
from vm.emulated.machine import EmulatedMachine
from vm.errors import DriverHung, MachineConfigurationError, MachineCrashed, Win32Error
from vm.machine import ImageKind, ServiceState
from vm.windows.machine.embedded_certificates import certificates_of, thumbprint

SLICE = 0.05
"""Seconds of the machine's time that pass at once while somebody waits."""
PARAMETERS = "\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\{}\\Parameters"
STATES = {ServiceState.STOPPED: 1, ServiceState.STOP_PENDING: 3, ServiceState.RUNNING: 4}
CHILD = b"ntproof-child-"
"""In child.exe: the name of the pipe over which it takes orders."""
ELEVATION = b"requireAdministrator"


class Stopped(Exception):
    """Nothing runs any more: what was asked for gets no answer."""


@dataclass
class Service:
    """A service of which the emulated machine knows only once its image is there."""

    name: str
    image: str
    exit_code: int = 1077  # ERROR_SERVICE_NEVER_STARTED
    known: bool = False
    parameters: dict = field(default_factory=dict)


class System:
    """The running part of a SmallWindows.

    `generation` counts its starts: what belonged to an earlier one is gone. `on_bugcheck` is told of each bugcheck, in
    the thread that met it, and `on_hang` of a driver that does not come back.
    """

    def __init__(self, windows, options=None):
        self.windows = windows
        self.changed = threading.Condition(threading.RLock())
        self.generation = 0
        self.on_bugcheck = lambda report: None
        self.on_hang = lambda error: None
        self.calls = 0
        self._options = options
        self._machine = None
        self._pristine = None
        self._stopped = False
        self._services = {}
        self._jobs = {}
        self._folder = None
        self._images = 0

    @contextlib.contextmanager
    def using(self, generation=None):
        """The emulated machine, for one thread."""
        with self.changed:
            if generation is not None and generation != self.generation:
                raise Stopped
            while self._stopped and generation == self.generation:
                self.changed.wait()
            if self._stopped or (generation is not None and generation != self.generation):
                raise Stopped
            self.calls += 1
            try:
                yield self._running()
            except MachineCrashed as crash:
                self.stop()
                self.on_bugcheck(crash.report)
            except DriverHung as error:
                self.stop()
                self.on_hang(error)
            else:
                return
            finally:
                self.changed.notify_all()
        self.wait_gone(generation)
        raise Stopped

    def _running(self):
        if self._machine is None:
            self._machine = EmulatedMachine("standin", self._options)
            self._pristine = self._machine.checkpoint()
        return self._machine

    @property
    def build(self):
        """The Windows build that it stands for."""
        return (self._options or KernelOptions()).build

    def stop(self):
        """Nothing runs on: every agent stays without an answer until a restart."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()

    def wait_gone(self, generation):
        """Until what was running then is gone."""
        with self.changed:
            self.changed.wait_for(lambda: generation != self.generation)

    def restart(self):
        """Start anew with nothing running and no service; whoever waited finds that it is gone."""
        with self.changed:
            self.generation += 1
            self._stopped = False
            self._services.clear()
            self._jobs.clear()
            if self._machine is not None:
                self._machine.restore(self._pristine)
            self.changed.notify_all()

    def close(self):
        with self.changed:
            self.generation += 1
            self._stopped = True
            self.changed.notify_all()
            if self._machine is not None:
                self._machine.close()
            if self._folder is not None:
                self._folder.cleanup()

    # Services

    def create_service(self, machine, name, image):
        if name.lower() not in self._services or self._services[name.lower()].known:
            self._forget_deleted(machine, name)
        known = self._services.get(name.lower())
        if known is not None and not known.known:
            raise Refused(win32.ERROR_SERVICE_EXISTS, "CreateServiceW")
        service = Service(name, image)
        self._know(machine, service)
        self._services[name.lower()] = service

    def _know(self, machine, service):
        """Tell the emulated machine of a service, if its image can be a driver."""
        found = self.windows.files.get(service.image)
        if found is None:
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ntproof-standin-")
        self._images += 1
        folder = Path(self._folder.name) / str(self._images)
        folder.mkdir()
        path = folder / service.image.rpartition("\\")[2]
        path.write_bytes(found.content)
        with contextlib.suppress(MachineConfigurationError):
            machine.install_driver(service.name, path, parameters=service.parameters)
            service.known = True

    def _forget_deleted(self, machine, name):
        service = self._services.get(name.lower())
        if service is not None and service.known:
            try:
                machine.driver_state(service.name)
            except Win32Error:
                del self._services[name.lower()]

    def _service(self, machine, name, call):
        self._forget_deleted(machine, name)
        try:
            return self._services[name.lower()]
        except KeyError:
            raise Refused(win32.ERROR_SERVICE_DOES_NOT_EXIST, call) from None

    def start_service(self, machine, name):
        service = self._service(machine, name, "StartServiceW")
        service.exit_code = 0
        try:
            self._load(machine, service)
        except (Refused, Win32Error) as error:
            service.exit_code = error.code
            raise

    def _load(self, machine, service):
        if not service.known:
            self._know(machine, service)
        if not service.known:
            there = self.windows.files.get(service.image) is not None
            raise Refused(win32.ERROR_BAD_EXE_FORMAT if there else win32.ERROR_FILE_NOT_FOUND, "StartServiceW")
        if machine.driver_state(service.name) is ServiceState.STOPPED and not self._trusted(service.image):
            raise Refused(win32.ERROR_INVALID_IMAGE_HASH, "StartServiceW")
        machine.start_driver(service.name)

    def _trusted(self, image):
        """Whether test signing is on, and this Windows was told to trust the signer and whom it leads to."""
        windows = self.windows
        carried = {thumbprint(one) for one in certificates_of(windows.files.read(image))}
        return windows.test_signing and bool(carried & set(windows.roots)) and bool(carried & set(windows.publishers))

    def stop_service(self, machine, name):
        service = self._service(machine, name, "ControlService")
        if not service.known:
            raise Refused(win32.ERROR_SERVICE_NOT_ACTIVE, "ControlService")
        machine.stop_driver(service.name)
        return self._state(machine, service)

    def delete_service(self, machine, name):
        service = self._service(machine, name, "DeleteService")
        if service.known:
            machine.delete_driver(service.name)
            self._forget_deleted(machine, name)
        else:
            del self._services[name.lower()]

    def query_service(self, machine, name):
        service = self._service(machine, name, "OpenServiceW")
        return self._state(machine, service), service.exit_code

    def _state(self, machine, service):
        if not service.known:
            return STATES[ServiceState.STOPPED]
        try:
            return STATES[machine.driver_state(service.name)]
        except Win32Error:
            # It was marked for deletion, and went with its stop.
            return STATES[ServiceState.STOPPED]

    def clear_parameters(self, machine, name):
        service = self._service(machine, name, "RegOpenKeyExW")
        service.parameters.clear()
        if service.known:
            registry = machine.kernel.registry
            key = registry.find(PARAMETERS.format(service.name))
            for value in list(registry.key(key).values.values()):
                registry.erase(key, value.name)

    def set_parameter(self, machine, name, value, content):
        service = self._service(machine, name, "RegOpenKeyExW")
        service.parameters[value] = content
        if service.known:
            machine.kernel.registry.set_value(PARAMETERS.format(service.name), value, content)

    # Files and processes

    def provide(self, machine, source, path):
        files, provided = self.windows.files, self.windows.provided
        content, target = files.read(dos(source)), dos(path)
        before = files.get(target)
        if before is not None and before.content == content:
            return
        if files.is_folder(target) or (before is not None and files.key(target) not in provided):
            raise Refused(80, "CopyFileW")
        if self._runs(machine, target):
            raise Refused(win32.ERROR_SHARING_VIOLATION, "CopyFileW")
        files.write(target, content)
        provided.add(files.key(target))

    def remove(self, machine, path):
        files, target = self.windows.files, dos(path)
        key = files.key(target)
        if files.is_folder(target) or (files.get(target) is not None and key not in self.windows.provided):
            raise Refused(win32.ERROR_ACCESS_DENIED, "DeleteFileW")
        if self._runs(machine, target):
            raise Refused(win32.ERROR_ACCESS_DENIED, "DeleteFileW")
        files.remove(target)
        self.windows.provided.discard(key)

    def _runs(self, machine, path):
        key = upcase(path)
        return any(upcase(dos(image)) == key for image in machine.running_processes().values())

    def image_error(self, path):
        """The Win32 error for which no process can be made of a path, 0 if one can."""
        files, target = self.windows.files, dos(path)
        try:
            content = files.read(target)
        except Refused as refused:
            return refused.code
        return 0 if content[:2] == b"MZ" else win32.ERROR_BAD_EXE_FORMAT

    def is_child(self, path):
        found = self.windows.files.get(dos(path))
        return found is not None and CHILD in found.content

    def launch(self, machine, request, *, elevated):
        """Create a process, with what the system itself records of it."""
        manifest = self.windows.files.get(dos(request.image) + ".manifest")
        needs = manifest is not None and ELEVATION in manifest.content and not elevated
        machine.provide_image(request.image, ImageKind.REQUIRES_ELEVATION if needs else ImageKind.NORMAL)
        result = machine.launch(request)
        if result.succeeded:
            # A process is born into the job of its parent.
            self._jobs[result.pid] = self._jobs.get(result.parent_pid)
        if result.succeeded or (needs and result.win32_error == win32.ERROR_ELEVATION_REQUIRED):
            record_creation(self.windows, machine.system_time(), result)
            if needs:
                record_exit(self.windows, machine.system_time(), result.pid, dos(request.image), result.status)
        return result

    def take_into(self, job, pid):
        """Bring a process into a job unless it was born into another; whether it is in it. Jobs are not nested here."""
        if self._jobs[pid] is None:
            self._jobs[pid] = job
        return self._jobs[pid] is job

    def members(self, machine, job):
        """The processes in a job that run, with their images."""
        return {pid: image for pid, image in machine.running_processes().items() if self._jobs.get(pid) is job}

    def end(self, machine, pid, status, *, terminate, image):
        (machine.terminate_process if terminate else machine.exit_process)(pid, status)
        self._jobs.pop(pid, None)
        record_exit(self.windows, machine.system_time(), pid, dos(image), status)

    # Waiting

    def wait(self, generation, done, pass_time, seconds):
        """Wait until `done(machine)`, at most so long; meanwhile `pass_time(machine, seconds)` lets time pass."""
        end = time.monotonic() + seconds
        with self.changed:
            while True:
                with self.using(generation) as machine:
                    if done(machine):
                        return True
                    left = end - time.monotonic()
                    if left <= 0:
                        return False
                started = time.monotonic()
                self.changed.wait(min(left, SLICE))
                with self.using(generation) as machine:
                    pass_time(machine, time.monotonic() - started)


def dos(path):
    """A path without the prefixes that switch off its translation."""
    for prefix in ("\\\\?\\", "\\??\\", "\\\\.\\"):
        if path.startswith(prefix):
            return path[len(prefix) :]
    return path
