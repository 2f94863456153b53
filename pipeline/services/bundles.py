"""Bundles on their way to an outlet: sealed, given to the courier, signed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import Conflict, Refused
from pipeline.services.acts import bundle_event, bundle_in, move, same_seal, tell
from pipeline.services.context import Context
from pipeline.store import applications, audit, custody, timers
from pipeline.store.custody import Place


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
        custody.seal(tx, [bundle_id], now=now)
        audit.append(tx, actor=actor, action="bundle.seal", target=bundle_id, now=now)
        sealed = custody.bundle(tx, bundle_id)
    return str(sealed.seal_no) if sealed is not None else ""


def ship(context: Context, bundle_id: str, *, carrier: str, actor: str) -> int:
    """The courier takes a sealed bundle: centre → courier. Returns the number of cards.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not sealed.
    """
    now = context.now()
    with context.store.transaction() as tx:
        bundle = bundle_in(tx, bundle_id, ("sealed",), "out")
        cards = custody.cards_in(tx, bundle_id)
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
        custody.mark(tx, bundle_id, status="shipped", shipped_at=now, carrier=carrier)
        tell(tx, bundle_event("bundle.shipped", bundle, now, cards=len(cards)), now=now)
        audit.append(tx, actor=actor, action="bundle.ship", target=bundle_id, now=now, detail={"cards": len(cards)})
        return len(cards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the outlet signed for."""

    received: tuple[str, ...]
    missing: tuple[str, ...]
    status: str


def receive(
    context: Context,
    bundle_id: str,
    *,
    outlet: str,
    seal_no: str,
    actor: str,
    received: Sequence[str] | None = None,
) -> Receipt:
    """The outlet signs for a bundle: courier → outlet; its applications are delivered. `received` None: all that is still under way.

    Missing cards leave the bundle disputed; the others go on. What turns up later is signed for in the same way, and the last of it
    settles the dispute.

    Raises:
        NotFound: no such bundle for this outlet.
        Conflict: it is not under way.
        Refused: the seal is another one, or a card is not on the packing list.
    """
    now = context.now()
    with context.store.transaction() as tx:
        bundle = bundle_in(tx, bundle_id, ("shipped", "disputed"), "out", outlet=outlet)
        same_seal(bundle, seal_no)
        cards = {row.id: row for row in custody.cards_in(tx, bundle_id) if row.custody == "courier"}
        listed = list(cards) if received is None else list(dict.fromkeys(received))
        if strange := [card for card in listed if card not in cards]:
            raise Refused(
                f"有 {len(strange)} 张卡不在装箱单上或已签收，请另行登记",
                f"{len(strange)} cards are not on the packing list or were signed for already: report them apart",
                code="card-not-in-bundle",
            )
        missing = tuple(card for card in cards if card not in set(listed))
        here = [cards[card] for card in listed]
        apps = applications.load(tx, [row.application_id for row in here], lock=True)
        custody.hand_on(
            tx,
            here,
            taker=Place("outlet", outlet),
            now=now,
            given_by=bundle.carrier,
            taken_by=actor,
            bundle_id=bundle_id,
            seal_no=bundle.seal_no,
        )
        status = "disputed" if missing else "received"
        custody.mark(tx, bundle_id, status=status, received_at=now)
        going = {i: c for i, c in apps.items() if c.application.status in ("dispatch", "reissued")}
        move(tx, going, "delivered", now=now, actor=actor, why=bundle_id, delivered_at=now)
        timers.start(tx, [(i, "arrived", now) for i in going], now=now)
        settled = "bundle.settled" if bundle.status == "disputed" else "bundle.received"
        told = bundle_event(
            "bundle.disputed" if missing else settled, bundle, now, cards=len(here), missing=len(missing)
        )
        tell(tx, told, now=now)
        audit.append(
            tx,
            actor=actor,
            action="bundle.receive",
            target=bundle_id,
            now=now,
            detail={"received": len(here), "missing": list(missing)},
        )
        tx.nudge()
    return Receipt(received=tuple(listed), missing=missing, status=status)
