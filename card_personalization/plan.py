"""From an order to what will be sent to the card, decided before a card is touched.

`build` is pure and deterministic: no clock, no random, no key, no card. Every rule on the data is checked here and all
problems are told at once. What depends on the card or a key (the 识别码, authentication, card keys) stays a recipe and is bound
when it is carried out. A plan has a part for each application of the card, so that a part found complete is not written again.
Must not know connections, journals or readers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from card_personalization import emv, encoding, tlv
from card_personalization.apdu import Apdu, Ins
from card_personalization.emv import Filled
from card_personalization.errors import EncodingError, PlanError, Problem
from card_personalization.globalplatform.commands import install_for_personalization
from card_personalization.globalplatform.rules import ChannelRules
from card_personalization.profiles import (
    CardFile,
    CardKey,
    CardProfile,
    Content,
    EmvApplication,
    Encoding,
    Field,
    Record,
    Route,
)

PLAN_VERSION = 2
SOCIAL = "social"
"""The part of the social security application; the other parts go by the names the profile gives its applications."""

_NUMBER_FORMS = re.compile(r"(?:HKG|MAC|TWN)[0-9]{9}|(?!HKG|MAC|TWN|CHN)[A-Z]{3}0[0-9A-Z]{1,14}", re.ASCII)
_EIGHTEEN = re.compile(r"[0-9]{17}[0-9X]", re.ASCII)
_PERMANENT_RESIDENT = "9"
BY_NAME = 0x04
BY_NUMBER = 0x04
_REPORTED_AS = {Field.INITIALISER: "initialiser_tail"}
AFL = 0x94


def mask(text: str | None, *, keep: int = 1) -> str:
    """The first `keep` characters and stars for the rest; a text no longer than that shows nothing."""
    if text is None:
        return "-"
    shown = text[:keep] if len(text) > keep else ""
    return shown + "*" * (len(text) - len(shown))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Holder:
    """The person on the card. Codes as on the chip: sex GB/T 2261.1, ethnic GB/T 3304, birth place GB/T 2260."""

    name: str
    social_security_number: str
    sex: str
    ethnic: str
    birth_place: str
    birth_date: date

    def __repr__(self) -> str:
        return f"Holder({mask(self.name)}, {mask(self.social_security_number, keep=4)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOrder:
    """One card to be made. The dates are fixed here: chip, face and record carry the same ones.

    `initialiser_tail` is the end of the 初始化机构编号, 8 digits, as the city has it.
    """

    order_id: str
    holder: Holder
    card_number: str
    city: str
    initialiser_tail: str
    issued: date
    expires: date
    bank_name: str
    bank_card_number: str | None

    def __repr__(self) -> str:
        return f"CardOrder({self.order_id}, {self.holder!r})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FaceData:
    """What is printed beside the photo, and nothing more (社会保障卡 face fields)."""

    name: str
    social_security_number: str
    card_number: str
    issued: date
    bank_name: str
    bank_card_number: str | None

    def __repr__(self) -> str:
        return f"FaceData({mask(self.name)}, {mask(self.social_security_number, keep=4)})"


@dataclass(frozen=True, slots=True)
class Send:
    """A command known beforehand."""

    id: str
    apdu: Apdu
    mutating: bool


@dataclass(frozen=True, slots=True)
class Authenticate:
    """GET CHALLENGE and EXTERNAL AUTHENTICATE with a named key: bound by the card's challenge."""

    id: str
    key: CardKey
    mutating: bool = False


@dataclass(frozen=True, slots=True)
class ProveKey:
    """INTERNAL AUTHENTICATE: the chip proves a key that only it uses, such as the one the 识别码 is signed with."""

    id: str
    key: CardKey
    mutating: bool = False


@dataclass(frozen=True, slots=True)
class WriteIdentifier:
    """UPDATE RECORD of the 卡的识别码: bound by the chip's serial and a MAC of the key store."""

    id: str
    record: Record
    city: str
    key: CardKey
    mutating: bool = True


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """A secure channel to the application or security domain `aid`, which was selected before: bound by challenges and keys."""

    id: str
    aid: bytes
    rules: ChannelRules
    mutating: bool = False


@dataclass(frozen=True, slots=True)
class StoreData:
    """STORE DATA of all groups inside the open channel, as many commands as it takes; recipes are bound by the session's DEK."""

    id: str
    groups: tuple[Filled, ...]
    dgi_format: bool
    mutating: bool = True


Step = Send | Authenticate | ProveKey | WriteIdentifier | OpenChannel | StoreData


@dataclass(frozen=True, slots=True)
class Part:
    """The steps of one application of the card, from its SELECT on."""

    name: str
    steps: tuple[Step, ...]

    @property
    def mutating(self) -> bool:
        """Whether any step changes the card."""
        return any(step.mutating for step in self.steps)


@dataclass(frozen=True, slots=True, repr=False)
class Expectation:
    """What a record must hold afterwards; `value` is None for the 识别码, which is bound on the card."""

    file: CardFile
    record: Record
    value: bytes | None

    def __repr__(self) -> str:
        return f"Expectation({self.file.name}, {self.record.field.value})"


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """What an application must answer afterwards: its FCI template, the objects of GET PROCESSING OPTIONS, records, GET DATA."""

    application: EmvApplication
    fci: bytes | None
    options: dict[int, bytes]
    records: dict[tuple[int, int], bytes]
    data: dict[int, bytes]


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """Everything that will be done for one order, in order."""

    profile: CardProfile
    order_id: str
    city: str
    parts: tuple[Part, ...]
    expected: tuple[Expectation, ...]
    images: tuple[Image, ...]
    face: FaceData

    def digest(self, keyed: Callable[[bytes], bytes]) -> str:
        """Names this plan in a journal. `keyed` is a keyed digest: a plain one would let the data be guessed."""
        lines = [f"{PLAN_VERSION}|{self.profile.name}/{self.profile.revision}|{self.order_id}|{self.city}"]
        lines += [f"{step.id}|{_content(step)}" for part in self.parts for step in part.steps]
        return keyed("\n".join(lines).encode()).hex()

    def __repr__(self) -> str:
        return f"Plan({self.profile.name}, {self.order_id}, {', '.join(part.name for part in self.parts)})"


def _content(step: Step) -> str:
    match step:
        case Send():
            return bytes(step.apdu).hex()
        case StoreData():
            values = (f.value.hex() if isinstance(f.value, bytes) else repr(f.value) for f in step.groups)
            return "|".join(values)
        case OpenChannel():
            return f"{step.aid.hex()}|{step.rules}"
        case _:
            return str(step.key)


def build(profile: CardProfile, order: CardOrder) -> Plan:
    """The plan for an order on a kind of card.

    Raises:
        PlanError: the order breaks a rule; `problems` holds every one found.
    """
    problems = [*_rules(profile, order)]
    values = _values(profile, order, problems)
    filled = _filled(profile, order, problems)
    if problems:
        raise PlanError(tuple(problems))
    expected = tuple(
        Expectation(file, record, values.get(record.field)) for file in profile.files for record in file.records
    )
    return Plan(
        profile=profile,
        order_id=order.order_id,
        city=order.city,
        parts=(
            *_preflight(profile),
            Part(SOCIAL, tuple(_social(profile, order, expected))),
            *(Part(a.name, tuple(_financial(profile, a, groups))) for a, groups in filled),
        ),
        expected=expected,
        images=tuple(_image(application, groups) for application, groups in filled),
        face=_face(order),
    )


def select_application(name: bytes) -> Apdu:
    """SELECT by name (ISO/IEC 7816-4)."""
    return Apdu(0x00, Ins.SELECT, BY_NAME, 0x00, name)


def select_file(identifier: int) -> Apdu:
    """SELECT of an elementary file by its identifier."""
    return Apdu(0x00, Ins.SELECT, 0x00, 0x00, identifier.to_bytes(2, "big"))


def read_record(record: Record) -> Apdu:
    """READ RECORD by tag; the answer is the whole TLV."""
    return Apdu(0x00, Ins.READ_RECORD, record.tag, 0x00, le=record.length + 2)


def update_record(record: Record, value: bytes) -> Apdu:
    """UPDATE RECORD by number with the whole TLV."""
    return Apdu(0x00, Ins.UPDATE_RECORD, record.number, BY_NUMBER, tlv.encode(record.tag, value))


def _social(profile: CardProfile, order: CardOrder, expected: tuple[Expectation, ...]) -> Iterator[Step]:
    yield Send("select SSSE", select_application(profile.application), mutating=False)
    opened: CardKey | None = None
    for file in profile.files:
        if file.write != opened:
            yield Authenticate(f"authenticate {file.write.ref.name}", file.write)
            opened = file.write
        yield Send(f"select {file.name}", select_file(file.id), mutating=False)
        for item in expected:
            if item.file is file:
                yield _update(profile, order, item)


def _financial(profile: CardProfile, application: EmvApplication, groups: tuple[Filled, ...]) -> Iterator[Step]:
    """SELECT, the secure channel, then STORE DATA; the last one completes the application."""
    name = application.name
    yield from _opening(name, profile, application)
    if application.route is Route.SECURITY_DOMAIN:
        yield Send(f"{name}: install for personalization", install_for_personalization(application.aid), mutating=False)
    yield StoreData(f"{name}: store data", groups, application.dgi_format)


def _preflight(profile: CardProfile) -> tuple[Part, ...]:
    """Proof, before anything is written, that the chip and we have the same keys: a wrong one must not cost a blank."""
    steps: list[Step] = []
    keys = dict.fromkeys((profile.identifier_key, *(file.write for file in profile.files)))
    if proved := [key for key in keys if key.prove]:
        steps.append(Send("preflight: select SSSE", select_application(profile.application), mutating=False))
        steps += [ProveKey(f"preflight: prove {key.ref.name}", key) for key in proved]
    for application in profile.applications[:1]:
        steps += _opening("preflight", profile, application)
    return (Part("preflight", tuple(steps)),) if steps else ()


def _opening(name: str, profile: CardProfile, application: EmvApplication) -> Iterator[Step]:
    target = application.aid if application.route is Route.APPLICATION else profile.security_domain
    yield Send(f"{name}: select", select_application(target), mutating=False)
    yield OpenChannel(f"{name}: open channel", target, profile.channel)


def _image(application: EmvApplication, groups: tuple[Filled, ...]) -> Image:
    values = {item.group.id: item.value for item in groups if isinstance(item.value, bytes)}
    fci, options = application.group(Content.FCI), application.carrying(AFL)
    return Image(
        application=application,
        fci=values[fci.id] if fci else None,
        options=tlv.children(values[options.id]) if options else {},
        records={group.record: values[group.id] for group in application.groups if group.content is Content.RECORD},
        data={item.tag: item.value for item in application.data},
    )


def _update(profile: CardProfile, order: CardOrder, item: Expectation) -> Step:
    name = f"update {item.file.name}/{item.record.number}"
    if item.value is None:
        return WriteIdentifier(name, item.record, order.city, profile.identifier_key)
    return Send(name, update_record(item.record, item.value), mutating=True)


def _filled(
    profile: CardProfile, order: CardOrder, problems: list[Problem]
) -> list[tuple[EmvApplication, tuple[Filled, ...]]]:
    issuer, debit = profile.issuer, None
    if issuer is not None and (debit := _debit(order, problems, prefix=issuer.pan_prefix)) is None:
        return []
    filled = []
    with _noting(problems, Field.NAME.value):
        for application in profile.applications:
            groups = emv.fill(application, issuer=issuer, debit=debit)
            filled.append((application, groups))
    return filled


def _debit(order: CardOrder, problems: list[Problem], *, prefix: str) -> emv.Debit | None:
    """The bank's side of the order; its date is the end of the month in which the card expires."""
    pan = order.bank_card_number
    if pan is None:
        problems.append(
            Problem("bank_card_number", "missing", "is missing: this kind of card has a financial application")
        )
        return None
    with _noting(problems, "bank_card_number"):
        emv.check_pan(pan, prefix=prefix)
        return emv.Debit(
            pan=pan,
            name=order.holder.name,
            document_number=order.holder.social_security_number,
            effective=order.issued,
            expires=emv.month_end(order.expires),
        )
    return None


def _face(order: CardOrder) -> FaceData:
    return FaceData(
        name=order.holder.name,
        social_security_number=order.holder.social_security_number,
        card_number=order.card_number,
        issued=order.issued,
        bank_name=order.bank_name,
        bank_card_number=order.bank_card_number,
    )


def _values(profile: CardProfile, order: CardOrder, problems: list[Problem]) -> dict[Field, bytes]:
    values: dict[Field, bytes] = {}
    plain = _plain(profile, order)
    for file in profile.files:
        for record in file.records:
            if record.field in plain:
                with _noting(problems, _REPORTED_AS.get(record.field, record.field.value)):
                    values[record.field] = encode_value(record, plain[record.field])
    with _noting(problems, Field.NAME.value):
        sizes = profile.length(Field.NAME), profile.length(Field.NAME_EXTENSION)
        head, tail = encoding.name_encode(order.holder.name, size=sizes[0], extension_size=sizes[1])
        values |= {Field.NAME: head, Field.NAME_EXTENSION: tail}
    return values


def _plain(profile: CardProfile, order: CardOrder) -> dict[Field, str | date]:
    holder = order.holder
    return {
        Field.CATEGORY: profile.category,
        Field.SPEC_VERSION: profile.spec_version,
        Field.INITIALISER: profile.initialiser_prefix + order.city + order.initialiser_tail,
        Field.ISSUED: order.issued,
        Field.EXPIRES: order.expires,
        Field.CARD_NUMBER: order.card_number,
        Field.SOCIAL_SECURITY_NUMBER: holder.social_security_number,
        Field.SEX: holder.sex,
        Field.ETHNIC: holder.ethnic,
        Field.BIRTH_PLACE: holder.birth_place,
        Field.BIRTH_DATE: holder.birth_date,
    }


def encode_value(record: Record, value: str | date) -> bytes:
    """A plain value in the record's encoding and length.

    Raises:
        EncodingError: it does not fit.
    """
    if isinstance(value, date):
        return encoding.date_encode(value)
    if record.encoding is Encoding.BCD:
        return encoding.bcd_encode(value, size=record.length)
    return encoding.text_encode(value, size=record.length, charset=record.encoding.value)


def decode_value(record: Record, data: bytes) -> str:
    """A record's bytes as text: dates as YYYY-MM-DD, binary as upper-case hex.

    Raises:
        EncodingError: the bytes are not of the record's encoding.
    """
    match record.encoding:
        case Encoding.DATE:
            return encoding.date_decode(data).isoformat()
        case Encoding.BCD:
            return encoding.bcd_decode(data)
        case Encoding.BINARY:
            return data.hex().upper()
        case _:
            return encoding.text_decode(data, charset=record.encoding.value)


@contextmanager
def _noting(problems: list[Problem], field: str) -> Iterator[None]:
    """Turn an EncodingError into a Problem, unless a rule already complained about the field."""
    try:
        yield
    except EncodingError as error:
        if field not in {problem.field for problem in problems}:
            problems.append(Problem(field, error.code, str(error)))


def _rules(profile: CardProfile, order: CardOrder) -> Iterator[Problem]:
    holder = order.holder
    if not order.order_id.strip():
        yield Problem("order_id", "empty", "is empty")
    if len(order.city) != 6 or not order.city.isascii() or not order.city.isdigit() or not order.city.endswith("00"):
        yield Problem("city", "city", "is not the 6-digit code of a city (GB/T 2260), which ends in 00")
    if order.expires <= order.issued:
        yield Problem("expires", "before-issue", "is not after the issue date")
    if holder.birth_date > order.issued:
        yield Problem("birth_date", "after-issue", "is after the issue date")
    if holder.sex not in profile.sexes:
        yield Problem("sex", "code", "is not a code of GB/T 2261.1 that cards use")
    if holder.ethnic not in profile.ethnics:
        yield Problem("ethnic", "code", "is not a code of GB/T 3304")
    yield from _card_number(order.card_number)
    yield from _person_number(holder)


def _card_number(number: str) -> Iterator[Problem]:
    try:
        encoding.check_card_number(number)
    except EncodingError as error:
        yield Problem("card_number", error.code, str(error))


def _person_number(holder: Holder) -> Iterator[Problem]:
    number = holder.social_security_number
    if _NUMBER_FORMS.fullmatch(number):
        return
    if not _EIGHTEEN.fullmatch(number):
        yield Problem("social_security_number", "form", "is of no known form")
        return
    if encoding.citizen_number_check(number[:17]) != number[17]:
        yield Problem("social_security_number", "check-character", "has a wrong check character (GB 11643)")
        return
    if not number.startswith(_PERMANENT_RESIDENT):
        yield from _agreement(holder, number)


def _agreement(holder: Holder, number: str) -> Iterator[Problem]:
    if number[6:14] != f"{holder.birth_date.year:04d}{holder.birth_date.month:02d}{holder.birth_date.day:02d}":
        yield Problem("birth_date", "disagrees", "differs from the one in the social security number")
    if holder.sex != ("1" if int(number[16]) % 2 else "2"):
        yield Problem("sex", "disagrees", "differs from the one in the social security number")
