"""The encoder pool over readers that tests put cards into, and over a box of blanks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_personalization.errors import (
    CardLost,
    CardMute,
    CardSwapped,
    NoUsableCard,
    ReaderBusy,
    ServiceDown,
)
from card_personalization.held_card import HeldCard
from card_personalization.identity import identify
from card_personalization.pool import Connect, Event, EventKind, Outcome, Pool, ReaderState
from card_personalization.readers import VirtualReader
from card_personalization.transport.base import CardConnection

WRITE = bytes.fromhex("00DC010401AA")
CPLC = bytes.fromhex("9F7F2A")
SOON_S = 5.0


class Chip:
    """A card that counts what is written to it; it stops at `silent` when that is set."""

    def __init__(self, serial: str, *, lot: int = 0) -> None:
        self.serial = serial
        self.lot = lot
        self.writes = 0
        self.silent: threading.Event | None = None
        self.fails: CardLost | None = None


class ChipConnection:
    """The port to one."""

    def __init__(self, chip: Chip, reader: HandFed | None = None) -> None:
        self._chip = chip
        self._reader = reader

    @property
    def atr(self) -> bytes:
        return bytes.fromhex("3B6D0000008100000186604201" + self._chip.serial)

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        if apdu != WRITE:
            return CPLC + bytes((self._chip.lot,)) * 42, 0x9000
        if self._chip.silent is not None:
            self._chip.silent.wait(SOON_S)
        if self._chip.fails is not None:
            raise self._chip.fails
        self._chip.writes += 1
        return b"", 0x9000

    def reset(self) -> None:
        if self._reader is not None and self._reader.chip is not None:
            self._chip = self._reader.chip

    def close(self) -> None:
        pass


class HandFed:
    """A reader that the test puts chips into."""

    feed = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.chip: Chip | None = None
        self.busy = False
        self.down = False
        self._changes = 0
        self._seen = 0
        self._changed = threading.Condition()

    def put(self, chip: Chip | None) -> None:
        with self._changed:
            self.chip = chip
            self._changes += 1
            self._changed.notify_all()

    def open(self) -> None:
        self._there()

    def wait_for_card(self, timeout_s: float) -> bool:
        return self._wait(lambda: self.chip is not None, timeout_s)

    def wait_for_removal(self, timeout_s: float) -> bool:
        return self._wait(lambda: self.chip is None or self._changes != self._seen, timeout_s)

    def connect(self) -> CardConnection:
        self._there()
        if self.busy:
            raise ReaderBusy(self.name)
        if self.chip is None:
            raise NoUsableCard(self.name)
        return ChipConnection(self.chip, self)

    def interrupt(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        pass

    def _wait(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: reached() or self.down, min(timeout_s, 0.05))
            self._there()
            done = reached()
            self._seen = self._changes
            return done

    def _there(self) -> None:
        if self.down:
            raise ServiceDown(self.name)


def write(connect: Connect) -> str:
    """The least piece of work."""
    connection = connect()
    connection.transmit(WRITE)
    return "good"


def verdict(result: str) -> Outcome | None:
    return None if result == "untouched" else Outcome(result)


def soon(reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SOON_S
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def readers() -> tuple[HandFed, HandFed]:
    return HandFed("left"), HandFed("right")


@pytest.fixture
def pool(readers: tuple[HandFed, HandFed], events: list[Event]) -> Iterator[Pool]:
    made = Pool(readers, classify=verdict, on_event=events.append, watchdog_s=0.2)
    yield made
    made.close()


def state(pool: Pool, reader: int) -> ReaderState:
    return pool.status()[reader].state


def alarms(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind is EventKind.ALARM]


def test_work_goes_to_the_reader_that_holds_its_card(pool: Pool, readers: tuple[HandFed, HandFed]) -> None:
    chips = Chip("00000001"), Chip("00000002")
    for reader, chip in zip(readers, chips, strict=True):
        reader.put(chip)
    soon(lambda: set(pool.loaded()) == {"00000001", "00000002"})
    assert pool.submit("00000002", write).result(SOON_S) == "good"
    assert [chip.writes for chip in chips] == [0, 1]
    assert pool.loaded() == ("00000001",)
    assert pool.status()[1].good == 1


def test_work_for_a_card_that_no_reader_holds_is_refused_at_once(pool: Pool) -> None:
    with pytest.raises(NoUsableCard):
        pool.submit("00000009", write).result(0)


def test_a_finished_card_is_written_again_only_after_it_was_seen_leaving(
    pool: Pool, readers: tuple[HandFed, HandFed]
) -> None:
    chip = Chip("00000001")
    readers[0].put(chip)
    soon(lambda: bool(pool.loaded()))
    pool.submit("00000001", write).result(SOON_S)
    soon(lambda: state(pool, 0) is ReaderState.WAITING_REMOVAL)
    with pytest.raises(NoUsableCard):
        pool.submit("00000001", write).result(0)
    readers[0].put(None)
    soon(lambda: state(pool, 0) is ReaderState.EMPTY)
    readers[0].put(chip)
    soon(lambda: bool(pool.loaded()))
    pool.submit("00000001", write).result(SOON_S)
    assert chip.writes == 2


def test_a_card_changed_quickly_counts_as_changed(pool: Pool, readers: tuple[HandFed, HandFed]) -> None:
    readers[0].put(Chip("00000001"))
    soon(lambda: bool(pool.loaded()))
    pool.submit("00000001", write).result(SOON_S)
    soon(lambda: state(pool, 0) is ReaderState.WAITING_REMOVAL)
    readers[0].put(Chip("00000002"))
    soon(lambda: pool.loaded() == ("00000002",))


@pytest.mark.parametrize("other", [Chip("00000002"), Chip("00000001", lot=7)], ids=["ATR", "CPLC"])
def test_another_card_at_the_second_connection_is_refused(
    pool: Pool, readers: tuple[HandFed, HandFed], other: Chip
) -> None:
    readers[0].put(Chip("00000001"))
    soon(lambda: bool(pool.loaded()))

    def swapped(connect: Connect) -> str:
        write(connect)
        readers[0].chip = other
        return write(connect)

    with pytest.raises(CardSwapped):
        pool.submit("00000001", swapped).result(SOON_S)
    assert other.writes == 0
    assert pool.status()[0].unknown == 1


def test_a_card_exchanged_before_anything_was_sent_is_identified_anew(
    pool: Pool, readers: tuple[HandFed, HandFed]
) -> None:
    readers[0].put(Chip("00000001"))
    soon(lambda: bool(pool.loaded()))

    def exchanged(connect: Connect) -> str:
        connect().close()
        readers[0].chip = Chip("00000002")
        return write(connect)

    with pytest.raises(CardSwapped):
        pool.submit("00000001", exchanged).result(SOON_S)
    soon(lambda: pool.loaded() == ("00000002",))
    assert pool.status()[0].cards == 0


def test_a_mute_card_costs_its_own_reader_only(
    pool: Pool, readers: tuple[HandFed, HandFed], events: list[Event]
) -> None:
    mute, sound = Chip("00000001"), Chip("00000002")
    mute.silent = threading.Event()
    readers[0].put(mute)
    readers[1].put(sound)
    soon(lambda: len(pool.loaded()) == 2)

    def twice(connect: Connect) -> str:
        write(connect)
        return write(connect)

    with pytest.raises(CardMute):
        pool.submit("00000001", twice).result(SOON_S)
    assert state(pool, 0) is ReaderState.HUNG
    assert [event.reader for event in alarms(events)] == ["left"]
    assert pool.submit("00000002", write).result(SOON_S) == "good"
    mute.silent.set()
    soon(lambda: state(pool, 0) is ReaderState.WAITING_REMOVAL)
    assert mute.writes == 1, "the work that was given up went on"
    assert pool.status()[0].unknown == 1
    readers[0].put(Chip("00000003"))
    soon(lambda: pool.loaded() == ("00000003",))


def test_a_card_cut_off_by_a_restart_of_the_service_may_be_resumed_and_a_finished_one_not(
    pool: Pool, readers: tuple[HandFed, HandFed], events: list[Event]
) -> None:
    begun, finished = Chip("00000001"), Chip("00000002")
    readers[0].put(begun)
    readers[1].put(finished)
    soon(lambda: len(pool.loaded()) == 2)
    pool.submit("00000002", write).result(SOON_S)
    begun.fails = ServiceDown("left")
    with pytest.raises(ServiceDown):
        pool.submit("00000001", write).result(SOON_S)
    for reader in readers:
        reader.down = True
    soon(lambda: {status.state for status in pool.status()} == {ReaderState.DOWN})
    begun.fails = None
    for reader in readers:
        reader.down = False
    soon(lambda: pool.loaded() == ("00000001",))
    soon(lambda: state(pool, 1) is ReaderState.WAITING_REMOVAL)
    assert pool.submit("00000001", write).result(SOON_S) == "good"
    assert (begun.writes, finished.writes) == (1, 1)
    assert {event.reader for event in events if event.kind is EventKind.READER_DOWN} == {"left", "right"}


def test_a_reader_held_by_another_program_is_waited_for_with_one_alarm(
    pool: Pool, readers: tuple[HandFed, HandFed], events: list[Event]
) -> None:
    readers[0].busy = True
    readers[0].put(Chip("00000001"))
    soon(lambda: state(pool, 0) is ReaderState.BUSY)
    time.sleep(0.2)
    assert pool.loaded() == ()
    readers[0].busy = False
    soon(lambda: pool.loaded() == ("00000001",))
    assert len(alarms(events)) == 1


def test_a_drained_reader_finishes_its_card_and_takes_no_more(pool: Pool, readers: tuple[HandFed, HandFed]) -> None:
    chip = Chip("00000001")
    chip.silent = threading.Event()
    readers[0].put(chip)
    soon(lambda: bool(pool.loaded()))
    work = pool.submit("00000001", write)
    soon(lambda: state(pool, 0) is ReaderState.WORKING)
    pool.drain("left")
    assert state(pool, 0) is ReaderState.DRAINING
    chip.silent.set()
    assert work.result(SOON_S) == "good"
    readers[0].put(Chip("00000002"))
    soon(lambda: state(pool, 0) is ReaderState.DRAINED)
    time.sleep(0.2)
    assert pool.loaded() == ()
    pool.resume()
    soon(lambda: pool.loaded() == ("00000002",))
    with pytest.raises(KeyError):
        pool.drain("no such reader")


def test_a_card_that_work_left_alone_stays_loaded(pool: Pool, readers: tuple[HandFed, HandFed]) -> None:
    readers[0].put(Chip("00000001"))
    soon(lambda: bool(pool.loaded()))
    assert pool.submit("00000001", lambda connect: "untouched").result(SOON_S) == "untouched"
    soon(lambda: pool.loaded() == ("00000001",))
    assert pool.status()[0].cards == 0


def test_preparation_that_fails_costs_no_card(pool: Pool, readers: tuple[HandFed, HandFed]) -> None:
    readers[0].put(Chip("00000001"))
    soon(lambda: bool(pool.loaded()))

    def impossible() -> str:
        raise ValueError("cannot be made")

    with pytest.raises(ValueError, match="cannot be made"):
        pool.submit("00000001", lambda connect, plan: plan, prepare=impossible).result(SOON_S)
    soon(lambda: pool.loaded() == ("00000001",))
    done = pool.submit("00000001", lambda connect, plan: write(connect) + plan, prepare=lambda: "")
    assert done.result(SOON_S) == "good"


def test_a_card_taken_out_while_it_waits_is_not_offered(
    pool: Pool, readers: tuple[HandFed, HandFed], events: list[Event]
) -> None:
    readers[0].put(Chip("00000001"))
    soon(lambda: bool(pool.loaded()))
    readers[0].put(None)
    soon(lambda: pool.loaded() == ())
    assert [(event.kind, event.serial) for event in events if event.reader == "left"] == [
        (EventKind.READER_UP, None),
        (EventKind.CARD_IN, "00000001"),
        (EventKind.CARD_OUT, "00000001"),
    ]


def test_closing_finishes_the_card_in_hand(readers: tuple[HandFed, HandFed]) -> None:
    pool = Pool(readers, classify=verdict)
    chip = Chip("00000001")
    chip.silent = threading.Event()
    readers[0].put(chip)
    soon(lambda: bool(pool.loaded()))
    work = pool.submit("00000001", write)
    soon(lambda: state(pool, 0) is ReaderState.WORKING)
    threading.Timer(0.1, chip.silent.set).start()
    pool.close()
    assert work.result(0) == "good"
    with pytest.raises(NoUsableCard):
        pool.submit("00000001", write).result(0)


def test_readers_that_feed_themselves_share_the_work_and_do_each_piece_once() -> None:
    chips = {f"{n:08X}": Chip(f"{n:08X}") for n in range(60)}
    together = threading.Barrier(2)
    pool = Pool(
        [VirtualReader(f"box {n}", lambda serial: ChipConnection(chips[serial])) for n in range(2)], classify=verdict
    )
    try:
        soon(lambda: pool.loaded() == (None, None))

        def both(connect: Connect) -> str:
            together.wait(SOON_S)
            return write(connect)

        futures = [pool.submit(serial, both) for serial in chips]
        wait(futures, SOON_S)
        assert {future.result(0) for future in futures} == {"good"}
        assert {chip.writes for chip in chips.values()} == {1}
        assert [status.good for status in pool.status()] == [30, 30]
        assert all(status.good_share == 1.0 for status in pool.status())
    finally:
        pool.close()


def test_work_that_comes_as_its_card_leaves_is_not_done_on_the_next_card() -> None:
    first, second = Chip("00000001"), Chip("00000002")
    submitted: list[Future[str]] = []

    class Leaving(HandFed):
        """Its card is taken out in the moment in which work for it comes."""

        def wait_for_removal(self, timeout_s: float) -> bool:
            if self.chip is first and not submitted:
                submitted.append(pool.submit(first.serial, write))
                self.put(None)
            return super().wait_for_removal(timeout_s)

    reader = Leaving("hand")
    pool = Pool([reader], classify=verdict)
    try:
        reader.put(first)
        soon(lambda: bool(submitted))
        with pytest.raises(NoUsableCard):
            submitted[0].result(SOON_S)
        reader.put(second)
        soon(lambda: pool.loaded() == ("00000002",))
        assert second.writes == 0
        assert pool.submit("00000002", write).result(SOON_S) == "good"
    finally:
        pool.close()


def test_work_whose_card_cannot_be_fetched_ends_with_that() -> None:
    class Jammed(VirtualReader):
        def feed(self, serial: str) -> None:
            if serial == "00000001":
                raise CardLost("jammed")
            super().feed(serial)

    chip = Chip("00000002")
    pool = Pool([Jammed("box", lambda serial: ChipConnection(chip))], classify=verdict)
    try:
        with pytest.raises(CardLost, match="jammed"):
            pool.submit("00000001", write).result(SOON_S)
        assert pool.submit("00000002", write).result(SOON_S) == "good"
    finally:
        pool.close()


def test_a_listener_that_fails_costs_nobody_an_answer() -> None:
    def fails(event: Event) -> None:
        if event.kind is EventKind.RESULT:
            raise RuntimeError

    pool = Pool([VirtualReader("box", lambda serial: ChipConnection(Chip(serial)))], classify=verdict, on_event=fails)
    try:
        assert [pool.submit(f"0000000{n}", write).result(SOON_S) for n in range(2)] == ["good", "good"]
    finally:
        pool.close()


def test_closing_cancels_what_was_not_begun() -> None:
    chip = Chip("00000001")
    chip.silent = threading.Event()
    pool = Pool([VirtualReader("box", lambda serial: ChipConnection(chip))], classify=verdict)
    begun = pool.submit("00000001", write)
    soon(lambda: state(pool, 0) is ReaderState.WORKING)
    waiting = pool.submit("00000002", write)
    threading.Timer(0.1, chip.silent.set).start()
    pool.close()
    assert begun.result(0) == "good"
    assert waiting.cancelled()


def test_the_status_tells_where_the_time_of_the_last_card_went(pool: Pool, readers: tuple[HandFed, HandFed]) -> None:
    for serial in ("00000001", "00000002"):
        readers[0].put(Chip(serial))
        soon(lambda serial=serial: pool.loaded() == (serial,))  # type: ignore[misc]
        pool.submit(serial, write).result(SOON_S)
        soon(lambda: state(pool, 0) is ReaderState.WAITING_REMOVAL)
    status = pool.status()[0]
    assert status.cards == 2
    assert status.cards_per_hour is not None
    assert status.last_card is not None
    for part in (
        status.last_card.seen_to_first_apdu_ms,
        status.last_card.last_answer_to_eject_ms,
        status.last_card.change_ms,
    ):
        assert part is not None
        assert 0 <= part < 1000 * SOON_S


ACTIONS = st.lists(st.sampled_from(["connect", "write", "reset", "close", "swap", "return", "give up"]), max_size=30)


@settings(max_examples=200)
@given(actions=ACTIONS)
def test_work_reaches_no_card_but_its_own_and_none_after_it_was_given_up(actions: list[str]) -> None:
    own, other = Chip("00000001"), Chip("00000001", lot=7)
    reader = HandFed("left")
    reader.chip = own
    card = HeldCard("left", reader.connect, identify=identify)
    card.connect()
    writes_when_given_up: int | None = None
    for action in actions:
        try:
            match action:
                case "connect":
                    card.connect()
                case "write":
                    card.transmit(WRITE)
                case "reset":
                    card.reset()
                case "close":
                    card.close()
                case "swap" | "return":
                    reader.chip = own if action == "return" else other
                case "give up":
                    card.give_up()
                    writes_when_given_up = own.writes if writes_when_given_up is None else writes_when_given_up
        except (CardLost, CardSwapped):
            pass
    assert other.writes == 0
    assert writes_when_given_up in (None, own.writes)
