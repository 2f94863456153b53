"""No fault at any command loses or doubles a card: every command of a whole card, every kind of fault, killed processes too."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

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
AT_SOME = {
    "wrong_cryptogram@INITIALIZE UPDATE:{}": 4,
    "counter_stuck@EXTERNAL AUTHENTICATE:{}": 5,
    "cmac_unchecked@STORE DATA:{}": 8,
    "dead_atr@RESET:{}": 4,
}
IN_SCP03 = ("short", "flipped", "rmac_corrupted", "rmac_stripped", "cmac_refused", "tear_after", "wrong_le")


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
    return Kind(
        replace(profile, channel=rules), CardManager(scp=3, i=0x70, key_sets=(KeySet(diversification="kdf3"),))
    )


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


@pytest.fixture
def check(tmp_path: Path, order: CardOrder, other_order: CardOrder) -> Callable[[Kind, str], tuple[Verdict, Verdict]]:
    """Strikes a blank and follows it to its end; what was said of it first and last."""
    numbers = iter(range(1_000_000))

    def run(kind: Kind, fault: str) -> tuple[Verdict, Verdict]:
        scene = Scene(tmp_path / str(next(numbers)), kind, fault)
        try:
            return follow(scene, order, other_order, lambda: scene.strike(order).verdict)
        except BaseException as error:
            error.add_note(f"with {fault}")
            raise

    return run


def follow(
    scene: Scene, order: CardOrder, other: CardOrder, strike: Callable[[], Verdict | None]
) -> tuple[Verdict | None, Verdict]:
    """Every promise about a blank, from a strike until it is settled. `strike` gives no verdict when its process died."""
    fresh, foreign = scene.healthy.inspect(BLANK), scene.healthy.inspect(FOREIGN)
    first = strike()
    struck = scene.healthy.inspect(BLANK)
    touched = essence(struck) != essence(fresh)
    begun = scene.open_attempts()
    cost = failed_authentications(struck, fresh)
    cost += failed_authentications(scene.healthy.inspect(FOREIGN), foreign)
    assert cost <= 1, f"{cost} authentications failed in one call"
    assert essence(scene.healthy.inspect(FOREIGN)) == essence(foreign), "a card that was not meant was written"
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
    if begun or first in (Verdict.VERIFIED, Verdict.SPOILED):
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


def refused(scene: Scene, order: CardOrder, *, verdict: Verdict | None = None) -> None:
    """The blank is not to be had for this order, and is not so much as written to."""
    before = scene.healthy.inspect(BLANK)
    found = scene.personalise(order).verdict
    assert found in ((Verdict.UNKNOWN, Verdict.SPOILED) if verdict is None else (verdict,))
    assert scene.healthy.inspect(BLANK) == before


def carries(scene: Scene, order: CardOrder, serial: str) -> None:
    card = scene.healthy.insert(serial)
    assert same_holder(holder_of(card.transmit), order)
    card.close()


@pytest.mark.parametrize("fault", AT_ANY_COMMAND)
def test_a_fault_at_any_command(fault, kind, order, check, tmp_path) -> None:
    names = commands(kind, order, tmp_path / "good")
    assert len(names) > 100
    from collections import Counter
    res = Counter(); bad = []
    for n in range(1, len(names) + 1):
        try:
            res[check(kind, fault.format(n))] += 1
        except AssertionError as e:
            bad.append((n, names[n-1], str(e).splitlines()[0][:150], e.__notes__))
    print(fault, {(str(a), str(b)): c for (a, b), c in res.items()})
    for b in bad: print('   BAD', b)
    assert not bad
