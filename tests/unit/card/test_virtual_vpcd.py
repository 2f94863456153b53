"""A virtual card in a reader of vpcd, played by a small server: powered, asked, pulled, swapped, and back after a restart."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from card_personalization.simulator import CardStore, Fault
from card_personalization.simulator.vpcd import VpcdCard, serve

SERIAL = "00000001"
GET_CPLC = bytes.fromhex("80CA9F7F2D")
SELECT = bytes.fromhex("00A4040008A000000333010101")


class Reader:
    """The side of vpcd: listens, and speaks to the card that comes."""

    def __init__(self, port: int = 0) -> None:
        self.server = socket.create_server(("127.0.0.1", port))
        self.server.settimeout(10)
        self.port = self.server.getsockname()[1]
        self.line: socket.socket | None = None

    def wait(self) -> Reader:
        self.line, _ = self.server.accept()
        self.line.settimeout(10)
        return self

    def tell(self, body: bytes) -> None:
        assert self.line is not None
        self.line.sendall(len(body).to_bytes(2, "big"))
        self.line.sendall(body)

    def ask(self, body: bytes) -> bytes:
        self.tell(body)
        head = self._exactly(2)
        return self._exactly(int.from_bytes(head, "big"))

    def _exactly(self, size: int) -> bytes:
        assert self.line is not None
        data = b""
        while len(data) < size:
            part = self.line.recv(size - len(data))
            if not part:
                raise ConnectionError("no card")
            data += part
        return data

    @property
    def empty(self) -> bool:
        assert self.line is not None
        return self.line.recv(1) == b""

    def close(self) -> None:
        if self.line is not None:
            self.line.close()
        self.server.close()


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


@pytest.fixture
def slot(tmp_path: Path, reader: Reader) -> Iterator[Callable[..., VpcdCard]]:
    """A card on its way into the reader, with faults."""
    running: list[tuple[VpcdCard, threading.Thread]] = []

    def make(*faults: str, port: int | None = None) -> VpcdCard:
        store = CardStore(tmp_path, faults={SERIAL: [Fault.parse(fault) for fault in faults]})
        card = VpcdCard("127.0.0.1", port or reader.port, lambda: store.insert(SERIAL), swap_s=0.05)
        thread = threading.Thread(target=card.run, daemon=True)
        thread.start()
        running.append((card, thread))
        return card

    yield make
    for card, thread in running:
        card.stop()
        thread.join(10)
        assert not thread.is_alive()


def power(reader: Reader) -> bytes:
    reader.tell(b"\x01")
    return reader.ask(b"\x04")


def test_the_card_is_powered_tells_its_atr_and_answers(reader: Reader, slot: Callable[..., VpcdCard]) -> None:
    slot()
    assert power(reader.wait()).hex().startswith("3b6d0000")
    assert reader.ask(GET_CPLC)[:3].hex() == "9f7f2a"
    assert reader.ask(SELECT) == b"\x61\x0e"
    reader.tell(b"\x02")
    assert reader.ask(bytes.fromhex("00C000000E")) == b"\x69\x85"
    reader.tell(b"\x00")
    assert power(reader).hex().startswith("3b6d0000")


def test_an_answer_comes_without_the_delay_of_an_acknowledgement(reader: Reader, slot: Callable[..., VpcdCard]) -> None:
    slot()
    power(reader.wait())
    taken = []
    for _ in range(200):
        begun = time.perf_counter()
        reader.ask(GET_CPLC)
        taken.append(time.perf_counter() - begun)
    assert statistics.median(taken) < 0.020  # a delayed acknowledgement takes 40 ms, on any machine


def test_an_ejected_card_comes_back_only_when_it_is_inserted(reader: Reader, slot: Callable[..., VpcdCard]) -> None:
    card = slot()
    power(reader.wait())
    card.eject()
    assert reader.empty
    reader.server.settimeout(0.4)
    with pytest.raises(TimeoutError):
        reader.wait()
    reader.server.settimeout(10)
    card.insert()
    assert power(reader.wait())


def test_a_torn_card_leaves_the_reader_empty_until_it_is_inserted(
    reader: Reader, slot: Callable[..., VpcdCard]
) -> None:
    card = slot("tear_after@SELECT:1")
    power(reader.wait())
    with pytest.raises(ConnectionError):
        reader.ask(SELECT)
    card.insert()
    power(reader.wait())
    assert reader.ask(SELECT) == b"\x61\x0e"


def test_a_swapped_card_is_another_one_after_a_removal(reader: Reader, slot: Callable[..., VpcdCard]) -> None:
    slot("swap=00000002@SELECT:1")
    first = power(reader.wait())
    with pytest.raises(ConnectionError):
        reader.ask(SELECT)
    second = power(reader.wait())
    assert (first[-4:].hex(), second[-4:].hex()) == ("00000001", "00000002")


def test_a_mute_card_says_nothing_until_it_is_reset(reader: Reader, slot: Callable[..., VpcdCard]) -> None:
    slot("mute@SELECT:1")
    power(reader.wait())
    reader.tell(SELECT)
    reader.tell(GET_CPLC)
    assert power(reader).hex().startswith("3b6d0000")
    assert reader.ask(SELECT) == b"\x61\x0e"


def test_a_dead_card_has_an_empty_atr(reader: Reader, slot: Callable[..., VpcdCard]) -> None:
    slot("dead_atr@RESET:1x2")
    assert power(reader.wait()) == b""
    assert power(reader).hex().startswith("3b6d0000")


def test_the_card_waits_for_a_reader_and_comes_back_after_its_restart(
    reader: Reader, slot: Callable[..., VpcdCard]
) -> None:
    port = reader.port
    reader.close()
    slot(port=port)
    time.sleep(0.3)
    for _ in range(2):
        with contextlib.closing(Reader(port)) as restarted:
            assert power(restarted.wait()).hex().startswith("3b6d0000")


def test_a_card_taken_by_another_program_leaves_the_reader_empty(
    reader: Reader, slot: Callable[..., VpcdCard], tmp_path: Path
) -> None:
    slot()
    power(reader.wait())
    CardStore(tmp_path).insert(SERIAL)
    with pytest.raises(ConnectionError):
        reader.ask(GET_CPLC)


def test_several_cards_are_served_until_they_are_stopped(tmp_path: Path) -> None:
    readers, store, stopped = [Reader(), Reader()], CardStore(tmp_path), threading.Event()
    cards = [
        VpcdCard("127.0.0.1", each.port, lambda serial=f"0000000{n}": store.insert(serial))  # type: ignore[misc]
        for n, each in enumerate(readers)
    ]
    thread = threading.Thread(target=serve, args=(cards, stopped))
    thread.start()
    assert [power(each.wait())[-4:].hex() for each in readers] == ["00000000", "00000001"]
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()
    assert all(each.empty for each in readers)
    for each in readers:
        each.close()
