"""At the outlet's counter: the applicant is told that the card is there, and takes it; a slip is taken back at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Literal

from pipeline import transitions
from pipeline.clock import civil_date
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.outcomes import Advance
from pipeline.person import Agent
from pipeline.policy import Policy
from pipeline.services.accounts import must_be_open
from pipeline.services.acts import at_place, move, moved_card_event, not_personal, policy_of, tell
from pipeline.services.collector import Shown, Taker, admit
from pipeline.services.context import Context
from pipeline.stages.collection import CollectBy, TimerSet, collecting
from pipeline.store import applications, audit, custody, fees, handing, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import CENTRE, Place
from pipeline.store.engine import IntegrityError, Tx
from pipeline.store.types import Record

Method = Literal["sms", "phone", "letter", "in_person", "unit"]
UNDO_WITHIN = timedelta(minutes=5)
"""How long a hand-over is taken back without more ado (assumed: no text rules on it): who took the card still stands there."""
CLOCKS_DIFFER = timedelta(minutes=1)
"""How far an outlet's clock may be ahead of ours."""


def give_notice(
    context: Context, card_id: str, *, outlet: str, method: Method, actor: str, notified_at: datetime | None = None
) -> datetime | None:
    """The applicant was told (WH-10), at `notified_at` or now. Returns collect-by.

    The first notice recorded starts the clock where the region says so (WH-11); later ones are kept and move nothing.

    Raises:
        NotFound: this outlet has no such card.
        Conflict: the card does not wait to be collected.
        Refused: a time to come, or before the card was there.
    """
    now = context.now()
    at = notified_at or now
    with context.store.transaction() as tx:
        card, claimed = at_place(tx, card_id, outlet)
        app = claimed.application
        if app.status not in ("delivered", "notified"):
            raise Conflict("该卡当前不在待领取状态", f"the card does not wait to be collected (it is {app.status})")
        if at > now + CLOCKS_DIFFER:
            raise Refused("通知时间不能晚于现在", "a notice is recorded once it was given", code="in-the-future")
        if app.delivered_at is not None and at < app.delivered_at.replace(microsecond=0):
            raise Refused(
                "通知时间早于网点签收时间，请核对",
                "the notice is older than the card's arrival",
                code="before-delivery",
            )
        at = min(at, now)
        handing.add_notice(tx, application_id=app.id, method=method, actor=actor, notified_at=at, now=now)
        due: datetime | None = claimed.row.collect_by
        if app.status == "delivered":
            clocks = collecting(
                policy_of(context, claimed),
                case_id=app.id,
                accepted_at=app.received_at,
                notified_at=at,
                now=now,
                calendar=context.calendar,
                delivered_at=app.delivered_at,
            )
            due = next((clock.collect_by for clock in clocks if isinstance(clock, CollectBy)), None)
            move(tx, {app.id: claimed}, "notified", now=now, actor=actor, why=method, notified_at=at, collect_by=due)
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
    document_valid_to: date | None = None,
    agent: Agent | None = None,
    papers: Mapping[str, str] = MappingProxyType({}),
    fee_receipt: str | None = None,
    key: str | None = None,
) -> str:
    """The card goes to its holder, or to who may take it for them. `outlet` None: the centre's own counter (WH-8).

    `serial` is read from the card in the clerk's hand; the document is the collector's own. `agent` is who the papers name, for a
    unit's representative or a proxy who is not on record; `papers` maps what the region asks for (`policy.collection.papers_of`) to
    where it is filed. A receipt pays what is due (WH-11). Returns the hand-over's id; the same one again under the same `key`.

    Raises:
        NotFound: this place has no such card.
        Conflict: it was handed over already or taken back, may not be at this time, is blocked, its account is closed or being
            closed, or a fee is due.
        Refused: another card, another person, a missing paper, a collector the region does not allow; a receipt or a paper's
            reference that may be somebody's number; or the key of another act.
    """
    now = context.now()
    not_personal(fee_receipt or "", "缴费收据号", "the number of the receipt")
    for reference in papers.values():
        not_personal(reference, "代领材料的归档编号", "where a paper is filed")
    shown = Shown(
        taken_by=taken_by,
        document_type=document_type,
        document_number=document_number,
        valid_to=document_valid_to,
        agent=agent,
        papers=papers,
    )
    with context.store.transaction() as tx:
        if key is not None and (known := _told_before(tx, key, card_id, shown)) is not None:
            return known
        card, claimed = at_place(tx, card_id, outlet)
        app, policy = claimed.application, policy_of(context, claimed)
        _must_be_free(card)
        must_be_open(tx, card)
        if app.status not in _collectable(policy, outlet):
            raise Conflict("该卡现在不能领取", f"the card cannot be collected now (it is {app.status})")
        if serial.strip().upper() != str(card.blank_serial).upper():
            raise Refused(
                "手中的卡与系统记录不是同一张", "the card in hand is not the one on record", code="serial-mismatch"
            )
        admit(shown, app, policy, today=civil_date(now))
        _settle_fees(tx, app.id, policy, fee_receipt, actor=actor, now=now)
        try:
            with tx.savepoint():
                handing_id = handing.add_hand_over(
                    tx,
                    card_id=card.id,
                    application_id=app.id,
                    taken_by=taken_by,
                    document_type=document_type,
                    shown=shown.sealed(),
                    actor=actor,
                    key=key,
                    status_before=app.status,
                    now=now,
                )
        except IntegrityError:
            if key is None or handing.by_key(tx, key) is None:
                raise
            raise _another_ones_key() from None  # of two acts under one key at once, the other was first
        custody.hand_on(
            tx,
            [card],
            taker=Place("holder", "holder"),
            now=now,
            given_by=actor,
            taken_by=f"{taken_by}:{handing_id}",
            status="issued",
        )
        move(tx, {app.id: claimed}, "collected", now=now, actor=actor, why=taken_by)
        timers.cancel(tx, [app.id], now=now)
        tell(tx, moved_card_event("card.collected", card, claimed), now=now)
        audit.append(tx, actor=actor, action="card.hand_over", target=card.id, now=now, detail={"taken_by": taken_by})
    return handing_id


def revert(context: Context, hand_over_id: str, *, outlet: str | None, actor: str, reason: str) -> None:
    """A hand-over is taken back where it was made: the card lies at the counter again, and its clocks run on with their old dates.

    The application stands where it stood. What was paid stays paid: the receipt is about money, not about this card's way.

    Raises:
        NotFound: no such hand-over at this place.
        Conflict: more than `UNDO_WITHIN` have passed (`too-late`), it was taken back already, the card is in use, or its holder has
            a newer application.
        Refused: no reason.
    """
    now = context.now()
    if not reason.strip():
        raise Refused("请填写撤销原因", "taking back needs a reason", code="required")
    with context.store.transaction() as tx:
        handed, card, claimed = _handed_over_here(tx, hand_over_id, outlet)
        if handed.reverted_at is not None:
            raise Conflict("该次领取已撤销", "the hand-over was taken back already", code="already-reverted")
        if now - handed.collected_at > UNDO_WITHIN:
            minutes = UNDO_WITHIN.seconds // 60
            raise Conflict(
                f"领取已超过 {minutes} 分钟，不能撤销；请按换卡或注销办理",
                f"more than {minutes} minutes have passed: what is wrong now takes an exchange or a cancellation",
                code="too-late",
            )
        if (card.status, claimed.application.status) != ("issued", "collected"):
            raise Conflict("该卡已启用或已变更，不能撤销", f"the card is {card.status} and cannot be taken back")
        custody.hand_on(
            tx,
            [card],
            taker=_counter(outlet),
            now=now,
            given_by=f"{handed.taken_by}:{handed.id}",
            taken_by=actor,
            status="produced",
        )
        _restore(tx, claimed, handed.status_before, now=now, actor=actor)
        timers.resume(tx, claimed.application.id, cancelled_at=handed.collected_at)
        handing.take_back(tx, handed.id, actor=actor, reason=reason.strip(), now=now)
        tell(tx, moved_card_event("card.collection_reverted", card, claimed), now=now)
        detail = {"hand_over": handed.id, "reason": reason.strip()}
        audit.append(tx, actor=actor, action="card.hand_over.revert", target=card.id, now=now, detail=detail)
        tx.nudge()


def _counter(outlet: str | None) -> Place:
    return CENTRE if outlet is None else Place("outlet", outlet)


def _told_before(tx: Tx, key: str, card_id: str, shown: Shown) -> str | None:
    """The hand-over that this key stands for, if it is this one told again; two that are told at once come one after the other."""
    handing.application_of(tx, card_id, lock=True)
    row = handing.by_key(tx, key)
    if row is None:
        return None
    if (row.card_id, row.taken_by, handing.what_was_shown(tx, row)) != (card_id, shown.taken_by, shown.sealed()):
        raise _another_ones_key()
    if row.reverted_at is not None:
        raise Conflict(
            "该次领取已撤销，再次领取请使用新的幂等键",
            "that hand-over was taken back: to hand over again, use a new key",
            code="already-reverted",
        )
    return str(row.id)


def _another_ones_key() -> Refused:
    return Refused(
        "此幂等键已用于另一次领取，请使用新的幂等键",
        "this key belongs to another hand-over: use a new one",
        code="idempotency-key-reused",
    )


def _must_be_free(card: Record) -> None:
    """A card at the counter is handed over only as it was produced."""
    if card.status == "frozen":
        raise Conflict("该卡已冻结（挂失），解除后方可领取", "the card is frozen: release it first", code="card-frozen")
    if card.status != "produced":
        raise Conflict(
            "该卡已作废，请勿发放，退回中心", "the card is void: send it back to the centre", code="card-void"
        )


def _handed_over_here(tx: Tx, hand_over_id: str, outlet: str | None) -> tuple[Record, Record, Claimed]:
    """A hand-over of this place, its card and its application, locked."""
    here = _counter(outlet)
    named = handing.hand_over(tx, hand_over_id)
    if named is not None:
        claimed = applications.load(tx, [named.application_id], lock=True)[named.application_id]
        card = custody.card(tx, named.card_id)
        handed = handing.hand_over(tx, hand_over_id)  # again: nobody changes it any more
        if card is not None and handed is not None and handing.last_place(tx, card.id) == (here.custody, here.place):
            return handed, card, claimed
    raise NotFound(f"此处没有领取记录 {hand_over_id}", f"this place has no hand-over {hand_over_id}")


def _restore(tx: Tx, claimed: Claimed, status: str, *, now: datetime, actor: str) -> None:
    """Move an application back to where its card was taken from."""
    app = claimed.application
    back = transitions.move(app.status, app.stage, Advance(status), now=now)
    if status != "uncollected":  # a stop on the way: that one goes on to be called back by itself
        back = transitions.by_hand(back)
    try:
        applications.force(tx, {app.id: back}, now=now)
    except IntegrityError:
        raise Conflict(
            "持卡人已有新的申领，不能撤销；请先撤销新的申领",
            "the holder has a newer application: withdraw that one first",
            code="newer-application",
        ) from None
    entry = {"application_id": app.id, "frm": app.status, "to": status, "outcome": "act", "why": "reverted"}
    applications.record(tx, [entry], stage=None, now=now, actor=actor)


def _collectable(policy: Policy, outlet: str | None) -> tuple[str, ...]:
    if outlet is None:
        return ("personalisation",)
    late = ("uncollected", "recalled") if policy.collection.after_due.value else ()
    return ("delivered", "notified", *late)


def _settle_fees(
    tx: Tx, application_id: str, policy: Policy, receipt: str | None, *, actor: str, now: datetime
) -> None:
    """A card that is charged for is handed over once that is paid or waived (WH-11)."""
    rule = policy.fees.receipt_to_collect
    due = [fee for fee in fees.of(tx, application_id) if fee.status == "due"] if rule.value else []
    if not due:
        return
    if not receipt or not receipt.strip():
        total = sum(fee.amount_fen for fee in due)
        raise Conflict(
            f"尚有费用 {total / 100:.2f} 元未缴，请先缴费或登记减免",
            f"{total} fen are due: take the receipt or record a waiver first",
            code="fee-due",
            rule=rule.rule,
        )
    fees.pay(tx, [fee.id for fee in due], receipt_no=receipt.strip(), actor=actor, now=now)
