"""Bundles on their way to an outlet: sealed, given to the courier, signed for, closed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pipeline.errors import Conflict, NotFound
from pipeline.services.acts import bundle_event, bundle_in, move, same_seal, tell, two_people
from pipeline.services.context import Context
from pipeline.services.scan_in import Receipt, Told, must_be_settled, scan_in
from pipeline.store import applications, audit, custody, packing, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import Place
from pipeline.store.engine import Tx
from pipeline.store.types import Record

UNDER_WAY = ("dispatch", "reissued")
"""Statuses of applications whose card has yet to reach its outlet."""


def seal_now(context: Context, bundle_id: str, *, actor: str) -> str:
    """Close a bundle before its time; returns the number of its seal.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not being packed, or it is empty.
    """
    now = context.now()
    with context.store.transaction() as tx:
        bundle_in(tx, bundle_id, ("packing",), "out")
        if not custody.cards_in(tx, bundle_id):
            raise Conflict("空箱不能封箱", "an empty bundle is not sealed")
        packing.seal(tx, [bundle_id], now=now)
        audit.append(tx, actor=actor, action="bundle.seal", target=bundle_id, now=now)
        sealed = custody.bundle(tx, bundle_id)
    return str(sealed.seal_no) if sealed is not None else ""


def ship(context: Context, bundle_id: str, *, carrier: str, actor: str, carrier_ref: str | None = None) -> int:
    """The courier takes a sealed bundle: centre → courier. `carrier_ref`: the consignment note. Returns the number of cards.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not sealed, or a card of it may not leave (`card-not-ready`).
        Refused: the courier and who gives it are one person.
    """
    now = context.now()
    two_people(actor, carrier)
    with context.store.transaction() as tx:
        bundle = bundle_in(tx, bundle_id, ("sealed",), "out")
        applications.load(tx, [row.application_id for row in custody.cards_in(tx, bundle_id)], lock=True)
        cards = custody.cards_in(tx, bundle_id)  # only now nobody else moves them
        _may_leave(bundle, cards)
        custody.hand_on(
            tx,
            cards,
            taker=Place("courier", carrier),
            now=now,
            given_by=actor,
            taken_by=carrier,
            bundle_id=bundle_id,
            seal_no=bundle.seal_no,
        )
        custody.mark(tx, bundle_id, status="shipped", shipped_at=now, carrier=carrier, carrier_ref=carrier_ref)
        tell(tx, bundle_event("bundle.shipped", bundle, now, cards=len(cards)), now=now)
        audit.append(tx, actor=actor, action="bundle.ship", target=bundle_id, now=now, detail={"cards": len(cards)})
        return len(cards)


def _may_leave(bundle: Record, cards: Sequence[Record]) -> None:
    """Only good cards leave, and from where they were packed: the centre, or, alone, another outlet that forwards one.

    Raises:
        Conflict: a card is somewhere else, void or blocked, or goes back to the centre.
    """
    packed_at = ("centre", "outlet") if len(bundle.manifest) == 1 else ("centre",)
    stays = [
        row.id
        for row in cards
        if row.custody not in packed_at or row.place == bundle.outlet or row.status != "produced" or row.return_reason
    ]
    if stays:
        raise Conflict(
            f"卡片 {'、'.join(stays)} 不能随箱发出（不在封箱处、已作废或冻结，或登记退回），请暂扣卡箱并查明",
            f"card {', '.join(stays)} may not leave (it is elsewhere, void or frozen, or goes back): keep the bundle, find out",
            code="card-not-ready",
        )


def receive(
    context: Context,
    bundle_id: str,
    *,
    outlet: str,
    seal_no: str,
    actor: str,
    received: Sequence[str] | None = None,
    missing: Sequence[str] = (),
    extra: Sequence[str] = (),
    damaged: Sequence[str] = (),
    seal_intact: bool = True,
) -> Receipt:
    """The outlet signs for a bundle: courier → outlet; the applications of its good cards are delivered.

    Cards are named by id or serial, `extra` ones by serial; `received` None: all that is not told otherwise, now or
    before. Each difference opens a discrepancy and leaves the bundle disputed, the rest goes on. A damaged card stays undelivered at
    the outlet until that is settled. What turns up later is signed for by receiving the disputed bundle again, which names it.

    Raises:
        NotFound: no such bundle for this outlet.
        Conflict: it is not under way.
        Refused: another seal, the courier signs, or what `scan_in` refuses.
    """
    now = context.now()
    told = Told(received=received, missing=missing, extra=extra, damaged=damaged, seal_intact=seal_intact)
    with context.store.transaction() as tx:
        bundle = bundle_in(tx, bundle_id, ("shipped", "disputed"), "out", outlet=outlet)
        same_seal(bundle, seal_no)
        scanned = scan_in(tx, bundle, told, taker=Place("outlet", outlet), actor=actor, now=now)
        good = [row for row in scanned.received if row.status == "produced"]
        deliver(tx, [scanned.apps[row.application_id] for row in good], why=bundle_id, actor=actor, now=now)
        tx.nudge()
    return scanned.receipt


def deliver(tx: Tx, apps: Sequence[Claimed], *, why: str, actor: str, now: datetime) -> None:
    """Good cards have reached their outlet: their applications are delivered and the clocks begin. Locked rows."""
    going = {c.application.id: c for c in apps if c.application.status in UNDER_WAY}
    move(tx, going, "delivered", now=now, actor=actor, why=why, delivered_at=now)
    timers.start(tx, [(i, "arrived", now) for i in going], now=now)


def close(context: Context, bundle_id: str, *, actor: str) -> None:
    """A bundle of either direction is done with. The sweep does so too with those that nothing is wrong with.

    Raises:
        NotFound: no such bundle.
        Conflict: it was not received, or a discrepancy is open.
    """
    now = context.now()
    with context.store.transaction() as tx:
        bundle = custody.bundle(tx, bundle_id)
        if bundle is None:
            raise NotFound(f"没有卡箱 {bundle_id}", f"no such bundle: {bundle_id}")
        must_be_settled(tx, bundle)
        bundle_in(tx, bundle_id, ("received",), bundle.direction)
        custody.mark(tx, bundle_id, status="closed", closed_at=now)
        audit.append(tx, actor=actor, action="bundle.close", target=bundle_id, now=now)
