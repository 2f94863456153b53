"""The virtual card's memory: whole commands or nothing, one reader, a file that survives; and the pace of its line."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_host import exchange, fetch

from card_personalization.errors import CardError, CardLost
from card_personalization.simulator import CardStore
from card_personalization.simulator.memory import CardFile, Memory, read_cells
from card_personalization.simulator.pace import Pace, characters

SERIAL = "00000001"
WRONG_PIN = "0020000003000000"

names = st.sampled_from(["a/1", "a/2", "b", "c"])
steps = st.lists(
    st.tuples(names, st.none() | st.binary(max_size=4)) | st.sampled_from(["commit", "rollback", "reopen"])
)


@given(steps=steps)
def test_memory_is_what_was_committed_wherever_it_is_reopened(
    tmp_path_factory: pytest.TempPathFactory, steps: list[object]
) -> None:
    path = tmp_path_factory.mktemp("cells") / "x.card"
    file = CardFile(path, dict, durable=False)
    memory, kept, seen = Memory(file.cells, file.append), {}, {}
    for step in steps:
        match step:
            case (str(name), None):
                memory.erase(name)
                seen.pop(name, None)
            case (str(name), bytes(value)):
                memory[name] = value
                seen[name] = value
            case "commit":
                memory.commit()
                kept = dict(seen)
            case "rollback":
                memory.rollback()
                seen = dict(kept)
            case _:
                file = CardFile(path, dict, durable=False)
                memory, seen = Memory(file.cells, file.append), dict(kept)
        assert {name: memory[name] for name in memory.names("")} == seen
        assert read_cells(path) == kept


def test_an_unfinished_last_line_is_a_command_that_was_never_done(tmp_path: Path) -> None:
    store = CardStore(tmp_path)
    card = store.insert(SERIAL)
    exchange(card, WRONG_PIN)
    (path,) = tmp_path.glob("*.card")
    whole = path.read_bytes()
    exchange(card, WRONG_PIN)
    line = path.read_bytes()[len(whole) :]
    assert store.inspect(SERIAL).pin.left == 3
    for end in range(len(line)):
        path.write_bytes(whole + line[:end])
        assert store.inspect(SERIAL).pin.left == 4
    assert exchange(store.insert(SERIAL), WRONG_PIN)[1] == "63C3"


def test_a_damaged_file_is_told_with_its_line(tmp_path: Path) -> None:
    store = CardStore(tmp_path)
    exchange(store.insert(SERIAL), WRONG_PIN)
    (path,) = tmp_path.glob("*.card")
    path.write_bytes(path.read_bytes().replace(b"pin/tries", b"pin/Tries"))
    with pytest.raises(CardError, match="第 1 行.*damaged at line 1"):
        store.insert(SERIAL)


def test_a_command_is_on_disk_before_it_is_answered(tmp_path: Path) -> None:
    card = CardStore(tmp_path, durable=True).insert(SERIAL)
    exchange(card, WRONG_PIN)
    assert CardStore(tmp_path).inspect(SERIAL).pin.left == 4


def test_a_disk_that_is_full_leaves_the_card_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CardStore(tmp_path)
    card = store.insert(SERIAL)
    write = __import__("os").write
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda descriptor, data: write(descriptor, data[:20]))
        with pytest.raises(OSError, match="could not grow"):
            exchange(card, WRONG_PIN)
    assert store.inspect(SERIAL).pin.left == 5
    assert exchange(card, WRONG_PIN)[1] == "63C4"
    assert store.inspect(SERIAL).pin.left == 4


def test_inserting_a_card_elsewhere_takes_it_also_for_reading(tmp_path: Path) -> None:
    first = CardStore(tmp_path).insert(SERIAL)
    second = CardStore(tmp_path).insert(SERIAL)
    for use in (first.reset, lambda: exchange(first, "80CA9F7F00"), lambda: exchange(first, WRONG_PIN)):
        with pytest.raises(CardLost, match="another reader"):
            use()
    assert exchange(second, WRONG_PIN)[1] == "63C4"


def _fight(directory: Path, done: multiprocessing.Queue[int]) -> None:
    store, errors = CardStore(directory), 0
    for _ in range(40):
        try:
            card = store.insert(SERIAL)
            for _ in range(3):
                fetch(card, bytes.fromhex(WRONG_PIN))
                fetch(card, bytes.fromhex("0020000003123456"))
        except CardLost:
            errors += 1
    done.put(errors)


def test_processes_that_fight_for_one_card_do_not_spoil_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    done: multiprocessing.Queue[int] = context.Queue()
    fighters = [context.Process(target=_fight, args=(tmp_path, done)) for _ in range(3)]
    for fighter in fighters:
        fighter.start()
    for fighter in fighters:
        fighter.join(60)
    assert [fighter.exitcode for fighter in fighters] == [0, 0, 0]
    assert CardStore(tmp_path).inspect(SERIAL).pin.left in (4, 5)


def test_a_command_that_changes_the_card_writes_its_change_and_not_the_whole_card(tmp_path: Path) -> None:
    file = CardFile(tmp_path / "x.card", lambda: {f"c{n}": bytes(100) for n in range(100)}, durable=False)
    memory = Memory(file.cells, file.append)
    whole = (tmp_path / "x.card").stat().st_size
    for n in range(500):
        memory["c1"] = n.to_bytes(100, "big")
        memory.commit()
    grown = (tmp_path / "x.card").stat().st_size - whole
    assert 500 * 200 < grown < 500 * 300 < 500 * whole


class Clock:
    """Time that passes by sleeping, and a little more each time."""

    def __init__(self, over: float = 0.0) -> None:
        self.now, self.over = 100.0, over

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.over

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("apdu", "body", "expected"),
    [
        ("00A40400", 0, 5 + 2),
        ("00B2010412", 18, 5 + 1 + 18 + 2),
        ("84E2000003010203", 0, 5 + 1 + 3 + 2),
        ("84E200000301020300", 0, 5 + 1 + 3 + 2),
    ],
)
def test_the_line_carries_header_procedure_byte_data_and_status(apdu: str, body: int, expected: int) -> None:
    assert characters(bytes.fromhex(apdu), bytes(body)) == expected


def test_every_command_takes_its_time_on_the_line_and_in_the_chip(tmp_path: Path) -> None:
    clock = Clock()
    store = CardStore(tmp_path, pace=lambda: Pace(9600, 20, sleep=clock.sleep, clock=clock.time))
    card = store.insert(SERIAL)
    card.transmit(bytes.fromhex("80CA9F7F2D"))
    card.transmit(bytes.fromhex(WRONG_PIN))
    wire = (5 + 1 + 45 + 2 + 5 + 1 + 3 + 2) * 12 / 9600
    assert card.wire_s == pytest.approx(wire)
    assert clock.now - 100 == pytest.approx(wire + 2 * 0.020)
    assert CardStore(tmp_path).insert(SERIAL).wire_s == 0.0


def test_waits_that_are_too_long_do_not_add_up() -> None:
    clock = Clock(over=0.0007)
    pace = Pace(38400, 1, sleep=clock.sleep, clock=clock.time)
    for _ in range(1000):
        pace.finish(pace.begun(), bytes.fromhex("84E2000003010203"), b"")
    assert clock.now - 100 == pytest.approx(1000 * (11 * 12 / 38400 + 0.001), abs=0.001)


def test_the_host_pays_for_its_own_time() -> None:
    clock = Clock()
    pace = Pace(9600, sleep=clock.sleep, clock=clock.time)
    for _ in range(10):
        clock.now += 0.5
        pace.finish(pace.begun(), bytes.fromhex("00A40400"), b"")
    assert clock.now - 100 == pytest.approx(10 * 0.5 + pace.wire_s)


@pytest.mark.parametrize(("baud", "ms"), [(0, 0), (9600, -1)])
def test_a_pace_that_cannot_be_is_refused(baud: int, ms: float) -> None:
    with pytest.raises(ValueError):
        Pace(baud, ms)
