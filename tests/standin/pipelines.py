"""Runspace pools and pipelines of the stand-in endpoint: PSRP through psrpcore, over the commands beside this file.

psrpcore's objects are not safe between threads, so each pool has one lock that everything goes through.
"""

from __future__ import annotations

import threading
import uuid

from psrpcore import PowerShell, PSRPPayload, ServerPipeline, ServerRunspacePool, StreamType
from psrpcore.types import (
    ErrorCategory,
    ErrorCategoryInfo,
    ErrorRecord,
    NETException,
    PSByteArray,
    PSCustomObject,
    PSInt,
    PSInt64,
    PSInvocationState,
    PSString,
    PSUInt,
    PSUInt64,
)

from tests.standin.commands import COMMANDS, Failure, file_hash
from tests.standin.windows import Refused
from vm.windows.remoting import module_files
from vm.windows.remoting.schema import ValueType

PSRP_TYPES = {
    ValueType.STRING: PSString,
    ValueType.BYTES: PSByteArray,
    ValueType.BOOLEAN: bool,
    ValueType.INT32: PSInt,
    ValueType.UINT32: PSUInt,
    ValueType.INT64: PSInt64,
    ValueType.UINT64: PSUInt64,
    ValueType.STRINGS: list,
}


class Stopped(Exception):
    """The pipeline was told to stop."""


class PowerShellError(Exception):
    """An error of PowerShell itself."""

    def __init__(self, message, error_id, category=ErrorCategory.NotSpecified):
        super().__init__(message)
        self.error_id = error_id
        self.category = category


def error_record(error, name):
    """The record that the guest module, or PowerShell, makes of an error."""
    category = getattr(error, "category", ErrorCategory.NotSpecified)
    match error:
        case Refused():
            error_id = f"NtproofWin32.{error.code}.{error.call},{name}"
        case Failure():
            error_id = f"NtproofFailure.{error.name},{name}"
        case PowerShellError():
            error_id = error.error_id
        case _:
            error_id = type(error).__name__
    return ErrorRecord(
        Exception=NETException(Message=str(error), HResult=-2146233088),
        CategoryInfo=ErrorCategoryInfo(Category=category, Reason=type(error).__name__, Activity=name),
        FullyQualifiedErrorId=error_id,
    )


class Context:
    """What a command may use of the pipeline that runs it."""

    def __init__(self, pool):
        self.schema = pool.schema
        self.process_id = pool.process_id
        self.agents = pool.agents
        self.stopping = threading.Event()

    def check(self):
        if self.stopping.is_set():
            raise Stopped


class Pipe:
    """The output of one pipeline, or of the pool itself, that is waiting for a Receive."""

    def __init__(self):
        self.chunks = []
        self.done = False
        self.pipeline = None
        self.context = None
        self.waiting = 0
        self.last = (None, None)


class Pool:
    """A runspace pool: one shell of WinRM."""

    def __init__(self, windows, schema, shell_id, fragment):
        self.windows = windows
        self.schema = schema
        self.id = shell_id
        self.process_id = windows.new_pid()
        self.agents = {}
        self.module = None
        self.changed = threading.Condition()
        self.closed = False
        self.own = Pipe()
        self.pipes = {}
        self._fragment = fragment
        self._pool = ServerRunspacePool(application_private_data={})

    def feed(self, data, command_id=None):
        """Take PSRP fragments from the client."""
        identity = uuid.UUID(command_id) if command_id else None
        with self.changed:
            self._pool.receive_data(PSRPPayload(data, StreamType.default, identity))
            while (event := self._pool.next_event()) is not None:
                if type(event).__name__ == "CreatePipelineEvent":
                    self._start(str(event.pipeline_id).upper(), event.pipeline)
            self._flush()

    def command(self, command_id, data):
        """A new pipeline with its first fragment."""
        with self.changed:
            pipe = self.pipes[command_id] = Pipe()
            pipe.pipeline = ServerPipeline(self._pool, uuid.UUID(command_id))
        self.feed(data, command_id)

    def stop(self, command_id, *, forget):
        """Tell a pipeline to stop, and wait until it has."""
        with self.changed:
            pipe = self.pipes.get(command_id)
            if pipe is None:
                return
            if pipe.context is not None:
                pipe.context.stopping.set()
            self._wake(pipe)
            self.changed.wait_for(lambda: pipe.done, 5)
            if forget:
                del self.pipes[command_id]

    def close(self):
        with self.changed:
            self.closed = True
            for pipe in self.pipes.values():
                if pipe.context is not None:
                    pipe.context.stopping.set()
                self._wake(pipe)
            self.changed.notify_all()

    def _wake(self, pipe):
        for agent in self.agents.values():
            with agent.changed:
                agent.changed.notify_all()

    def _start(self, command_id, pipeline):
        pipe = self.pipes[command_id]
        pipe.context = Context(self)
        pipe.pipeline.start()
        threading.Thread(target=self._run, args=(pipe, pipeline), daemon=True).start()

    def _flush(self):
        """Sort what psrpcore wants to send to the pipelines that it belongs to. Wants the lock."""
        while (payload := self._pool.data_to_send(self._fragment)) is not None:
            pipe = self.own if payload.pipeline_id is None else self.pipes.get(str(payload.pipeline_id).upper())
            if pipe is not None:
                pipe.chunks.append(payload.data)
        self.changed.notify_all()

    def _run(self, pipe, pipeline):
        failure = None
        name = ""
        try:
            assert isinstance(pipeline, PowerShell)
            for called in pipeline.commands:
                name = str(called.command_text)
                for item in self._call(called, pipe):
                    self._emit(pipe, item)
        except Stopped:
            failure = "stopped"
        except Exception as error:  # noqa: BLE001 - whatever a command raises ends its pipeline, not the endpoint
            failure = error_record(error, name)
        with self.changed:
            if failure is None:
                pipe.pipeline.complete()
            elif failure == "stopped":
                pipe.pipeline.stop()
            else:
                # psrpcore has no public way to end a pipeline as failed.
                pipe.pipeline._change_state(PSInvocationState.Failed, error=failure)
            pipe.done = True
            self._flush()

    def _emit(self, pipe, item):
        with self.changed:
            if self.closed:
                raise Stopped
            pipe.context.check()
            pipe.pipeline.write_output(item)
            self._flush()

    def _call(self, called, pipe):
        name = str(called.command_text)
        if called.is_script:
            raise PowerShellError("no script is run here", "ScriptsNotAllowed", ErrorCategory.ParserError)
        given = {str(key): value for key, value in called.parameters}
        if name in BUILTINS:
            return BUILTINS[name](self, **given)
        if name not in self.schema.commands or not self.module:
            raise PowerShellError(
                f"The term '{name}' is not recognized", "CommandNotFoundException", ErrorCategory.ObjectNotFound
            )
        command = self.schema[name]
        arguments = bind(command, given)
        return (shape(command, row) for row in COMMANDS[name](self.windows, pipe.context, **arguments))


def bind(command, given):
    """Bind parameters as PowerShell's param blocks of this schema would."""
    unknown = set(given) - set(command.parameters)
    if unknown:
        raise PowerShellError(
            f"A parameter cannot be found that matches parameter name '{unknown.pop()}'.",
            f"NamedParameterNotFound,{command.name}",
            ErrorCategory.InvalidArgument,
        )
    missing = [name for name, parameter in command.parameters.items() if parameter.required and name not in given]
    if missing:
        raise PowerShellError(
            f"missing mandatory parameters: {' '.join(missing)}", f"MissingMandatoryParameter,{command.name}"
        )
    return {name: convert(command, command.parameters[name], value) for name, value in given.items()}


def convert(command, parameter, value):
    def refuse():
        return PowerShellError(
            f"Cannot validate or transform argument on parameter '{parameter.name}'",
            f"ParameterArgumentValidationError,{command.name}",
            ErrorCategory.InvalidData,
        )

    if parameter.type is ValueType.SWITCH:
        return True
    limits = parameter.type.integer_range
    if limits is not None:
        low = limits[0] if parameter.minimum is None else parameter.minimum
        high = limits[-1] if parameter.maximum is None else parameter.maximum
        if not isinstance(value, int) or not low <= value <= high:
            raise refuse()
        return int(value)
    if parameter.type is ValueType.BYTES:
        if not isinstance(value, bytes):
            raise refuse()
        return bytes(value)
    if parameter.type is ValueType.STRINGS:
        return [str(item) for item in value]
    if parameter.values and str(value) not in parameter.values:
        raise refuse()
    return str(value)


def shape(command, row):
    """A row as the module emits it: a PSCustomObject with the schema's properties, empty bytes as null."""
    assert set(row) == set(command.results), (command.name, set(row) ^ set(command.results))
    found = {}
    for name, result in command.results.items():
        value = row[name]
        if value is None or value == b"":
            found[name] = None
        elif result.type is ValueType.DATETIME:
            found[name] = PSString(value.strftime("%Y-%m-%dT%H:%M:%S.%f0+00:00"))
        else:
            found[name] = PSRP_TYPES[result.type](value)
    return PSCustomObject(PSTypeName=f"Ntproof.{command.name}", **found)


# Cmdlets that every Windows has, with the parameters that the client gives them.


def set_execution_policy(pool, ExecutionPolicy, Scope, Force):
    return ()


def import_module(pool, Name):
    names = [pool.windows.files.get(rf"{module_files.FOLDER}\{name}") for name in module_files.FILES]
    if Name.lower() != rf"{module_files.FOLDER}\{module_files.FILES[0]}".lower() or None in names:
        raise PowerShellError(
            f"The specified module '{Name}' was not loaded because no valid module file was found",
            "Modules_ModuleNotFound,Microsoft.PowerShell.Commands.ImportModuleCommand",
            ErrorCategory.ResourceUnavailable,
        )
    pool.module = Name
    return ()


def out_null(pool):
    return ()


def new_item(pool, Path, ItemType, Force):
    assert ItemType == "Directory"
    pool.windows.files.make_folder(str(Path))
    return ()


def set_content(pool, LiteralPath, Value, Encoding):
    assert Encoding == "Byte"
    pool.windows.files.write(str(LiteralPath), bytes(Value), make_folders=False)
    return ()


def add_content(pool, LiteralPath, Value, Encoding):
    before = pool.windows.files.read(str(LiteralPath))
    return set_content(pool, LiteralPath, before + bytes(Value), Encoding)


def get_file_hash(pool, LiteralPath, Algorithm):
    content = pool.windows.files.read(str(LiteralPath))
    yield PSCustomObject(Algorithm=str(Algorithm), Hash=file_hash(content, str(Algorithm)), Path=str(LiteralPath))


BUILTINS = {
    "Set-ExecutionPolicy": set_execution_policy,
    "Import-Module": import_module,
    "Out-Null": out_null,
    "New-Item": new_item,
    "Set-Content": set_content,
    "Add-Content": add_content,
    "Get-FileHash": get_file_hash,
}
