"""The guest's commands over a SmallWindows: the schema binds parameters and types results, functions do the work.

A function takes (windows, context, **parameters) and yields dictionaries. A test holds this table against the schema,
so that a command without a function, or a function without a command, fails.
"""

from __future__ import annotations

import collections
import datetime
import hashlib
import itertools
import queue
import re
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.standin.windows import ERROR_SHUTDOWN_IN_PROGRESS, Refused, sha256
from vm import win32
from vm.windows.remoting import module_files

DUMP_FILE, MINIDUMPS = r"C:\Windows\MEMORY.DMP", r"C:\Windows\Minidump"
END_OF_INPUT = object()
BATCH = 1000


class Failure(Exception):
    """A failure that the schema names."""

    def __init__(self, name, message=""):
        super().__init__(message or name)
        self.name = name


COMMANDS = {}


def command(name):
    def register(function):
        COMMANDS[name] = function
        return function

    return register


@command("Get-NtproofGuestInfo")
def guest_info(windows, context):
    files = [windows.files.get(rf"{module_files.FOLDER}\{name}") for name in module_files.FILES]
    yield {
        "SchemaVersion": context.schema.version,
        "ModuleSha256": sha256(b"".join(file.content for file in files)),
        "PowerShellVersion": "5.1.0.0",
        "ProcessId": context.process_id,
        "BootId": windows.boot_id,
        "SystemTime": windows.system_time(),
    }


@command("Get-NtproofMachineFact")
def machine_fact(windows, context):
    identity = windows.identity
    yield {
        "ComputerName": identity.computer_name,
        "Caption": identity.caption,
        "Edition": identity.edition,
        "DisplayVersion": "0",
        "Build": windows.system.build,
        "Revision": identity.revision,
        "Architecture": "AMD64",
        "CodeIntegrity": True,
        "TestSigning": windows.test_signing,
        "KernelDebugger": False,
        "SecureBoot": identity.secure_boot,
        "MemoryIntegrity": False,
        "CodeIntegrityOptions": 0x3 if windows.test_signing else 0x1,
        "VerifierFlags": windows.verifier_flags,
        "VerifierDrivers": sorted(windows.verified),
        "SysmonRunning": "Sysmon" in windows.logs,
        "BootId": windows.boot_id,
    }


@command("Install-NtproofCertificate")
def install_certificate(windows, context, Certificate, Store):
    try:
        read = x509.load_der_x509_certificate(Certificate)
    except ValueError as error:
        raise Failure("BadCertificate", str(error)) from error
    thumbprint = read.fingerprint(hashes.SHA1()).hex().upper()  # Windows' thumbprint
    store = {"Root": windows.roots, "TrustedPublisher": windows.publishers}[Store]
    added = thumbprint not in store
    store[thumbprint] = Certificate
    yield {
        "Thumbprint": thumbprint,
        "Subject": read.subject.rfc4514_string(),
        "NotAfter": read.not_valid_after_utc,
        "Added": added,
    }


@command("Get-NtproofFileState")
def file_state(windows, context, Path):
    for path in Path:
        found = windows.files.get(path)
        yield {
            "Path": path,
            "Exists": found is not None,
            "Length": len(found.content) if found else 0,
            "Sha256": sha256(found.content) if found else None,
        }


@command("Write-NtproofFileChunk")
def write_chunk(windows, context, Path, Offset, Data):
    before = windows.files.read(Path) if Offset else b""
    if Offset > len(before):
        raise Refused(win32.ERROR_INVALID_PARAMETER, "WriteFile")
    windows.files.write(Path, before[:Offset] + Data + before[Offset + len(Data) :])
    yield {"Length": len(windows.files.read(Path))}


@command("Complete-NtproofFile")
def complete_file(windows, context, Path, Destination, Sha256):
    content = windows.files.read(Path)
    if sha256(content) != Sha256.lower():
        raise Failure("HashMismatch", f"{Path} has SHA-256 {sha256(content)}")
    windows.files.move(Path, Destination)
    yield {"Length": len(content)}


@command("Read-NtproofFileChunk")
def read_chunk(windows, context, Path, Offset, Count):
    content = windows.files.read(Path)
    yield {"Data": content[Offset : Offset + Count], "Length": len(content)}


@command("New-NtproofDirectory")
def new_directory(windows, context, Path):
    windows.files.make_folder(Path)
    return ()


class RunningProgram:
    """A program in a thread of its own; its lines are kept until somebody has taken them."""

    def __init__(self, windows, path, arguments):
        self._program = windows.program(path)
        self._arguments = arguments
        self.process_id = windows.new_pid()
        self.input = queue.Queue()
        self.changed = threading.Condition()
        self.lines = collections.deque()
        self.exit_code = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        steps = self._program(self._arguments, iter(self.input.get, END_OF_INPUT))
        for sequence in itertools.count(1):
            try:
                line = (sequence, next(steps), None)
            except StopIteration as stop:
                line = (sequence, "", stop.value or 0)
            with self.changed:
                self.lines.append(line)
                self.exit_code = line[2]
                self.changed.notify_all()
            if line[2] is not None:
                return

    @property
    def ended(self):
        return self.exit_code is not None

    def after(self, sequence, wait, stopping):
        """Batches of the lines after a sequence number; waits for the first one."""
        with self.changed:
            while self.lines and self.lines[0][0] <= sequence:
                self.lines.popleft()
            self.changed.wait_for(lambda: self.lines or self.ended or stopping.is_set(), wait)
            lines = list(self.lines)
        written = [line for line in lines if line[2] is None]
        batches = [written[start : start + BATCH] for start in range(0, len(written), BATCH)]
        batches += [[line] for line in lines if line[2] is not None]
        return [
            {
                "Sequence": batch[0][0],
                "Count": len(batch),
                "Stream": "out" if batch[0][2] is None else "exit",
                "Text": "\n".join(text for _, text, _ in batch),
                "ProcessId": self.process_id,
                "ExitCode": batch[0][2],
            }
            for batch in batches
        ]


@command("Invoke-NtproofProgram")
def invoke_program(windows, context, Path, Argument=(), InputData=b""):
    running = RunningProgram(windows, Path, list(Argument))
    for line in InputData.decode().splitlines():
        running.input.put(line)
    running.input.put(END_OF_INPUT)
    sequence = 0
    while True:
        for batch in running.after(sequence, 1.0, context.stopping):
            yield batch
            sequence = batch["Sequence"] + batch["Count"] - 1
            if batch["ExitCode"] is not None:
                return
        context.check()


@command("Start-NtproofAgent")
def start_agent(windows, context, Path, Argument=()):
    running = RunningProgram(windows, Path, list(Argument))
    agent = f"agent-{running.process_id}"
    context.agents[agent] = running
    yield {"AgentId": agent, "ProcessId": running.process_id}


def find_agent(context, agent):
    try:
        return context.agents[agent]
    except KeyError:
        raise Failure("NoAgent", f"there is no agent {agent}") from None


@command("Send-NtproofAgentLine")
def send_line(windows, context, AgentId, Line):
    running = find_agent(context, AgentId)
    if running.ended:
        raise Refused(win32.ERROR_BROKEN_PIPE, "WriteFile")
    running.input.put(Line)
    return ()


@command("Receive-NtproofAgentLine")
def receive_lines(windows, context, AgentId, After, WaitMilliseconds):
    yield from find_agent(context, AgentId).after(After, WaitMilliseconds / 1000, context.stopping)


@command("Request-NtproofAgentLine")
def request_lines(windows, context, AgentId, Line, After, WaitMilliseconds):
    send_line(windows, context, AgentId, Line)
    yield from receive_lines(windows, context, AgentId, After, WaitMilliseconds)


@command("Stop-NtproofAgent")
def stop_agent(windows, context, AgentId, WaitMilliseconds):
    running = context.agents.pop(AgentId, None)
    if running is None:
        yield {"ExitCode": None, "Killed": False}
        return
    running.input.put(END_OF_INPUT)
    with running.changed:
        running.changed.wait_for(lambda: running.ended, WaitMilliseconds / 1000)
    yield {"ExitCode": running.exit_code, "Killed": not running.ended}


@command("Enable-NtproofProcessAuditing")
def enable_auditing(windows, context):
    windows.auditing = True
    return ()


def log_records(windows, log):
    if log not in windows.logs:
        raise Failure("NoLog", f"there is no log {log}")
    return windows.logs[log]


@command("Get-NtproofAuditMark")
def audit_mark(windows, context, Log):
    records = log_records(windows, Log)
    yield {"Newest": records[-1][0] if records else 0, "Oldest": records[0][0] if records else 0}


# What the guest module replaces.
UNSENDABLE = re.compile("[\ud800-\udfff\ufffe\uffff]")


@command("Export-NtproofAuditEvent")
def audit_events(windows, context, Log, After):
    wanted = {"Security": (4688, 4689), "Sysmon": (1, 5)}[Log]
    for number, event, xml in log_records(windows, Log):
        if number > After and event in wanted:
            yield {"RecordId": number, "EventId": event, "Xml": UNSENDABLE.sub("\ufffd", xml)}


@command("Set-NtproofVerifier")
def set_verifier(windows, context, Driver, Flags, Watch):
    windows.verifier_flags = Flags
    if not Flags & 0x4:
        windows.low_resources.clear()
    (windows.verified.add if Watch == "add" else windows.verified.discard)(Driver.lower())
    return ()


@command("Set-NtproofLowResources")
def low_resources(windows, context, Driver, ProbabilityPer10000, PoolTag=""):
    windows.low_resources[Driver.lower()] = (ProbabilityPer10000, PoolTag)
    windows.verifier_flags |= 0x4
    windows.verified.add(Driver.lower())
    return ()


@command("Get-NtproofCrashDump")
def crash_dumps(windows, context):
    found = [windows.files.get(DUMP_FILE), *windows.files.within(MINIDUMPS)]
    for file in sorted((file for file in found if file), key=lambda file: file.written):
        written = datetime.datetime.fromtimestamp(file.written, datetime.UTC)
        yield {"Path": file.path, "Length": len(file.content), "Written": written}


@command("Restart-NtproofMachine")
def restart_machine(windows, context, DelaySeconds):
    if windows.restart_asked.is_set():
        raise Refused(ERROR_SHUTDOWN_IN_PROGRESS, "InitiateSystemShutdownExW")
    windows.restart_asked.set()
    return ()


def file_hash(content, algorithm):
    return hashlib.new(algorithm.lower(), content).hexdigest().upper()
