"""What a financial application in a profile must be to become a card that works (EMV CPS, EMV book 3, JR/T 0025 part 10).

A profile that breaks one of these would cost every blank it is used on, since the chip notices at its last command only. Must not
know orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from card_personalization import tlv
from card_personalization.errors import EncodingError
from card_personalization.profiles.model import Content, DataGroup, DataObject, EmvApplication, Issuer, Source
from card_personalization.profiles.table import Table

MOST_DISCRETIONARY = 10
"""Digits that are left on track 2 behind a card number of 19 (ISO/IEC 7813: 37 in all)."""

_MOST_SFI = 10
"""The record files that terminals read by AFL for a payment system (EMV book 3, 5.3.2.2)."""

# What a debit application is refused without at its last STORE DATA, and how each is made.
_DEBIT: Mapping[int, Content] = {
    0x0101: Content.RECORD,
    0x0201: Content.RECORD,
    0x0202: Content.RECORD,
    0x0301: Content.RECORD,
    0x0D01: Content.OBJECTS,
    0x8000: Content.CARD_KEYS,
    0x9000: Content.CHECK_VALUES,
    0x8010: Content.PIN_BLOCK,
    0x9010: Content.RAW,
    0x9102: Content.FCI,
    0x9104: Content.OBJECTS,
}
_FCI, _OPTIONS, _PIN_TRIES = 0x9102, 0x9104, 0x9010
_AIP, _AFL = 0x82, 0x94
_COUNTRY, _CURRENCY = 0x5F28, 0x9F42
_CHINA = bytes.fromhex("0156")
_CDOLS = (0x8C, 0x8D)

# Objects that are about the holder or the account: never constants.
_SOURCES: Mapping[int, Source] = {
    0x57: Source.TRACK2,
    0x5A: Source.PAN,
    0x5F20: Source.NAME,
    0x9F61: Source.DOCUMENT_NUMBER,
    0x5F24: Source.EXPIRES,
    0x5F25: Source.EFFECTIVE,
    0x5F30: Source.SERVICE_CODE,
    0x5F34: Source.PAN_SEQUENCE,
    _AFL: Source.AFL,
}
# Least and most bytes of constants (EMV book 3, annex A; JR/T 0025 part 5).
_LENGTHS: Mapping[int, tuple[int, int]] = {
    0x4F: (5, 16),
    0x50: (1, 16),
    _AIP: (2, 2),
    0x87: (1, 1),
    0x88: (1, 1),
    0x8C: (2, 252),
    0x8D: (2, 252),
    0x8E: (10, 252),
    _COUNTRY: (2, 2),
    0x5F2D: (2, 8),
    0x9F07: (2, 2),
    0x9F08: (2, 2),
    0x9F0D: (5, 5),
    0x9F0E: (5, 5),
    0x9F0F: (5, 5),
    0x9F11: (1, 1),
    0x9F12: (1, 16),
    0x9F14: (1, 1),
    0x9F17: (1, 1),
    0x9F23: (1, 1),
    0x9F36: (2, 2),
    _CURRENCY: (2, 2),
    0x9F51: (2, 2),
    0x9F57: (2, 2),
    0x9F62: (1, 1),
}
# What a terminal supplies (EMV book 3, annex A): amounts, country, results, currency, date, type, number, time, merchant.
_TERMINAL_TAGS = frozenset(
    int(text, 16)
    for text in [
        "9F02",
        "9F03",
        "9F1A",
        "95",
        "5F2A",
        "9A",
        "9C",
        "9F37",
        "8A",
        "91",
        "9F21",
        "9F4E",
        "9F34",
        "9F35",
        "9F45",
        "9F4C",
        "9F33",
        "9F40",
        "9F66",
        "9F7A",
        "DF60",
        "DF69",
    ]
)


def check_application(table: Table, application: EmvApplication) -> None:
    """Whether the groups together make an application.

    Raises:
        ProfileError: a group is missing, or is made otherwise than its id says.
    """
    debit = application.group(Content.CARD_KEYS) is not None or application.carrying(_AFL) is not None
    wanted = _DEBIT if debit else {_FCI: Content.FCI}
    there = {group.id: group.content for group in application.groups}
    if missing := [f"{number:04X}" for number in wanted if number not in there]:
        raise table.wrong("groups", f"lack {', '.join(missing)}, without which the chip refuses its last command")
    for index, group in enumerate(application.groups):
        if group.id in _DEBIT and group.content is not _DEBIT[group.id]:
            raise table.wrong(f"groups[{index}].content", f"must be {_DEBIT[group.id].value} for {group.name}")


def check_group(row: Table, group: DataGroup, application: EmvApplication, issuer: Issuer | None) -> None:
    """Whether a group by itself can be what its application needs.

    Raises:
        ProfileError: it cannot.
    """
    if group.content is Content.RECORD:
        _check_record(row, group, application.groups)
    if group.id == _PIN_TRIES and (len(group.value) != 2 or group.value[0] != group.value[1]):
        raise row.wrong("value", "must be the PIN tries twice: left, and their limit")
    if group.id == _OPTIONS and [item.tag for item in group.objects] != [_AIP, _AFL]:
        raise row.wrong("objects", "must be 82 and 94")
    needs_issuer = group.encrypted or any(item.source not in (None, Source.AFL) for item in group.objects)
    if needs_issuer and issuer is None:
        raise row.wrong("content", "needs the table [issuer]")
    if group.content is Content.CHECK_VALUES and application.group(Content.CARD_KEYS) is None:
        raise row.wrong("content", "are those of keys that no group carries")
    for index, item in enumerate(group.objects):
        _check_object(row, f"objects[{index}]", item, application)


def _check_object(row: Table, key: str, item: DataObject, application: EmvApplication) -> None:
    if item.source is not _SOURCES.get(item.tag):
        if item.tag in _SOURCES:
            raise row.wrong(key, f"must have the source {_SOURCES[item.tag].value}: it is no constant")
        raise row.wrong(key, f"{item.tag:02X} does not carry {item.source.value if item.source else 'it'}")
    if item.source is not None:
        return
    least, most = _LENGTHS.get(item.tag, (0, 252))
    if not least <= len(item.value) <= most:
        said = f"{least}" if least == most else f"{least} to {most}"
        raise row.wrong(key, f"must be {said} bytes, is {len(item.value)}")
    if item.tag in (_COUNTRY, _CURRENCY) and item.value != _CHINA:
        raise row.wrong(key, "must be 0156, China and its currency")
    if item.tag in _CDOLS:
        _check_dol(row, key, item, application)


def _check_record(row: Table, group: DataGroup, groups: Sequence[DataGroup]) -> None:
    sfi, number = group.record
    if not 1 <= sfi <= _MOST_SFI or number < 1:
        raise row.wrong("id", f"is not an SFI of 1 to {_MOST_SFI} and a record number")
    numbers = sorted(g.record[1] for g in groups if g.content is Content.RECORD and g.record[0] == sfi)
    if numbers != list(range(1, len(numbers) + 1)):
        raise row.wrong("id", "leaves a gap: the records of an SFI are numbered from 01 without one")


def _check_dol(row: Table, key: str, item: DataObject, application: EmvApplication) -> None:
    """Whoever reads the list must be able to supply what it asks for."""
    try:
        wanted = tlv.dol(item.value)
    except EncodingError as error:
        raise row.wrong(key, f"is not a list of tags and lengths: {error}") from error
    for tag in wanted:
        if tag not in _TERMINAL_TAGS and application.carrying(tag) is None:
            raise row.wrong(key, f"asks for tag {tag:02X}, which neither terminal nor card has")
