"""Reads a card back by tag and compares every field with the plan.

The outcome is a value that names fields, never their contents. Must not write to a card or know a journal.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from card_personalization import tlv
from card_personalization.apdu import SW_FILE_NOT_FOUND, SW_OK, SW_RECORD_NOT_FOUND, Channel
from card_personalization.atr import Atr
from card_personalization.errors import ApduError, EncodingError, UnknownCard
from card_personalization.keys.base import KeyStore
from card_personalization.personalize import identifier
from card_personalization.plan import Plan, decode_value, mask, read_record, select_application, select_file
from card_personalization.profiles import CardProfile, Field, Record

_ABSENT = frozenset({SW_FILE_NOT_FOUND, SW_RECORD_NOT_FOUND})
_CARD_ID_BYTES = 12
_ALGORITHM = 0x9F0C
_TRIPLE_DES = b"\x01"
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
class ReadBack:
    """The raw records of the application; None for one that the card does not have."""

    records: tuple[tuple[Record, bytes | None], ...]

    def value(self, field: Field) -> bytes | None:
        """The bytes of one field."""
        return next((value for record, value in self.records if record.field is field), None)

    @property
    def blank(self) -> bool:
        """Whether no record holds anything: all 00 or all FF."""
        return all(is_blank(value) for _, value in self.records)

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
    """Which fields differ from the plan: none on a good card."""

    differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the card holds exactly what was planned."""
        return not self.differing


def read_back(channel: Channel, *, profile: CardProfile) -> ReadBack:
    """Select the application anew and read every record of the profile by tag.

    Raises:
        ApduError: the card refuses a command for another reason than a missing record or file.
        CardLost: no answer.
        UnknownCard: the application is not of the expected kind.
    """
    _check_algorithm(channel.send(select_application(profile.application)))
    records: list[tuple[Record, bytes | None]] = []
    for file in profile.files:
        channel.send(select_file(file.id))
        records += [(record, _read(channel, record)) for record in file.records]
    return ReadBack(tuple(records))


def compare(found: ReadBack, *, plan: Plan, atr: Atr, keys: KeyStore) -> Verification:
    """Every field of the plan against the card, the 识别码 recomputed for this chip.

    Raises:
        KeyRefused: the store lacks the key of the 识别码.
    """
    return Verification(
        tuple(field.value for field, value in planned(plan, atr=atr, keys=keys).items() if found.value(field) != value)
    )


def planned(plan: Plan, *, atr: Atr, keys: KeyStore) -> dict[Field, bytes]:
    """What each field must hold on this chip.

    Raises:
        KeyRefused: the store lacks the key of the 识别码.
    """
    return {
        item.record.field: identifier(city=plan.city, atr=atr, keys=keys, key=plan.identifier_key)
        if item.value is None
        else item.value
        for item in plan.expected
    }


def somebody_else(found: ReadBack, *, plan: Plan) -> bool:
    """Whether the card carries a person's or card's number that is not this order's."""
    expected = {item.record.field: item.value for item in plan.expected}
    return any(not is_blank(found.value(field)) and found.value(field) != expected.get(field) for field in _PERSONAL)


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
