"""Real readers as far as software goes: pcscd with vpcd readers, virtual cards put in over sockets, pyscard on our side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from card_personalization.errors import (
    CardLost,
    CardMute,
    CardSwapped,
    NoUsableCard,
    ReaderBusy,
    ReaderGone,
    ServiceDown,
    StaleHandle,
)
from card_personalization.pool import Connect, Outcome, Pool, ReaderState
from card_personalization.simulator.connection import CardStore
from card_personalization.transport.pcsc import PcscConnection, PcscReader, list_readers
from tests.support.pcscd import POLL_S, InsertedCard, Pcscd, need_pcscd

SELECT = bytes.fromhex("00A404000F7378312E73682EC9E7BBE1B1A3D5CF")
SELECT_EF05 = bytes.fromhex("00A4000002EF05")
READ_MAKER = bytes.fromhex("00B2010412")
GET_CHALLENGE = bytes.fromhex("0084000008")
SOON_S = 15.0

Insert = Callable[..., InsertedCard]


@pytest.fixture(scope="module")
def pcscd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pcscd]:
    """Two pairs of readers, all empty."""
    made = Pcscd(tmp_path_factory.mktemp("pcscd") / "own", pairs=2, pcscd=need_pcscd())
    made.start()
    yield made
    made.kill()


@pytest.fixture
def insert(pcscd: Pcscd, tmp_path: Path) -> Iterator[Insert]:
    """Puts a blank into the n-th reader; when the test ends, everything is taken out again."""
    box = CardStore(tmp_path / "box")
    inside: list[InsertedCard] = []

    def put(reader: int, serial: str, before: Callable[[bytes], None] = lambda apdu: None) -> InsertedCard:
        card = InsertedCard(pcscd.ports[reader], box.insert(serial), before=before)
        inside.append(card)
        return card

    yield put
    for card in inside:
        card.pull()
    for name in pcscd.readers:
        reader = opened(name)
        soon(lambda reader=reader: not reader.wait_for_card(0))
        reader.close()
    time.sleep(POLL_S)


def opened(name: str) -> PcscReader:
    reader = PcscReader(name)
    reader.open()
    return reader


def soon(reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SOON_S
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


@pytest.fixture
def loaded(pcscd: Pcscd, insert: Insert) -> Iterator[Callable[..., tuple[PcscReader, PcscConnection]]]:
    """A card in the first reader and an exclusive connection to it."""
    made: list[tuple[PcscReader, PcscConnection]] = []

    def load(serial: str = "00000001", **more: Callable[[bytes], None]) -> tuple[PcscReader, PcscConnection]:
        insert(0, serial, **more)
        reader = opened(pcscd.readers[0])
        soon(lambda: reader.wait_for_card(1))
        made.append((reader, reader.connect()))
        return made[-1]

    yield load
    for reader, connection in made:
        connection.close()
        reader.close()


Load = Callable[..., tuple[PcscReader, PcscConnection]]


def test_commands_and_cold_resets_reach_the_card(loaded: Load) -> None:
    _, connection = loaded()
    assert connection.atr.hex().endswith("00000001")
    assert connection.transmit(SELECT)[1] >> 8 in (0x61, 0x90)
    assert connection.transmit(SELECT_EF05) == (b"", 0x9000)
    body, sw = connection.transmit(READ_MAKER)
    assert (len(body), sw) == (0x12, 0x9000)
    connection.reset()
    assert connection.transmit(READ_MAKER)[1] != 0x9000, "the selection outlived the reset"


def test_a_command_takes_no_longer_than_the_reader_does(loaded: Load) -> None:
    """Measured 0.1 ms with a virtual card; without our own context and quick acknowledgements it is 40 ms."""
    _, connection = loaded()
    started = time.perf_counter()
    for _ in range(200):
        connection.transmit(GET_CHALLENGE)
    assert (time.perf_counter() - started) / 200 < 0.01


def test_independent_programs_see_the_readers_and_the_application(pcscd: Pcscd, insert: Insert) -> None:
    insert(0, "00000001")
    soon(lambda: "Yes" in pcscd.run("opensc-tool", "-l"))
    listed = pcscd.run("opensc-tool", "-l")
    assert all(name in listed for name in pcscd.readers)
    assert "SW1=0x90, SW2=0x00" in pcscd.run("opensc-tool", "-r", "0", "-s", SELECT.hex())
    assert set(list_readers()) == set(pcscd.readers)


def test_a_card_is_held_exclusively(pcscd: Pcscd, loaded: Load) -> None:
    _, connection = loaded()
    other = opened(pcscd.readers[0])
    with pytest.raises(ReaderBusy):
        other.connect()
    connection.close()
    other.connect().close()
    other.close()


def test_an_empty_reader_has_no_usable_card_and_an_unknown_one_is_gone(pcscd: Pcscd) -> None:
    reader = opened(pcscd.readers[3])
    with pytest.raises(NoUsableCard):
        reader.connect()
    reader.close()
    with pytest.raises(ReaderGone):
        opened("no such reader")


def test_a_card_pulled_at_a_command_is_lost(insert: Insert, pcscd: Pcscd, loaded: Load) -> None:
    card: list[InsertedCard] = []

    def pull(apdu: bytes) -> None:
        if apdu == SELECT_EF05:
            card[0].pull()

    card.append(insert(1, "00000001", pull))
    reader = opened(pcscd.readers[1])
    soon(lambda: reader.wait_for_card(1))
    connection = reader.connect()
    connection.transmit(SELECT)
    with pytest.raises(CardLost) as caught:
        connection.transmit(SELECT_EF05)
    assert not isinstance(caught.value, ServiceDown)
    with pytest.raises(CardLost):
        connection.transmit(SELECT)
    connection.close()
    soon(lambda: reader.wait_for_removal(1))
    reader.close()


def test_a_card_that_leaves_while_another_comes_is_seen_leaving(insert: Insert, pcscd: Pcscd) -> None:
    first = insert(0, "00000001")
    reader = opened(pcscd.readers[0])
    soon(lambda: reader.wait_for_card(1))
    assert not reader.wait_for_removal(0)
    first.pull()
    elsewhere = opened(pcscd.readers[0])
    soon(lambda: not elsewhere.wait_for_card(0))
    insert(0, "00000002")
    soon(lambda: elsewhere.wait_for_card(0))
    elsewhere.close()
    assert reader.wait_for_removal(0)
    reader.close()


def test_a_wait_can_be_interrupted(pcscd: Pcscd) -> None:
    reader = opened(pcscd.readers[3])
    threading.Timer(0.2, reader.interrupt).start()
    started = time.monotonic()
    assert not reader.wait_for_card(1)
    assert time.monotonic() - started < 0.9
    reader.close()


def test_a_restarted_service_needs_new_contexts_and_gets_them(pcscd: Pcscd, loaded: Load) -> None:
    reader, connection = loaded()
    pcscd.kill()
    with pytest.raises(ServiceDown):
        list_readers()
    with pytest.raises(CardLost):
        connection.transmit(SELECT)
    with pytest.raises(ServiceDown):
        reader.wait_for_card(1)
    pcscd.start()
    with pytest.raises((StaleHandle, ServiceDown)):
        reader.connect()
    connection.close()
    reader.open()
    soon(lambda: reader.wait_for_card(1))
    fresh = reader.connect()
    assert fresh.transmit(SELECT)[1] >> 8 in (0x61, 0x90)
    fresh.close()


# --------------------------------------------------------------------------------------------------- the pool on them


def verdict(result: str) -> Outcome | None:
    return Outcome(result)


def read(connect: Connect) -> str:
    """Work that asks the card for something."""
    connection = connect()
    connection.transmit(SELECT)
    return "good" if connection.transmit(SELECT_EF05)[1] == 0x9000 else "spoiled"


@pytest.fixture
def pool(pcscd: Pcscd) -> Iterator[Pool]:
    made = Pool([PcscReader(name) for name in pcscd.readers], classify=verdict, watchdog_s=1.0)
    yield made
    made.close()


def state(pool: Pool, reader: int) -> ReaderState:
    return pool.status()[reader].state


def test_the_pool_works_on_two_cards_at_once(pool: Pool, insert: Insert) -> None:
    for reader, serial in enumerate(("00000001", "00000002")):
        insert(reader, serial)
    soon(lambda: set(pool.loaded()) == {"00000001", "00000002"})
    together = threading.Barrier(2)

    def both(connect: Connect) -> str:
        connection = connect()
        together.wait(SOON_S)
        connection.transmit(SELECT)
        together.wait(SOON_S)
        return read(connect)

    futures = [pool.submit(serial, both) for serial in ("00000001", "00000002")]
    assert [future.result(SOON_S) for future in futures] == ["good", "good"]
    assert [state(pool, n) for n in (0, 1)] == [ReaderState.WAITING_REMOVAL] * 2


def test_the_pool_refuses_a_card_that_was_exchanged_during_the_work(pool: Pool, insert: Insert) -> None:
    first = insert(0, "00000001")
    soon(lambda: pool.loaded() == ("00000001",))
    heard: list[bytes] = []

    def exchanged(connect: Connect) -> str:
        connect().close()
        first.pull()
        insert(0, "00000002", heard.append)
        deadline = time.monotonic() + SOON_S
        while time.monotonic() < deadline:
            try:
                connect().transmit(SELECT)
            except CardSwapped:
                raise
            except CardLost:
                time.sleep(0.05)
        return "good"

    with pytest.raises(CardSwapped):
        pool.submit("00000001", exchanged).result(2 * SOON_S)
    assert SELECT not in heard
    soon(lambda: pool.loaded() == ("00000002",))


def test_the_pool_counts_a_card_pulled_during_the_work_as_unknown(pool: Pool, insert: Insert) -> None:
    inside: list[InsertedCard] = []
    inside.append(insert(0, "00000001", lambda apdu: inside[0].pull() if apdu == SELECT_EF05 else None))
    soon(lambda: pool.loaded() == ("00000001",))
    with pytest.raises(CardLost):
        pool.submit("00000001", read).result(SOON_S)
    assert pool.status()[0].unknown == 1
    soon(lambda: state(pool, 0) is ReaderState.EMPTY)


def test_a_mute_card_hangs_its_reader_only_and_a_restart_frees_it(pool: Pool, insert: Insert, pcscd: Pcscd) -> None:
    for_ever = threading.Event()

    def silent(apdu: bytes) -> None:
        if apdu == SELECT_EF05:
            for_ever.wait(2 * SOON_S)

    mute = insert(0, "00000001", silent)
    insert(1, "00000002")
    soon(lambda: len(pool.loaded()) == 2)
    with pytest.raises(CardMute):
        pool.submit("00000001", read).result(SOON_S)
    assert state(pool, 0) is ReaderState.HUNG
    assert pool.submit("00000002", read).result(SOON_S) == "good"
    mute.pull()
    pcscd.restart()
    soon(lambda: state(pool, 0) is ReaderState.EMPTY)
    for_ever.set()
    insert(0, "00000003")
    soon(lambda: "00000003" in pool.loaded())
    assert pool.submit("00000003", read).result(SOON_S) == "good"
    assert pool.status()[0].unknown == 1


def test_a_killed_service_costs_the_pool_a_pause_and_no_work(pool: Pool, insert: Insert, pcscd: Pcscd) -> None:
    written: list[bytes] = []

    def killed(apdu: bytes) -> None:
        written.append(apdu)
        if apdu == SELECT_EF05 and written.count(SELECT_EF05) == 1:
            pcscd.kill()

    insert(0, "00000001", killed)
    soon(lambda: pool.loaded() == ("00000001",))
    with pytest.raises(CardLost):
        pool.submit("00000001", read).result(SOON_S)
    soon(lambda: {status.state for status in pool.status()} == {ReaderState.DOWN})
    with pytest.raises(NoUsableCard):
        pool.submit("00000001", read).result(SOON_S)
    pcscd.start()
    soon(lambda: pool.loaded() == ("00000001",))
    assert pool.submit("00000001", read).result(SOON_S) == "good"
    assert written.count(SELECT_EF05) == 2
    counts = pool.status()[0]
    assert (counts.good, counts.unknown) == (1, 1)


def test_the_pool_adds_almost_nothing_to_a_card(pool: Pool, insert: Insert) -> None:
    """Measured 0.2 ms before and 0.6 ms after the work with eight readers on two cores; the bound allows for a loaded machine."""
    insert(0, "00000001")
    soon(lambda: pool.loaded() == ("00000001",))
    pool.submit("00000001", read).result(SOON_S)
    times = pool.status()[0].last_card
    assert times is not None
    assert times.seen_to_first_apdu_ms is not None
    assert times.last_answer_to_eject_ms is not None
    assert times.seen_to_first_apdu_ms + times.last_answer_to_eject_ms < 100
