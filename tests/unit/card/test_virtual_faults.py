"""Each fault of the virtual card: what it does at its command, how often, and how it is written in a line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_host import DEBIT, ISD, Host, dgi, exchange, fetch, groupings, select, store, store_command

from card_personalization.errors import CardLost
from card_personalization.simulator import CardStore, Fault
from card_personalization.simulator.configuration import CardManager
from card_personalization.simulator.connection import Silent, VirtualConnection
from card_personalization.simulator.faults import ANY, COMMANDS, RESET, FaultKind, FaultPlan

SERIAL = "00000001"
RECORD = dgi(0x0201, bytes.fromhex("70038E0100"))
MANAGER = CardManager(scp=3, i=0x70)
Struck = Callable[..., tuple[Host, CardStore]]


@pytest.fixture
def struck(tmp_path: Path) -> Struck:
    """A host before a card with the given faults, and the card's box."""

    def make(*faults: str | Fault, **options: object) -> tuple[Host, CardStore]:
        plan = [Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults]
        store = CardStore(tmp_path, manager=MANAGER, faults={SERIAL: plan}, **options)  # type: ignore[arg-type]
        return Host(store.insert(SERIAL)), store

    return make


def open_debit(host: Host, level: int = 0x33) -> Host:
    host.aid = DEBIT
    select(host.card, DEBIT)
    assert host.external_authenticate(host.initialize_update(size=8), level) == "9000"
    return host


def stored(box: CardStore) -> frozenset[int]:
    return box.inspect(SERIAL).applications[bytes.fromhex(DEBIT)].groupings


@pytest.mark.parametrize(
    ("kind", "done"), [("tear_before", False), ("tear_after", True), ("mute", False), ("swap", False)]
)
def test_a_lost_card_has_done_its_command_or_not_at_all(struck: Struck, kind: str, done: bool) -> None:
    host, box = struck(f"{kind}@STORE DATA:1")
    open_debit(host)
    with pytest.raises(CardLost):
        host.send(store_command(0, 0, RECORD))
    assert stored(box) == (frozenset({0x0201}) if done else frozenset())


@pytest.mark.parametrize(("nth", "state"), [(11, 0x0F), (10, 0x07)])
def test_a_card_torn_after_its_last_block_is_complete(struck: Struck, nth: int, state: int) -> None:
    host, box = struck(f"tear_after@STORE DATA:{nth}")
    open_debit(host)
    with pytest.raises(CardLost):
        store(host, groupings(host))
    assert box.inspect(SERIAL).applications[bytes.fromhex(DEBIT)].state == state


def test_a_mute_card_is_silent_until_it_is_powered_anew(struck: Struck) -> None:
    host, _ = struck("mute@SELECT")
    for _ in range(2):
        with pytest.raises(Silent, match="mute"):
            select(host.card, DEBIT)
    host.card.reset()
    assert select(host.card, DEBIT)[1] == "9000"


@pytest.mark.parametrize("kind", ["mute=25", "slow=25"])
def test_a_card_that_takes_its_time_answers_after_it(struck: Struck, kind: str) -> None:
    waited: list[float] = []
    host, _ = struck(f"{kind}@SELECT:2", sleep=waited.append)
    assert [select(host.card, DEBIT)[1] for _ in range(3)] == ["9000"] * 3
    assert waited == [25.0]


@pytest.mark.parametrize("sw", [0x6A84, 0x6581, 0x6F00])
def test_a_status_word_stands_for_ever_and_nothing_is_done(struck: Struck, sw: int) -> None:
    host, box = struck(f"sw={sw:04X}@STORE DATA")
    open_debit(host)
    assert [host.send(store_command(0, 0, RECORD))[1] for _ in range(2)] == [f"{sw:04X}"] * 2
    assert not stored(box)


def test_more_data_announced_for_nothing_comes_once(struck: Struck) -> None:
    host, _ = struck("sw=6110@GET DATA", "sw=6C10@GET DATA:2")
    answers = [host.card.transmit(bytes.fromhex("80CA9F7F2D"))[1] for _ in range(3)]
    assert answers == [0x6110, 0x6C10, 0x9000]


def test_an_answer_is_announced_where_none_is_expected(struck: Struck) -> None:
    host, _ = struck("announced@GET DATA")
    assert host.card.transmit(bytes.fromhex("80CA9F7F2D")) == (b"", 0x612D)
    body, sw = host.card.transmit(bytes.fromhex("00C000002D"))
    assert (len(body), sw) == (0x2D, 0x9000)


def test_after_a_wrong_le_the_identical_command_gives_the_answer_and_is_not_done_twice(struck: Struck) -> None:
    host, box = struck("wrong_le@STORE DATA")
    open_debit(host)
    wrapped = host.wrap(bytes.fromhex(store_command(0, 0, RECORD)))
    assert host.card.transmit(wrapped) == (b"", 0x6C08)
    body, sw = host.card.transmit(wrapped + b"\x08")
    assert host.unwrap(body, sw) == b""
    assert stored(box) == {0x0201}
    assert host.send(store_command(0, 1, RECORD))[1] == "9000"


def test_a_card_may_take_any_mac(struck: Struck) -> None:
    host, box = struck("cmac_unchecked@STORE DATA:1x*")
    open_debit(host)
    wrapped = bytearray(host.wrap(bytes.fromhex(store_command(0, 0, RECORD))))
    wrapped[-1] ^= 1
    assert fetch(host.card, bytes(wrapped))[1] == 0x9000
    assert stored(box) == {0x0201}


def test_a_right_mac_garbled_on_the_line_closes_the_channel(struck: Struck) -> None:
    host, box = struck("cmac_refused@STORE DATA:2")
    open_debit(host)
    words = [host.send(store_command(0, number, RECORD))[1] for number in range(3)]
    assert words == ["9000", "6982", "6985"]
    assert stored(box) == {0x0201}


@pytest.mark.parametrize("kind", ["rmac_corrupted", "rmac_stripped", "flipped", "short"])
def test_a_spoiled_answer_fails_its_mac_and_the_command_is_done(struck: Struck, kind: str) -> None:
    host, box = struck(f"{kind}@STORE DATA")
    open_debit(host)
    body, sw = fetch(host.card, host.wrap(bytes.fromhex(store_command(0, 0, RECORD))))
    assert sw == 0x9000
    assert len(body) == {"rmac_stripped": 0, "short": 7}.get(kind, 8)
    with pytest.raises(AssertionError):
        host.unwrap(body, sw)
    assert stored(box) == {0x0201}


def test_a_stripped_mac_leaves_the_data(struck: Struck) -> None:
    host, _ = struck("rmac_stripped@GET DATA:3")
    host.open(0x11)
    body, sw = fetch(host.card, host.wrap(bytes.fromhex("80CA9F7F00")))
    assert (len(body), sw) == (0x2D, 0x9000)


def test_a_flipped_byte_of_a_plain_answer_is_its_first(struck: Struck) -> None:
    host, _ = struck("flipped@GET DATA:2", "short@GET DATA:3")
    answers = [host.card.transmit(bytes.fromhex("80CA00C105")) for _ in range(2)]
    assert [(body.hex(), sw) for body, sw in answers] == [("c103000001", 0x9000), ("c003000001", 0x9000)]
    assert host.card.transmit(bytes.fromhex("80CA00C104")) == (bytes.fromhex("c1030000"), 0x9000)


def test_a_wrong_cryptogram_proves_nothing_and_the_card_is_as_before(struck: Struck) -> None:
    host, box = struck("wrong_cryptogram@INITIALIZE UPDATE")
    with pytest.raises(AssertionError):
        host.open(0x01)
    assert host.open(0x01) == "9000"
    assert box.inspect(SERIAL).domain.failures == 0


def test_a_counter_that_does_not_rise_shows_the_same_challenge_again(struck: Struck) -> None:
    host, box = struck("counter_stuck@EXTERNAL AUTHENTICATE")
    select(host.card, ISD)
    first = host.initialize_update(size=8)
    assert host.external_authenticate(first, 0x01) == "9000"
    select(host.card, ISD)
    assert host.initialize_update(size=8) == first
    assert box.inspect(SERIAL).domain.counters == {0x20: 1}
    assert host.open(0x01) == "9000"
    assert box.inspect(SERIAL).domain.counters == {0x20: 2}


def test_a_swapped_card_is_there_after_the_reset(struck: Struck) -> None:
    host, _ = struck("swap=00000002@STORE DATA:2")
    open_debit(host)
    host.send(store_command(0, 0, RECORD))
    with pytest.raises(CardLost):
        host.send(store_command(0, 1, RECORD))
    host.card.reset()
    assert host.card.atr.endswith(bytes.fromhex("00000002"))
    assert "00000002" in exchange(host.card, "80CA00CF00")[0]


def test_a_card_swapped_unseen_knows_no_session(struck: Struck) -> None:
    host, box = struck("swap_silent=00000002@STORE DATA:2")
    open_debit(host)
    atr = host.card.atr
    assert [host.send(store_command(0, number, RECORD))[1] for number in range(3)] == ["9000", "6982", "6982"]
    assert host.card.atr == atr
    assert "00000002" in exchange(host.card, "80CA00CF00")[0]
    assert stored(box) == {0x0201}


def test_a_card_may_be_dead_at_reset_and_live_at_the_next(struck: Struck) -> None:
    host, _ = struck("dead_atr@RESET:1x2")
    assert host.card.atr == b""
    with pytest.raises(Silent):
        select(host.card, DEBIT)
    with pytest.raises(Silent):
        host.card.reset()
    host.card.reset()
    assert host.card.atr.startswith(b"\x3b\x6d")
    assert select(host.card, DEBIT)[1] == "9000"


def test_faults_are_counted_over_insertions(struck: Struck) -> None:
    host, box = struck("tear_before@SELECT:3")
    select(host.card, DEBIT)
    again = box.insert(SERIAL)
    select(again, DEBIT)
    with pytest.raises(CardLost):
        select(again, DEBIT)


def test_a_fault_may_strike_any_command_one_ins_or_what_a_predicate_says(struck: Struck) -> None:
    host, _ = struck(
        Fault("*", 4, "sw", sw=0x6F04, times=1),
        Fault("A4", 2, "sw", sw=0x6F02, times=1),
        Fault("*", 1, "sw", sw=0x6F01, times=1, when=lambda raw: raw[2:4] == b"\x9f\x7f"),
    )
    commands = ["00A4040000", "80CA9F7F2D", "00A4040000", "80CA9F7F2D", "80CA9F7F2D"]
    words = [host.card.transmit(bytes.fromhex(command))[1] for command in commands]
    assert words == [0x6C12, 0x6F01, 0x6F02, 0x6F04, 0x9000]


def test_of_several_faults_the_first_strikes_and_all_count() -> None:
    plan = FaultPlan((Fault.parse("sw=6F01@SELECT:1x1"), Fault.parse("sw=6F02@SELECT:1x2")))
    struck = [plan.next(bytes.fromhex("00A40400")) for _ in range(3)]
    assert [fault and fault.sw for fault in struck] == [0x6F01, 0x6F02, None]
    assert plan.seen == {"SELECT": 3}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tear_after@STORE DATA:3", Fault("STORE DATA", 3, FaultKind.TEAR_AFTER)),
        ("sw=6A84@UPDATE RECORD:2", Fault("UPDATE RECORD", 2, FaultKind.SW, sw=0x6A84)),
        ("sw@B2", Fault("B2", 1, FaultKind.SW)),
        ("mute=2.5@SELECT", Fault("SELECT", 1, FaultKind.MUTE, seconds=2.5)),
        ("swap=00000002@*:5", Fault("*", 5, FaultKind.SWAP, other="00000002")),
        ("short@*:7x2", Fault("*", 7, FaultKind.SHORT, times=2)),
        (" dead_atr@RESET ", Fault("RESET", 1, FaultKind.DEAD_ATR)),
    ],
)
def test_a_line_of_text_is_a_fault(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tear",
        "explode@SELECT",
        "sw=XYZ@SELECT",
        "sw=658@SELECT",
        "mute=soon@SELECT",
        "short=1@SELECT",
        "tear_after@:3",
        "sw@SELECT:x",
    ],
)
def test_a_line_that_is_no_fault_says_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)格式.*expected KIND.*tear_after"):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sw@FORMAT:1", "no such command"),
        ("sw@SELECT:0", "no such command"),
        ("sw@RESET", "dead_atr is for RESET"),
        ("dead_atr@SELECT", "dead_atr is for RESET"),
        ("slow@SELECT", "slow needs seconds"),
    ],
)
def test_a_fault_that_cannot_be_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Fault.parse(text)


@given(
    kind=st.sampled_from([kind for kind in FaultKind if kind not in (FaultKind.DEAD_ATR, FaultKind.SLOW)]),
    at=st.sampled_from([*COMMANDS.values(), ANY, "B2"]),
    nth=st.integers(1, 999),
    times=st.integers(1, 99),
)
def test_every_fault_can_be_written(kind: FaultKind, at: str, nth: int, times: int) -> None:
    assert Fault.parse(f"{kind}@{at}:{nth}x{times}") == Fault(at, nth, kind, times=times)


def test_every_kind_is_struck_in_some_test() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [
        kind for kind in FaultKind if f"{kind}@" not in text and f"{kind}=" not in text and f'"{kind}"' not in text
    ] == []
    assert RESET not in COMMANDS.values()


def test_a_slow_card_holds_only_its_own_reader(tmp_path: Path) -> None:
    held = threading.Event()
    faults = {SERIAL: [Fault.parse("mute=1@SELECT")]}
    box = CardStore(tmp_path, faults=faults, sleep=lambda _: held.wait(10) and None)
    slow: VirtualConnection = box.insert(SERIAL)
    thread = threading.Thread(target=lambda: select(slow, DEBIT))
    thread.start()
    assert select(box.insert("00000002"), DEBIT)[1] == "9000"
    assert thread.is_alive()
    held.set()
    thread.join(10)
    assert not thread.is_alive()
