"""Reads a card back as a terminal would, the social security files by tag and the financial application by its AFL, and compares
every field with the plan.

The outcome is a value that names fields, never their contents. Must not write to a card or know a journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from card_personalization import tlv
from card_personalization.apdu import LE_ALL, SW_FILE_NOT_FOUND, SW_OK, SW_RECORD_NOT_FOUND, Apdu, Channel, Ins
from card_personalization.atr import Atr
from card_personalization.emv import FCI_TEMPLATE, RECORD_TEMPLATE
from card_personalization.errors import ApduError, EncodingError, UnknownCard
from card_personalization.globalplatform.commands import get_data
from card_personalization.keys.base import KeyStore
from card_personalization.personalize import identifier
from card_personalization.plan import (
    BY_NUMBER,
    SOCIAL,
    Image,
    Plan,
    decode_value,
    mask,
    read_record,
    select_application,
    select_file,
)
from card_personalization.profiles import CardProfile, Content, DataObject, EmvApplication, Field, Record

_ABSENT = frozenset({SW_FILE_NOT_FOUND, SW_RECORD_NOT_FOUND})
_CARD_ID_BYTES = 12
_ALGORITHM = 0x9F0C
_TRIPLE_DES = b"\x01"
_PAN, _PDOL = 0x5A, 0x9F38
_AFL = 0x94
_RESPONSE_FORMAT_2 = 0x77
_COMMAND_TEMPLATE = 0x83
_NAMES = {0x57: "track2", _PAN: "pan", 0x5F20: "name", 0x9F0B: "name", 0x9F61: "document_number", 0x5F24: "expires"}
_PERSONAL = (Field.SOCIAL_SECURITY_NUMBER, Field.CARD_NUMBER)


class Fields(Mapping[str, str]):
    """Decoded fields by name. Its repr masks every value."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "Fields(" + ", ".join(f"{name}={mask(value)}" for name, value in self._values.items()) + ")"


@dataclass(frozen=True, slots=True, repr=False)
class ApplicationFound:
    """What an EMV application answered. `complete` is whether it is personalised; nothing more is read of one that is not."""

    name: str
    present: bool
    complete: bool = False
    fci: bytes | None = None
    options: Mapping[int, bytes] = field(default_factory=dict)
    records: Mapping[tuple[int, int], bytes] = field(default_factory=dict)
    data: Mapping[int, bytes | None] = field(default_factory=dict)

    def object(self, tag: int) -> bytes | None:
        """The first object with `tag` in a record."""
        return next((value for record in self.records.values() if (value := _inside(record, tag)) is not None), None)

    @property
    def pan(self) -> str | None:
        """The bank card number."""
        value = self.object(_PAN)
        return None if value is None else value.hex().upper().rstrip("F")

    def __repr__(self) -> str:
        return f"ApplicationFound({self.name}, present={self.present}, complete={self.complete})"


@dataclass(frozen=True, slots=True, repr=False)
class ReadBack:
    """The raw records of the social security application, None for one that the card does not have, and the EMV applications."""

    records: tuple[tuple[Record, bytes | None], ...]
    applications: tuple[ApplicationFound, ...] = ()

    def application(self, name: str) -> ApplicationFound | None:
        """The EMV application of this name."""
        return next((found for found in self.applications if found.name == name), None)

    def value(self, field: Field) -> bytes | None:
        """The bytes of one field."""
        return next((value for record, value in self.records if record.field is field), None)

    @property
    def blank(self) -> bool:
        """Whether no record holds anything, all 00 or all FF, and no EMV application is complete."""
        return all(is_blank(value) for _, value in self.records) and not any(a.complete for a in self.applications)

    @property
    def fields(self) -> Fields:
        """The fields that can be decoded, the name in one piece; dates as YYYY-MM-DD."""
        values: dict[str, str] = {}
        for record, value in self.records:
            if not is_blank(value) and value is not None and (text := _decoded(record, value)) is not None:
                values[record.field.value] = text
        head = values.get(Field.NAME.value, "")
        if tail := values.pop(Field.NAME_EXTENSION.value, ""):
            values[Field.NAME.value] = head + tail
        return Fields(values)

    @property
    def card_id(self) -> str | None:
        """The stable card id: the first 24 hex digits of the 识别码, once it is written."""
        value = self.value(Field.IDENTIFIER)
        return None if value is None or is_blank(value) else value[:_CARD_ID_BYTES].hex().upper()

    def __repr__(self) -> str:
        return repr(self.fields).replace("Fields", "ReadBack", 1)


@dataclass(frozen=True, slots=True)
class Verification:
    """Which fields differ from the plan, as `part.field`: none on a good card."""

    differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the card holds exactly what was planned."""
        return not self.differing

    def done(self, part: str) -> bool:
        """Whether this part of the plan needs no writing."""
        return not any(name.startswith(f"{part}.") for name in self.differing)


def read_back(channel: Channel, *, profile: CardProfile, images: tuple[Image, ...] = ()) -> ReadBack:
    """Select each application anew and read all of it. What `images` expect is asked for in its length, which saves T=0 a 6Cxx.

    Raises:
        ApduError: the card refuses a command for another reason than a missing record or file.
        CardLost: no answer.
        UnknownCard: the social security application is not of the expected kind, or an answer cannot be read.
    """
    _check_algorithm(channel.send(select_application(profile.application)))
    records: list[tuple[Record, bytes | None]] = []
    for file in profile.files:
        channel.send(select_file(file.id))
        records += [(record, _read(channel, record)) for record in file.records]
    try:
        expected = {image.application.name: image.records for image in images}
        found = tuple(_read_application(channel, a, expected.get(a.name, {})) for a in profile.applications)
    except EncodingError as error:
        raise UnknownCard(f"an answer of the financial application cannot be read: {error}") from error
    return ReadBack(tuple(records), found)


def compare(found: ReadBack, *, plan: Plan, atr: Atr, keys: KeyStore) -> Verification:
    """Every field of the plan against the card, the 识别码 recomputed for this chip.

    Raises:
        KeyRefused: the store lacks the key of the 识别码.
    """
    social = planned(plan, atr=atr, keys=keys).items()
    differing = [f"{SOCIAL}.{name.value}" for name, value in social if found.value(name) != value]
    for image in plan.images:
        name = image.application.name
        differing += [f"{name}.{what}" for what in _differences(found.application(name), image)]
    return Verification(tuple(differing))


def planned(plan: Plan, *, atr: Atr, keys: KeyStore) -> dict[Field, bytes]:
    """What each field must hold on this chip.

    Raises:
        KeyRefused: the store lacks the key of the 识别码.
    """
    return {
        item.record.field: identifier(city=plan.city, atr=atr, keys=keys, key=plan.profile.identifier_key)
        if item.value is None
        else item.value
        for item in plan.expected
    }


def somebody_else(found: ReadBack, *, plan: Plan) -> bool:
    """Whether the card carries a person's, card's or account's number that is not this order's."""
    expected = {item.record.field: item.value for item in plan.expected}
    if any(not is_blank(found.value(name)) and found.value(name) != expected.get(name) for name in _PERSONAL):
        return True
    pans = {image.application.name: _pan(image) for image in plan.images}
    return any(a.pan is not None and a.object(_PAN) != pans.get(a.name) for a in found.applications)


def is_blank(value: bytes | None) -> bool:
    """Whether a record holds nothing: absent, all 00 or all FF."""
    return value is None or not value.strip(b"\0") or not value.strip(b"\xff")


def _check_algorithm(fci: bytes) -> None:
    """Refuse an application whose keys are not 3DES keys (FCI tag 9F0C; absent means 3DES).

    Raises:
        UnknownCard: another algorithm, or an FCI that cannot be read.
    """
    try:
        algorithm = tlv.find(fci, _ALGORITHM)
    except EncodingError as error:
        raise UnknownCard("the answer to SELECT cannot be read") from error
    if algorithm not in (None, _TRIPLE_DES):
        raise UnknownCard("the keys of the application are not 3DES keys")


def _read(channel: Channel, record: Record) -> bytes | None:
    body, sw = channel.exchange(read_record(record))
    if sw in _ABSENT:
        return None
    if sw != SW_OK:
        raise ApduError(body, sw)
    try:
        tag, value = tlv.decode(body)
    except EncodingError:
        return body
    return value if tag == record.tag else body


def _decoded(record: Record, value: bytes) -> str | None:
    try:
        return decode_value(record, value)
    except EncodingError:
        return None


# --------------------------------------------------------------------------------------------------------- EMV applications


def _read_application(
    channel: Channel, application: EmvApplication, expected: Mapping[tuple[int, int], bytes]
) -> ApplicationFound:
    """SELECT, GET PROCESSING OPTIONS, the records of the AFL, GET DATA; only as far as the profile has such things."""
    name = application.name
    fci, sw = channel.exchange(select_application(application.aid))
    if sw != SW_OK:
        return ApplicationFound(name, present=sw not in _ABSENT)
    template = tlv.find(fci, FCI_TEMPLATE) if fci else None
    options: dict[int, bytes] = {}
    wanted = [group.record for group in application.groups if group.content is Content.RECORD]
    if application.carrying(_AFL) is not None:
        body, sw = channel.exchange(_get_processing_options(template))
        if sw != SW_OK:
            return ApplicationFound(name, present=True)
        options = tlv.children(tlv.find(body, _RESPONSE_FORMAT_2) or b"")
        wanted = _located(options.get(_AFL, b""))
    records: dict[tuple[int, int], bytes] = {}
    for sfi, number in wanted:
        size = len(expected.get((sfi, number), b"")) or LE_ALL
        body, sw = channel.exchange(Apdu(0x00, Ins.READ_RECORD, number, sfi << 3 | BY_NUMBER, le=size))
        if sw == SW_OK:
            records[sfi, number] = body
    if not template or len(records) < len(wanted):
        return ApplicationFound(name, present=True)
    data = {item.tag: _get_data(channel, item) for item in application.data}
    return ApplicationFound(name, True, True, template, options, records, data)


def _get_processing_options(fci: bytes | None) -> Apdu:
    """With zeros for all that the PDOL asks for (EMV book 3, 6.5.8)."""
    pdol = tlv.find(fci, _PDOL) if fci else None
    data = bytes(sum(tlv.dol(pdol).values())) if pdol else b""
    return Apdu(0x80, Ins.GET_PROCESSING_OPTIONS, 0, 0, tlv.ber(_COMMAND_TEMPLATE, data), le=256)


def _located(afl: bytes) -> list[tuple[int, int]]:
    entries = (afl[at : at + 4] for at in range(0, len(afl) - 3, 4))
    return [(entry[0] >> 3, number) for entry in entries for number in range(entry[1], entry[2] + 1)]


def _get_data(channel: Channel, item: DataObject) -> bytes | None:
    size = len(tlv.ber(item.tag, item.value))
    body, sw = channel.exchange(replace(get_data(item.tag), le=size))
    return tlv.children(body).get(item.tag) if sw == SW_OK else None


def _differences(found: ApplicationFound | None, image: Image) -> Iterator[str]:
    if found is None or not found.complete:
        yield "state"
        return
    if image.fci is not None and found.fci != tlv.find(image.fci, FCI_TEMPLATE):
        yield "fci"
    if dict(found.options) != image.options:
        yield "processing_options"
    for place in sorted(image.records.keys() | found.records.keys()):
        yield from _record_differences(place, found.records.get(place), image.records.get(place))
    yield from (f"data_{tag:04X}" for tag, value in image.data.items() if found.data.get(tag) != value)


def _record_differences(place: tuple[int, int], found: bytes | None, planned: bytes | None) -> Iterator[str]:
    if found == planned:
        return
    there, wanted = _contents(found), _contents(planned)
    tags = [tag for tag in wanted if there.get(tag) != wanted[tag]]
    yield from (_NAMES.get(tag, f"record_{place[0]:02X}{place[1]:02X}_{tag:02X}") for tag in tags)
    if not tags:
        yield f"record_{place[0]:02X}{place[1]:02X}"


def _contents(record: bytes | None) -> dict[int, bytes]:
    try:
        return tlv.children(tlv.find(record or b"", RECORD_TEMPLATE) or b"")
    except EncodingError:
        return {}


def _inside(record: bytes, tag: int) -> bytes | None:
    try:
        return tlv.find(record, tag)
    except EncodingError:
        return None


def _pan(image: Image) -> bytes | None:
    return next((v for record in image.records.values() if (v := _inside(record, _PAN)) is not None), None)
