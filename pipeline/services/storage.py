"""Cards at the centre's store: given out again on request, made again where they are waste, found again when they were lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.errors import Conflict, NotFound, Refused
from pipeline.identifiers import OUTLET_ID
from pipeline.services.accounts import must_be_open
from pipeline.services.acts import move, moved_card_event, policy_of, tell, two_people
from pipeline.services.context import Context
from pipeline.stages.dispatch import Packed
from pipeline.store import applications, audit, custody, destructions, handing, packing, stock, timers, views
from pipeline.store.applications import Claimed
from pipeline.store.custody import CENTRE
from pipeline.store.engine import Tx
from pipeline.store.stock import Act
from pipeline.store.types import Record

PRODUCED: Mapping[str, None] = dict.fromkeys(("blank_serial", "card_number", "issued_on", "station"))
"""What an application has of its card; a card that is made again has a number of its own."""
WAITED: Mapping[str, None] = dict.fromkeys(("delivered_at", "notified_at", "collect_by"))
"""What it has of the card's wait at an outlet."""


def reissue(context: Context, application_id: str, *, outlet: str, actor: str) -> None:
    """A stored card goes out again to its person: into the outlet's next bundle, and its clocks run anew (WH-11).

    A card that came to the wrong outlet always may; one that was not collected or was refused, where the region says so.

    Raises:
        NotFound: no such application.
        Conflict: no card of it is in storage, it is to be destroyed, its account is closed, or the person has applied anew.
        Refused: the region keeps such cards for nobody, or no outlet was named.
    """
    now = context.now()
    if not OUTLET_ID.fullmatch(outlet):
        raise Refused("请填写网点编号（out_…）", "name the outlet (out_…)", code="outlet")
    with context.store.transaction() as tx:
        claimed, card = _returned(tx, application_id)
        policy, ending = policy_of(context, claimed), claimed.row.ending
        if ending == "damaged" or card is None:
            raise Conflict(
                "该卡已作废或损坏，请重制", "the card is lost or damaged: have it made again", code="to-be-remade"
            )
        if ending != "misrouted" and not policy.returned.reissue.value:
            raise Refused(
                "本地区不再发放退回的卡，请本人重新申领",
                "this region does not give out returned cards again: the person applies anew",
                code="not-permitted-by-policy",
                rule=policy.returned.reissue.rule,
            )
        _not_listed(tx, card, now)
        must_be_open(tx, card)
        _nothing_newer(tx, claimed, card)
        columns: dict[str, Any] = {"outlet": outlet, "ending": None, **WAITED}
        timers.cancel(tx, [application_id], now=now)
        move(tx, {application_id: claimed}, "reissued", now=now, actor=actor, why=outlet, **columns)
        pack(context, tx, [(card, claimed)], now=now, outlet=outlet)
        tell(tx, moved_card_event("card.reissued", card, claimed, to_outlet=outlet), now=now)
        audit.append(tx, actor=actor, action="card.reissue", target=card.id, now=now, detail={"outlet": outlet})


def remake(context: Context, application_id: str, *, reason: str, actor: str) -> None:
    """A returned card that is damaged, wrong or lost is made again on a new blank, the old card is void.

    Raises:
        NotFound: no such application.
        Conflict: it was not returned, its card is good, it was given up, or the card is to be destroyed.
        Refused: no reason.
    """
    now = context.now()
    if not reason.strip():
        raise Refused("须写明原因", "give the reason", code="required")
    with context.store.transaction() as tx:
        claimed, card = _returned(tx, application_id)
        ending = claimed.row.ending
        if ending == "abandoned":
            raise Conflict(
                "本人已放弃该卡，请重新申领", "the card was given up: the person applies anew", code="given-up"
            )
        if card is not None and ending != "damaged":
            raise Conflict(
                "该卡完好，请再次发放，无需重制", "the card is good: give it out again", code="to-be-reissued"
            )
        if card is not None:
            _not_listed(tx, card, now)
        make_again(tx, claimed, card, reason=reason.strip(), actor=actor, now=now)
        audit.append(tx, actor=actor, action="card.remake", target=application_id, now=now, detail={"reason": reason})


def found(context: Context, card_id: str, *, found_by: str, actor: str) -> None:
    """A card that was given up as lost is brought to the centre: as waste, since it was made again.

    Raises:
        NotFound: no such card.
        Conflict: it is not lost.
        Refused: who brings it signs for it.
    """
    now = context.now()
    two_people(found_by, actor)
    with context.store.transaction() as tx:
        application_id = handing.application_of(tx, card_id)
        applications.load(tx, [application_id] if application_id else [], lock=True)
        card = custody.card(tx, card_id)
        if card is None:
            raise NotFound(f"没有卡片 {card_id}", f"no such card: {card_id}")
        if card.custody != "lost":
            raise Conflict(f"卡片 {card_id} 未登记遗失", f"card {card_id} is not lost (it is with {card.custody})")
        custody.hand_on(tx, [card], taker=CENTRE, now=now, given_by=found_by, taken_by=actor)
        audit.append(tx, actor=actor, action="card.found", target=card_id, now=now, detail={"by": found_by})


def pack(
    context: Context, tx: Tx, members: Sequence[tuple[Record, Claimed]], *, now: datetime, outlet: str | None = None
) -> None:
    """Cards at the centre go into the open bundles of their outlets, all at once: bundles are locked in order. Locked rows."""
    custody.mark_cards(tx, [card.id for card, _ in members], return_reason=None)
    packed = []
    for card, claimed in members:
        app, policy = claimed.application, policy_of(context, claimed)
        fact = Packed(
            application_id=app.id,
            card_id=card.id,
            outlet=outlet or app.outlet,
            region=policy.city,
            bundle_size=policy.bundle_size.value,
        )
        packed.append(fact)
    packing.write_packed(tx, packed, now=now)


def void(tx: Tx, card: Record, *, reason: str, actor: str, now: datetime) -> None:
    """A card is waste from now on, wherever it lies; its blank can be nobody's again."""
    custody.mark_cards(tx, [card.id], status="voided")
    stock.write_off(tx, [card.blank_serial], "voided", Act(at=now, actor=actor, reason=reason))


def make_again(tx: Tx, claimed: Claimed, card: Record | None, *, reason: str, actor: str, now: datetime) -> None:
    """The application goes back for a new card with numbers of its own; `card` is void. Locked rows.

    One that carried a bank card number goes back to the account stage: the bank ends that number when it gives the next one, and
    whoever has the lost card has nothing. Of a card that is not known (None: it was lost before) it is not known either.
    """
    app = claimed.application
    if card is not None and card.status != "voided":
        void(tx, card, reason=reason, actor=actor, now=now)
    timers.cancel(tx, [app.id], now=now)
    columns: dict[str, Any] = {"ending": None, **PRODUCED, **WAITED}
    to = "personalisation" if card is not None and card.account_id is None else "account"
    move(tx, {app.id: claimed}, to, now=now, actor=actor, why=reason, ready=True, **columns)
    if card is not None:
        tell(tx, moved_card_event("card.remake_started", card, claimed), now=now)
    tx.nudge()


def _returned(tx: Tx, application_id: str) -> tuple[Claimed, Record | None]:
    """A returned application, locked, and its card at the centre, if that is not void."""
    claimed = applications.load(tx, [application_id], lock=True).get(application_id)
    if claimed is None:
        raise NotFound(f"没有申领 {application_id}", f"no such application: {application_id}")
    if claimed.application.status != "returned":
        raise Conflict(
            f"申领 {application_id} 的卡不在中心保管（{claimed.application.status}）",
            f"no card of application {application_id} is in storage (it is {claimed.application.status})",
        )
    card = views.card_row(tx, application_id)
    if card is not None and card.custody != "centre":
        raise Conflict(
            f"卡片 {card.id} 不在中心（{card.custody}）", f"card {card.id} is not at the centre (but {card.custody})"
        )
    return claimed, card


def _not_listed(tx: Tx, card: Record, now: datetime) -> None:
    if any(row.listed for row in destructions.stored(tx, now=now, card_ids=[card.id])):
        raise Conflict(
            "该卡已列入待销毁清单，请先撤销清单",
            "the card is listed to be destroyed: withdraw the list first",
            code="listed",
        )


def _nothing_newer(tx: Tx, claimed: Claimed, card: Record) -> None:
    app = claimed.application
    live = applications.live_of(tx, [app.person_id], card_type=claimed.row.card_type).get(app.person_id, app.id)
    if live != app.id or stock.newer_card(tx, card):
        raise Conflict("本人已有新的申领或新卡", "the person has applied anew, or has a newer card", code="newer-card")
