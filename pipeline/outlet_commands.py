"""What an outlet's program tells us in a message: read, and refused where it is not what was agreed. Pure; no value is repeated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from pipeline.errors import Refused
from pipeline.identifiers import OUTLET_ID
from pipeline.outcomes import Reason
from pipeline.person import Agent, IdType
from pipeline.shape import JsonObject, Wanted, looks_personal

MAX_BYTES = 64 * 1024
"""A bundle's receipt with all its cards takes a tenth of it."""
CLOCK_FORMAT = Wanted("带时区的 RFC 3339 时间", "an RFC 3339 time with its offset")
_ID_LISTS = 1000
_DEPTH = 8
"""No command nests deeper than its agent's data, which is the third level."""
_KEY = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_OURS = re.compile(r"(card|bun)_[0-9a-z]{26}")
"""Ids as we make them; digits in a row are chance."""
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""NUL and halves of a surrogate pair: JSON may name them, no database keeps them."""

Taker = Literal["holder", "guardian", "proxy", "unit"]
Method = Literal["sms", "phone", "letter", "in_person", "unit"]
ReturnReason = Literal["uncollected", "recalled", "misrouted", "damaged", "refused", "wrong_data", "unreadable"]


class Unreadable(ValueError):
    """The body is no JSON object, or the message came damaged: nobody can say what was meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandMessage:
    """A message as the broker delivers it. `user` was verified by the broker; `deliveries` counts how often it was delivered before.

    `key` is None where there is none, or it is no text. Not `intact`: its headers cannot be decoded.
    """

    key: str | None
    user: str | None
    routing_key: str
    body: bytes = field(repr=False)
    deliveries: int = 0
    intact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReceive:
    """The outlet signs for a bundle. `received` None: all that is on the list and not named otherwise."""

    bundle_id: str
    seal_no: str
    seal_intact: bool
    received: tuple[str, ...] | None
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    damaged: tuple[str, ...]
    clerk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeGiven:
    """The applicant was told that the card is there (WH-10)."""

    card_id: str
    method: Method
    notified_at: datetime | None
    clerk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """The card was taken."""

    card_id: str
    serial: str
    taken_by: Taker
    document_type: str
    document_number: str = field(repr=False)
    agent: Agent | None = field(repr=False)
    papers: Mapping[str, str]
    fee_receipt: str | None
    clerk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReturn:
    """The card goes back to the centre."""

    card_id: str
    reason: ReturnReason
    clerk: str


Command = BundleReceive | NoticeGiven | HandOver | CardReturn


def sender_of(message: CommandMessage) -> str:
    """The outlet that a message is from: the user's own, as the broker has verified.

    Raises:
        Refused: no user, or another than the outlet of the routing key.
    """
    outlet = message.routing_key
    if not names_outlet(outlet) or message.user != f"outlet.{outlet}":
        raise Refused(
            "消息须带 user_id 属性（即登录用户），且路由键为本网点编号",
            "the message needs the property user_id (the user that is logged in), and the outlet's own id as its key",
            code="unauthenticated",
        )
    return outlet


def names_outlet(routing_key: str) -> bool:
    """Whether a routing key can be an outlet's id."""
    return OUTLET_ID.fullmatch(routing_key) is not None


def key_of(message: CommandMessage) -> str:
    """The key under which a command is done once.

    Raises:
        Refused: there is none, or it may be somebody's number.
    """
    if message.key is None or not _KEY.fullmatch(message.key) or looks_personal(message.key):
        raise Refused(
            "消息须带 message_id 属性：1–64 个 [A-Za-z0-9._:-] 字符的业务流水号",
            "the message needs the property message_id: a serial number of your own, 1–64 of [A-Za-z0-9._:-]",
            code="idempotency-key-missing",
        )
    return message.key


def document_of(message: CommandMessage) -> dict[str, Any]:
    """The CloudEvents document of a message.

    Raises:
        Unreadable: it is no JSON object, or the message came damaged.
        Refused: it is too large, nests too deep, or holds what is no text.
    """
    if not message.intact:
        raise Unreadable
    return parse(message.body)


def parse(body: bytes) -> dict[str, Any]:
    """The CloudEvents document of a message's body.

    Raises:
        Unreadable: it is no JSON object.
        Refused: it is too large, nests too deep, or holds what is no text.
    """
    if len(body) > MAX_BYTES:
        raise Refused("消息超过 64 KiB", "the message is larger than 64 KiB", code="too-large")
    try:
        document = json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Unreadable from None
    if not isinstance(document, dict):
        raise Unreadable
    _must_be_plain(document)
    return document


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _must_be_plain(document: dict[str, Any]) -> None:
    level: list[Any] = [document]
    for _ in range(_DEPTH):
        if any(isinstance(item, str) and _NO_TEXT.search(item) for item in level):
            raise Refused(
                "消息含空字符或残缺的代理字符（\\u0000、\\ud800–\\udfff），请改正后以新的 message_id 重发",
                "the message holds NUL or half of a surrogate pair (\\u0000, \\ud800–\\udfff): correct it and send it under a new id",
                code="validation-failed",
            )
        objects = [item for item in level if isinstance(item, dict)]
        level = [inner for item in level if isinstance(item, list) for inner in item]
        level += [inner for item in objects for inner in (*item, *item.values())]
    if level:
        raise Refused(
            f"消息嵌套超过 {_DEPTH} 层", f"the message nests deeper than {_DEPTH} levels", code="validation-failed"
        )


def kind_of(document: Mapping[str, Any]) -> str:
    """The type of a document, if it is one of ours; else ""."""
    kind = document.get("type")
    return kind if isinstance(kind, str) and kind in _READERS else ""


def command_of(document: Mapping[str, Any]) -> Command:
    """What is wanted.

    Raises:
        Refused: it is not what was agreed; each field that is wrong is named by its pointer (`validation-failed`).
    """
    kind = kind_of(document)
    if not kind:
        known = ", ".join(_READERS)
        raise Refused(
            f"不认识的命令类型，应为 {known}", f"no such type of command; there are {known}", code="validation-failed"
        )
    errors: list[Reason] = []
    data = _Body(document.get("data"), "/data", errors)
    subject = document.get("subject")
    command = _READERS[kind](data, subject if isinstance(subject, str) else "")
    data.close()
    if errors:
        raise Refused(
            "；".join(f"{e.pointer} {e.zh}" for e in errors),
            "; ".join(f"{e.pointer} {e.en}" for e in errors),
            code="validation-failed",
        )
    return command


class _Body(JsonObject):
    """The `data` of a command."""

    def card(self, subject: str) -> str:
        if not re.fullmatch(r"card_[0-9a-z]{1,32}", subject) or _names_somebody(subject):
            self.note("format", "../subject", wanted=Wanted("卡片编号 card_…", "the id of a card, card_…"))
        return subject

    def bundle(self, name: str) -> str:
        text = self.text(name, form=r"bun_[0-9a-z]{1,32}", wanted=_BUNDLE, required=True)
        if _names_somebody(text):
            self.note("format", name, wanted=_BUNDLE)
        return text

    def clerk(self, name: str, *, required: bool = True) -> str:
        """The clerk's staff number at the outlet; nobody's identity number."""
        text = self.text(name, form=r"[A-Za-z0-9._-]{1,64}", wanted=_STAFF, required=required)
        if looks_personal(text):
            self.note("format", name, wanted=_STAFF)
        return text

    def reference(self, name: str) -> str:
        """Where something is filed."""
        text = self.raw(name, at_most=64)
        if looks_personal(text):
            self.note("format", name, wanted=_REFERENCE)
        return text

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.note("format", name, wanted=Wanted("true 或 false", "true or false"))
        return value is True

    def seen(self, name: str) -> None:
        if self.take(name) is not True and self.present:
            self.note("format", name, wanted=Wanted("true（经办人已当面核验）", "true (the clerk has looked at it)"))

    def instant(self, name: str) -> datetime | None:
        text = self.raw(name, at_most=40)
        if not text:
            return None
        try:
            at = datetime.fromisoformat(text)
            if at.tzinfo is None:
                raise ValueError
            return at.astimezone(UTC)
        except (ValueError, OverflowError):
            self.note("format", name, wanted=CLOCK_FORMAT)
            return None

    def ids(self, name: str, *, or_all: bool = False) -> tuple[str, ...] | None:
        """A list of ids or serials; None where it is absent, or "all". Which of them may be kept, who looks them up decides."""
        value = self.take(name)
        if value is None or (or_all and value == "all"):
            return None
        good = isinstance(value, list) and len(value) <= _ID_LISTS
        if not good or not all(isinstance(item, str) and _KEY.fullmatch(item) for item in cast("list[Any]", value)):
            self.note(
                "format", name, wanted=Wanted(f"至多 {_ID_LISTS} 个编号的数组", f"a list of at most {_ID_LISTS} ids")
            )
            return ()
        return tuple(cast("list[str]", value))


_BUNDLE = Wanted("卡箱编号 bun_…", "the id of a bundle, bun_…")
_STAFF = Wanted("经办人工号（字母和数字）", "the clerk's staff number, letters and digits")
_REFERENCE = Wanted(
    "归档编号或收据号，不能是证件号码或手机号码；确非个人号码的，请用连字符分段",
    "the number of a file or receipt, not of a person's document or phone; if it is none, in groups with hyphens",
)


def _names_somebody(our_id: str) -> bool:
    return not _OURS.fullmatch(our_id) and looks_personal(our_id)


def _bundle_receive(data: _Body, _subject: str) -> BundleReceive:
    data.instant("received_at")
    return BundleReceive(
        bundle_id=data.bundle("bundle_id"),
        seal_no=data.raw("seal_no", at_most=64, required=True),
        seal_intact=data.flag("seal_intact", default=True),
        received=data.ids("received", or_all=True),
        missing=data.ids("missing") or (),
        extra=data.ids("extra") or (),
        damaged=data.ids("damaged") or (),
        clerk=data.clerk("received_by"),
    )


def _notice_given(data: _Body, subject: str) -> NoticeGiven:
    return NoticeGiven(
        card_id=data.card(subject),
        method=cast("Method", data.word("method", get_args(Method), required=True)),
        notified_at=data.instant("notified_at"),
        clerk=data.clerk("by"),
    )


def _hand_over(data: _Body, subject: str) -> HandOver:
    data.instant("collected_at")
    taken_by = cast("Taker", data.word("by", get_args(Taker), required=True))
    identity = data.object("identity", required=True)
    document_type = identity.word("type", get_args(IdType), required=True)
    number = identity.raw("number", at_most=40, required=True)
    identity.seen("seen")
    identity.seen("compared")
    identity.close()
    proxy = data.object("proxy")
    letter, holder_document = proxy.reference("letter"), proxy.reference("holder_document")
    agent = None
    if proxy.present:
        agent = Agent(
            name=proxy.name(),
            id_type=cast("IdType", proxy.word("id_type", get_args(IdType), required=True)),
            id_number=proxy.raw("id_number", at_most=40, required=True),
            relation=proxy.raw("relation", at_most=40),
        )
    proxy.close()
    # A unit's letter is what the region calls it: a letter of introduction, or the unit's mandate (WH-11).
    letters = ("introduction_letter", "mandate") if taken_by == "unit" else ("mandate",)
    papers = {**dict.fromkeys(letters, letter), "holder_document": holder_document}
    return HandOver(
        card_id=data.card(subject),
        serial=data.raw("card_serial", at_most=64, required=True),
        taken_by=taken_by,
        document_type=document_type,
        document_number=number,
        agent=agent,
        papers={name: filed for name, filed in papers.items() if filed},
        fee_receipt=data.reference("fee_receipt") or None,
        clerk=data.clerk("clerk"),
    )


def _card_return(data: _Body, subject: str) -> CardReturn:
    return CardReturn(
        card_id=data.card(subject),
        reason=cast("ReturnReason", data.word("reason", get_args(ReturnReason), required=True)),
        clerk=data.clerk("by", required=False) or "system",
    )


_READERS: Mapping[str, Callable[[_Body, str], Command]] = MappingProxyType(
    {
        "bundle.receive": _bundle_receive,
        "card.notice_given": _notice_given,
        "card.hand_over": _hand_over,
        "card.return": _card_return,
    }
)
