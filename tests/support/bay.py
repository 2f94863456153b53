"""A station with one PC/SC reader, somebody who puts blanks into it, and what can go wrong while one is made.

A fault strikes at a command of given number, before the card carries it out or after. Run as a program, this is a station that
makes one card and may be killed at it: `python -m tests.support.bay DIRECTORY READER ORDER SERIAL`.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from pathlib import Path

from PIL import Image

from card_personalization.errors import CardLost
from card_personalization.journal import Journal
from card_personalization.keys.software import SoftwareKeys
from card_personalization.profiles import load_profile
from card_personalization.simulator.connection import CardStore, Silent, VirtualConnection
from card_personalization.simulator.faults import COMMANDS
from card_personalization.simulator.vpcd import VpcdCard
from pipeline.gateways.encoder import LocalEncoder, open_pcsc
from pipeline.identifiers import card_number, gb11643_check
from pipeline.person import Person
from pipeline.ports import EncodeOrder, EncodeReport
from tests.support.matrix import Holder, Transmit, essence, failed_authentications, holder_of
from tests.support.pcscd import POLL_S, Pcscd

ROOT = Path(__file__).parents[2]
PROFILE = load_profile(ROOT / "config" / "cards" / "ssc2.toml")
MUTATING = frozenset({"UPDATE RECORD", "STORE DATA"})
FOREIGN = "FFFFFFFF"
WATCHDOG_S = 1.0
SOON_S = 20.0


class Strike(StrEnum):
    """What happens at the command."""

    TEAR = "tear"
    """The link to the card breaks before the card hears of it."""
    TEAR_AFTER = "tear-after"
    """... before its answer is heard."""
    MUTE = "mute"
    """The card keeps silent until it is taken out."""
    SWAP = "swap"
    """The card is pulled and another put in."""
    SWAP_UNSEEN = "swap-unseen"
    """Another card answers this command and all that follow."""
    SERVICE = "service"
    """kill -9 of pcscd, which is started again."""
    WORKER = "worker"
    """kill -9 of the process that makes the card, before the card hears of the command."""
    WORKER_AFTER = "worker-after"
    """... after it has carried it out."""


_BY_ITSELF = frozenset({Strike.WORKER, Strike.WORKER_AFTER})


def encode_order(number: int, serial: str) -> EncodeOrder:
    """The order of this number for a blank."""
    first17 = f"99900119491231{number:03d}"
    id_number = first17 + gb11643_check(first17)
    picture = io.BytesIO()
    Image.new("RGB", (358, 441), (90, 140, 200)).save(picture, "JPEG")
    return EncodeOrder(
        application_id=f"app_{number}",
        blank_serial=serial,
        profile=PROFILE.name,
        holder=Person(
            name="测试甲",
            id_type="resident_id",
            id_number=id_number,
            social_security_number=id_number,
            sex="1" if number % 2 else "2",
            ethnic="01",
            birth_date=date(1949, 12, 31),
            birth_place="420100",
            phone="13800000000",
        ),
        card_number=card_number("A", number),
        city="420100",
        issued=date(2026, 11, 25),
        expires=date(2036, 11, 25),
        bank_name="中国建设银行",
        bank_card_number="6200000000000000018",
        picture=picture.getvalue(),
    )


def holder(order: EncodeOrder) -> Holder:
    """What a card of this order says."""
    person = order.holder
    return Holder(
        person.name,
        person.social_security_number,
        order.card_number,
        person.birth_date,
        str(order.bank_card_number),
    )


def verdict(reply: EncodeReport | Exception) -> str:
    """A reply in a word."""
    return reply.verdict if isinstance(reply, EncodeReport) else type(reply).__name__


def station(directory: Path, reader: str) -> LocalEncoder:
    """The station of a directory over one reader."""
    return open_pcsc(
        directory / "station",
        "S1",
        names=[reader],
        keys=SoftwareKeys.demo(),
        profiles={PROFILE.name: PROFILE},
        watchdog_s=WATCHDOG_S,
    )


def soon(reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SOON_S
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


class _StruckCard(VirtualConnection):
    """A card that something happens to at its n-th command, once; `heard` are the names of all."""

    def __init__(
        self, card: VirtualConnection, number: int, strike: Callable[[Callable[[], tuple[bytes, int]]], tuple[bytes, int]]
    ) -> None:
        self.card = card
        self.heard: list[str] = []
        self._number = number
        self._strike = strike

    @property
    def atr(self) -> bytes:
        return self.card.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        self.heard.append(COMMANDS[apdu[1]])
        if len(self.heard) == self._number:
            return self._strike(lambda: self.card.transmit(apdu))
        return self.card.transmit(apdu)

    def reset(self) -> None:
        self.card.reset()

    def close(self) -> None:
        self.card.close()


@dataclass
class Bay:
    """The first reader of `pcscd` and the station that it belongs to."""

    directory: Path
    pcscd: Pcscd
    struck: threading.Event = field(default_factory=threading.Event)
    _inside: list[VpcdCard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.box = CardStore(self.directory / "cards")
        self.box.insert(FOREIGN).close()

    @property
    def reader(self) -> str:
        return self.pcscd.readers[0]

    def insert(self, card: VirtualConnection) -> None:
        """Put a card in."""
        inside = VpcdCard("127.0.0.1", self.pcscd.ports[0], lambda: card)
        self._inside.append(inside)
        threading.Thread(target=inside.run, daemon=True).start()

    def pull(self) -> None:
        """Take out whatever is in the reader."""
        while self._inside:
            self._inside.pop().stop()

    def good(self, order: EncodeOrder) -> list[str]:
        """Make a card without any fault; the commands it took, by name."""
        card = self._card(order.blank_serial)
        self.insert(card)
        with station(self.directory, self.reader) as encoder:
            reply = self.when_loaded(encoder, order, encoder.personalise)
            self.pull()
        assert verdict(reply) == "verified", reply
        return card.heard

    def strike(self, order: EncodeOrder, strike: Strike, number: int) -> tuple[str, str]:
        """Make a card while it is struck, put right what was done to it, and recover: what was said first and last."""
        self.struck.clear()
        if strike in _BY_ITSELF:
            first = self._killed(order, number, carried_out=strike is Strike.WORKER_AFTER)
            self.pull()
            with station(self.directory, self.reader) as encoder:
                return first, self._recovered(encoder, order)
        self.insert(self._card(order.blank_serial, number, self._struck(strike)))
        with station(self.directory, self.reader) as encoder:
            first = verdict(self.when_loaded(encoder, order, encoder.personalise))
            assert self.struck.wait(SOON_S), "the fault did not strike"
            if strike is Strike.SERVICE:
                self.pcscd.start()
            self.pull()
            return first, self._recovered(encoder, order)

    def when_loaded(
        self,
        encoder: LocalEncoder,
        order: EncodeOrder,
        work: Callable[[list[EncodeOrder]], Mapping[str, EncodeReport | Exception]],
    ) -> EncodeReport | Exception:
        """Give the station the order once its blank lies in the reader."""
        soon(lambda: encoder.loaded() == (order.blank_serial,))
        return work([order])[order.application_id]

    def _recovered(self, encoder: LocalEncoder, order: EncodeOrder) -> str:
        soon(lambda: encoder.status()[0].state == "empty")
        self.insert(self.box.insert(order.blank_serial))
        last = verdict(self.when_loaded(encoder, order, encoder.recover))
        self.pull()
        return last
