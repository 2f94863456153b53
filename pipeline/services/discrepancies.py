"""Discrepancies of a bundle are settled: what became of a card that was missing, damaged or too many, and of a broken seal.

| kind    | to an outlet                                      | back to the centre     |
|---------|---------------------------------------------------|------------------------|
| missing | arrived: signed for; lost: void, made again       | arrived; lost          |
| extra   | arrived, forwarded, sent_back: ours; not_ours     | accepted; not_ours     |
| damaged | sent_back: void, made again                       | accepted               |
| seal    | accepted; sent_back: all that is still there      | accepted               |

A damaged or lost card was never delivered, so its application goes from dispatch straight to the new card; the damaged one
follows as waste with the next bundle back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services.acts import OVERDUE, bundle_event, move, policy_of, tell, two_people
from pipeline.services.bundles import UNDER_WAY, deliver
from pipeline.services.context import Context
from pipeline.services.returns import AT_OUTLET, come_back, take_in
from pipeline.services.storage import make_again, void
from pipeline.store import applications, audit, custody, discrepancies, handing, packing, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import CENTRE, LOST, Place
from pipeline.store.engine import Tx
from pipeline.store.types import Record

Resolution = Literal["arrived", "lost", "sent_back", "forwarded", "not_ours", "accepted"]
_MAY: Mapping[tuple[str, str], tuple[Resolution, ...]] = {
    ("out", "missing"): ("arrived", "lost"),
    ("out", "extra"): ("arrived", "forwarded", "sent_back", "not_ours"),
    ("out", "damaged"): ("sent_back",),
    ("out", "seal"): ("accepted", "sent_back"),
    ("back", "missing"): ("arrived", "lost"),
    ("back", "extra"): ("accepted", "not_ours"),
    ("back", "damaged"): ("accepted",),
    ("back", "seal"): ("accepted",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matter:
    """A discrepancy with what it is about, everything locked. `card` and `claimed` None: a seal, or a serial that is not ours."""

    bundle: Record
    card: Record | None
    claimed: Claimed | None
    actor: str
    now: datetime

    @property
    def here(self) -> Place:
        """Where the bundle was going."""
        return CENTRE if self.bundle.direction == "back" else Place("outlet", self.bundle.outlet)

    def ours(self) -> tuple[Record, Claimed]:
        """The card and its application.

        Raises:
            Conflict: the serial is none of ours.
        """
        if self.card is None or self.claimed is None:
            raise Conflict("该序列号不是本系统的卡", "the serial is none of our cards'", code="not-ours")
        return self.card, self.claimed


def settle(context: Context, discrepancy_id: str, *, resolution: str, actor: str, note: str = "") -> str:
    """Settle a discrepancy; the last one lets its bundle close. Returns how the bundle stands now.

    Raises:
        NotFound: no such discrepancy.
        Conflict: it is settled already, or the card is not where the resolution needs it.
        Refused: a resolution that this kind does not have, or who carried the bundle signs.
    """
    now = context.now()
    with context.store.transaction() as tx:
        told = discrepancies.find(tx, discrepancy_id)
        if told is None:
            raise NotFound(f"没有差异 {discrepancy_id}", f"no such discrepancy: {discrepancy_id}")
        bundle = custody.bundle(tx, told.bundle_id)
        told = discrepancies.find(tx, discrepancy_id)
        if bundle is None or told is None or told.state != "open":
            raise Conflict(f"差异 {discrepancy_id} 已处理", f"discrepancy {discrepancy_id} is settled", code="settled")
        _may(told.kind, bundle.direction, resolution)
        matter = _matter(tx, bundle, told, actor=actor, now=now)
        _SETTLE[told.kind](context, tx, matter, resolution)
        discrepancies.settle(tx, told.id, resolution=resolution, note=note.strip(), by=actor, now=now)
        status = "disputed"
        if not discrepancies.count_open(tx, bundle.id):
            status = "received"
            custody.mark(tx, bundle.id, status=status)
            tell(tx, bundle_event("bundle.settled", bundle, now), now=now)
        detail = {"kind": told.kind, "resolution": resolution, "card": told.card_id, "bundle": bundle.id}
        audit.append(tx, actor=actor, action="bundle.settle", target=told.id, now=now, detail=detail)
        tx.nudge()
    return status


def _may(kind: str, direction: str, resolution: str) -> None:
    allowed = _MAY[direction, kind]
    if resolution not in allowed:
        raise Refused(
            f"此类差异（{kind}）只能处理为 {'、'.join(allowed)}",
            f"a discrepancy of this kind ({kind}) is settled as {' or '.join(allowed)}",
            code="resolution",
        )


def _matter(tx: Tx, bundle: Record, told: Record, *, actor: str, now: datetime) -> _Matter:
    application_id = handing.application_of(tx, told.card_id) if told.card_id else None
    apps = applications.load(tx, [application_id] if application_id else [], lock=True)
    card = custody.card(tx, told.card_id) if told.card_id else None
    return _Matter(bundle=bundle, card=card, claimed=apps.get(application_id or ""), actor=actor, now=now)


def _missing(context: Context, tx: Tx, matter: _Matter, resolution: str) -> None:
    card, claimed = matter.ours()
    still_out = card.custody == "courier" and card.bundle_id == matter.bundle.id
    if resolution == "arrived":
        if still_out:
            _take(tx, matter, card, matter.here)
            if matter.bundle.direction == "back":
                take_in(
                    context,
                    tx,
                    [card],
                    {card.application_id: claimed},
                    why=matter.bundle.id,
                    actor=matter.actor,
                    now=matter.now,
                )
            elif card.status == "produced":
                deliver(tx, [claimed], why=matter.bundle.id, actor=matter.actor, now=matter.now)
        return
    if not still_out:
        raise Conflict(
            f"卡片 {card.id} 已找到（{card.custody}），请按 arrived 处理",
            f"card {card.id} was found (it is with {card.custody}): settle it as arrived",
            code="card-found",
        )
    _take(tx, matter, card, LOST)
    if card.status != "produced":
        return  # waste: its application lives on with another card
    if claimed.application.status in UNDER_WAY:
        make_again(tx, claimed, card, reason="lost", actor=matter.actor, now=matter.now)
        return
    void(tx, card, reason="lost", actor=matter.actor, now=matter.now)
    if claimed.application.status in AT_OUTLET:
        # Its person may have it made again, unless it was given up.
        policy = policy_of(context, claimed)
        overdue = claimed.application.status in OVERDUE and card.return_reason in (None, *OVERDUE)
        ending = policy.collection.ending.value if overdue else "damaged"
        come_back(
            context, tx, [(card, claimed)], ending=ending, why=matter.bundle.id, actor=matter.actor, now=matter.now
        )


def _extra(context: Context, tx: Tx, matter: _Matter, resolution: str) -> None:
    if resolution == "not_ours":
        if matter.card is not None and (matter.card.custody, matter.card.place) == (
            matter.here.custody,
            matter.here.place,
        ):
            raise Conflict(
                f"序列号属于卡片 {matter.card.id}，请转寄或退回",
                f"the serial is that of card {matter.card.id}: forward it or send it back",
                code="ours",
            )
        return
    card, claimed = matter.ours()
    if resolution == "accepted":
        return  # it was taken in when it was scanned
    if (card.custody, card.place) != (matter.here.custody, matter.here.place):
        raise Conflict(
            f"卡片 {card.id} 已不在本网点（{card.custody}），请按 not_ours 处理",
            f"card {card.id} is not at this outlet any more (but {card.custody}): settle it as not_ours",
        )
    if (boxed := packing.sealed_in(tx, card)) is not None:
        if resolution != "forwarded":
            raise Conflict(
                f"卡片 {card.id} 已封入转寄卡箱 {boxed}，请按 forwarded 处理",
                f"card {card.id} is sealed in bundle {boxed} to be forwarded: settle it as forwarded",
                code="card-packed",
            )
        return  # it was extra in two bundles, and is in its own already
    if resolution == "sent_back":
        custody.mark_cards(tx, [card.id], return_reason=card.return_reason or "misrouted")
        return
    own = claimed.application.outlet
    waits = card.status == "produced" and claimed.application.status in (*UNDER_WAY, *AT_OUTLET)
    if resolution == "forwarded" and card.return_reason is not None:
        waits = False  # it was set aside: it goes back, not on
    if not waits or (own == matter.bundle.outlet) != (resolution == "arrived"):
        fit = "sent_back" if not waits else "arrived" if own == matter.bundle.outlet else "forwarded"
        raise Conflict(
            f"卡片 {card.id} 应按 {fit} 处理", f"card {card.id} is to be settled as {fit}", code="resolution"
        )
    if resolution == "arrived":
        deliver(tx, [claimed], why=matter.bundle.id, actor=matter.actor, now=matter.now)
    else:
        region = policy_of(context, claimed).city
        packing.open_direct(tx, card, outlet=own, region=region, application_id=card.application_id, now=matter.now)


def _damaged(context: Context, tx: Tx, matter: _Matter, resolution: str) -> None:
    card, claimed = matter.ours()
    if resolution == "sent_back" and card.status == "produced" and claimed.application.status in UNDER_WAY:
        make_again(tx, claimed, card, reason="damaged", actor=matter.actor, now=matter.now)


def _seal(context: Context, tx: Tx, matter: _Matter, resolution: str) -> None:
    """Sent back: whoever opened the box may have changed its cards, so those that are still at the outlet are made again."""
    if resolution == "accepted":
        return
    ids = [row.application_id for row in custody.cards_in(tx, matter.bundle.id)]
    apps = applications.load(tx, ids, lock=True)
    here = [
        row
        for row in custody.cards_in(tx, matter.bundle.id)
        if (row.custody, row.place) == (matter.here.custody, matter.here.place) and row.return_reason is None
    ]
    custody.mark_cards(tx, [row.id for row in here], return_reason="damaged")
    waiting: dict[str, dict[str, Claimed]] = {}
    for row in here:
        claimed = apps[row.application_id]
        if row.status == "produced" and claimed.application.status in AT_OUTLET:
            waiting.setdefault(claimed.application.status, {})[row.application_id] = claimed
    for status, members in waiting.items():
        move(tx, members, status, now=matter.now, actor=matter.actor, why="seal")
        timers.cancel(tx, list(members), now=matter.now)


def _take(tx: Tx, matter: _Matter, card: Record, taker: Place) -> None:
    two_people(matter.bundle.carrier or "", matter.actor)
    custody.hand_on(
        tx,
        [card],
        taker=taker,
        now=matter.now,
        given_by=matter.bundle.carrier,
        taken_by=matter.actor,
        bundle_id=matter.bundle.id,
        seal_no=matter.bundle.seal_no,
    )


_SETTLE = {"missing": _missing, "extra": _extra, "damaged": _damaged, "seal": _seal}
