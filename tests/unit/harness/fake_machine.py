"""A machine in memory with a tiny honest driver, which can be told to be wrong in one named way.

It exists to exercise the runner and the model; it knows nothing of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.abi import AbiViolation, Rule, Statistics, load_abi
from harness.notification import Create, Exit, Gap, Notification
from vm.errors import MachineCrashed, Win32Error
from vm.machine import (
    Account,
    CrashReport,
    DeviceAccess,
    ImageKind,
    LaunchRequest,
    LaunchResult,
    MachineFacts,
    RegistryValue,
    ServiceState,
    StackFrame,
)

AGENT_PID, AGENT_TID = 1000, 1004
ERRORS = {0: 0, 0xC0000022: 5, 0xC000042C: 740, 0xC000007B: 193}
STATUS_OF_KIND = {ImageKind.NORMAL: 0, ImageKind.REQUIRES_ELEVATION: 0xC000042C, ImageKind.INVALID: 0xC000007B}


@dataclass
class Process:
    pid: int
    image: str
    subsystem: bool = False
    notified: bool = True


class FakeDriver:
    def __init__(self, faults: frozenset[str], queue_records: int) -> None:
        self.faults = faults
        self.abi = load_abi()
        self.rules: tuple[Rule, ...] = ()
        self.queue: list[Notification] = []
        self.capacity = queue_records
        self.pending_gap: Gap | None = None
        self.next_sequence = 1
        self.created = self.exited = self.denied = self.queued = self.delivered = self.dropped = 0
        self.generation = 0

    def create(self, create: Create) -> int:
        self.created += 1
        status = self.status_for(create.image_name or "")
        self.denied += status != 0
        self.report(self.distort(replace(create, status=status)))
        return 0 if "denies-nothing" in self.faults else status

    def exit(self, pid: int, status: int) -> None:
        self.exited += 1
        self.report(Exit(0, 1, pid, status + 1 if "exit-status" in self.faults else status))

    def status_for(self, name: str) -> int:
        if "denies-everything" in self.faults:
            return 0xC0000022
        for rule in self.rules:
            pattern, upper = rule.pattern.upper(), name.upper()
            hit = {
                1: upper == pattern,
                2: upper.startswith(pattern.removesuffix("\\") + "\\"),
                3: upper == pattern or upper.endswith("\\" + pattern),
            }[int(rule.match)]
            if hit:
                return rule.status or 0xC0000022
        return 0

    def distort(self, create: Create) -> Create:
        changes = {
            "parent": {"parent_pid": create.parent_pid + 4},
            "creator": {"creator_tid": (create.creator_tid or 0) + 4},
            "image": {"image_name": (create.image_name or "")[:-1]},
            "command": {"command_line": (create.command_line or "") + " "},
            "flags": {"file_open_name_available": not create.file_open_name_available},
            "status": {"status": 0xC0000001},
            "pid": {"pid": create.pid + 1},
        }
        for fault in self.faults & changes.keys():
            create = replace(create, **changes[fault])
        return create

    def report(self, notification: Notification) -> None:
        sequence = self.next_sequence
        self.next_sequence += 1
        if len(self.queue) >= self.capacity:
            first = self.pending_gap or Gap(sequence, 1, 0)
            self.pending_gap = replace(first, count=first.count + 1)
            self.dropped += 1
            return
        if self.pending_gap is not None:
            self.queue.append(self.pending_gap)
            self.pending_gap = None
        self.queued += 1
        created = isinstance(notification, Create)
        if ("loses-creates" in self.faults and created) or ("loses-exits" in self.faults and not created):
            return
        self.queue.append(replace(notification, sequence=sequence))
        if ("doubles-creates" in self.faults and created) or ("doubles-exits" in self.faults and not created):
            self.queue.append(replace(notification, sequence=self.next_sequence))
            self.next_sequence += 1

    def read(self) -> bytes:
        if self.pending_gap is not None:
            self.queue.append(self.pending_gap)
            self.pending_gap = None
        found, self.queue = self.queue, []
        if "reverses" in self.faults and len(found) == 2:
            found = [replace(found[1], sequence=found[0].sequence), replace(found[0], sequence=found[1].sequence)]
        if "skips-a-number" in self.faults:
            found = [replace(item, sequence=item.sequence * 2) for item in found]
        if "overcounts-gaps" in self.faults:
            found = [replace(item, count=item.count + 2) if isinstance(item, Gap) else item for item in found]
        self.delivered += sum(not isinstance(item, Gap) for item in found)
        data = b"".join(map(self.abi.encode_notification, found))
        if "garbage" in self.faults and data:
            data = data[:4] + b"\x77" + data[5:]
        return data

    def statistics(self) -> bytes:
        wrong = 1 if "counts-wrong" in self.faults else 0
        waiting = bool(self.queue or self.pending_gap)
        numbers = Statistics(
            self.created + wrong,
            self.exited,
            self.denied,
            self.queued,
            self.delivered,
            self.dropped,
            4096,
            64 * len(self.queue),
            self.next_sequence,
            64 if waiting else 0,
            len(self.rules),
            len(self.abi.encode_rules(self.rules)),
            self.generation,
        )
        names = Statistics.__slots__
        return self.abi._statistics.pack(*(getattr(numbers, name) for name in names))

    def control(self, code: int, data: bytes) -> bytes:
        names = {value: name.rsplit("PROCNOTIFY_")[-1] for name, value in self.abi.constants.items() if "IOCTL" in name}
        name = names[code]
        if name == "GET_VERSION":
            capabilities = 0 if "incapable" in self.faults else 3
            return self.abi._version.pack(1, capabilities, 1024, 1 << 20)
        if name == "GET_STATISTICS":
            return self.statistics()
        if name == "GET_RULES":
            rules = self.rules[:-1] if "forgets-a-rule" in self.faults else self.rules
            return self.abi.encode_rules(rules)
        if name == "READ":
            return self.read()
        return self.set_rules(data)

    def set_rules(self, data: bytes) -> bytes:
        try:
            rules = self.abi.decode_rules(data)
        except AbiViolation:
            if "accepts-invalid-rules" in self.faults:
                return b""
            raise Win32Error(87, "ERROR_INVALID_PARAMETER", "DeviceIoControl") from None
        if "refuses-rules" in self.faults:
            raise Win32Error(5, "ERROR_ACCESS_DENIED", "DeviceIoControl")
        self.rules = rules
        self.generation += 1
        return b""


class FakeHandle:
    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine

    def control(self, code: int, data: bytes = b"", output_size: int = 0) -> bytes:
        if self.machine.driver is None:
            raise Win32Error(6, "ERROR_INVALID_HANDLE", "DeviceIoControl")
        return self.machine.driver.control(code, data)

    def close(self) -> None:
        pass


class FakeMachine:
    """Implements what of the Machine protocol the runner uses."""

    def __init__(self, *faults: str, queue_records: int = 10_000, kind: str = "emulated") -> None:
        self.faults = frozenset(faults)
        self.facts = MachineFacts("fake", kind, 19041, "observed")
        self.agent_pid = AGENT_PID
        self.queue_records = queue_records
        self.installed = False
        self.driver: FakeDriver | None = None
        self.processes: dict[int, Process] = {}
        self.images: dict[str, ImageKind] = {}
        self.free = list(range(20_000, 1_996, -8))
        self.parameters: Mapping[str, RegistryValue] = {}

    def install_driver(
        self, service: str, image: Path, *, parameters: Mapping[str, RegistryValue] | None = None
    ) -> None:
        self.installed = True
        self.parameters = parameters or {}

    def delete_driver(self, service: str) -> None:
        self.installed = False

    def driver_state(self, service: str) -> ServiceState:
        if not self.installed:
            raise Win32Error(1060, "ERROR_SERVICE_DOES_NOT_EXIST", "OpenService")
        return ServiceState.RUNNING if self.driver else ServiceState.STOPPED

    def start_driver(self, service: str) -> None:
        if "does-not-start" in self.faults:
            raise Win32Error(127, "ERROR_PROC_NOT_FOUND", "StartService")
        self.driver = FakeDriver(self.faults, self.queue_records)

    def stop_driver(self, service: str) -> None:
        if "does-not-stop" in self.faults:
            raise Win32Error(1052, "ERROR_INVALID_SERVICE_CONTROL", "ControlService")
        self.driver = None

    def open_device(
        self,
        path: str,
        access: DeviceAccess = DeviceAccess.READ | DeviceAccess.WRITE,
        *,
        account: Account = Account.ADMINISTRATOR,
    ) -> FakeHandle:
        if self.driver is None:
            raise Win32Error(2, "ERROR_FILE_NOT_FOUND", "CreateFileW")
        return FakeHandle(self)

    def provide_image(self, path: str, kind: ImageKind = ImageKind.NORMAL) -> None:
        self.images[path.lower()] = kind

    def launch(self, request: LaunchRequest) -> LaunchResult:
        if "crashes" in self.faults and self.driver:
            frames = (StackFrame("procnotify.sys", 0x10, "PnCreate", "notify.c", 12),)
            report = CrashReport(0x50, "PAGE_FAULT_IN_NONPAGED_AREA", (1, 2, 3, 4), "bad read", frames)
            raise MachineCrashed(report)
        creator = request.creator or AGENT_PID
        creator_tid = AGENT_TID if creator == AGENT_PID else creator + 4
        parent = request.parent or creator
        nt_name = "\\??\\" + request.image
        kind = self.images.get(request.image.lower())
        if kind is None:
            return LaunchResult(
                None, None, parent, creator, creator_tid, nt_name, request.command_line, 2, 0xC0000034, False
            )
        pid = self.free.pop()
        two_step = request.two_step
        name = nt_name[6:] if two_step else nt_name
        command = None if two_step else request.command_line
        create = Create(0, 1, pid, parent, creator, creator_tid, 0, name, command, not two_step)
        status = 0
        if self.driver and not request.subsystem:
            status = self.driver.create(create)
        status = status or STATUS_OF_KIND[kind]
        if status:
            if self.driver:
                self.driver.exit(pid, status)
            self.free.append(pid)
        else:
            self.processes[pid] = Process(pid, request.image, request.subsystem)
        win32_error = ERRORS.get(status, 317)
        if "wrong-error" in self.faults and status:
            win32_error = 1
        return LaunchResult(
            pid, pid + 4, parent, creator, creator_tid, nt_name, request.command_line, win32_error, status
        )

    def clone(self, pid: int) -> LaunchResult:
        image = self.processes[pid].image
        new = self.free.pop()
        notified = "silent-clones" not in self.faults
        if self.driver and notified:
            self.driver.create(Create(0, 1, new, pid, pid, pid + 4, 0, image[2:], None, False))
        self.processes[new] = Process(new, image, notified=notified)
        return LaunchResult(new, new + 4, pid, pid, pid + 4, "\\??\\" + image, None, 0, 0)

    def resume(self, pid: int) -> None:
        pass

    def exit_process(self, pid: int, status: int = 0) -> None:
        process = self.processes.pop(pid, None)
        if process is None:
            raise Win32Error(87, "ERROR_INVALID_PARAMETER", "OpenProcess")
        self.free.append(pid)
        if self.driver and not process.subsystem and process.notified:
            self.driver.exit(pid, status)

    terminate_process = exit_process
