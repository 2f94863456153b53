"""Virtual cards in the readers of vpcd until told to stop: what `zhika card simulate` plays. Published test keys only.

Must not know pcscd, nor what a host does with the cards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from card_personalization.globalplatform.rules import Protocol
from card_personalization.keys.base import Diversification
from card_personalization.profiles import CardProfile
from card_personalization.simulator import configuration
from card_personalization.simulator.configuration import CardManager, KeySet
from card_personalization.simulator.connection import CardStore, Fault
from card_personalization.simulator.pace import Pace
from card_personalization.simulator.vpcd import VpcdCard, serve
from pipeline.errors import Conflict

_SCP = {Protocol.SCP02: 2, Protocol.SCP03: 3}
_METHODS: Mapping[Diversification, configuration.Diversification] = {
    Diversification.NONE: "fixed",
    Diversification.EMV: "emv",
    Diversification.VISA2: "visa2",
    Diversification.KDF3: "kdf3",
}
_SEEN_S = 0.3
"""After it has read a card's ATR, pcscd takes a moment before programs see the card."""

_USUAL_I = {2: 0x15, 3: 0x70}
_USUAL_KVN = 0x20
_TEST_KEYS = (
    KeySet(kvn=0x21, diversification="fixed", protocol=(2, _USUAL_I[2])),
    KeySet(kvn=0x30, diversification="fixed", protocol=(3, _USUAL_I[3])),
)
"""The published test key itself, for each protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A reader of vpcd and the chip serial, 8 upper-case hex digits, of the card that goes into it."""

    host: str
    port: int
    serial: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port} ({self.serial})"


def card_manager(
    profile: CardProfile, *, scp: int | None, i: int | None, kvn: int | None, diversification: Diversification | None
) -> CardManager:
    """The security domain that the profile expects, or another where something else is asked for.

    Another protocol than the profile's has the test key itself in all three places, as test cards are delivered; where nothing is
    asked for, the card has such keys for both protocols too, as key versions of their own, so that any host can talk to it.

    Raises:
        ValueError: there is no such secure channel.
    """
    rules = profile.channel
    anything = any(given is not None for given in (scp, i, kvn, diversification))
    usual = scp is None or scp == _SCP[rules.protocol]
    scp = scp or _SCP[rules.protocol]
    first = KeySet(
        kvn=kvn if kvn is not None else min(rules.key_versions) if usual else _USUAL_KVN,
        diversification=_METHODS[diversification or (rules.method if usual else Diversification.NONE)],
    )
    return CardManager(
        scp=scp,
        i=i if i is not None else min(rules.options) if usual else _USUAL_I[scp],
        key_sets=(first,) if anything else (first, *(keys for keys in _TEST_KEYS if keys.kvn != first.kvn)),
    )


def name_of(profile: CardProfile, manager: CardManager, *, strict_t0: bool) -> str:
    """A name for cards of this kind, which keeps those of different kinds apart."""
    first = manager.key_sets[0]
    name = f"{profile.name}-scp{manager.scp:02X}-{manager.i:02X}-{first.kvn:02X}-{first.diversification}"
    return name + "-test" * (len(manager.key_sets) > 1) + "-t0" * strict_t0


def told(manager: CardManager) -> tuple[str, ...]:
    """The key versions of a security domain, for people: `KVN 20 SCP02 i=15 emv`; the first is what KVN 00 chooses."""
    kinds = ((keys, *(keys.protocol or (manager.scp, manager.i))) for keys in manager.key_sets)
    return tuple(f"KVN {keys.kvn:02X} SCP{scp:02X} i={i:02X} {keys.diversification}" for keys, scp, i in kinds)


def box(
    directory: Path,
    slots: Sequence[Slot],
    *,
    profile: CardProfile,
    manager: CardManager,
    faults: Sequence[Fault] = (),
    pace: Callable[[], Pace] | None = None,
    strict_t0: bool = False,
) -> CardStore:
    """The cards of these slots in a directory, new blanks of the profile's kind where there are none yet.

    Raises:
        Conflict: a card is there already and has another security domain than the one asked for.
        CardError: the file of a card is damaged.
        OSError: the directory cannot be used.
    """
    store = CardStore(
        directory,
        faults={slot.serial: faults for slot in slots},
        version=profile.spec_version,
        method=profile.files[0].write.authentication.value,
        pin_tries=profile.pin.limit,
        manager=manager,
        financial=bool(profile.applications),
        strict_t0=strict_t0,
        pace=pace,
    )
    for slot in slots:
        _check_kind(store, slot.serial, manager)
    return store


def simulate(
    slots: Sequence[Slot],
    store: CardStore,
    stopping: threading.Event,
    *,
    on_line: Callable[[Slot, bool], None],
    on_ready: Callable[[], None],
) -> None:
    """Hold the cards in their readers until `stopping` is set. `on_ready` once all of them are in, `on_line` at every change."""
    states: dict[Slot, bool] = {}
    told = threading.Lock()
    ready = False

    def changed(slot: Slot, connected: bool) -> None:
        nonlocal ready
        with told:
            if states.get(slot) is connected or stopping.is_set():
                return
            states[slot] = connected
            on_line(slot, connected)
            if not ready and len(states) == len(slots) and all(states.values()):
                ready = True
                threading.Timer(_SEEN_S, on_ready).start()

    serve([_card(slot, store, changed) for slot in slots], stopping)


def _card(slot: Slot, store: CardStore, changed: Callable[[Slot, bool], None]) -> VpcdCard:
    return VpcdCard(
        slot.host,
        slot.port,
        lambda: store.insert(slot.serial),
        on_line=lambda connected: changed(slot, connected),
    )


def _check_kind(store: CardStore, serial: str, manager: CardManager) -> None:
    domain = store.inspect(serial).domain
    if (domain.scp, domain.i) != (manager.scp, manager.i):
        kind, wanted = f"SCP{domain.scp:02X} i={domain.i:02X}", f"SCP{manager.scp:02X} i={manager.i:02X}"
        raise Conflict(
            f"卡 {serial} 已存在，是 {kind}，不是 {wanted}；请换 --serial 或 --state",
            f"card {serial} is there already and is {kind}, not {wanted}: choose another --serial or --state",
            code="card.kind",
        )
