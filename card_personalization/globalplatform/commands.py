"""GlobalPlatform commands and the data groupings of STORE DATA as values (card specification 2.3.1 chapter 11, EMV CPS 1.1).

Pure: bytes in, commands out. Must not know what the data means; keys in it are enciphered already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from card_personalization import tlv
from card_personalization.apdu import LE_ALL, Apdu, Ins
from card_personalization.globalplatform.rules import Protocol
from card_personalization.keys.base import Algorithm

_PLAIN = 0x80
_BY_NAME = 0x04
_FOR_PERSONALIZATION = 0x20
_LAST_BLOCK = 0x80
_RESPONSE_EXPECTED = 0x01
_MAX_BLOCKS = 0x100
_LONG_LENGTH = 0xFF
_MULTIPLE_KEYS = 0x80
_WITH_RELATED = 0x80
_AS_TLV = 0x02
_NEXT_OCCURRENCE = 0x01
_AID = 0x4F

_KEY_TYPES = {Algorithm.TRIPLE_DES: 0x80, Algorithm.AES: 0x88}
_KEY_PURPOSES = {Protocol.SCP02: b"\x00\x02", Protocol.SCP03: b"\x00\x03"}
_KEY_ATTRIBUTES = 0x00B9
_KEY_VALUE = 0x8113
_SECURITY_DOMAIN_ONLY = b"\x01"


class Encryption(IntEnum):
    """Bits 7 and 6 of P1 of STORE DATA."""

    NONE = 0x00
    APPLICATION = 0x20
    """What is enciphered is the application's to know."""
    ALL = 0x60
    """Every data grouping of the command is enciphered under the session's DEK."""


class Structure(IntEnum):
    """Bits 5 and 4 of P1 of STORE DATA. EMV CPS leaves them zero, GlobalPlatform names the format."""

    UNNAMED = 0x00
    DGI = 0x08


class Registry(IntEnum):
    """P1 of GET STATUS: what is asked for."""

    ISSUER_SECURITY_DOMAIN = 0x80
    APPLICATIONS = 0x40
    LOAD_FILES = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class Dgi:
    """A data grouping: two-byte tag and value; enciphered already where `encryption` says so."""

    tag: int
    value: bytes = field(repr=False)
    encryption: Encryption = Encryption.NONE

    def __bytes__(self) -> bytes:
        size = len(self.value)
        length = bytes((size,)) if size < _LONG_LENGTH else bytes((_LONG_LENGTH,)) + size.to_bytes(2, "big")
        return self.tag.to_bytes(2, "big") + length + self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A key on its way into a card: `ciphertext` under the session's DEK (24-byte keys padded), `size` its bytes in clear."""

    algorithm: Algorithm
    size: int
    ciphertext: bytes = field(repr=False)
    kcv: bytes


def select(name: bytes) -> Apdu:
    """SELECT by name; an empty one selects the issuer security domain."""
    return Apdu(0x00, Ins.SELECT, _BY_NAME, 0, name, le=LE_ALL)


def initialize_update(host_challenge: bytes, *, key_version: int = 0) -> Apdu:
    """INITIALIZE UPDATE; key version 0 lets the card choose."""
    return Apdu(_PLAIN, Ins.INITIALIZE_UPDATE, key_version, 0, host_challenge, le=LE_ALL)


def install_for_personalization(aid: bytes) -> Apdu:
    """INSTALL [for personalization]: the security domain passes the STORE DATA that follow on to `aid`."""
    data = b"\x00\x00" + bytes((len(aid),)) + aid + b"\x00\x00\x00"
    return Apdu(_PLAIN, Ins.INSTALL, _FOR_PERSONALIZATION, 0, data, le=LE_ALL)


def store_data(block: bytes, *, p1: int, p2: int) -> Apdu:
    """STORE DATA: `p1` says whether it is the last, what is enciphered and how it is built; `p2` is its number from 0."""
    return Apdu(_PLAIN, Ins.STORE_DATA, p1, p2, block, LE_ALL if p1 & _RESPONSE_EXPECTED else None)


def store_dgis(dgis: Iterable[Dgi], *, max_data: int, structure: Structure = Structure.DGI) -> tuple[Apdu, ...]:
    """STORE DATA commands for data groupings in their order; the last one says so.

    A command carries as many whole groupings as fit, all of one kind of encryption; one that is longer than a command has
    commands of its own.

    Raises:
        ValueError: the numbers do not fit one byte.
    """
    blocks = tuple(_blocks(dgis, max_data))
    if len(blocks) > _MAX_BLOCKS:
        raise ValueError("STORE DATA has no more than 256 blocks")
    last = len(blocks) - 1
    return tuple(
        store_data(block, p1=structure | encryption | (_LAST_BLOCK if number == last else 0), p2=number)
        for number, (encryption, block) in enumerate(blocks)
    )


def get_data(tag: int) -> Apdu:
    """GET DATA of a one- or two-byte tag."""
    return Apdu(_PLAIN, Ins.GET_DATA, tag >> 8, tag & 0xFF, le=LE_ALL)


def get_status(registry: Registry, *, aid: bytes = b"", following: bool = False) -> Apdu:
    """GET STATUS with answers as TLV, of entries whose AID begins with `aid`; `following` after SW 6310."""
    p2 = _AS_TLV | (_NEXT_OCCURRENCE if following else 0)
    return Apdu(_PLAIN, Ins.GET_STATUS, registry, p2, tlv.encode(_AID, aid), le=LE_ALL)


def delete(aid: bytes, *, related: bool = False) -> Apdu:
    """DELETE an application or load file, with `related` also what was made from it."""
    return Apdu(_PLAIN, Ins.DELETE, 0, _WITH_RELATED if related else 0, tlv.encode(_AID, aid), le=LE_ALL)


def put_key(keys: Sequence[WrappedKey], *, version: int, replaces: int = 0, first_id: int = 1) -> Apdu:
    """PUT KEY: keys with ids from `first_id` as key set `version`; `replaces` is the set they replace, 0 for a new one."""
    p2 = first_id | (_MULTIPLE_KEYS if len(keys) > 1 else 0)
    data = bytes((version,)) + b"".join(map(_key_field, keys))
    return Apdu(_PLAIN, Ins.PUT_KEY, replaces, p2, data, le=LE_ALL)


def key_dgis(keys: Sequence[WrappedKey], *, version: int, protocol: Protocol, first_id: int = 1) -> tuple[Dgi, ...]:
    """The same keys for STORE DATA to a security domain: attributes (00B9), then a value each (8113); for that domain only.

    Raises:
        ValueError: the keys are not all of one algorithm and size.
    """
    kinds = {(key.algorithm, key.size) for key in keys}
    if len(kinds) != 1:
        raise ValueError("a key set is of one algorithm and size")
    ((algorithm, size),) = kinds
    attributes = (
        tlv.encode(0x80, bytes((_KEY_TYPES[algorithm],)))
        + tlv.encode(0x81, bytes((size,)))
        + tlv.encode(0x83, bytes((version,)))
        + tlv.encode(0x96, _SECURITY_DOMAIN_ONLY)
        + tlv.encode(0x97, _KEY_PURPOSES[protocol])
    )
    references = (
        tlv.encode(0xB9, tlv.encode(0x82, bytes((number,))) + tlv.encode(0x84, key.kcv))
        for number, key in enumerate(keys, first_id)
    )
    head = Dgi(tag=_KEY_ATTRIBUTES, value=tlv.encode(0xB7, attributes) + b"".join(references))
    return (head, *(Dgi(tag=_KEY_VALUE, value=key.ciphertext, encryption=Encryption.ALL) for key in keys))


def _key_field(key: WrappedKey) -> bytes:
    value = key.ciphertext
    if key.algorithm is Algorithm.AES:
        value = bytes((key.size,)) + value
    return bytes((_KEY_TYPES[key.algorithm], len(value))) + value + bytes((len(key.kcv),)) + key.kcv


def _blocks(dgis: Iterable[Dgi], max_data: int) -> Iterator[tuple[Encryption, bytes]]:
    block, encryption = b"", Encryption.NONE
    for dgi in dgis:
        encoded = bytes(dgi)
        if block and (dgi.encryption is not encryption or len(block) + len(encoded) > max_data):
            yield encryption, block
            block = b""
        encryption = dgi.encryption
        if len(encoded) <= max_data:
            block += encoded
            continue
        for at in range(0, len(encoded), max_data):
            yield encryption, encoded[at : at + max_data]
    if block:
        yield encryption, block
