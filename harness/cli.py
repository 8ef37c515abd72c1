"""The ntproof command: finds the subcommand, and ends every error in one message and the exit code of its owner."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from harness import commands
from harness.abi import AbiViolation
from harness.errors import BuildError, HarnessError, SigningFailed
from harness.exit_codes import ExitCode
from vm.errors import DriverFault, MachineBroken, MachineConfigurationError, MachineError

INTERRUPTED = 130
"""What a shell reports of a program that SIGINT ended."""
OUTPUT_CLOSED = 141
"""What a shell reports of a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ntproof`` with these arguments and return its exit code; see `harness.exit_codes`."""
    try:
        _prepare_output()
        arguments = _parser().parse_args(argv)
        return _said(int(arguments.run(arguments)))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else ExitCode.USER_ERROR
    except (HarnessError, MachineError) as error:
        print(f"ntproof: error: {error}", file=sys.stderr)
        return exit_code_of(error)
    except BrokenPipeError:
        _drop_output()
        return OUTPUT_CLOSED
    except OSError as error:
        _drop_output()
        print(f"ntproof: error: {error}", file=sys.stderr)
        return ExitCode.MACHINE_ERROR
    except KeyboardInterrupt:
        print("ntproof: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - Python would end with 1, which says that the driver failed
        traceback.print_exc()
        print("ntproof: error: a defect of ntproof itself; please report it with what is above", file=sys.stderr)
        return ExitCode.MACHINE_ERROR


def _prepare_output() -> None:
    """Let standard output take every text. Raises MachineBroken where there is none."""
    if sys.stdout is None:
        raise MachineBroken("standard output is closed; send it to /dev/null if nobody is to read it")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names are of any language, and the locale of a pipeline often knows ASCII alone.
        sys.stdout.reconfigure(errors="backslashreplace")


def _said(code: int) -> int:
    """The code, once all output is out. Raises OSError."""
    sys.stdout.flush()
    return code


def _drop_output() -> None:
    """Send what is still in the buffer nowhere; Python would complain once more when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code_of(error: HarnessError | MachineError) -> ExitCode:
    """Whose turn it is after an error."""
    if isinstance(error, (DriverFault, AbiViolation, BuildError)):
        return ExitCode.DRIVER_FAILED
    if isinstance(error, SigningFailed):
        return ExitCode.MACHINE_ERROR
    if isinstance(error, (HarnessError, MachineConfigurationError)):
        return ExitCode.USER_ERROR
    return ExitCode.MACHINE_ERROR


def _parser() -> argparse.ArgumentParser:
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="ntproof",
        description="Tests Windows kernel drivers that watch and veto process creation.",
        epilog=f"Exit codes: {codes}.",
    )
    parser.add_argument("--version", action="version", version=f"ntproof {version('ntproof')}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for found in pkgutil.iter_modules(commands.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{commands.__name__}.{found.name}")
        summary = (module.__doc__ or "").partition("\n")[0]
        subparser = subparsers.add_parser(found.name, help=summary, description=summary)
        module.configure(subparser)
        subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
