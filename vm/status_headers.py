"""Writes the tables of status names in vm/data from the public-domain mingw-w64 headers of the ziglang package.

Run `python -m vm.status_headers` after a new release of the headers; a test keeps the tables equal to them.
"""

from __future__ import annotations

import re
from pathlib import Path

DATA = Path(__file__).parent / "data"

_STATUS = re.compile(r"^#define\s+((?:STATUS|DBG|RPC_NT|EPT_NT)_\w+)\s+\(\(NTSTATUS\)\s*(0x[0-9A-Fa-f]+)L?\)")
_WIN32 = re.compile(r"^#define\s+((?:ERROR|RPC_S|RPC_X|EPT_S|OR)_\w+)\s+(?:__MSABI_LONG\()?(\d+)\)?\s*$")


def parse_ntstatus(text: str) -> dict[str, int]:
    """Names and values of ntstatus.h, in its order; STATUS_SEVERITY_* are no statuses and are left out."""
    found = (_STATUS.match(line) for line in text.splitlines())
    return {match[1]: int(match[2], 16) for match in found if match}


def parse_winerror(text: str) -> dict[str, int]:
    """Names and values of the Win32 errors in winerror.h, in its order; HRESULTs are left out."""
    found = (_WIN32.match(line) for line in text.splitlines())
    return {match[1]: int(match[2]) for match in found if match}


def header_folder() -> Path:
    """Where the headers lie in the installed ziglang package."""
    import ziglang

    return Path(ziglang.__file__).parent / "lib" / "libc" / "include" / "any-windows-any"


def main() -> None:
    """Write both tables."""
    tables = (("ntstatus", parse_ntstatus, "0x{:08X}"), ("winerror", parse_winerror, "{}"))
    for name, parse, number in tables:
        values = parse((header_folder() / f"{name}.h").read_text(encoding="utf-8"))
        lines = [f"# {name}.h of mingw-w64 (public domain), written by vm.status_headers"]
        lines += [f"{symbol} {number.format(value)}" for symbol, value in values.items()]
        (DATA / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
