"""A card in a PC/SC reader as a counter reads it, and compared with the order it was made from. Never writes to a card.

Needs pyscard: who imports this module tells what to do where it is missing. Must not know who asks, nor print what it read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from card_personalization import tlv
from card_personalization.apdu import SW_BLOCKED, Apdu, Channel, Ins, tries_left
from card_personalization.atr import Atr
from card_personalization.emv import RECORD_TEMPLATE
from card_personalization.keys.base import KeyStore
from card_personalization.plan import Plan, build, select_application
from card_personalization.profiles import CardProfile
from card_personalization.transport.base import CardConnection
from card_personalization.transport.pcsc import PcscReader, list_readers
from card_personalization.verify import ReadBack, compare, read_back
from pipeline.gateways.encoder import card_order, chosen_reader
from pipeline.ports import EncodeOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderFound:
    """A reader, and whether a card lies in it."""

    name: str
    card: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRead:
    """What a card in the reader `reader` answered. `pin_tries_left` is None where it does not tell."""

    reader: str
    atr: bytes
    found: ReadBack
    pin_tries_left: int | None
    elapsed_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A card against its order: how many fields were compared, and the names of those that differ."""

    card_id: str
    application_id: str
    fields: int
    differing: tuple[str, ...]


def readers() -> tuple[ReaderFound, ...]:
    """The readers there are now.

    Raises:
        ServiceDown: pcscd does not answer.
        ReaderGone: one was unplugged meanwhile.
    """
    return tuple(ReaderFound(name=name, card=_holds_card(name)) for name in list_readers())


def read(name: str, profile: CardProfile) -> CardRead:
    """Read the card in the reader that `name` names, as a whole or by a part of its own.

    Raises:
        NotFound: no such reader.
        Conflict: several readers of that name.
        ReaderError: no usable card, another program holds the reader, or pcscd does not answer.
        CardLost: the card was pulled.
        ApduError, UnknownCard: the card is not of the profile's kind.
    """
    with _inserted(name) as (reader, connection):
        begun = time.perf_counter()
        channel = Channel(connection)
        channel.send(select_application(profile.application))
        tries = _pin_tries_left(channel)
        found = read_back(channel, profile=profile)
        elapsed_ms = (time.perf_counter() - begun) * 1000
        return CardRead(
            reader=reader, atr=connection.atr, found=found, pin_tries_left=tries, elapsed_ms=round(elapsed_ms, 1)
        )


def compared(card: CardRead, order: EncodeOrder, *, profile: CardProfile, keys: KeyStore) -> Compared:
    """Every field of a card, read by its own profile, against the order; the 识别码 by the key store.

    Raises:
        PlanError: the order breaks a rule that it did not break when the card was made.
        KeyRefused: the store lacks the key of the 识别码.
        UnknownCard: the ATR is not one of such a card.
    """
    plan = build(profile, card_order(order))
    verification = compare(card.found, plan=plan, atr=Atr.parse(card.atr), keys=keys)
    return Compared(
        card_id=card.found.card_id or "",
        application_id=order.application_id,
        fields=_count(plan),
        differing=verification.differing,
    )


@contextmanager
def _inserted(name: str) -> Iterator[tuple[str, CardConnection]]:
    reader = PcscReader(chosen_reader(name, list_readers()))
    reader.open()
    try:
        connection = reader.connect()
        try:
            connection.reset()
            yield reader.name, connection
        finally:
            connection.close()
    finally:
        reader.close()


def _holds_card(name: str) -> bool:
    reader = PcscReader(name)
    reader.open()
    try:
        return reader.wait_for_card(0)
    finally:
        reader.close()


def _pin_tries_left(channel: Channel) -> int | None:
    """VERIFY without data asks and is no try (ISO/IEC 7816-4)."""
    _, sw = channel.exchange(Apdu(0x00, Ins.VERIFY, 0, 0))
    return 0 if sw == SW_BLOCKED else tries_left(sw)


def _count(plan: Plan) -> int:
    """Fields that a comparison looks at: records of the files, objects of the records, FCI, options and GET DATA."""
    fields = len(plan.expected)
    for image in plan.images:
        records = (tlv.children(tlv.find(record, RECORD_TEMPLATE) or b"") for record in image.records.values())
        fields += sum(map(len, records)) + len(image.data) + (image.fci is not None) + bool(image.options)
    return fields
