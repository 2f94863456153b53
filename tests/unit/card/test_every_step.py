"""No fault at any command loses or doubles a card: every command of a whole card, every kind of fault, killed processes too."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from card_personalization import journal
from card_personalization.globalplatform.rules import ChannelRules, Level, Protocol
from card_personalization.keys.base import Diversification, KeyRef
from card_personalization.keys.software import SoftwareKeys
from card_personalization.plan import CardOrder, build
from card_personalization.profiles import CardProfile
from card_personalization.simulator import CardStore, Fault
from card_personalization.simulator.configuration import CardManager, KeySet
from card_personalization.simulator.connection import VirtualConnection
from card_personalization.simulator.faults import COMMANDS
from card_personalization.station import Report, Station, Verdict
from tests.support.matrix import essence, failed_authentications, holder_of, same_holder

BLANK, FOREIGN, NEXT = "B1", "B2", "B3"
MUTATING = frozenset({"UPDATE RECORD", "STORE DATA"})
KEYS = SoftwareKeys.demo()

AT_ANY_COMMAND = (
    "tear_before@*:{}",
    "tear_after@*:{}",
    "mute@*:{}",
    "mute=40@*:{}",
    "sw=6581@*:{}x1",
    "sw=6581@*:{}x*",
    "sw=6A84@*:{}x*",
    "sw=6982@*:{}x1",
    "sw=6985@*:{}x1",
    "short@*:{}",
    "flipped@*:{}",
    "cmac_refused@*:{}",
    "rmac_corrupted@*:{}",
    "announced@*:{}",
    "wrong_le@*:{}",
    f"swap={FOREIGN}@*:{{}}",
    f"swap_silent={FOREIGN}@*:{{}}",
)
STOPPING = AT_ANY_COMMAND[:3] + AT_ANY_COMMAND[-2:]
"""After these nothing more is heard of the blank in this call."""
GARBLED_NAME = frozenset({"flipped@*:{}", "rmac_corrupted@*:{}"})
"""A wrong bit that the line let through may change what the chip calls itself: then a person has to look at the card."""
AT_ITS_COMMAND = (
    "sw=6A84@STORE DATA:{}x*",
    "cmac_refused@STORE DATA:{}x*",
    "cmac_refused@EXTERNAL AUTHENTICATE:{}x*",
    "cmac_unchecked@STORE DATA:{}",
    "wrong_cryptogram@INITIALIZE UPDATE:{}",
    "counter_stuck@EXTERNAL AUTHENTICATE:{}",
    "dead_atr@RESET:{}",
)
RESETS = 4
"""Two connections, each with the reset of its insertion and the one asked for."""
IN_SCP03 = ("short", "flipped", "rmac_corrupted", "rmac_stripped", "cmac_refused", "tear_after", "wrong_le")
SECURED = frozenset({"INITIALIZE UPDATE", "EXTERNAL AUTHENTICATE", "STORE DATA"})


@dataclass(frozen=True)
class Kind:
    """A kind of card: what the host knows of it and what the chip maker delivers."""

    profile: CardProfile
    manager: CardManager = field(default_factory=CardManager)

    def box(self, directory: Path, *, counter: int = 1, **more: object) -> CardStore:
        """The blanks that lie in the directory; a new one has been used for `counter` sessions."""
        return CardStore(directory / "cards", manager=replace(self.manager, counter=counter), **more)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A station, the box beside it, and a reader with the blank in it, or what was put there in its place."""

    directory: Path
    kind: Kind
    fault: str | None = None
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kind.box(self.directory, counter=1000).insert(FOREIGN).close()
        faults = {BLANK: [Fault.parse(self.fault)]} if self.fault else {}
        self.faulty = self.kind.box(self.directory, faults=faults, sleep=lambda seconds: None)
        self.healthy = self.kind.box(self.directory)

    def connect(self) -> VirtualConnection:
        """Power what lies in the reader."""
        swapped = self.fault is not None and self.fault.startswith("swap") and self._struck()
        return self.faulty.insert(FOREIGN if swapped else BLANK)

    def strike(self, order: CardOrder) -> Report:
        """Personalise the blank while its fault lies in wait."""
        return self._station().personalise(build(self.kind.profile, order), BLANK, self.connect)

    def personalise(self, order: CardOrder, serial: str = BLANK) -> Report:
        """With a station that was started anew, and cards without faults."""
        return self._station().personalise(build(self.kind.profile, order), serial, lambda: self.healthy.insert(serial))

    def recover(self, order: CardOrder) -> Report:
        """As `personalise`."""
        return self._station().recover(build(self.kind.profile, order), BLANK, lambda: self.healthy.insert(BLANK))

    def open_attempts(self) -> list[tuple[str, str]]:
        """Order and blank of each."""
        return [(attempt.order_id, attempt.serial) for attempt in self._station().open_attempts()]

    def _station(self) -> Station:
        return Station(keys=KEYS, journal_dir=self.directory / "journal")

    def _struck(self) -> bool:
        plan = self.faulty._faults[BLANK]
        return plan.counts.get(0, 0) >= plan.faults[0].nth


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut of the host would leave is not the subject: the kernel keeps what a killed process wrote."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


@pytest.fixture(scope="module")
def kind(profile: CardProfile) -> Kind:
    return Kind(profile)


@pytest.fixture(scope="module")
def scp03(profile: CardProfile) -> Kind:
    """The same card behind SCP03 with MACs and encryption both ways."""
    rules = ChannelRules(
        protocol=Protocol.SCP03,
        options=frozenset({0x70}),
        key_versions=frozenset({0x20}),
        level=Level(0x33),
        key=KeyRef("KMC-AES"),
        method=Diversification.KDF3,
    )
    return Kind(replace(profile, channel=rules), CardManager(scp=3, i=0x70, key_sets=(KeySet(diversification="kdf3"),)))


def commands(kind: Kind, order: CardOrder, directory: Path) -> list[str]:
    """The commands that a good card takes, by name, from the first question to the end of the read-back."""
    names: list[str] = []
    plain = VirtualConnection.transmit

    def transmit(self: VirtualConnection, apdu: bytes, /) -> tuple[bytes, int]:
        names.append(COMMANDS[apdu[1]])
        return plain(self, apdu)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualConnection, "transmit", transmit)
        assert Scene(directory, kind).strike(order).verdict is Verdict.VERIFIED
    return names


Check = Callable[[Kind, str], tuple[Verdict, Verdict]]


@pytest.fixture
def check(tmp_path: Path, order: CardOrder, other_order: CardOrder) -> Check:
    """Strikes a blank and follows it to its end; what was said of it first and last."""

    def run(kind: Kind, fault: str) -> tuple[Verdict, Verdict]:
        scene = Scene(tmp_path / quote(fault, safe=""), kind, fault)
        with noted(fault):
            first, last = follow(scene, order, other_order, lambda: scene.strike(order).verdict)
        assert first is not None
        return first, last

    return run


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Says in a failure which of the many it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"with {what}")
        raise


def follow(
    scene: Scene, order: CardOrder, other: CardOrder, strike: Callable[[], Verdict | None]
) -> tuple[Verdict | None, Verdict]:
    """Every promise about a blank, from a strike until it is settled. `strike` gives no verdict when its process died."""
    fresh, foreign = scene.healthy.inspect(BLANK), scene.healthy.inspect(FOREIGN)
    first = strike()
    struck = scene.healthy.inspect(BLANK)
    touched = essence(struck) != essence(fresh)
    begun = scene.open_attempts()
    swapped = scene.healthy.inspect(FOREIGN)
    cost = failed_authentications(struck, fresh) + failed_authentications(swapped, foreign)
    assert cost <= 1, f"{cost} authentications failed in one call"
    assert essence(swapped) == essence(foreign), "a card that was not meant was written"
    assert begun in ([], [(order.order_id, BLANK)])
    match first:
        case Verdict.UNTOUCHED:
            assert not touched and not begun
        case Verdict.UNKNOWN:
            assert begun or not touched
        case Verdict.VERIFIED | Verdict.SPOILED:
            assert not begun
        case None:
            assert begun or not touched, "the journal does not know of a blank that was written"
    if begun:
        refused(scene, other)

    last = scene.recover(order).verdict
    assert scene.open_attempts() == ([(order.order_id, BLANK)] if last is Verdict.UNKNOWN else [])
    match last:
        case Verdict.UNTOUCHED:
            assert essence(scene.healthy.inspect(BLANK)) == essence(fresh)
            assert scene.personalise(other).verdict is Verdict.VERIFIED
            carries(scene, other, BLANK)
            refused(scene, order)
        case Verdict.VERIFIED:
            carries(scene, order, BLANK)
            refused(scene, other)
            assert scene.recover(order).verdict is Verdict.VERIFIED
        case Verdict.SPOILED:
            refused(scene, other, verdict=Verdict.SPOILED)
            refused(scene, order, verdict=Verdict.SPOILED)
            assert scene.personalise(order, NEXT).verdict is Verdict.VERIFIED
            carries(scene, order, NEXT)
            assert scene.recover(order).verdict is Verdict.SPOILED
        case Verdict.UNKNOWN:
            refused(scene, other)
    return first, last


def first_mutating(names: list[str]) -> int:
    """Its number, from 1."""
    return next(number for number, name in enumerate(names, start=1) if name in MUTATING)


def refused(scene: Scene, order: CardOrder, *, verdict: Verdict | None = None) -> None:
    """The blank is not to be had for this order, and is not so much as written to."""
    before = scene.healthy.inspect(BLANK)
    found = scene.personalise(order).verdict
    assert found in ((Verdict.UNKNOWN, Verdict.SPOILED) if verdict is None else (verdict,))
    assert scene.healthy.inspect(BLANK) == before


def carries(scene: Scene, order: CardOrder, serial: str) -> None:
    """Exactly this order is on the card, for a terminal that knows nothing of us."""
    card = scene.healthy.insert(serial)
    assert same_holder(holder_of(card.transmit), order)
    card.close()


# ---------------------------------------------------------------------------------------------------- faults of the card


@pytest.mark.parametrize("fault", AT_ANY_COMMAND)
def test_a_fault_at_any_command_neither_loses_nor_doubles_a_card(
    kind: Kind, order: CardOrder, tmp_path: Path, check: Check, fault: str
) -> None:
    names = commands(kind, order, tmp_path)
    for number in range(1, len(names) + 1):
        first, last = check(kind, fault.format(number))
        if number >= first_mutating(names):
            assert first is not Verdict.UNTOUCHED, f"{fault.format(number)}: it was written to"
        if fault in STOPPING:
            begun = number >= first_mutating(names)
            expected = (Verdict.UNKNOWN, Verdict.VERIFIED) if begun else (Verdict.UNTOUCHED, Verdict.UNTOUCHED)
            assert (first, last) == expected, fault.format(number)
        assert last is not Verdict.UNKNOWN or fault in GARBLED_NAME, fault.format(number)


@pytest.mark.parametrize("fault", AT_ITS_COMMAND)
def test_a_fault_of_one_kind_of_command_neither_loses_nor_doubles_a_card(
    kind: Kind, order: CardOrder, tmp_path: Path, check: Check, fault: str
) -> None:
    name = fault.partition("@")[2].partition(":")[0]
    count = RESETS if name == "RESET" else commands(kind, order, tmp_path).count(name)
    assert count >= RESETS
    for number in range(1, count + 1):
        _, last = check(kind, fault.format(number))
        assert last is not Verdict.UNKNOWN, fault.format(number)


def test_memory_that_fails_for_ever_spoils_the_blank_at_any_write(
    kind: Kind, order: CardOrder, tmp_path: Path, check: Check
) -> None:
    names = commands(kind, order, tmp_path)
    for name in MUTATING:
        for number in range(1, names.count(name) + 1):
            assert check(kind, f"sw=6581@{name}:{number}x*") == (Verdict.SPOILED, Verdict.SPOILED)


@pytest.mark.parametrize("fault", IN_SCP03)
def test_a_fault_in_a_channel_with_macs_both_ways_neither_loses_nor_doubles_a_card(
    scp03: Kind, order: CardOrder, tmp_path: Path, check: Check, fault: str
) -> None:
    names = commands(scp03, order, tmp_path)
    for number in (number for number, name in enumerate(names, start=1) if name in SECURED):
        first, last = check(scp03, f"{fault}@*:{number}")
        assert last is not Verdict.UNKNOWN, f"{fault}@*:{number}"
        if number >= first_mutating(names):
            assert first is not Verdict.UNTOUCHED


# ----------------------------------------------------------------------------------------------------- faults of the host


def _killed(scene: Scene, order: CardOrder, number: int, *, carried_out: bool) -> None:
    """A process of its own personalises the blank and is killed at the command of this number."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    seen = 0
    plain = VirtualConnection.transmit

    def transmit(self: VirtualConnection, apdu: bytes, /) -> tuple[bytes, int]:
        nonlocal seen
        seen += 1
        if seen == number:
            if carried_out:
                plain(self, apdu)
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, apdu)

    try:
        VirtualConnection.transmit = transmit  # type: ignore[method-assign]
        scene.strike(order)
    finally:
        os._exit(1)  # a child that was not killed must not go on as a second test run


@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
def test_a_process_killed_at_any_command_neither_loses_nor_doubles_a_card(
    kind: Kind, order: CardOrder, other_order: CardOrder, tmp_path: Path, carried_out: bool
) -> None:
    names = commands(kind, order, tmp_path / "good")
    begun = first_mutating(names)
    for number, name in enumerate(names, start=1):
        if name not in MUTATING and (carried_out or number < begun - 1):
            continue
        scene = Scene(tmp_path / str(number), kind)
        with noted(f"command {number}, {name}"):
            _killed(scene, order, number, carried_out=carried_out)
            _, last = follow(scene, order, other_order, lambda: None)
            assert last is (Verdict.VERIFIED if number >= begun else Verdict.UNTOUCHED)


class _FullDisk:
    """`os` for the journal, on a disk with so many bytes left: the last write takes a part and says so by its count only."""

    def __init__(self, left: int) -> None:
        self._left = left
        self.overflowed = False

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, descriptor: int, data: bytes) -> int:
        self.overflowed |= self._left < len(data)
        if self._left == 0:
            raise OSError(errno.ENOSPC, "no space")
        written = os.write(descriptor, data[: self._left])
        self._left -= written
        return written


def test_a_disk_that_fills_up_at_any_entry_never_leaves_a_card_ahead_of_its_journal(
    kind: Kind, order: CardOrder, other_order: CardOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Scene(tmp_path / "good", kind)
    whole.strike(order)
    size = sum(path.stat().st_size for path in (whole.directory / "journal").iterdir())

    def strike(scene: Scene, disk: _FullDisk) -> Verdict | None:
        with monkeypatch.context() as patch:
            patch.setattr(journal, "os", disk)
            try:
                report = scene.strike(order)
            except OSError as problem:
                assert disk.overflowed, problem
                return None
        assert not disk.overflowed, "the journal lost a part of an entry and said nothing"
        return report.verdict

    full = 0
    for left in range(0, 2 * size, 61):  # entries carry the time, so that no two journals have the same size
        scene, disk = Scene(tmp_path / str(left), kind), _FullDisk(left)
        with noted(f"{left} bytes left"):
            _, last = follow(scene, order, other_order, partial(strike, scene, disk))
            assert last in (Verdict.VERIFIED, Verdict.UNTOUCHED)
        if not disk.overflowed:
            break
        full += 1
    assert full * 61 > 0.9 * size
    assert not disk.overflowed
