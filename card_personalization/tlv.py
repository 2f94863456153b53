"""Tag, length, value: the simple one-byte form of SSSE records and the BER form of an FCI (ISO/IEC 7816-4).

Knows bytes only; must not know which tags exist or what they mean.
"""

from collections.abc import Iterator

from card_personalization.errors import EncodingError

_MULTI_BYTE_TAG = 0x1F
_CONSTRUCTED = 0x20


def encode(tag: int, value: bytes) -> bytes:
    """A record of one-byte tag, one-byte length and value (LD/T 32 file structure).

    Raises:
        EncodingError: the tag or the length needs more than one byte.
    """
    if not 0 < tag <= 0xFF or len(value) > 0xFF:
        raise EncodingError("tlv", "tag or length does not fit one byte")
    return bytes((tag, len(value))) + value


def decode(record: bytes) -> tuple[int, bytes]:
    """The tag and value of exactly one record made by `encode`.

    Raises:
        EncodingError: the length byte does not agree with the record.
    """
    if len(record) < 2 or record[1] != len(record) - 2:
        raise EncodingError("tlv", "record length does not agree with its content")
    return record[0], record[2:]


def ber(tag: int, value: bytes) -> bytes:
    """A BER-TLV object (ISO/IEC 7816-4): its length takes one byte to 127, two to 255, three to 65535.

    Raises:
        EncodingError: the value is longer.
    """
    size = len(value)
    if size > 0xFFFF:
        raise EncodingError("tlv", "a value is longer than 65535 bytes")
    length = (
        bytes((size,)) if size < 0x80 else bytes((0x81, size)) if size <= 0xFF else b"\x82" + size.to_bytes(2, "big")
    )
    return tag.to_bytes((tag.bit_length() + 7) // 8 or 1, "big") + length + value


def is_tag(data: bytes) -> bool:
    """Whether the bytes are exactly one BER tag."""
    try:
        return bool(data) and data[0] != 0 and _tag(data, 0)[1] == len(data)
    except EncodingError:
        return False


def dol(data: bytes) -> dict[int, int]:
    """A data object list (EMV book 3): the length wanted of each tag.

    Raises:
        EncodingError: the list ends inside an entry.
    """
    wanted: dict[int, int] = {}
    at = 0
    while at < len(data):
        tag, at = _tag(data, at)
        wanted[tag], at = _length(data, at)
    return wanted


def children(data: bytes) -> dict[int, bytes]:
    """The objects that stand one after the other in `data`, by tag; not those inside them.

    Raises:
        EncodingError: the data ends inside an object.
    """
    return {tag: value for tag, _, value in _objects(data)}


def find(data: bytes, tag: int) -> bytes | None:
    """The value of the first BER object with `tag`, looked for inside constructed objects too; None when absent.

    Raises:
        EncodingError: the data ends inside an object.
    """
    for found, constructed, value in _objects(data):
        if found == tag:
            return value
        if constructed and (inner := find(value, tag)) is not None:
            return inner
    return None


def _objects(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    at = 0
    while at < len(data):
        first = data[at]
        tag, at = _tag(data, at)
        length, at = _length(data, at)
        if at + length > len(data):
            raise EncodingError("tlv", "data ends inside an object")
        yield tag, bool(first & _CONSTRUCTED), data[at : at + length]
        at += length


def _tag(data: bytes, at: int) -> tuple[int, int]:
    tag = data[at]
    at += 1
    if tag & _MULTI_BYTE_TAG != _MULTI_BYTE_TAG:
        return tag, at
    while at < len(data):
        tag = tag << 8 | data[at]
        at += 1
        if not data[at - 1] & 0x80:
            return tag, at
    raise EncodingError("tlv", "data ends inside a tag")


def _length(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise EncodingError("tlv", "data ends before a length")
    first = data[at]
    if first < 0x80:
        return first, at + 1
    size = first & 0x7F
    if at + 1 + size > len(data):
        raise EncodingError("tlv", "data ends inside a length")
    return int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size
