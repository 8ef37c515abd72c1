"""Reads process events from rendered XML, as ``wevtutil qe ... /f:xml`` and Get-WinEvent's ToXml give it.

    Security 4688, 4689   process created, process exited (provider Microsoft-Windows-Security-Auditing)
    Sysmon 1, 5           process create, process terminated (provider Microsoft-Windows-Sysmon)

Fields as on Microsoft's pages "4688(S): A new process has been created", "4689(S): A process has exited" and "Sysmon
v15: Events". Other events are passed over. Files may hold one ``Events`` element or bare ``Event`` elements one after
the other. The text is read inside an element of this module's own, where XML allows no document type: no entity can be
declared, so none can expand.

Windows renders control characters and lone surrogates of a command line as they are, though XML has no place for them:
https://github.com/elastic/beats/pull/11006, https://github.com/open-telemetry/opentelemetry-collector-contrib/issues/46435.
U+FFFD stands for each, which `harness.witness.names` takes into account.
"""

from __future__ import annotations

import codecs
import datetime
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, cast
from xml.etree import ElementTree

from harness.errors import InputError
from harness.notification import Create, Exit, canonical_text
from harness.witness.names import NOT_XML

_NAMESPACE: Final = "{http://schemas.microsoft.com/win/2004/08/events/event}"
_AUDIT: Final = "Microsoft-Windows-Security-Auditing"
_SYSMON: Final = "Microsoft-Windows-Sysmon"
_CHUNK: Final = 1 << 18
_LONGEST_EVENT: Final = 1 << 24
"""Characters of one event; the longest command line in it has 32,767."""
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z\Z")
_EPOCH: Final = datetime.datetime(1601, 1, 1)  # noqa: DTZ001 - Windows counts from here, and both sides are UTC
_DECLARATION: Final = re.compile(r"\s*<\?xml[^>]{0,200}\?>")
_REFERENCE: Final = re.compile(r"&#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}));")
_BEGUN_REFERENCE: Final = re.compile(r"&(?:#(?:x[0-9a-fA-F]{0,6}|[0-9]{0,7}))?\Z")
_REPLACEMENT: Final = "\ufffd"
_UNKNOWN: Final = "<unknown process>"
"""What Sysmon writes for the image of a process whose creation it lost."""


@dataclass(frozen=True, slots=True)
class WitnessedEvent:
    """A process event and who wrote it: `provider` and `computer` of the event's System element."""

    provider: str
    computer: str
    event: Create | Exit


def read_event_xml(path: Path) -> Iterator[WitnessedEvent]:
    """The process events of a file, in the order of the file, one at a time.

    Raises:
        InputError: the file cannot be read, is no XML, or a process event in it is malformed.
    """
    return _events(_pieces(path), str(path))


def read_event_texts(texts: Iterable[str], source: str) -> Iterator[WitnessedEvent]:
    """The process events among rendered records, one at a time.

    Args:
        texts: one Event element each.
        source: where they are from, for messages.

    Raises:
        InputError: one is no XML, or a process event that is malformed.
    """
    return _events(texts, source)


def _events(texts: Iterable[str], source: str) -> Iterator[WitnessedEvent]:
    parser: ElementTree.XMLPullParser[ElementTree.Element] = ElementTree.XMLPullParser(("start", "end"))
    root: ElementTree.Element | None = None
    number = 0
    waiting = 0
    try:
        for text in itertools.chain(("<ntproof>",), _carriable(texts), ("</ntproof>",)):
            parser.feed(text)
            waiting += len(text)
            events = cast("Iterator[tuple[str, ElementTree.Element]]", parser.read_events())
            for kind, element in events:
                if root is None:
                    root = element
                elif kind == "end" and element.tag == f"{_NAMESPACE}Event":
                    number += 1
                    waiting = 0
                    found = _Reader(element, f"{source}: event {number}").read()
                    if found is not None:
                        yield found
                    element.clear()
                    root.clear()
            if waiting > _LONGEST_EVENT:
                raise InputError(f"{source}: event {number + 1} does not end within {_LONGEST_EVENT} characters")
        parser.close()
    except ElementTree.ParseError as error:
        raise InputError(f"{source}: not the XML of an event log, after event {number}: {error}") from error


def _carriable(texts: Iterable[str]) -> Iterator[str]:
    """The same pieces of text, with a stand-in for what XML cannot carry, as it is or as a reference to it."""
    kept = ""
    for text in texts:
        whole = kept + NOT_XML.sub(_REPLACEMENT, text)
        begun = _BEGUN_REFERENCE.search(whole)
        kept = "" if begun is None else begun[0]
        yield _REFERENCE.sub(_carriable_reference, whole.removesuffix(kept))
    yield kept


def _carriable_reference(reference: re.Match[str]) -> str:
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    return reference[0] if code <= sys.maxunicode and not NOT_XML.match(chr(code)) else _REPLACEMENT


def _pieces(path: Path) -> Iterator[str]:
    """The text of the file in pieces, without byte order mark and XML declaration."""
    try:
        with path.open("rb") as file:
            first = file.read(_CHUNK)
            if first.startswith(b"ElfFile\0"):
                advice = f"wevtutil qe {path.name} /lf:true /f:xml /uni:true /e:Events > {path.stem}.xml"
                raise InputError(f"{path}: a binary event log; render it as XML where it was made: {advice}")
            decoder = codecs.getincrementaldecoder(_encoding(first))("surrogatepass")
            text = decoder.decode(first).removeprefix("\ufeff")
            yield _DECLARATION.sub("", text, count=1) if _DECLARATION.match(text) else text
            while data := file.read(_CHUNK):
                yield decoder.decode(data)
            yield decoder.decode(b"", final=True)
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: neither UTF-8 nor UTF-16; export it with /uni:true") from error


def _encoding(first: bytes) -> str:
    """The encoding by its byte order mark, or by how a tag begins without one."""
    if first.startswith((codecs.BOM_UTF16_LE, b"<\0")):
        return "utf-16-le"
    return "utf-16-be" if first.startswith((codecs.BOM_UTF16_BE, b"\0<")) else "utf-8"


class _Reader:
    """One Event element, read strictly."""

    def __init__(self, element: ElementTree.Element, place: str) -> None:
        self._element = element
        self._place = place

    def read(self) -> WitnessedEvent | None:
        """The process event, None for an event of another kind."""
        system = self._element.find(f"{_NAMESPACE}System")
        if system is None:
            self._fail("there is no System element")
        provider = system.find(f"{_NAMESPACE}Provider")
        name = "" if provider is None else provider.get("Name", "")
        identifier = self._text_of(system, "EventID")
        readers: dict[tuple[str, str], Callable[[int, int, Mapping[str, str]], Create | Exit]] = {
            (_AUDIT, "4688"): self._audit_create,
            (_AUDIT, "4689"): self._audit_exit,
            (_SYSMON, "1"): self._sysmon_create,
            (_SYSMON, "5"): self._sysmon_exit,
        }
        reader = readers.get((name, identifier))
        if reader is None:
            return None
        record = self._number(self._text_of(system, "EventRecordID"), "EventRecordID", 10, 63)
        self._place = f"{self._place} (record {record})"
        event = reader(record, self._time(system), self._data())
        return WitnessedEvent(name, self._text_of(system, "Computer"), event)

    def _audit_create(self, record: int, time: int, data: Mapping[str, str]) -> Create:
        pid = self._number(self._need(data, "NewProcessId"), "NewProcessId", 16)
        parent = self._number(self._need(data, "ProcessId"), "ProcessId", 16)
        image = self._image(self._need(data, "NewProcessName"))
        # Empty unless the policy "Include command line in process creation events" is on.
        command_line = data.get("CommandLine") or None
        return Create(record, time, pid, parent, None, None, None, image, command_line)

    def _audit_exit(self, record: int, time: int, data: Mapping[str, str]) -> Exit:
        pid = self._number(self._need(data, "ProcessId"), "ProcessId", 16)
        status = self._number(self._need(data, "Status"), "Status", 16)
        return Exit(record, time, pid, status, self._image(self._need(data, "ProcessName")))

    def _sysmon_create(self, record: int, time: int, data: Mapping[str, str]) -> Create:
        pid = self._number(self._need(data, "ProcessId"), "ProcessId", 10)
        parent = self._number(self._need(data, "ParentProcessId"), "ParentProcessId", 10)
        image = self._image(self._need(data, "Image"))
        command_line = data.get("CommandLine") or None
        return Create(record, time, pid, parent, None, None, None, image, command_line)

    def _sysmon_exit(self, record: int, time: int, data: Mapping[str, str]) -> Exit:
        pid = self._number(self._need(data, "ProcessId"), "ProcessId", 10)
        return Exit(record, time, pid, None, self._image(self._need(data, "Image")))

    def _data(self) -> dict[str, str]:
        found: dict[str, str] = {}
        body = self._element.find(f"{_NAMESPACE}EventData")
        if body is None:
            self._fail("there is no EventData element")
        for element in body:
            name = element.get("Name")
            if element.tag != f"{_NAMESPACE}Data" or name is None or len(element):
                self._fail("EventData holds something other than named Data elements")
            if name in found:
                self._fail(f"{name} is given twice")
            found[name] = canonical_text(element.text or "")
        return found

    def _time(self, system: ElementTree.Element) -> int:
        created = system.find(f"{_NAMESPACE}TimeCreated")
        text = "" if created is None else created.get("SystemTime", "")
        match = _TIME.match(text)
        try:
            since = datetime.datetime.fromisoformat(match[1] if match else "") - _EPOCH
        except ValueError:
            self._fail(f"expected a TimeCreated such as 2020-09-17T21:45:44.3710000Z, found {text!r:.60}")
        fraction = int(((match[2] if match else "") or "").ljust(7, "0")[:7])
        return (since.days * 86_400 + since.seconds) * 10_000_000 + fraction

    def _text_of(self, system: ElementTree.Element, name: str) -> str:
        element = system.find(f"{_NAMESPACE}{name}")
        if element is None:
            self._fail(f"there is no {name} element")
        return (element.text or "").strip()

    def _need(self, data: Mapping[str, str], name: str) -> str:
        if name not in data:
            self._fail(f"{name} is missing")
        return data[name]

    def _number(self, text: str, name: str, base: int, bits: int = 32) -> int:
        """A number in decimal, or in hexadecimal after 0x where `base` is 16."""
        pattern = r"0x[0-9a-fA-F]{1,16}\Z" if base == 16 else r"[0-9]{1,20}\Z"
        number = int(text, base) if re.match(pattern, text) else -1
        if not 0 <= number < 1 << bits:
            self._fail(f"{name}: expected a number in base {base} of at most {bits} bits, found {text!r:.40}")
        return number

    def _image(self, text: str) -> str | None:
        return None if text in {"", _UNKNOWN} else text

    def _fail(self, what: str) -> NoReturn:
        raise InputError(f"{self._place}: {what}")
