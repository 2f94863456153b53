"""At the outlet's counter: the applicant is told that the card is there, and takes it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pipeline.application import Application
from pipeline.errors import Conflict, Refused
from pipeline.identifiers import normalise_number
from pipeline.policy import Policy
from pipeline.services.acts import at_place, move, moved_card_event, policy_of, tell
from pipeline.services.context import Context
from pipeline.stages.collection import CollectBy, TimerSet, collecting
from pipeline.store import audit, custody, fees, handing, timers
from pipeline.store.custody import Place
from pipeline.store.engine import Tx

Taker = Literal["holder", "guardian", "proxy", "unit"]
Method = Literal["sms", "phone", "letter", "in_person", "unit"]
_COLLECTOR = {"holder": "person", "guardian": "guardian", "proxy": "proxy", "unit": "unit"}


def give_notice(context: Context, card_id: str, *, outlet: str, method: Method, actor: str) -> datetime | None:
    """The applicant was told (WH-10). The first notice starts the clock where the region says so (WH-11); returns collect-by.

    Raises:
        NotFound: this outlet has no such card.
        Conflict: the card does not wait to be collected.
    """
    now = context.now()
    with context.store.transaction() as tx:
        card, claimed = at_place(tx, card_id, outlet)
        app = claimed.application
        if app.status not in ("delivered", "notified"):
            raise Conflict("该卡当前不在待领取状态", f"the card does not wait to be collected (it is {app.status})")
        handing.add_notice(tx, application_id=app.id, method=method, actor=actor, now=now)
        due: datetime | None = claimed.row.collect_by
        if app.status == "delivered":
            clocks = collecting(
                policy_of(context, claimed),
                case_id=app.id,
                accepted_at=app.received_at,
                notified_at=now,
                now=now,
                calendar=context.calendar,
            )
            due = next((clock.collect_by for clock in clocks if isinstance(clock, CollectBy)), None)
            move(tx, {app.id: claimed}, "notified", now=now, actor=actor, why=method, notified_at=now, collect_by=due)
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
        card, claimed = at_place(tx, card_id, outlet)
        app, policy = claimed.application, policy_of(context, claimed)
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
            status_before=app.status,
            now=now,
        )
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
