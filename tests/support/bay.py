"""A station with one PC/SC reader, somebody who puts blanks into it, and what can go wrong while one is made.

A fault strikes at a command of given number, before the card carries it out or after. Run as a program, this is a station that
makes one card and may be killed at it: `python -m tests.support.bay DIRECTORY READER ORDER SERIAL`.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from enum import StrEnum
from pathlib import Path

from PIL import Image

from card_personalization.errors import CardLost
from card_personalization.journal import Journal
from card_personalization.keys.software import SoftwareKeys
from card_personalization.pool import ReaderState
from card_personalization.profiles import load_profile
from card_personalization.readers import VirtualReader
from card_personalization.simulator.connection import CardStore, Silent, VirtualConnection
from card_personalization.simulator.faults import COMMANDS
from card_personalization.simulator.vpcd import VpcdCard
from card_personalization.transport.pcsc import PcscReader
from pipeline.gateways.encoder import LocalEncoder, open_pcsc
from pipeline.identifiers import card_number, gb11643_check
from pipeline.person import Person
from pipeline.ports import EncodeOrder, EncodeReport
from tests.support.matrix import Holder, essence, failed_authentications, holder_of
from tests.support.pcscd import POLL_S, Pcscd

ROOT = Path(__file__).parents[2]
PROFILE = load_profile(ROOT / "config" / "cards" / "ssc2.toml")
PROFILES = {PROFILE.name: PROFILE}
WATCHDOG_S = 1.0
SOON_S = 20.0
_SEEN_S = 2.0
_PATIENCE = 4
KILLED = "killed"


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


Work = Callable[[Sequence[EncodeOrder]], Mapping[str, EncodeReport | Exception]]
Answer = Callable[["_StruckCard", bytes], tuple[bytes, int]]


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
        initialiser_tail="42010001",
        issued=date(2026, 11, 25),
        expires=date(2036, 11, 25),
        bank_name="中国建设银行",
        bank_card_number="6200000000000000018",
        picture=picture.getvalue(),
    )


def foreign_to(serial: str) -> str:
    """The chip serial of the card that may come in a blank's place."""
    return f"F{serial[1:]}"


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
        profiles=PROFILES,
        watchdog_s=WATCHDOG_S,
    )


def within(time_s: float, reached: Callable[[], bool]) -> bool:
    """Whether something is so before the time is over."""
    deadline = time.monotonic() + time_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def soon(reached: Callable[[], bool], otherwise: str) -> None:
    """Wait until something is so."""
    assert within(SOON_S, reached), otherwise


class _StruckCard(VirtualConnection):
    """A card that something happens to at its n-th command, once."""

    def __init__(
        self,
        card: VirtualConnection,
        number: int = 0,
        strike: Answer | None = None,
        *,
        heard: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`heard` is told the name of each command."""
        self.card = card
        self._left = number
        self._happen = strike
        self._hear = heard

    @property
    def atr(self) -> bytes:
        return self.card.atr

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        self._hear(COMMANDS[apdu[1]])
        self._left -= 1
        if self._happen is not None and self._left == 0:
            return self._happen(self, apdu)
        return self.card.transmit(apdu)

    def reset(self) -> None:
        self.card.reset()

    def close(self) -> None:
        self.card.close()


class Bay:
    """A reader of a pcscd, the station it belongs to, and the box of blanks beside it."""

    def __init__(self, directory: Path, pcscd: Pcscd, *, reader: int = 0) -> None:
        self.directory = directory
        self.box = CardStore(directory / "cards")
        self._pcscd = pcscd
        self._reader = pcscd.readers[reader]
        self._port = pcscd.ports[reader]
        self._inside: list[VpcdCard] = []
        self._emptied_at = 0.0
        self._worker: subprocess.Popen[bytes] | None = None

    def open_attempts(self) -> list[tuple[str, str]]:
        """Order and blank of each."""
        attempts = Journal(self.directory / "station" / "journal").open_attempts()
        return [(attempt.order_id, attempt.serial) for attempt in attempts]

    def holder(self, serial: str) -> Holder:
        """Whose the card is, for a terminal that knows nothing of us."""
        card = self.box.insert(serial)
        try:
            return holder_of(card.transmit)
        finally:
            card.close()

    def good(self, order: EncodeOrder) -> list[str]:
        """Make a card that nothing happens to; the commands it took, by name."""
        heard: list[str] = []
        self._put_in(lambda: _StruckCard(self.box.insert(order.blank_serial), heard=heard.append))
        with station(self.directory, self._reader) as encoder:
            assert self._given(encoder, order, encoder.personalise) == "verified"
            self.pull()
        return heard

    def aside(self, order: EncodeOrder) -> str:
        """Offer a blank from the box to an order, in a reader of its own at the same station."""
        reader = VirtualReader("aside", self.box.insert)
        directory = self.directory / "station"
        with LocalEncoder(
            "S1",
            readers=[reader],
            keys=SoftwareKeys.demo(),
            journal_dir=directory / "journal",
            halt_file=directory / "stopped",
            profiles=PROFILES,
        ) as encoder:
            return verdict(encoder.personalise([order])[order.application_id])

    def strike(
        self, order: EncodeOrder, strike: Strike, number: int, *, between: Callable[[str], None]
    ) -> tuple[str, str]:
        """Make a card that is struck at its n-th command, put right what happened, and recover.

        What the station said first and last; `between` is called with the first before anything is put right.
        """
        struck = threading.Event()

        def happen(card: _StruckCard, apdu: bytes) -> tuple[bytes, int]:
            try:
                return self._happen(strike, card, apdu, foreign_to(order.blank_serial))
            finally:
                struck.set()

        self._put_in(lambda: _StruckCard(self.box.insert(order.blank_serial), number, happen))
        if strike in (Strike.WORKER, Strike.WORKER_AFTER):
            self._run_worker(order)
            between(KILLED)
            self.pull()
            with station(self.directory, self._reader) as encoder:
                return KILLED, self._recovered(encoder, order)
        with station(self.directory, self._reader) as encoder:
            first = self._given(encoder, order, encoder.personalise)
            assert struck.wait(SOON_S), "it was not struck"
            between(first)
            if strike is Strike.SERVICE:
                self._pcscd.start()
            if strike is Strike.SWAP:
                self._refuse_foreign(encoder, order)
            self.pull()
            if encoder.stopped is None:
                return first, self._recovered(encoder, order)
        assert strike is Strike.SWAP_UNSEEN, "only another card refuses our keys"
        with station(self.directory, self._reader) as encoder:
            assert encoder.stopped, "a restart makes it go on"
            encoder.authorise()
            return first, self._recovered(encoder, order)

    def _happen(self, strike: Strike, card: _StruckCard, apdu: bytes, foreign: str) -> tuple[bytes, int]:
        match strike:
            case Strike.TEAR:
                self.pull()
                raise CardLost("torn")
            case Strike.TEAR_AFTER:
                card.card.transmit(apdu)
                self.pull()
                raise CardLost("torn")
            case Strike.MUTE:
                raise Silent("mute")
            case Strike.SWAP:
                self.pull()
                raise CardLost("pulled")
            case Strike.SWAP_UNSEEN:
                card.card = self.box.insert(foreign)
                return card.card.transmit(apdu)
            case Strike.SERVICE:
                self._pcscd.kill()
                return card.card.transmit(apdu)
            case Strike.WORKER:
                self._kill_worker()
                raise Silent("nobody waits for the answer")
            case Strike.WORKER_AFTER:
                answer = card.card.transmit(apdu)
                self._kill_worker()
                return answer

    def _run_worker(self, order: EncodeOrder) -> None:
        command = [
            sys.executable,
            "-m",
            __name__,
            str(self.directory),
            self._reader,
            order.application_id.removeprefix("app_"),
            order.blank_serial,
        ]
        self._worker = subprocess.Popen(command, cwd=ROOT)
        try:
            assert self._worker.wait(SOON_S) == -signal.SIGKILL, "the worker was not struck"
        finally:
            self._worker.kill()

    def _kill_worker(self) -> None:
        assert self._worker is not None
        self._worker.send_signal(signal.SIGKILL)
        self._worker.wait()

    def _refuse_foreign(self, encoder: LocalEncoder, order: EncodeOrder) -> None:
        """Put another card in: it is seen, and is not this order's."""
        self._wait_until_empty(encoder)
        foreign = foreign_to(order.blank_serial)
        self._put_in(lambda: self.box.insert(foreign))
        soon(lambda: encoder.loaded() == (foreign,), "the other card is not loaded")
        assert verdict(encoder.recover([order])[order.application_id]) == "CardNotThere"

    def _recovered(self, encoder: LocalEncoder, order: EncodeOrder) -> str:
        self._wait_until_empty(encoder)
        self._put_in(lambda: self.box.insert(order.blank_serial))
        last = self._given(encoder, order, encoder.recover)
        self.pull()
        return last

    def _wait_until_empty(self, encoder: LocalEncoder) -> None:
        soon(lambda: encoder.status()[0].state == ReaderState.EMPTY, "the reader is not empty")

    def _put_in(self, card: Callable[[], VirtualConnection]) -> None:
        """As a person does: a card that pcscd does not see, because it has not looked at the empty reader, is put in again."""
        reader = PcscReader(self._reader)
        reader.open()
        for _ in range(_PATIENCE):
            time.sleep(max(0.0, self._emptied_at + POLL_S - time.monotonic()))
            inside = VpcdCard("127.0.0.1", self._port, card)
            self._inside.append(inside)
            threading.Thread(target=inside.run, daemon=True).start()
            if within(_SEEN_S, lambda: reader.wait_for_card(0)):
                reader.close()
                return
            self.pull()
        raise AssertionError("pcscd sees no card in the reader")

    def _given(self, encoder: LocalEncoder, order: EncodeOrder, work: Work) -> str:
        """The station's word on an order that it is given once the blank lies in its reader."""
        soon(lambda: encoder.loaded() == (order.blank_serial,), "the card is not loaded")
        return verdict(work([order])[order.application_id])

    def pull(self) -> None:
        """Take out whatever is in the reader."""
        while self._inside:
            self._inside.pop().stop()
            self._emptied_at = time.monotonic()


def follow(bay: Bay, strike: Strike, number: int, *, order: EncodeOrder, other: EncodeOrder) -> tuple[str, str]:
    """Strike a blank, hold the station to every promise about it, and see it settled: what was said first and last.

    `other` is an order for the same blank.
    """
    serial, this = order.blank_serial, [(order.application_id, order.blank_serial)]
    fresh, foreign = bay.box.inspect(serial), bay.box.inspect(foreign_to(serial))

    def judge(first: str) -> None:
        struck, swapped = bay.box.inspect(serial), bay.box.inspect(foreign_to(serial))
        touched, begun = essence(struck) != essence(fresh), bay.open_attempts()
        assert essence(swapped) == essence(foreign), "a card that was not meant was written"
        tries = failed_authentications(struck, fresh) + failed_authentications(swapped, foreign)
        assert tries <= 1, f"{tries} authentications failed"
        assert first in ("untouched", "unknown", "OutcomeUnknown", KILLED), first
        assert begun in ([], this), f"open in the journal: {begun}"
        assert begun or not touched, "the journal does not know of a blank that was written"
        assert not (begun and first == "untouched"), "a blank that was begun was given back as untouched"

    first, last = bay.strike(order, strike, number, between=judge)
    assert bay.open_attempts() == [], f"{last}, and open in the journal"
    assert essence(bay.box.inspect(foreign_to(serial))) == essence(foreign), "a card that was not meant was written"
    assert last in ("verified", "untouched"), last
    owner, stranger = (order, other) if last == "verified" else (other, order)
    if last == "untouched":
        assert essence(bay.box.inspect(serial)) == essence(fresh), "untouched, and changed"
        assert (made := bay.aside(other)) == "verified", f"an untouched blank is {made} for the next"
    assert bay.holder(serial) == holder(owner), "it is somebody else's card"
    card = bay.box.inspect(serial)
    assert (offered := bay.aside(stranger)) == "unknown", f"somebody's card is {offered} for another"
    assert bay.box.inspect(serial) == card, "somebody's card was changed for another"
    return first, last


def _work_alone(directory: Path, reader: str, number: int, serial: str) -> None:
    order = encode_order(number, serial)
    with station(directory, reader) as encoder:
        soon(lambda: encoder.loaded() == (serial,), "the card is not loaded")
        encoder.personalise([order])


if __name__ == "__main__":
    _work_alone(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
