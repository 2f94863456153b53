"""Where the engine meets the tables: what a stage asks to see, what it wants committed first, and what it says became true.

One loader per `Need`, one writer per kind of `Fact` and of `Intent`, each for a whole chunk. A new stage adds its lines here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Text, update

from pipeline.errors import Defect
from pipeline.stages.account import AccountOpened, BankCall, CallSettled, CardBound
from pipeline.stages.base import Fact, Intent, Need, RegisterFacts
from pipeline.stages.collection import AccountUnused, CollectBy, Emit, TimerFired, TimerSet
from pipeline.stages.dispatch import Packed
from pipeline.stages.personalisation import BlankQuarantined, BlankReturned, BlankSpoiled, CardProduced, TakeBlank
from pipeline.stages.photo import PhotoJudged
from pipeline.store import accounts, closing, outbox, packing, photos, stock, timers
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params
from pipeline.store.types import Instant

_ID = Column("id", Text)
a = t.applications.c

# ------------------------------------------------------------------------------------------------------------ reading

Loader = Callable[[Tx, Sequence[str], datetime], Mapping[str, Any]]


def _register(tx: Tx, ids: Sequence[str], _now: datetime) -> Mapping[str, Any]:
    with_card = stock.holders_with_card(tx, ids)
    return {i: RegisterFacts(card_exists=True) for i in with_card}


_LOADERS: Mapping[str, tuple[Loader, Any]] = {
    "register": (_register, RegisterFacts()),
    "account": (lambda tx, ids, _: accounts.open_accounts(tx, ids), None),
    "calls": (lambda tx, ids, _: accounts.calls(tx, ids), ()),
    "blank": (lambda tx, ids, _: stock.reserved(tx, ids), None),
    "card": (lambda tx, ids, _: stock.cards_of(tx, ids), None),
    "timers": (lambda tx, ids, now: timers.due_for(tx, ids, now=now), ()),
    "picture": (lambda tx, ids, _: photos.approved(tx, ids), None),
}


def load(tx: Tx, ids: Sequence[str], needs: Iterable[Need], *, now: datetime) -> dict[str, dict[str, Any]]:
    """What a stage asked to see, by application; what does not exist is there as its empty value."""
    found: dict[str, dict[str, Any]] = {i: {} for i in ids}
    for need in needs:
        if need not in _LOADERS:
            continue
        loader, absent = _LOADERS[need]
        values = loader(tx, ids, now)
        for i in ids:
            found[i][need] = values.get(i, absent)
    return found


# ------------------------------------------------------------------------------------------------------------ intents

_INTENTS: Mapping[type[Intent], Callable[..., Mapping[str, Any]]] = {BankCall: accounts.intend, TakeBlank: stock.take}


def intend(tx: Tx, wanted: Mapping[str, Intent], *, now: datetime) -> dict[str, Any]:
    """Commit intents; the grant of each, or None where it cannot be granted."""
    groups: dict[type[Intent], dict[str, Intent]] = defaultdict(dict)
    for i, intent in wanted.items():
        groups[type(intent)][i] = intent
    grants: dict[str, Any] = {}
    for kind, group in groups.items():
        grants |= _INTENTS[kind](tx, group, now=now)
    return grants


# ------------------------------------------------------------------------------------------------------------ writing


def _collect_by(tx: Tx, facts: Sequence[CollectBy], *, now: datetime) -> None:
    rows = given(tx, _ID, Column("at", Instant))
    tx.conn.execute(
        update(t.applications).where(a.id == rows.c.id).values(collect_by=rows.c.at),
        {"given": params([{"id": f.application_id, "at": f.collect_by} for f in facts])},
    )


def _emit(tx: Tx, facts: Sequence[Emit], *, now: datetime) -> None:
    outbox.append(tx, [fact.event for fact in facts], now=now)


def _clocks(tx: Tx, facts: Sequence[TimerSet], *, now: datetime) -> None:
    timers.start(tx, [(f.application_id, f.kind, f.due_at) for f in facts], now=now)


def _fired(tx: Tx, facts: Sequence[TimerFired], *, now: datetime) -> None:
    timers.fire(tx, [fact.id for fact in facts], now=now)


# Written in this order, whatever the order they were told in: what others refer to comes first, events last.
_WRITERS: tuple[tuple[tuple[type[Fact], ...], Callable[..., None]], ...] = (
    ((PhotoJudged,), photos.write),
    ((CallSettled,), accounts.write_settled),
    ((AccountOpened,), accounts.write_opened),
    ((CardBound,), accounts.write_bound),
    ((BlankSpoiled, BlankReturned, BlankQuarantined), stock.write_blanks),
    ((CardProduced,), stock.write_cards),
    ((AccountUnused,), closing.write_unused),
    ((Packed,), packing.write_packed),
    ((CollectBy,), _collect_by),
    ((TimerFired,), _fired),
    ((TimerSet,), _clocks),
    ((Emit,), _emit),
)
_KNOWN = frozenset(kind for kinds, _ in _WRITERS for kind in kinds)


def write(tx: Tx, facts: Sequence[Fact], *, now: datetime) -> None:
    """Record facts, each kind in one go.

    Raises:
        Defect: a fact nobody knows how to write.
    """
    if unknown := {type(fact).__name__ for fact in facts if type(fact) not in _KNOWN}:
        raise Defect(f"no writer for {', '.join(sorted(unknown))}")
    for kinds, writer in _WRITERS:
        chosen = [fact for fact in facts if type(fact) in kinds]
        if chosen:
            writer(tx, chosen, now=now)
