"""Frozen data classes as XML elements: each field declares where it stands, and both directions follow from that.

A path names elements below the class's own, ``os/type``; an attribute comes after ``@``, ``os/type@machine``. What no
field declares is ignored when XML is read, because a hypervisor adds much of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar
from xml.etree import ElementTree as ET

_RULE: Final = "xml"
MAXIMUM_CHARACTERS: Final = 4 << 20
"""The longest XML that is read; a domain's is some ten thousand characters."""
_KIBIBYTES: Final = {
    "b": 1 / 1024,
    "bytes": 1 / 1024,
    "KB": 1000 / 1024,
    "k": 1,
    "KiB": 1,
    "MB": 1000**2 / 1024,
    "M": 1024,
    "MiB": 1024,
    "GB": 1000**3 / 1024,
    "G": 1 << 20,
    "GiB": 1 << 20,
}

T = TypeVar("T")


class XmlError(ValueError):
    """XML that cannot be read as what it should be; the message says where and what."""


class _RefuseTypes(ET.TreeBuilder):
    """Builds a tree, and refuses document types: nothing read here has one, and their entities can grow without end."""

    def doctype(self, name: str, _pubid: str | None, _system: str | None) -> NoReturn:
        raise XmlError(f"a document type {name!r} is not allowed here")


def parse(text: str, what: str) -> ET.Element:
    """The root element of a text.

    Args:
        text: the XML.
        what: what it is, for messages.

    Raises:
        XmlError: it is too long, not well-formed, or declares a document type.
    """
    if len(text) > MAXIMUM_CHARACTERS:
        raise XmlError(f"{what}: {len(text)} characters of XML; at most {MAXIMUM_CHARACTERS} are read")
    parser = ET.XMLParser(target=_RefuseTypes())  # noqa: S314 - the target refuses document types, so also entities
    try:
        parser.feed(text)
        root = parser.close()
    except (ET.ParseError, UnicodeError, ValueError) as error:
        raise XmlError(f"{what}: {error}") from error
    assert isinstance(root, ET.Element)
    return root


def render(element: ET.Element) -> str:
    """An element as indented text, with a line feed at the end."""
    ET.indent(element)
    return ET.tostring(element, encoding="unicode", short_empty_elements=True) + "\n"


@dataclass(frozen=True)
class Where:
    """A place below an element."""

    elements: tuple[str, ...]
    attribute: str | None

    @classmethod
    def of(cls, path: str) -> Where:
        """The place that ``a/b@c`` names; ``@c`` is an attribute of the element itself."""
        elements, at, attribute = path.partition("@")
        return cls(tuple(filter(None, elements.split("/"))), attribute if at else None)

    def find(self, element: ET.Element) -> ET.Element | None:
        """The element at this place."""
        for tag in self.elements:
            below = element.find(tag)
            if below is None:
                return None
            element = below
        return element

    def make(self, element: ET.Element) -> ET.Element:
        """The element at this place, made where it is missing."""
        for tag in self.elements:
            below = element.find(tag)
            element = ET.SubElement(element, tag) if below is None else below
        return element

    def read(self, element: ET.Element) -> str | None:
        """The text at this place."""
        found = self.find(element)
        if found is None:
            return None
        return found.get(self.attribute) if self.attribute is not None else (found.text or "").strip()

    def write(self, element: ET.Element, value: str) -> None:
        """Put a text at this place.

        Raises:
            XmlError: XML cannot hold it.
        """
        if any(not _is_character(character) for character in value):
            raise XmlError(f"{'/'.join(self.elements)}: {value!r} holds a character that XML cannot")
        target = self.make(element)
        if self.attribute is not None:
            target.set(self.attribute, value)
        else:
            target.text = value


def _is_character(character: str) -> bool:
    """Whether XML 1.0 can hold it; a carriage return would come back as a line feed."""
    code = ord(character)
    return character in "\t\n" or (0x20 <= code <= 0xD7FF) or (0xE000 <= code <= 0xFFFD) or code >= 0x10000


class Rule(Protocol):
    """How a field is written and read."""

    def write(self, element: ET.Element, value: Any) -> None:
        """Put a value below the element of the class."""

    def read(self, element: ET.Element) -> Any:
        """The value below the element of the class; None where there is none."""


@dataclass(frozen=True)
class ScalarRule:
    """A value that is one text."""

    where: Where
    to_text: Callable[[Any], str]
    from_text: Callable[[str], Any]

    def write(self, element: ET.Element, value: Any) -> None:
        """Put the value at its place."""
        self.where.write(element, self.to_text(value))

    def read(self, element: ET.Element) -> Any:
        """The value at its place."""
        found = self.where.read(element)
        if found is None:
            return None
        try:
            return self.from_text(found)
        except (ValueError, KeyError) as error:
            place = "/".join((element.tag, *self.where.elements)) + (
                f"@{self.where.attribute}" if self.where.attribute else ""
            )
            raise XmlError(f"{place}: {found!r} does not fit: {error}") from error


@dataclass(frozen=True)
class PresenceRule:
    """True where an element exists."""

    where: Where

    def write(self, element: ET.Element, value: bool) -> None:
        """Make the element where the value is true."""
        if value:
            self.where.make(element)

    def read(self, element: ET.Element) -> bool:
        """Whether the element exists."""
        return self.where.find(element) is not None


@dataclass(frozen=True)
class MemoryRule:
    """Mebibytes, with the unit written out; any unit of libvirt is read."""

    where: Where

    def write(self, element: ET.Element, value: int) -> None:
        """Put the value at its place."""
        self.where.write(element, str(value))
        self.where.make(element).set("unit", "MiB")

    def read(self, element: ET.Element) -> int | None:
        """The value in MiB, rounded down."""
        found = self.where.find(element)
        if found is None:
            return None
        try:
            return int(int((found.text or "").strip()) * _KIBIBYTES[found.get("unit", "KiB")]) // 1024
        except (ValueError, KeyError) as error:
            raise XmlError(f"{found.tag}: {ET.tostring(found, 'unicode').strip()} is no amount of memory") from error


@dataclass(frozen=True)
class PartRule:
    """A data class of its own; `empty_is_none` where an element without content stands for there being none."""

    where: Where
    kind: type[Any]
    empty_is_none: bool

    def write(self, element: ET.Element, value: Any) -> None:
        """Put the part's fields below its element."""
        _write(value, self.where.make(element))

    def read(self, element: ET.Element) -> Any:
        """The part."""
        found = self.where.find(element)
        if found is None or (self.empty_is_none and not len(found) and not found.attrib):
            return None
        return read(self.kind, found)


@dataclass(frozen=True)
class PartsRule:
    """A row of data classes of one kind; those elements belong to it for which `chosen` holds."""

    where: Where
    kind: type[Any]
    chosen: Callable[[ET.Element], bool]

    def write(self, element: ET.Element, value: tuple[Any, ...]) -> None:
        """Add an element for each."""
        if not value:
            return
        parent = Where(self.where.elements[:-1], None).make(element)
        for part in value:
            _write(part, ET.SubElement(parent, self.where.elements[-1]))

    def read(self, element: ET.Element) -> tuple[Any, ...]:
        """All of them."""
        parent = Where(self.where.elements[:-1], None).find(element)
        listed = [] if parent is None else parent.findall(self.where.elements[-1])
        return tuple(read(self.kind, one) for one in listed if self.chosen(one))


def declared(rule: Rule, default: Any) -> Any:
    """A field with a rule of its own."""
    return field(default=default, metadata={_RULE: rule}, kw_only=True)


def text(path: str, *, default: Any = MISSING) -> Any:
    """A field for a text."""
    return declared(ScalarRule(Where.of(path), str, str), default)


def whole(path: str, *, default: Any = MISSING) -> Any:
    """A field for an integer, decimal."""
    return declared(ScalarRule(Where.of(path), str, int), default)


def file(path: str, *, default: Any = MISSING) -> Any:
    """A field for the path of a file."""
    return declared(ScalarRule(Where.of(path), str, lambda found: Path(found) if found else None), default)


def choice(path: str, kind: type[Enum], *, default: Any = MISSING) -> Any:
    """A field for a member of an enumeration, by its value."""
    return declared(ScalarRule(Where.of(path), lambda member: str(member.value), kind), default)


def switch(path: str, words: tuple[str, str], *, default: Any = MISSING) -> Any:
    """A field for true or false, by the words for them in this order."""
    true, false = words
    by_word = {true: True, false: False}
    return declared(ScalarRule(Where.of(path), lambda value: true if value else false, by_word.__getitem__), default)


def present(path: str, *, default: Any = MISSING) -> Any:
    """A field that is true where an element exists."""
    return declared(PresenceRule(Where.of(path)), default)


def mebibytes(path: str) -> Any:
    """A field for an amount of memory in MiB."""
    return declared(MemoryRule(Where.of(path)), MISSING)


def part(path: str, kind: type[Any], *, default: Any = MISSING, empty_is_none: bool = False) -> Any:
    """A field for a data class that is declared the same way."""
    return declared(PartRule(Where.of(path), kind, empty_is_none), default)


def parts(path: str, kind: type[Any], *, chosen: Callable[[ET.Element], bool] = lambda _: True) -> Any:
    """A field for a row of data classes, an element each."""
    return declared(PartsRule(Where.of(path), kind, chosen), ())


def _write(value: Any, element: ET.Element) -> None:
    for one_field in fields(value):
        one = getattr(value, one_field.name)
        if one is not None:
            rule: Rule = one_field.metadata[_RULE]
            rule.write(element, one)


def write(value: Any, tag: str) -> ET.Element:
    """A data class as an element.

    Raises:
        XmlError: a text holds what XML cannot.
    """
    element = ET.Element(tag)
    _write(value, element)
    return element


def read(kind: type[T], element: ET.Element) -> T:
    """A data class from an element.

    Raises:
        XmlError: something is missing, or a value does not fit.
    """
    found: dict[str, Any] = {}
    for one_field in fields(kind):  # type: ignore[arg-type]
        rule: Rule = one_field.metadata[_RULE]
        one = rule.read(element)
        if one is None and one_field.default is MISSING:
            raise XmlError(f"{element.tag}: {one_field.name} is missing")
        found[one_field.name] = one_field.default if one is None else one
    return kind(**found)
