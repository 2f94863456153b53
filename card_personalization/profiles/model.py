"""What a card profile says, as values. Frozen: one value may be shared by every thread of a station.

Must not know where it was read, nor orders, persons or a card in a reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from card_personalization.globalplatform.rules import ChannelRules
from card_personalization.keys.base import KeyRef, Usage


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
class CardKey:
    """A 人社 key on the card: its master in the key store, its id on the card, and how the card's own key is reached.

    `prove`: the chip is asked for a proof of it (INTERNAL AUTHENTICATE) before anything is written.
    """

    ref: KeyRef
    id: int
    diversify: Diversify
    authentication: Authentication
    prove: bool


@dataclass(frozen=True, slots=True)
class CardFile:
    """An elementary file and its records in the order of writing; `write` opens it for writing, reading is free."""

    id: int
    write: CardKey
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """The file as the specification names it: EF05."""
        return f"{self.id:04X}"


@dataclass(frozen=True, slots=True)
class Pin:
    """The 人社 PIN of a blank: how many wrong ones in a row block it."""

    limit: int


class Content(StrEnum):
    """How the value of a data group is made (EMV CPS)."""

    RECORD = "record"
    """Template 70 around the objects; the id is SFI and record number."""
    FCI = "fci"
    """Template A5 around the objects."""
    OBJECTS = "objects"
    """The objects one after the other."""
    RAW = "raw"
    """The bytes of `value`."""
    CARD_KEYS = "card-keys"
    """The card's three issuer keys under the session's DEK."""
    CHECK_VALUES = "check-values"
    """Their check values."""
    PIN_BLOCK = "pin-block"
    """An offline PIN under the session's DEK."""


class Source(StrEnum):
    """What of the order an object carries."""

    PAN = "pan"
    TRACK2 = "track2"
    NAME = "name"
    DOCUMENT_NUMBER = "document-number"
    EFFECTIVE = "effective"
    EXPIRES = "expires"
    PAN_SEQUENCE = "pan-sequence"
    SERVICE_CODE = "service-code"
    AFL = "afl"


class Route(StrEnum):
    """Who takes STORE DATA."""

    APPLICATION = "application"
    """The application itself, in a session of its own (EMV CPS)."""
    SECURITY_DOMAIN = "security-domain"
    """The security domain, after INSTALL [for personalization] (GlobalPlatform)."""


@dataclass(frozen=True, slots=True)
class DataObject:
    """A BER-TLV object: a constant `value`, or `source` of the order."""

    tag: int
    value: bytes
    source: Source | None


@dataclass(frozen=True, slots=True)
class DataGroup:
    """A data grouping (DGI)."""

    id: int
    content: Content
    objects: tuple[DataObject, ...] = ()
    value: bytes = b""

    @property
    def name(self) -> str:
        """The DGI as EMV CPS writes it: 0101."""
        return f"{self.id:04X}"

    @property
    def encrypted(self) -> bool:
        """Whether the value goes over the line under the session's DEK."""
        return self.content in (Content.CARD_KEYS, Content.PIN_BLOCK)

    @property
    def record(self) -> tuple[int, int]:
        """SFI and record number."""
        return self.id >> 8, self.id & 0xFF


@dataclass(frozen=True, slots=True)
class EmvApplication:
    """An application filled by STORE DATA: debit, PSE or PPSE. `data` is what GET DATA must answer afterwards."""

    name: str
    aid: bytes
    route: Route
    dgi_format: bool
    groups: tuple[DataGroup, ...]
    data: tuple[DataObject, ...]

    def group(self, content: Content) -> DataGroup | None:
        """The first group of this content."""
        return next((group for group in self.groups if group.content is content), None)

    def carrying(self, tag: int) -> DataGroup | None:
        """The first group that holds an object with `tag`."""
        return next((group for group in self.groups if any(item.tag == tag for item in group.objects)), None)


@dataclass(frozen=True, slots=True)
class Issuer:
    """What the bank fixes for all its cards. `keys` are its masters for cryptogram, MAC and encryption."""

    pan_prefix: str
    pan_sequence: str
    service_code: str
    discretionary: str
    keys: tuple[KeyRef, ...]


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
    """A kind of card."""

    name: str
    revision: int
    max_attempts: int
    application: bytes
    spec_version: str
    category: str
    initialiser_prefix: str
    sexes: frozenset[str]
    ethnics: frozenset[str]
    pin: Pin
    identifier_key: CardKey
    files: tuple[CardFile, ...]
    security_domain: bytes
    channel: ChannelRules
    issuer: Issuer | None
    applications: tuple[EmvApplication, ...]
    face: FaceTemplate

    def length(self, field: Field) -> int:
        """The length of a field in bytes; 0 when this kind of card does not have it."""
        return next((r.length for file in self.files for r in file.records if r.field is field), 0)

    @property
    def keys(self) -> tuple[tuple[KeyRef, Usage], ...]:
        """Every key that making such a card needs."""
        social = dict.fromkeys((self.identifier_key.ref, *(file.write.ref for file in self.files)))
        found = [(ref, Usage.SOCIAL_SECURITY) for ref in social]
        if self.applications:
            found.append((self.channel.key, Usage.CARD_MANAGEMENT))
        if self.issuer is not None:
            found += [(ref, Usage.ISSUER) for ref in self.issuer.keys]
        return tuple(found)
