"""A card profile: everything about a kind of card that is data, loaded from TOML and checked before use.

Reads one file, once; must not know orders, persons or a card in a reader. A wrong file stops the start, naming the key.
"""

import tomllib
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from card_personalization.encoding import IDENTIFIER_BYTES, anniversary
from card_personalization.errors import ProfileError


class Encoding(StrEnum):
    """How a record's value is written."""

    ASCII = "ascii"
    GB18030 = "gb18030"
    BCD = "bcd"
    DATE = "date"
    BINARY = "binary"


class Diversify(StrEnum):
    """Where the factor of a card key comes from."""

    ATR = "atr"
    NONE = "none"


class Authentication(StrEnum):
    """How the answer to a card challenge is computed."""

    PROCESS_KEY = "process-key"
    DIRECT = "direct"


class Field(StrEnum):
    """The fields of SSSE EF05 and EF06 by meaning; tags and places are the profile's."""

    IDENTIFIER = "identifier"
    CATEGORY = "category"
    SPEC_VERSION = "spec_version"
    INITIALISER = "initialiser"
    ISSUED = "issued"
    EXPIRES = "expires"
    CARD_NUMBER = "card_number"
    SOCIAL_SECURITY_NUMBER = "social_security_number"
    NAME = "name"
    NAME_EXTENSION = "name_extension"
    SEX = "sex"
    ETHNIC = "ethnic"
    BIRTH_PLACE = "birth_place"
    BIRTH_DATE = "birth_date"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: its number, one-byte tag, meaning, encoding and length in bytes."""

    number: int
    tag: int
    field: Field
    encoding: Encoding
    length: int


@dataclass(frozen=True, slots=True)
class CardFile:
    """An elementary file and its records in the order of writing."""

    id: int
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """The file as the specification names it: EF05."""
        return f"{self.id:04X}"


@dataclass(frozen=True, slots=True)
class CardKey:
    """A key on the card: its name in the key store, its id on the card, and how the card's own key is reached."""

    name: str
    id: int
    diversify: Diversify
    authentication: Authentication


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on the face, in pixels from the top left."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class FaceField:
    """Where a text stands, and how far it may shrink and break before it is refused."""

    label: str
    label_x_px: int
    x_px: int
    y_px: int
    size_px: int
    min_size_px: int
    max_width_px: int
    max_lines: int


@dataclass(frozen=True, slots=True)
class FaceTemplate:
    """The printed side of the card (ISO/IEC 7810 ID-1)."""

    width_px: int
    height_px: int
    dpi: int
    font: str
    language: str
    title: str
    title_x_px: int
    title_y_px: int
    title_size_px: int
    date_format: str
    photo: Box
    fields: tuple[tuple[str, FaceField], ...]


@dataclass(frozen=True, slots=True)
class CardProfile:
    """A kind of card. Frozen; one value may be shared by every thread of a station."""

    name: str
    revision: int
    max_attempts: int
    application: bytes
    spec_version: str
    category: str
    initialiser_prefix: str
    initialiser_tail: str
    validity_years: int
    sexes: frozenset[str]
    ethnics: frozenset[str]
    identifier_key: CardKey
    update_key: CardKey
    files: tuple[CardFile, ...]
    face: FaceTemplate

    def expires(self, issued: date) -> date:
        """The default 卡有效期 for a card issued on `issued`."""
        return anniversary(issued, years=self.validity_years)

    def length(self, field: Field) -> int:
        """The length of a field in bytes; 0 when this kind of card does not have it."""
        return next((r.length for file in self.files for r in file.records if r.field is field), 0)


_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)

FACE_FIELDS = ("name", "social_security_number", "card_number", "issued", "bank_name", "bank_card_number")

_OPTIONAL_FIELDS = frozenset({Field.NAME_EXTENSION})
_FIXED_LENGTHS = {Encoding.DATE: 4}
_ETHNIC_CODES = frozenset(f"{code:02d}" for code in range(1, 57))


def load_profile(path: Path) -> CardProfile:
    """The profile in a TOML file.

    Raises:
        ProfileError: unreadable, not TOML, or wrong at the named key (missing, unknown, of another type, impossible).
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(str(path), "file", "cannot be read") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(str(path), "syntax", str(error)) from error
    return _profile(_Table(str(path), "", data))


class _Table:
    """A TOML table that knows its file and place, so that every complaint names them; unread keys are refused."""

    def __init__(self, file: str, place: str, data: dict[str, Any]) -> None:
        self._file = file
        self._place = place
        self._data = data
        self._read: set[str] = set()

    def wrong(self, key: str, text: str) -> ProfileError:
        """The error for one key of this table."""
        return ProfileError(self._file, f"{self._place}.{key}".lstrip("."), text)

    def take(self, key: str, kind: type[_T]) -> _T:
        """A required value of an exact type."""
        self._read.add(key)
        if key not in self._data:
            raise self.wrong(key, "is missing")
        value = self._data[key]
        if type(value) is not kind:
            raise self.wrong(key, f"must be a {kind.__name__}")
        return value

    def number(self, key: str, *, least: int = 0, most: int = 1 << 16) -> int:
        """A whole number within bounds."""
        value = self.take(key, int)
        if not least <= value <= most:
            raise self.wrong(key, f"must lie between {least} and {most}")
        return value

    def digits(self, key: str, *, count: int) -> str:
        """Text of exactly `count` decimal digits."""
        value = self.take(key, str)
        if len(value) != count or not (value.isascii() and value.isdigit()):
            raise self.wrong(key, f"must be {count} digits")
        return value

    def hexadecimal(self, key: str) -> bytes:
        """Bytes written as hex digits."""
        try:
            return bytes.fromhex(self.take(key, str))
        except ValueError as error:
            raise self.wrong(key, "must be hexadecimal") from error

    def choice(self, key: str, kind: type[_E]) -> _E:
        """One of the names of an enumeration."""
        try:
            return kind(self.take(key, str))
        except ValueError as error:
            raise self.wrong(key, "must be one of " + ", ".join(member.value for member in kind)) from error

    def texts(self, key: str) -> frozenset[str]:
        """A list of texts."""
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "must be a list of texts")
        return frozenset(values)

    def table(self, key: str) -> "_Table":
        """A table inside this one."""
        return _Table(self._file, f"{self._place}.{key}".lstrip("."), self.take(key, dict))

    def tables(self, key: str) -> "list[_Table]":
        """A list of tables, not empty."""
        rows = self.take(key, list)
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise self.wrong(key, "must be a list of tables, not empty")
        place = f"{self._place}.{key}".lstrip(".")
        return [_Table(self._file, f"{place}[{index}]", row) for index, row in enumerate(rows)]

    def done(self) -> None:
        """Refuse what nobody asked for: a misspelt key must not be silently ignored."""
        for key in self._data:
            if key not in self._read:
                raise self.wrong(key, "is not known")


def _profile(root: _Table) -> CardProfile:
    card, codes, keys = root.table("card"), root.table("codes"), root.table("keys")
    profile = CardProfile(
        name=root.take("name", str),
        revision=root.number("revision", least=1),
        max_attempts=root.number("max_attempts", least=1, most=10),
        application=card.hexadecimal("application"),
        spec_version=card.take("spec_version", str),
        category=card.take("category", str),
        initialiser_prefix=card.digits("initialiser_prefix", count=10),
        initialiser_tail=card.digits("initialiser_tail", count=8),
        validity_years=card.number("validity_years", least=1, most=50),
        sexes=codes.texts("sex"),
        ethnics=_ETHNIC_CODES | codes.texts("ethnic_other"),
        identifier_key=_key(keys, "IRK"),
        update_key=_key(keys, "UKSSSE"),
        files=_files(root),
        face=_face(root.table("face")),
    )
    for table in (card, codes, keys, root):
        table.done()
    return profile


def _key(keys: _Table, name: str) -> CardKey:
    table = keys.table(name)
    authentication = Authentication.PROCESS_KEY
    if name == "UKSSSE":
        authentication = table.choice("authentication", Authentication)
    key = CardKey(name, table.number("id", most=0xFF), table.choice("diversify", Diversify), authentication)
    table.done()
    return key


def _files(root: _Table) -> tuple[CardFile, ...]:
    files = tuple(map(_file, root.tables("files")))
    fields = [record.field for file in files for record in file.records]
    for field in Field:
        if fields.count(field) > 1 or (field not in fields and field not in _OPTIONAL_FIELDS):
            raise root.wrong("files", f"must hold the field {field.value} once")
    return files


def _file(table: _Table) -> CardFile:
    identifier = table.hexadecimal("id")
    if len(identifier) != 2:
        raise table.wrong("id", "must be 2 bytes")
    file = CardFile(int.from_bytes(identifier, "big"), tuple(map(_record, table.tables("records"))))
    for unique in ("number", "tag"):
        if len({getattr(record, unique) for record in file.records}) != len(file.records):
            raise table.wrong("records", f"has the same {unique} twice")
    table.done()
    return file


def _record(table: _Table) -> Record:
    tag = table.hexadecimal("tag")
    if len(tag) != 1:
        raise table.wrong("tag", "must be 1 byte")
    record = Record(
        number=table.number("number", least=1, most=254),
        tag=tag[0],
        field=table.choice("field", Field),
        encoding=table.choice("encoding", Encoding),
        length=table.number("length", least=1, most=250),
    )
    _check_length(table, record)
    table.done()
    return record


def _check_length(table: _Table, record: Record) -> None:
    expected = IDENTIFIER_BYTES if record.field is Field.IDENTIFIER else _FIXED_LENGTHS.get(record.encoding)
    if expected is not None and record.length != expected:
        raise table.wrong("length", f"must be {expected}")


def _face(table: _Table) -> FaceTemplate:
    fields = table.table("fields")
    photo = table.table("photo")
    face = FaceTemplate(
        width_px=table.number("width_px", least=100, most=4000),
        height_px=table.number("height_px", least=100, most=4000),
        dpi=table.number("dpi", least=72, most=1200),
        font=table.take("font", str),
        language=table.take("language", str),
        title=table.take("title", str),
        title_x_px=table.number("title_x_px"),
        title_y_px=table.number("title_y_px"),
        title_size_px=table.number("title_size_px", least=8),
        date_format=_date_format(table),
        photo=Box(*(photo.number(key) for key in ("x_px", "y_px", "width_px", "height_px"))),
        fields=tuple((name, _face_field(fields.table(name))) for name in FACE_FIELDS),
    )
    for part in (photo, fields, table):
        part.done()
    return face


def _date_format(table: _Table) -> str:
    text = table.take("date_format", str)
    try:
        text.format(year=2026, month=1, day=5)
    except (KeyError, IndexError, ValueError) as error:
        raise table.wrong("date_format", "may use {year}, {month} and {day} only") from error
    return text


def _face_field(table: _Table) -> FaceField:
    field = FaceField(
        label=table.take("label", str),
        label_x_px=table.number("label_x_px"),
        x_px=table.number("x_px"),
        y_px=table.number("y_px"),
        size_px=table.number("size_px", least=8),
        min_size_px=table.number("min_size_px", least=8),
        max_width_px=table.number("max_width_px", least=1),
        max_lines=table.number("max_lines", least=1, most=2),
    )
    if field.min_size_px > field.size_px:
        raise table.wrong("min_size_px", "must not exceed size_px")
    table.done()
    return field
