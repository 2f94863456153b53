"""What people do with produced cards: ship, sign for, tell, hand over, send back. Every hand-over is a custody event of two parties.

Each verb locks the rows it moves, refuses what the state or the region's policy does not allow, and writes card, application,
clocks, events and audit in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from pipeline import transitions
from pipeline.application import Application
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.events import Event
from pipeline.identifiers import normalise_number
from pipeline.outcomes import Advance
from pipeline.policy import Policy
from pipeline.services.context import Context
from pipeline.stages.collection import CollectBy, TimerSet, card_event, collecting
from pipeline.store import applications, audit, custody, fees, handing, outbox, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import CENTRE, Place
from pipeline.store.engine import Tx
from pipeline.store.types import Record
from pipeline.transitions import Move

Taker = Literal["holder", "guardian", "proxy", "unit"]
Method = Literal["sms", "phone", "letter", "in_person", "unit"]
_COLLECTOR = {"holder": "person", "guardian": "guardian", "proxy": "proxy", "unit": "unit"}


# ----------------------------------------------------------------------------------------------------------- bundles


def seal_now(context: Context, bundle_id: str, *, actor: str) -> str:
    """Close a bundle before its time; returns the number of its seal.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not being packed, or it is empty.
    """
    now = context.now()
    with context.store.transaction() as tx:
        _bundle(tx, bundle_id, ("packing",), "out")
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
        bundle = _bundle(tx, bundle_id, ("sealed",), "out")
        cards = custody.cards_in(tx, bundle_id)
        custody.hand_on(
            tx,
            cards,
            taker=Place("courier", carrier),
            now=now,
            actor=actor,
            bundle_id=bundle_id,
            seal_no=bundle.seal_no,
        )
        custody.mark(tx, bundle_id, status="shipped", shipped_at=now)
        _tell(tx, _bundle_event("bundle.shipped", bundle, now, cards=len(cards)), now=now)
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
        bundle = _bundle(tx, bundle_id, ("shipped", "disputed"), "out", outlet=outlet)
        _same_seal(bundle, seal_no)
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
            tx, here, taker=Place("outlet", outlet), now=now, actor=actor, bundle_id=bundle_id, seal_no=seal_no
        )
        status = "disputed" if missing else "received"
        custody.mark(tx, bundle_id, status=status, received_at=now)
        going = {i: c for i, c in apps.items() if c.application.status in ("dispatch", "reissued")}
        _move(tx, going, "delivered", now=now, actor=actor, why=bundle_id, delivered_at=now)
        timers.start(tx, [(i, "arrived", now) for i in going], now=now)
        settled = "bundle.settled" if bundle.status == "disputed" else "bundle.received"
        told = _bundle_event(
            "bundle.disputed" if missing else settled, bundle, now, cards=len(here), missing=len(missing)
        )
        _tell(tx, told, now=now)
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


def send_back(context: Context, card_ids: Sequence[str], *, outlet: str, seal_no: str, carrier: str, actor: str) -> str:
    """The courier takes cards back from an outlet: outlet → courier. Returns the bundle.

    Raises:
        Refused: no card named, or one is not at this outlet or not called back.
    """
    now = context.now()
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
            if apps[row.application_id].application.status != "recalled":
                raise Conflict(f"卡片 {card_id} 未被召回", f"card {card_id} was not called back")
        chosen = [rows[card_id] for card_id in card_ids]
        manifest = [{"card": r.id, "serial": r.blank_serial, "application": r.application_id} for r in chosen]
        region = context.policies.of(apps[chosen[0].application_id].application.region).city
        seal_no = _seal(seal_no)
        bundle_id = custody.open_back(tx, outlet=outlet, region=region, seal_no=seal_no, manifest=manifest, now=now)
        custody.hand_on(
            tx,
            chosen,
            taker=Place("courier", carrier),
            now=now,
            actor=actor,
            bundle_id=bundle_id,
            seal_no=seal_no,
            into=bundle_id,
        )
        audit.append(
            tx, actor=actor, action="bundle.send_back", target=bundle_id, now=now, detail={"cards": len(chosen)}
        )
    return bundle_id


def receive_back(context: Context, bundle_id: str, *, seal_no: str, actor: str) -> int:
    """The centre signs for cards that come back: courier → centre; their applications are returned.

    Raises:
        NotFound: no such bundle.
        Conflict: it is not under way.
        Refused: the seal is another one.
    """
    now = context.now()
    with context.store.transaction() as tx:
        bundle = _bundle(tx, bundle_id, ("shipped",), "back")
        _same_seal(bundle, seal_no)
        cards = custody.cards_in(tx, bundle_id)
        apps = applications.load(tx, [row.application_id for row in cards], lock=True)
        custody.hand_on(tx, cards, taker=CENTRE, now=now, actor=actor, bundle_id=bundle_id, seal_no=seal_no)
        custody.mark(tx, bundle_id, status="closed", received_at=now)
        by_ending: dict[str, dict[str, Claimed]] = {}
        for i, claimed in apps.items():
            if claimed.application.status == "recalled":
                by_ending.setdefault(_policy(context, claimed).collection.ending.value, {})[i] = claimed
        for ending, members in by_ending.items():
            _move(tx, members, "returned", now=now, actor=actor, why=bundle_id, ending=ending)
            timers.cancel(tx, list(members), now=now)
        for row in cards:
            _tell(tx, _card_event("card.returned", row, apps[row.application_id]), now=now)
        audit.append(
            tx, actor=actor, action="bundle.receive_back", target=bundle_id, now=now, detail={"cards": len(cards)}
        )
        return len(cards)


# ------------------------------------------------------------------------------------------------- notice and collection


def give_notice(context: Context, card_id: str, *, outlet: str, method: Method, actor: str) -> datetime | None:
    """The applicant was told (WH-10). The first notice starts the clock where the region says so (WH-11); returns collect-by.

    Raises:
        NotFound: this outlet has no such card.
        Conflict: the card does not wait to be collected.
    """
    now = context.now()
    with context.store.transaction() as tx:
        card, claimed = _at_outlet(tx, card_id, outlet)
        app = claimed.application
        if app.status not in ("delivered", "notified"):
            raise Conflict("该卡当前不在待领取状态", f"the card does not wait to be collected (it is {app.status})")
        handing.add_notice(tx, application_id=app.id, method=method, actor=actor, now=now)
        due: datetime | None = claimed.row.collect_by
        if app.status == "delivered":
            clocks = collecting(
                _policy(context, claimed),
                case_id=app.id,
                accepted_at=app.received_at,
                notified_at=now,
                now=now,
                calendar=context.calendar,
            )
            due = next((clock.collect_by for clock in clocks if isinstance(clock, CollectBy)), None)
            _move(tx, {app.id: claimed}, "notified", now=now, actor=actor, why=method, notified_at=now, collect_by=due)
            timers.cancel(tx, [app.id], now=now, kinds=("notice_overdue",))
            timers.start(tx, [(c.application_id, c.kind, c.due_at) for c in clocks if isinstance(c, TimerSet)], now=now)
        audit.append(tx, actor=actor, action="card.notice", target=card.id, now=now, detail={"method": method})
    return due


def hand_over(
    context: Context,
    card_id: str,
    *,
    outlet: str | None,
    serial: str,
    taken_by: Taker,
    document_type: str,
    document_number: str,
    actor: str,
    fee_receipt: str | None = None,
) -> str:
    """The card goes to its holder, or to who may take it for them. `outlet` None: the centre's own counter (WH-8).

    `serial` is read from the card in the clerk's hand. Returns the hand-over's id.

    Raises:
        NotFound: this place has no such card.
        Conflict: it was handed over already, or may not be at this time.
        Refused: another serial, another person than the holder or the recorded guardian, a collector the region does not allow, or a
            fee that is due.
    """
    now = context.now()
    with context.store.transaction() as tx:
        card, claimed = _at_outlet(tx, card_id, outlet)
        app, policy = claimed.application, _policy(context, claimed)
        if card.status != "produced":
            raise Conflict("该卡已经领取", "the card was handed over already", code="already-collected")
        if app.status not in _collectable(policy, outlet):
            raise Conflict("该卡现在不能领取", f"the card cannot be collected now (it is {app.status})")
        if serial.strip().upper() != str(card.blank_serial).upper():
            raise Refused(
                "手中的卡与系统记录不是同一张", "the card in hand is not the one on record", code="serial-mismatch"
            )
        if _COLLECTOR[taken_by] not in policy.collection.who.value:
            raise Refused(
                "本地区不允许由该类人员代领",
                f"this region does not let a {taken_by} collect",
                code="not-permitted-by-policy",
                rule=policy.collection.who.rule,
            )
        _same_person(app, taken_by, document_number)
        _settle_fees(tx, app.id, fee_receipt, now)
        handing_id = handing.add_hand_over(
            tx,
            card_id=card.id,
            application_id=app.id,
            taken_by=taken_by,
            document_type=document_type,
            document_number=document_number,
            actor=actor,
            now=now,
        )
        custody.hand_on(tx, [card], taker=Place("holder", "holder"), now=now, actor=actor, status="issued")
        _move(tx, {app.id: claimed}, "collected", now=now, actor=actor, why=taken_by)
        timers.cancel(tx, [app.id], now=now)
        _tell(tx, _card_event("card.collected", card, claimed), now=now)
        audit.append(tx, actor=actor, action="card.hand_over", target=card.id, now=now, detail={"taken_by": taken_by})
    return handing_id


def _same_person(app: Application, taken_by: Taker, document_number: str) -> None:
    """The card serves its holder only (KL-19, DL-12, WH-24): who takes it is the holder, the recorded guardian, or has a mandate."""
    expected = {"holder": app.person, "guardian": app.guardian}.get(taken_by)
    if expected is not None and normalise_number(document_number) != normalise_number(expected.id_number):
        raise Refused(
            "出示的证件与卡的持有人（或登记的监护人）不符",
            "the document shown is not that of the holder, or of the guardian on record",
            code="not-the-holder",
            rule="KL-19",
        )


def _collectable(policy: Policy, outlet: str | None) -> tuple[str, ...]:
    if outlet is None:
        return ("personalisation",)
    late = ("uncollected", "recalled") if policy.collection.after_due.value else ()
    return ("delivered", "notified", *late)


def _settle_fees(tx: Tx, application_id: str, receipt: str | None, now: datetime) -> None:
    open_fees = [fee for fee in fees.of(tx, application_id) if fee.status == "due"]
    if open_fees and not receipt:
        total = sum(fee.amount_fen for fee in open_fees)
        raise Conflict(
            f"尚有费用 {total / 100:.2f} 元未缴，请先缴费或登记减免",
            f"{total} fen are due: take the receipt or record a waiver first",
            code="fee-due",
        )
    for fee in open_fees:
        fees.pay(tx, fee.id, receipt_no=receipt or "", now=now)


# ------------------------------------------------------------------------------------------------------------ helpers


def _bundle(tx: Tx, bundle_id: str, statuses: tuple[str, ...], direction: str, *, outlet: str | None = None) -> Record:
    bundle = custody.bundle(tx, bundle_id)
    if bundle is None or bundle.direction != direction or (outlet is not None and bundle.outlet != outlet):
        raise NotFound(f"没有卡箱 {bundle_id}", f"no such bundle: {bundle_id}")
    if bundle.status not in statuses:
        wanted = " or ".join(statuses)
        raise Conflict(
            f"卡箱 {bundle_id} 状态为 {bundle.status}", f"bundle {bundle_id} is {bundle.status}, not {wanted}"
        )
    return bundle


def _seal(typed: str) -> str:
    """A seal's number as it is kept, however it was typed."""
    return typed.strip().upper()


def _same_seal(bundle: Record, seal_no: str) -> None:
    if _seal(seal_no) != bundle.seal_no:
        raise Refused(
            "封签号与装箱单不符，请勿拆箱并联系中心",
            "the seal is not the one on the list: do not open, call the centre",
            code="seal-mismatch",
        )


def _at_outlet(tx: Tx, card_id: str, outlet: str | None) -> tuple[Record, Claimed]:
    """The card and its application, locked, if this place holds it (application first, then card: everybody's order)."""
    here = ("centre", "centre") if outlet is None else ("outlet", outlet)
    application_id = handing.application_of(tx, card_id)
    claimed = applications.load(tx, [application_id] if application_id else [], lock=True).get(application_id or "")
    card = custody.card(tx, card_id)
    if card is None or claimed is None:
        raise NotFound(f"没有卡片 {card_id}", f"no such card: {card_id}")
    if card.custody == "holder" and handing.last_place(tx, card_id) == here:
        raise Conflict("该卡已经领取", "the card was handed over already", code="already-collected")
    if (card.custody, card.place) != here:
        raise NotFound(f"此处没有卡片 {card_id}", f"this place does not hold card {card_id}")
    return card, claimed


def _policy(context: Context, claimed: Claimed) -> Policy:
    return context.policies.of(claimed.application.region, claimed.application.policy_version)


def _move(tx: Tx, rows: Mapping[str, Claimed], to: str, *, now: datetime, actor: str, why: str, **columns: Any) -> None:
    """Move locked applications by a person's act, and write it down."""
    if not rows:
        return
    moves: dict[str, Move] = {}
    for i, claimed in rows.items():
        move = transitions.move(claimed.application.status, claimed.application.stage, Advance(to), now=now)
        moves[i] = transitions.by_hand(move)
    applications.force(tx, moves, now=now, **columns)
    entries = [
        {"application_id": i, "frm": claimed.application.status, "to": to, "outcome": "act", "why": why}
        for i, claimed in rows.items()
    ]
    applications.record(tx, entries, stage=None, now=now, actor=actor)


def _tell(tx: Tx, event: Event, *, now: datetime) -> None:
    outbox.append(tx, [event], now=now)


def _bundle_event(kind: str, bundle: Record, now: datetime, **data: Any) -> Event:
    """An event about a bundle; its sequence is the time in milliseconds, since a bundle's row has no version."""
    sequence = int(now.timestamp() * 1000)
    shared = {"bundle_id": bundle.id, "outlet_id": bundle.outlet, "seal_no": bundle.seal_no}
    return Event(
        type=kind,
        subject=bundle.id,
        region=bundle.region,
        sequence=sequence,
        outlet=bundle.outlet,
        data={**shared, **data},
    )


def _card_event(kind: str, card: Record, claimed: Claimed) -> Event:
    """An event that goes out with the move it tells of, one version on."""
    moved = replace(claimed.application, version=claimed.application.version + 1)
    return card_event(kind, moved, card.id, card.bundle_id)
