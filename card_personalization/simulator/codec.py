"""BER-TLV (ISO/IEC 8825-1, short tags of EMV) and data groupings of STORE DATA (EMV CPS 1.1), as the card reads them.

Must not know what a tag or a grouping means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from card_personalization.simulator.command import WRONG_DATA, WRONG_PARAMETERS, Command, Refused

_MORE_TAG = 0x1F
_LONG_DGI = 0xFF
_LAST_BLOCK = 0x80
_ENCRYPTION = 0x60
_ALL_ENCRYPTED = 0x60
_ENCRYPTION_RFU = 0x40
_STRUCTURE = 0x18
_STRUCTURES = (0x00, 0x08)
_RFU = 0x06


def tlv(tag: int, value: bytes) -> bytes:
    """One data object; `tag` of one or two bytes, a value of up to 65535 bytes."""
    size = len(value)
    if size < 0x80:
        length = bytes((size,))
    elif size < 0x100:
        length = bytes((0x81, size))
    else:
        length = b"\x82" + size.to_bytes(2, "big")
    return tag.to_bytes(2 if tag > 0xFF else 1, "big") + length + value


def objects(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """All data objects of `data`, in order.

    Raises:
        Refused: 6A80, it is not a row of whole data objects.
    """
    return tuple(_objects(data))


def _objects(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, at = _tag(data, at)
        size, at = _length(data, at)
        if at + size > len(data):
            raise Refused(WRONG_DATA)
        yield tag, data[at : at + size]
        at += size


def wanted_size(names: bytes) -> int:
    """Bytes that a data object list (DOL) asks for.

    Raises:
        Refused: 6A80, it is not a row of tags and lengths.
    """
    at = total = 0
    while at < len(names):
        _, at = _tag(names, at)
        size, at = _length(names, at)
        total += size
    return total


def _tag(data: bytes, at: int) -> tuple[int, int]:
    size = 2 if data[at] & _MORE_TAG == _MORE_TAG else 1
    tag = data[at : at + size]
    if len(tag) < size or (size == 2 and tag[1] & 0x80):
        raise Refused(WRONG_DATA)
    return int.from_bytes(tag, "big"), at + size


def _length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at : at + 1]
    if not first:
        raise Refused(WRONG_DATA)
    if first[0] < 0x80:
        return first[0], at + 1
    count = first[0] & 0x7F
    digits = data[at + 1 : at + 1 + count]
    if not 1 <= count <= 2 or len(digits) < count:
        raise Refused(WRONG_DATA)
    return int.from_bytes(digits, "big"), at + 1 + count


@dataclass(frozen=True, slots=True)
class Grouping:
    """One data grouping (DGI); `encrypted` when STORE DATA said that all of its groupings are."""

    tag: int
    value: bytes
    encrypted: bool


@dataclass(frozen=True, slots=True)
class GroupingReader:
    """Groupings spread over STORE DATA commands: the number of the next block and what is not whole yet."""

    block: int = 0
    rest: bytes = b""
    encrypted: bool = False

    def read(self, command: Command) -> tuple[GroupingReader, tuple[Grouping, ...]]:
        """The reader after the command and the groupings that became whole with it.

        Raises:
            Refused: 6A86, a block out of order or P1 without meaning; 6A80, the last block ends inside a grouping.
        """
        p1 = command.p1
        if command.p2 != self.block or p1 & _ENCRYPTION == _ENCRYPTION_RFU or p1 & _RFU:
            raise Refused(WRONG_PARAMETERS)
        if p1 & _STRUCTURE not in _STRUCTURES:
            raise Refused(WRONG_PARAMETERS)
        encrypted = p1 & _ENCRYPTION == _ALL_ENCRYPTED
        whole, rest = _split(self.rest + command.data)
        groupings = tuple(Grouping(tag, value, encrypted) for tag, value in whole)
        if groupings and self.rest:
            groupings = (replace(groupings[0], encrypted=self.encrypted or encrypted), *groupings[1:])
        if rest and last_block(command):
            raise Refused(WRONG_DATA)
        carried = encrypted if whole else self.encrypted or encrypted
        return GroupingReader((self.block + 1) % 0x100, rest, bool(rest) and carried), groupings


def last_block(command: Command) -> bool:
    """Whether a STORE DATA says it is the last."""
    return bool(command.p1 & _LAST_BLOCK)


def _split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    whole = []
    while len(data) >= 3:
        at, size = 3, data[2]
        if size == _LONG_DGI:
            at, size = 5, int.from_bytes(data[3:5], "big")
        if len(data) < at or len(data) - at < size:
            break
        whole.append((int.from_bytes(data[:2], "big"), data[at : at + size]))
        data = data[at + size :]
    return whole, data
