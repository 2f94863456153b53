"""Cards on their way back: asked back or called back, given to the courier, signed for at the centre.

What becomes of an application whose card has come back is told by why it came (`ENDINGS`) and by how far it had got: one that had
reached its outlet is returned; one that had not goes out again, or is made again where its card is waste.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from pipeline import deadlines
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services.acts import (
    OVERDUE,
    at_place,
    bundle_in,
    move,
    moved_card_event,
    policy_of,
    same_seal,
    two_people,
    typed_seal,
)
from pipeline.services.bundles import UNDER_WAY
from pipeline.services.context import Context
from pipeline.services.scan_in import Receipt, Told, scan_in
from pipeline.services.storage import make_again, pack
from pipeline.store import applications, audit, closing, custody, handing, outbox, packing, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import CENTRE, Place
from pipeline.store.destructions import STORAGE
from pipeline.store.engine import Tx
from pipeline.store.types import Record, instant_text

Reason = Literal["uncollected", "recalled", "misrouted", "damaged", "refused", "wrong_data", "unreadable"]
ENDINGS: Mapping[str, str] = {
    "misrouted": "misrouted",
    "refused": "refused",
    "damaged": "damaged",
    "wrong_data": "damaged",
    "unreadable": "damaged",
}
"""How an application ends whose card came back for this reason; for those of `OVERDUE` the region says (WH-11, SG-10)."""
AT_OUTLET = ("delivered", "notified", *OVERDUE)
"""Statuses of applications whose card has reached its outlet; without it there they are returned."""


def ask_back(context: Context, card_id: str, *, outlet: str, reason: Reason, actor: str) -> None:
    """The outlet sets a card aside that has to go back; its clocks stop, and it is handed to nobody.

    A card that was called back, or that nobody collected, may be set aside too; until it leaves, it can be collected where the
    region says so.

    Raises:
        NotFound: this outlet does not hold the card.
        Conflict: it was handed over, is set aside already, or is not overdue.
        Refused: no such reason.
    """
    if reason not in get_args(Reason):
        listed = "、".join(get_args(Reason))
        raise Refused(
            f"退回原因须为 {listed}", f"a reason is one of {', '.join(get_args(Reason))}", code="return-reason"
        )
    now = context.now()
    with context.store.transaction() as tx:
        card, claimed = at_place(tx, card_id, outlet)
        app = claimed.application
        wanted = ("recalled",) if reason in OVERDUE else ("delivered", "notified", "recalled")
        if app.status not in wanted:
            raise Conflict(
                f"卡片 {card_id} 的申领状态为 {app.status}，不能以 {reason} 退回",
                f"the application of card {card_id} is {app.status}: it does not go back as {reason}",
            )
        custody.mark_cards(tx, [card.id], return_reason=reason)
        # The same status again, so that a worker who is about to answer for a clock finds the row changed.
        move(tx, {app.id: claimed}, app.status, now=now, actor=actor, why=reason)
        timers.cancel(tx, [app.id], now=now)
        audit.append(tx, actor=actor, action="card.return", target=card.id, now=now, detail={"reason": reason})


def send_back(
    context: Context,
    card_ids: Sequence[str],
    *,
    outlet: str,
    seal_no: str,
    carrier: str,
    actor: str,
    carrier_ref: str | None = None,
) -> str:
    """The courier takes cards back from an outlet under its seal: outlet → courier. Returns the bundle.

    Raises:
        NotFound: this outlet does not hold a card.
        Conflict: one is neither called back nor set aside.
        Refused: no card or seal named, or the courier gives them to himself.
    """
    now = context.now()
    seal_no = typed_seal(seal_no)
    two_people(actor, carrier)
    card_ids = list(dict.fromkeys(card_ids))
    if not card_ids:
        raise Refused("没有选择卡片", "no card was named", code="required")
    with context.store.transaction() as tx:
        named = handing.cards(tx, card_ids)
        apps = applications.load(tx, [row.application_id for row in named.values()], lock=True)
        rows = handing.cards(tx, card_ids)
        for card_id in card_ids:
            row = rows.get(card_id)
            if row is None or (row.custody, row.place) != ("outlet", outlet):
                raise NotFound(f"本网点没有卡片 {card_id}", f"this outlet does not hold card {card_id}")
            if row.return_reason is None and apps[row.application_id].application.status != "recalled":
                raise Conflict(
                    f"卡片 {card_id} 未被召回，也未登记退回",
                    f"card {card_id} was neither called back nor set aside to go back",
                )
        chosen = [rows[card_id] for card_id in card_ids]
        custody.mark_cards(tx, [r.id for r in chosen if r.return_reason is None], return_reason="uncollected")
        manifest = [
            {
                "card": r.id,
                "serial": r.blank_serial,
                "application": r.application_id,
                "reason": r.return_reason or "uncollected",
            }
            for r in chosen
        ]
        bundle_id = packing.open_back(
            tx,
            outlet=outlet,
            region=context.policies.of(apps[chosen[0].application_id].application.region).city,
            seal_no=seal_no,
            carrier=carrier,
            carrier_ref=carrier_ref,
            manifest=manifest,
            now=now,
        )
        custody.hand_on(
            tx,
            chosen,
            taker=Place("courier", carrier),
            now=now,
            given_by=actor,
            taken_by=carrier,
            bundle_id=bundle_id,
            seal_no=seal_no,
            into=bundle_id,
        )
        audit.append(
            tx, actor=actor, action="bundle.send_back", target=bundle_id, now=now, detail={"cards": len(chosen)}
        )
    return bundle_id


def receive_back(
    context: Context,
    bundle_id: str,
    *,
    seal_no: str,
    actor: str,
    received: Sequence[str] | None = None,
    missing: Sequence[str] = (),
    extra: Sequence[str] = (),
    damaged: Sequence[str] = (),
    seal_intact: bool = True,
) -> Receipt:
    """The centre signs for cards that come back: courier → centre, with discrepancies as at an outlet.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not under way.
        Refused: another seal, the courier signs, or what `scan_in` refuses.
    """
    now = context.now()
    told = Told(received=received, missing=missing, extra=extra, damaged=damaged, seal_intact=seal_intact)
    with context.store.transaction() as tx:
        bundle = bundle_in(tx, bundle_id, ("shipped", "disputed"), "back")
        same_seal(bundle, seal_no)
        scanned = scan_in(tx, bundle, told, taker=CENTRE, actor=actor, now=now)
        rows = handing.cards(tx, [row.id for row in scanned.here])
        take_in(context, tx, list(rows.values()), scanned.apps, why=bundle_id, actor=actor, now=now)
    return scanned.receipt


def take_in(
    context: Context,
    tx: Tx,
    cards: Sequence[Record],
    apps: Mapping[str, Claimed],
    *,
    why: str,
    actor: str,
    now: datetime,
) -> None:
    """Cards are back at the centre, with nothing more to do than what their applications need; rows are locked."""
    returning: dict[str, list[tuple[Record, Claimed]]] = defaultdict(list)
    again: list[tuple[Record, Claimed]] = []
    for card in cards:
        claimed = apps[card.application_id]
        if card.status != "produced":
            continue  # waste
        if claimed.application.status in AT_OUTLET:
            returning[_ending(context, card, claimed)].append((card, claimed))
        elif claimed.application.status in UNDER_WAY and ENDINGS.get(card.return_reason or "") == "damaged":
            make_again(tx, claimed, card, reason=card.return_reason, actor=actor, now=now)
        elif claimed.application.status in UNDER_WAY:
            again.append((card, claimed))
    pack(context, tx, again, now=now)
    for ending, members in returning.items():
        come_back(context, tx, members, ending=ending, why=why, actor=actor, now=now)


def come_back(
    context: Context,
    tx: Tx,
    members: Sequence[tuple[Record, Claimed]],
    *,
    ending: str,
    why: str,
    actor: str,
    now: datetime,
) -> None:
    """Applications are returned: their clocks stop, that of storage starts, and their accounts end where the region says so."""
    rows = {claimed.application.id: claimed for _, claimed in members}
    move(tx, rows, "returned", now=now, actor=actor, why=why, ending=ending)
    timers.cancel(tx, list(rows), now=now)
    clocks, told, unused = [], [], {}
    for card, claimed in members:
        policy = policy_of(context, claimed)
        clocks.append((claimed.application.id, STORAGE, deadlines.storage_until(policy, now, context.calendar).at))
        reason = card.return_reason or ending
        told.append(moved_card_event("card.returned", card, claimed, reason=reason, ending=ending))
        overdue = ending == policy.collection.ending.value
        if overdue and policy.returned.close_account.value == "on_return":
            unused[card.id] = ending
    closing.close_unused(tx, unused, actor=actor, now=now)
    timers.start(tx, clocks, now=now)
    outbox.append(tx, told, now=now)
    tx.nudge()


def _ending(context: Context, card: Record, claimed: Claimed) -> str:
    """How an application ends with the return of its card; one that came back without a reason came by mistake."""
    called = claimed.application.status in OVERDUE
    reason = card.return_reason or ("uncollected" if called else "misrouted")
    return ENDINGS.get(reason) or policy_of(context, claimed).collection.ending.value


def receipt(context: Context, bundle_id: str) -> dict[str, Any]:
    """The centre's receipt for what came back in a bundle: numbered by the bundle, signed; the same one however often it is asked for.

    Raises:
        NotFound: no such bundle, or nobody has signed for it.
    """
    with context.store.transaction() as tx:
        bundle = custody.bundle(tx, bundle_id)
        taken = custody.taken_from(tx, bundle_id, CENTRE) if bundle is not None and bundle.direction == "back" else []
        if bundle is None or not taken:
            raise NotFound(f"没有卡箱 {bundle_id} 的收条", f"there is no receipt for bundle {bundle_id}")
        reasons = {entry["card"]: entry["reason"] for entry in bundle.manifest or ()}
        document = {
            "receipt_no": bundle.id,
            "outlet": bundle.outlet,
            "seal_no": bundle.seal_no,
            "carrier": bundle.carrier,
            "cards": [
                {
                    "card": row.card_id,
                    "serial": row.blank_serial,
                    "reason": reasons.get(row.card_id),
                    "received_by": row.taken_by,
                    "received_at": instant_text(row.at),
                }
                for row in taken
            ],
        }
        return {**document, "signature": tx.sealer.sign(document).hex()}
