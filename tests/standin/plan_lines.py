"""Lines of a plan, read as strictly as ntguest.exe reads them (driver/guest/json_request.c)."""

from __future__ import annotations

import base64
import binascii
import json

LINE_MAXIMUM = 4 << 20
BUFFER_MAXIMUM = 1 << 20
WAIT_MAXIMUM, WAIT_DEFAULT = 600_000, 10_000
NAME_UNITS, TEXT_UNITS = 128, 32_767
MEMBERS, PROCESSES, DEVICES, TRANSFERS, STREAMS, DEPTH = 32, 4096, 64, 256, 8, 16
NAMES = ("process", "device", "request", "stream", "as")


class BadRequest(Exception):
    """A mistake in a line."""


class Failed(Exception):
    """What kept an operation from being tried."""

    def __init__(self, error, **answer):
        super().__init__(error)
        self.error = error
        self.answer = answer


class Request:
    """One line, of which every member must be asked for."""

    def __init__(self, line):
        if len(line) > LINE_MAXIMUM:
            raise BadRequest("the line is too long")
        try:
            text = line.decode("utf-8")
            members = json.loads(text, object_pairs_hook=_flat, parse_float=_no_number, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise BadRequest(str(error)) from error
        if not isinstance(members, dict):
            raise BadRequest("expected an object")
        if len(members) > MEMBERS:
            raise BadRequest("an object has too many members")
        self._members = members
        self._used = set()

    def member(self, key):
        self._used.add(key)
        return self._members.get(key)

    def optional_text(self, key, limit=TEXT_UNITS):
        value = self.member(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadRequest(f"expected a text in '{key}'")
        if len(value.encode("utf-16-le", "surrogatepass")) > 2 * limit:
            raise BadRequest(f"the text is too long in '{key}'")
        if "\0" in value:
            raise BadRequest(f"the text holds a NUL in '{key}'")
        return value

    def text(self, key):
        value = self.optional_text(key, NAME_UNITS if key in NAMES else TEXT_UNITS)
        if not value:
            raise BadRequest(f"expected a text that is not empty in '{key}'")
        return value

    def number(self, key, limit, missing=None):
        value = self.member(key)
        if value is None:
            if missing is None:
                raise BadRequest(f"expected an integer in '{key}'")
            return missing
        if type(value) is not int:
            raise BadRequest(f"expected an integer in '{key}'")
        if not 0 <= value <= limit:
            raise BadRequest(f"the integer is out of range in '{key}'")
        return value

    def flag(self, key):
        value = self.member(key)
        if value is not None and type(value) is not bool:
            raise BadRequest(f"expected true or false in '{key}'")
        return bool(value)

    def octets(self, key, limit=BUFFER_MAXIMUM):
        value = self.member(key)
        if value is None:
            return b""
        try:
            data = base64.b64decode(value.encode("ascii"), validate=True) if isinstance(value, str) else None
        except (binascii.Error, UnicodeEncodeError):
            data = None
        if data is None:
            raise BadRequest(f"expected bytes in base64 in '{key}'")
        if len(data) > limit:
            raise BadRequest(f"too many bytes in '{key}'")
        return data

    def seconds(self, missing=WAIT_DEFAULT):
        return self.number("deadline_ms", WAIT_MAXIMUM, missing) / 1000

    def complete(self):
        for key in self._members:
            if key not in self._used:
                raise BadRequest(f"unknown key '{key:.32}'")


def _flat(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("a key is given twice")
        if isinstance(value, dict | list):
            raise ValueError("a value must be a text, an integer, true, false or null")  # noqa: TRY004 - as bad JSON
        if type(value) is int and abs(value) >= 1 << 64:
            raise ValueError("an integer has more than 64 bits")
        found[key] = value
    return found


def _no_number(text):
    raise ValueError(f"a number must be an integer: {text:.20}")
