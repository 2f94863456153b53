"""Reads a card profile from TOML and refuses a wrong one, naming the line.

What can be wrong without knowing an order is found here; must not know orders, persons or a card in a reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from card_personalization import tlv
from card_personalization.encoding import IDENTIFIER_BYTES
from card_personalization.globalplatform.rules import ChallengeCheck, ChannelRules, Level, Protocol
from card_personalization.keys.base import Diversification, KeyRef
from card_personalization.profiles.emv_rules import MOST_DISCRETIONARY, check_application, check_group
from card_personalization.profiles.model import (
    Authentication,
    Box,
    CardFile,
    CardKey,
    CardProfile,
    Content,
    DataGroup,
    DataObject,
    Diversify,
    EmvApplication,
    Encoding,
    FaceField,
    FaceTemplate,
    Field,
    Issuer,
    Pin,
    Record,
    Route,
    Source,
)
from card_personalization.profiles.table import Table, load_table

FACE_FIELDS = ("name", "social_security_number", "card_number", "issued", "bank_name", "bank_card_number")

_OPTIONAL_FIELDS = frozenset({Field.NAME_EXTENSION})
_FIXED_LENGTHS = {Encoding.DATE: 4}
_ETHNIC_CODES = frozenset(f"{code:02d}" for code in range(1, 57))

_CARD_KEYS = 3
_MOST_VALUE = 240


def load_profile(path: Path) -> CardProfile:
    """The profile in a TOML file.

    Raises:
        ProfileError: unreadable, not TOML, or wrong at the named line and key (missing, unknown, of another type, impossible).
    """
    return _profile(load_table(path))


def _profile(root: Table) -> CardProfile:
    card, codes, pin = root.table("card"), root.table("codes"), root.table("pin")
    keys = _keys(root.table("keys"))
    issuer = _issuer(root.table("issuer")) if "issuer" in root else None
    profile = CardProfile(
        name=root.take("name", str),
        revision=root.number("revision", least=1),
        max_attempts=root.number("max_attempts", least=1, most=10),
        application=card.hexadecimal("application", most=16),
        spec_version=card.take("spec_version", str),
        category=card.take("category", str),
        initialiser_prefix=card.digits("initialiser_prefix", count=10),
        sexes=frozenset(codes.texts("sex")),
        ethnics=_ETHNIC_CODES | frozenset(codes.texts("ethnic_other")),
        pin=Pin(pin.number("limit", least=1, most=15)),
        identifier_key=_named(card, "identifier_key", keys),
        files=_files(root, keys),
        security_domain=card.hexadecimal("security_domain", most=16),
        channel=_channel(root.table("channel")),
        issuer=issuer,
        applications=_applications(root, issuer) if "applications" in root else (),
        face=_face(root.table("face")),
    )
    for table in (card, codes, pin, root):
        table.done()
    return profile


def _keys(table: Table) -> dict[str, CardKey]:
    keys: dict[str, CardKey] = {}
    for name in table.names():
        row = table.table(name)
        authentication = Authentication.PROCESS_KEY
        if "authentication" in row:
            authentication = row.choice("authentication", Authentication)
        keys[name] = CardKey(
            KeyRef(name, row.number("version", least=1, most=0xFF)),
            row.number("id", most=0xFF),
            row.choice("diversify", Diversify),
            authentication,
            row.take("prove", bool) if "prove" in row else False,
        )
        row.done()
    return keys


def _named(table: Table, key: str, keys: dict[str, CardKey]) -> CardKey:
    name = table.take(key, str)
    if name not in keys:
        raise table.wrong(key, "must be one of the keys: " + ", ".join(keys))
    return keys[name]


def _files(root: Table, keys: dict[str, CardKey]) -> tuple[CardFile, ...]:
    files = tuple(_file(table, keys) for table in root.tables("files"))
    fields = [record.field for file in files for record in file.records]
    for field in Field:
        if fields.count(field) > 1 or (field not in fields and field not in _OPTIONAL_FIELDS):
            raise root.wrong("files", f"must hold the field {field.value} once")
    return files


def _file(table: Table, keys: dict[str, CardKey]) -> CardFile:
    identifier = table.hexadecimal("id", size=2)
    records = tuple(map(_record, table.tables("records")))
    file = CardFile(int.from_bytes(identifier, "big"), _named(table, "write", keys), records)
    for unique in ("number", "tag"):
        if len({getattr(record, unique) for record in file.records}) != len(file.records):
            raise table.wrong("records", f"has the same {unique} twice")
    table.done()
    return file


def _record(table: Table) -> Record:
    record = Record(
        number=table.number("number", least=1, most=254),
        tag=table.hexadecimal("tag", size=1)[0],
        field=table.choice("field", Field),
        encoding=table.choice("encoding", Encoding),
        length=table.number("length", least=1, most=250),
    )
    _check_length(table, record)
    table.done()
    return record


def _check_length(table: Table, record: Record) -> None:
    expected = IDENTIFIER_BYTES if record.field is Field.IDENTIFIER else _FIXED_LENGTHS.get(record.encoding)
    if expected is not None and record.length != expected:
        raise table.wrong("length", f"must be {expected}")


# ------------------------------------------------------------------------------------------------- GlobalPlatform and EMV


def _channel(table: Table) -> ChannelRules:
    found: dict[str, Any] = {
        "protocol": table.choice("protocol", Protocol),
        "options": table.octets("options"),
        "key_versions": table.octets("key_versions"),
        "level": Level(table.hexadecimal("level", size=1)[0]),
        "key": KeyRef(table.take("key", str), table.number("version", least=1, most=0xFF)),
        "method": table.choice("diversify", Diversification),
        "challenge": table.choice("challenge", ChallengeCheck),
    }
    table.done()
    try:
        return ChannelRules(**found)
    except ValueError as error:
        raise table.wrong("level", str(error)) from error


def _issuer(table: Table) -> Issuer:
    version = table.number("version", least=1, most=0xFF)
    names = table.texts("keys")
    if len(names) != _CARD_KEYS:
        raise table.wrong("keys", "must name three masters: cryptogram, MAC, encryption")
    issuer = Issuer(
        pan_prefix=table.digits("pan_prefix"),
        pan_sequence=table.digits("pan_sequence", count=2),
        service_code=table.digits("service_code", count=3),
        discretionary=table.digits("discretionary", most=MOST_DISCRETIONARY),
        keys=tuple(KeyRef(name, version) for name in names),
    )
    table.done()
    return issuer


def _applications(root: Table, issuer: Issuer | None) -> tuple[EmvApplication, ...]:
    tables = root.tables("applications")
    applications = tuple(_application(table, issuer) for table in tables)
    for unique in ("name", "aid"):
        seen = [getattr(application, unique) for application in applications]
        if len(set(seen)) != len(seen):
            raise root.wrong("applications", f"has the same {unique} twice")
    return applications


def _application(table: Table, issuer: Issuer | None) -> EmvApplication:
    rows = table.tables("groups")
    groups = tuple(map(_group, rows))
    application = EmvApplication(
        name=table.take("name", str),
        aid=table.hexadecimal("aid", most=16),
        route=table.choice("route", Route),
        dgi_format=table.take("dgi_format", bool),
        groups=groups,
        data=tuple(map(_object, table.tables("data"))) if "data" in table else (),
    )
    table.done()
    ids = [group.id for group in groups]
    for row, group in zip(rows, groups, strict=True):
        if ids.count(group.id) > 1:
            raise row.wrong("id", "stands twice")
        check_group(row, group, application, issuer)
    check_application(table, application)
    return application


def _group(table: Table) -> DataGroup:
    identifier = int.from_bytes(table.hexadecimal("id", size=2), "big")
    content = table.choice("content", Content)
    group = DataGroup(
        identifier,
        content,
        objects=tuple(map(_object, table.tables("objects"))) if _holds_objects(content) else (),
        value=table.hexadecimal("value", most=_MOST_VALUE) if content is Content.RAW else b"",
    )
    table.done()
    return group


def _holds_objects(content: Content) -> bool:
    return content in (Content.RECORD, Content.FCI, Content.OBJECTS)


def _object(table: Table) -> DataObject:
    tag = table.hexadecimal("tag", most=2)
    if not tlv.is_tag(tag):
        raise table.wrong("tag", "is not a BER tag of one or two bytes")
    if ("value" in table) == ("source" in table):
        raise table.wrong("tag", "needs either a value or a source")
    source = table.choice("source", Source) if "source" in table else None
    value = b"" if source else table.hexadecimal("value", most=_MOST_VALUE)
    table.done()
    return DataObject(int.from_bytes(tag, "big"), value, source)


# ----------------------------------------------------------------------------------------------------------------- face


def _face(table: Table) -> FaceTemplate:
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


def _date_format(table: Table) -> str:
    text = table.take("date_format", str)
    try:
        text.format(year=2026, month=1, day=5)
    except (KeyError, IndexError, ValueError) as error:
        raise table.wrong("date_format", "may use {year}, {month} and {day} only") from error
    return text


def _face_field(table: Table) -> FaceField:
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
