"""The financial application's data groups for one holder (PBOC debit, EMV CPS): what each DGI holds, as bytes or as a recipe.

Pure; what only a key store can make (card keys, their check values, the PIN block) stays a recipe and is bound in a session.
Must not know steps, sessions or cards.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from card_personalization import tlv
from card_personalization.errors import EncodingError
from card_personalization.keys.base import KeyRef
from card_personalization.profiles import Content, DataGroup, DataObject, EmvApplication, Issuer, Source

RECORD_TEMPLATE, FCI_TEMPLATE = 0x70, 0xA5

_PAN = re.compile(r"[0-9]{16,19}", re.ASCII)
_NAME_EXTENDED = 0x9F0B
_NAME_BYTES, _NAME_EXTENDED_BYTES = 26, 45
_LONGEST_RECORD = 255


@dataclass(frozen=True, slots=True)
class CardKeysRecipe:
    """The card's issuer keys, one after the other, under the session's DEK; `factor` is PAN digits and sequence (EMV option A)."""

    refs: tuple[KeyRef, ...]
    factor: bytes

    def __repr__(self) -> str:
        return f"CardKeysRecipe({', '.join(map(str, self.refs))})"


@dataclass(frozen=True, slots=True)
class CheckValuesRecipe:
    """The check values of the card's keys, in the same order."""

    keys: CardKeysRecipe


@dataclass(frozen=True, slots=True)
class PinBlockRecipe:
    """An offline PIN under the session's DEK."""


Recipe = CardKeysRecipe | CheckValuesRecipe | PinBlockRecipe


@dataclass(frozen=True, slots=True, repr=False)
class Filled:
    """A data group with its value."""

    group: DataGroup
    value: bytes | Recipe

    def __repr__(self) -> str:
        return f"Filled({self.group.name})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Debit:
    """What of the order stands in the financial application."""

    pan: str
    name: str
    document_number: str
    effective: date
    expires: date


def check_pan(pan: str, *, prefix: str) -> None:
    """Refuse a bank card number that is not 16 to 19 digits of the bank's range with a right check digit (ISO/IEC 7812).

    Raises:
        EncodingError: wrong form, range or check digit.
    """
    if not _PAN.fullmatch(pan):
        raise EncodingError("form", "is not 16 to 19 digits")
    if not pan.startswith(prefix):
        raise EncodingError("issuer", f"does not begin with {prefix}")
    doubled = (int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(pan)))
    if sum(n - 9 if n > 9 else n for n in doubled) % 10:
        raise EncodingError("check-digit", "has a wrong check digit (ISO/IEC 7812)")


def month_end(day: date) -> date:
    """The last day of the month: a bank card is good to the end of the month on it."""
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def fill(application: EmvApplication, *, issuer: Issuer | None, debit: Debit | None) -> tuple[Filled, ...]:
    """The application's groups in order.

    Raises:
        EncodingError: a value of the order does not fit its object, or a record is too long.
    """
    sources = _sources(issuer, debit)
    sources[Source.AFL] = _afl(application)
    keys = None
    if issuer is not None and debit is not None:
        factor = bytes.fromhex((debit.pan + issuer.pan_sequence)[-16:].rjust(16, "0"))
        keys = CardKeysRecipe(issuer.keys, factor)
    return tuple(_filled(group, sources, keys) for group in application.groups)


def _filled(group: DataGroup, sources: Mapping[Source, bytes], keys: CardKeysRecipe | None) -> Filled:
    match group.content:
        case Content.CARD_KEYS if keys:
            return Filled(group, keys)
        case Content.CHECK_VALUES if keys:
            return Filled(group, CheckValuesRecipe(keys))
        case Content.PIN_BLOCK:
            return Filled(group, PinBlockRecipe())
        case Content.RAW:
            value = group.value
        case _:
            value = _wrapped(group, b"".join(_objects(item, sources) for item in group.objects))
    return Filled(group, value)


def _wrapped(group: DataGroup, objects: bytes) -> bytes:
    match group.content:
        case Content.RECORD:
            record = tlv.ber(RECORD_TEMPLATE, objects)
            if len(record) > _LONGEST_RECORD:
                raise EncodingError("too-long", f"record {group.name} needs {len(record)} bytes, 255 can be read")
            return record
        case Content.FCI:
            return tlv.ber(FCI_TEMPLATE, objects)
        case _:
            return objects


def _objects(item: DataObject, sources: Mapping[Source, bytes]) -> bytes:
    value = item.value if item.source is None else sources[item.source]
    extended = item.source is Source.NAME and len(value) > _NAME_BYTES
    return tlv.ber(_NAME_EXTENDED if extended else item.tag, value)


def _sources(issuer: Issuer | None, debit: Debit | None) -> dict[Source, bytes]:
    if issuer is None or debit is None:
        return {}
    expires = f"{debit.expires:%y%m%d}"
    track2 = f"{debit.pan}D{expires[:4]}{issuer.service_code}{issuer.discretionary}"
    return {
        Source.PAN: _padded(debit.pan),
        Source.TRACK2: _padded(track2),
        Source.NAME: _name(debit.name),
        Source.DOCUMENT_NUMBER: debit.document_number.encode("ascii"),
        Source.EFFECTIVE: bytes.fromhex(f"{debit.effective:%y%m%d}"),
        Source.EXPIRES: bytes.fromhex(expires),
        Source.PAN_SEQUENCE: bytes.fromhex(issuer.pan_sequence),
        Source.SERVICE_CODE: bytes.fromhex(issuer.service_code.rjust(4, "0")),
    }


def _padded(digits: str) -> bytes:
    return bytes.fromhex(digits + "F" * (len(digits) % 2))


def _name(name: str) -> bytes:
    """5F20 holds 2 to 26 bytes; a longer name stands in 9F0B, 27 to 45 (EMV book 3)."""
    data = name.encode("gb18030")
    if len(data) > _NAME_EXTENDED_BYTES:
        raise EncodingError(
            "too-long", f"needs {len(data)} bytes, the financial application holds {_NAME_EXTENDED_BYTES}"
        )
    return data


def _afl(application: EmvApplication) -> bytes:
    """The application file locator: exactly the record groups, none of them signed (EMV book 3)."""
    records: dict[int, list[int]] = {}
    for group in application.groups:
        if group.content is Content.RECORD:
            records.setdefault(group.record[0], []).append(group.record[1])
    return b"".join(bytes((sfi << 3, min(numbers), max(numbers), 0)) for sfi, numbers in sorted(records.items()))
