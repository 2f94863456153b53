"""Messages of the Internet Printing Protocol as bytes: `application/ipp` (RFC 8010), values and names of RFC 8011.

Pure. Knows the form of a message and nothing of printers, connections or what the attributes mean. Values of a syntax that
zhika does not use (collections, ranges, resolutions) come through as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

MEDIA_TYPE = "application/ipp"
VERSION = (2, 0)

Value = int | bool | str | bytes

_MAX_LENGTH = 0x7FFF  # RFC 8010, 3.1.4: a signed short that is never negative


class Delimiter(IntEnum):
    """Tags that begin a group of attributes (RFC 8010, 3.5.1)."""

    OPERATION = 0x01
    JOB = 0x02
    END = 0x03
    PRINTER = 0x04
    UNSUPPORTED = 0x05


class Syntax(IntEnum):
    """Tags of the values that zhika sends or reads (RFC 8010, 3.5.2)."""

    INTEGER = 0x21
    BOOLEAN = 0x22
    ENUM = 0x23
    TEXT = 0x41
    NAME = 0x42
    KEYWORD = 0x44
    URI = 0x45
    CHARSET = 0x47
    LANGUAGE = 0x48
    MIME_TYPE = 0x49


class Operation(IntEnum):
    """RFC 8011, 5.4.15."""

    PRINT_JOB = 0x0002
    GET_JOB_ATTRIBUTES = 0x0009
    GET_JOBS = 0x000A
    GET_PRINTER_ATTRIBUTES = 0x000B


_NUMBERS = frozenset({Syntax.INTEGER, Syntax.ENUM})
_STRINGS = frozenset(Syntax) - _NUMBERS - {Syntax.BOOLEAN}
_LAST_DELIMITER = 0x0F


@dataclass(frozen=True, slots=True)
class Attribute:
    """A name with one value or more, all of one syntax; `syntax` is the tag of the first, also of one we do not name."""

    name: str
    syntax: int
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Attributes under one delimiter: the operation, a job, the printer."""

    delimiter: int
    attributes: tuple[Attribute, ...]

    def values(self, name: str) -> tuple[Value, ...]:
        """All values of an attribute; none when it is absent."""
        return next((attribute.values for attribute in self.attributes if attribute.name == name), ())

    def text(self, name: str) -> str | None:
        """The first value of an attribute if it is a text."""
        return next((value for value in self.values(name)[:1] if isinstance(value, str)), None)

    def number(self, name: str) -> int | None:
        """The first value of an attribute if it is a number."""
        return next((value for value in self.values(name)[:1] if type(value) is int), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request or an answer; `code` is the operation of the one, the status of the other."""

    code: int
    request_id: int
    groups: tuple[Group, ...]
    version: tuple[int, int] = VERSION

    def grouped(self, delimiter: Delimiter) -> tuple[Group, ...]:
        """The groups of one kind, in order."""
        return tuple(group for group in self.groups if group.delimiter == delimiter)


def encode(message: Message) -> bytes:
    """The message's bytes; a document follows them as it is.

    Raises:
        ValueError: a name or value is too long or not of its syntax.
    """
    parts = [struct.pack(">BBHI", *message.version, message.code, message.request_id)]
    for group in message.groups:
        parts.append(bytes([group.delimiter]))
        parts += (_attribute(attribute) for attribute in group.attributes)
    return b"".join((*parts, bytes([Delimiter.END])))


def decode(data: bytes) -> tuple[Message, bytes]:
    """A message and what follows it.

    Raises:
        ValueError: the bytes are not a whole message.
    """
    try:
        return _Reader(data).message()
    except (struct.error, IndexError) as error:
        raise ValueError("the IPP message is cut short") from error


def _attribute(attribute: Attribute) -> bytes:
    if not attribute.name or not attribute.values:
        raise ValueError("an IPP attribute has a name and a value")
    names = (attribute.name, *[""] * (len(attribute.values) - 1))
    return b"".join(
        bytes([attribute.syntax]) + _counted(name.encode()) + _counted(_value(attribute.syntax, value))
        for name, value in zip(names, attribute.values, strict=True)
    )


def _counted(data: bytes) -> bytes:
    if len(data) > _MAX_LENGTH:
        raise ValueError(f"an IPP name or value is at most {_MAX_LENGTH} bytes")
    return struct.pack(">H", len(data)) + data


def _value(syntax: int, value: Value) -> bytes:
    match value:
        case bool() if syntax == Syntax.BOOLEAN:
            return bytes([value])
        case int() if syntax in _NUMBERS and not isinstance(value, bool):
            return struct.pack(">i", value)
        case str() if syntax in _STRINGS:
            return value.encode()
        case bytes() if syntax not in frozenset(Syntax):
            return value
    raise ValueError(f"a value of {type(value).__name__} does not suit the IPP syntax 0x{syntax:02x}")


class _Reader:
    """Takes a message off the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def message(self) -> tuple[Message, bytes]:
        major, minor, code, request_id = struct.unpack(">BBHI", self._take(8))
        groups = tuple(self._groups())
        return Message(code=code, request_id=request_id, groups=groups, version=(major, minor)), self._data[self._at :]

    def _groups(self) -> Iterator[Group]:
        tag = self._tag()
        while tag != Delimiter.END:
            if tag > _LAST_DELIMITER:
                raise ValueError("an IPP attribute stands outside every group")
            delimiter, attributes = tag, list[Attribute]()
            while (tag := self._tag()) > _LAST_DELIMITER:
                name, value = self._counted(), _parsed(tag, self._counted())
                if name:
                    attributes.append(Attribute(name.decode(), tag, (value,)))
                elif attributes:  # a further value, or a part of a collection
                    first = attributes[-1]
                    attributes[-1] = Attribute(first.name, first.syntax, (*first.values, value))
                else:
                    raise ValueError("an IPP value belongs to no attribute")
            yield Group(delimiter, tuple(attributes))

    def _tag(self) -> int:
        return self._take(1)[0]

    def _counted(self) -> bytes:
        (length,) = struct.unpack(">H", self._take(2))
        return self._take(length)

    def _take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise ValueError("the IPP message is cut short")
        self._at += length
        return piece


def _parsed(syntax: int, data: bytes) -> Value:
    if syntax in _NUMBERS and len(data) == 4:
        return int.from_bytes(data, "big", signed=True)
    if syntax == Syntax.BOOLEAN and len(data) == 1:
        return data != b"\0"
    if syntax in _STRINGS:
        return data.decode(errors="replace")
    return data


def request(operation: Operation, request_id: int, *groups: Group) -> Message:
    """A request with the two attributes that begin every one (RFC 8011, 4.1.4) before those of its first group."""
    first, *others = groups
    begin: Iterable[Attribute] = (
        Attribute("attributes-charset", Syntax.CHARSET, ("utf-8",)),
        Attribute("attributes-natural-language", Syntax.LANGUAGE, ("en",)),
    )
    opened = Group(first.delimiter, (*begin, *first.attributes))
    return Message(code=operation, request_id=request_id, groups=(opened, *others))
