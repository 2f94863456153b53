"""What the acts of people have in common: they lock the rows they move, refuse what may not be, and write card, application, clocks,
events and audit in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pipeline import transitions
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.events import Event
from pipeline.identifiers import normalise_number
from pipeline.outcomes import Advance
from pipeline.policy import Policy
from pipeline.services.context import Context
from pipeline.shape import looks_personal
from pipeline.stages.collection import card_event
from pipeline.store import applications, custody, handing, outbox, packing
from pipeline.store.applications import Claimed
from pipeline.store.engine import Tx
from pipeline.store.types import Record
from pipeline.transitions import Move

OVERDUE = ("uncollected", "recalled")
"""Reasons of a return for which a card is still the person's to collect until it leaves, where the region says so."""


def bundle_in(
    tx: Tx, bundle_id: str, statuses: tuple[str, ...], direction: str, *, outlet: str | None = None
) -> Record:
    bundle = custody.bundle(tx, bundle_id)
    if bundle is None or bundle.direction != direction or (outlet is not None and bundle.outlet != outlet):
        raise NotFound(f"没有卡箱 {bundle_id}", f"no such bundle: {bundle_id}")
    if bundle.status not in statuses:
        wanted = " or ".join(statuses)
        raise Conflict(
            f"卡箱 {bundle_id} 状态为 {bundle.status}", f"bundle {bundle_id} is {bundle.status}, not {wanted}"
        )
    return bundle


def typed_seal(typed: str) -> str:
    """A seal's number as it is kept, however it was typed.

    Raises:
        Refused: there is none.
    """
    if not typed.strip():
        raise Refused("请填写封签号", "give the number of the seal", code="required")
    return typed.strip().upper()


def two_people(giver: str, taker: str) -> None:
    """A card changes hands between two people.

    Raises:
        Refused: one of them is not named, or both are the same.
    """
    if not giver.strip() or not taker.strip():
        raise Refused("交接须写明双方", "name both people of a hand-over", code="required")
    if normalise_number(giver) == normalise_number(taker):
        raise Refused(
            "交接双方须为两个人，请由另一人签收",
            "giver and taker are one person: another one signs",
            code="same-person",
        )


def same_seal(bundle: Record, seal_no: str) -> None:
    if typed_seal(seal_no) != bundle.seal_no:
        raise Refused(
            "封签号与装箱单不符，请勿拆箱并联系中心",
            "the seal is not the one on the list: do not open, call the centre",
            code="seal-mismatch",
        )


def at_place(tx: Tx, card_id: str, outlet: str | None) -> tuple[Record, Claimed]:
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
    if card.return_reason not in (None, *OVERDUE):
        raise Conflict(
            f"卡片 {card_id} 已登记退回（{card.return_reason}），请随退回箱交回中心",
            f"card {card_id} goes back to the centre ({card.return_reason}): put it into the next back bundle",
            code="going-back",
        )
    if card.status == "voided":
        raise Conflict(
            "该卡已作废，请勿发放，退回中心", "the card is void: send it back to the centre", code="card-void"
        )
    if (bundle_id := packing.sealed_in(tx, card)) is not None:
        raise Conflict(
            f"卡片 {card_id} 已封入卡箱 {bundle_id}，待快递员取走，不能在此办理",
            f"card {card_id} is sealed in bundle {bundle_id} and waits for the courier: nothing is done with it here",
            code="card-packed",
        )
    return card, claimed


def not_personal(reference: str, zh: str, en: str) -> str:
    """A reference that is kept in clear, if it is nobody's identity or phone number.

    Raises:
        Refused: it looks like one; it is not repeated.
    """
    if looks_personal(reference):
        raise Refused(
            f"{zh}疑似证件号码或手机号码，请核对；确非个人号码的，请用连字符分段填写",
            f"{en} looks like an identity or phone number: compare it, and if it is none, write it in groups with hyphens",
            code="looks-personal",
        )
    return reference


def policy_of(context: Context, claimed: Claimed) -> Policy:
    return context.policies.of(claimed.application.region, claimed.application.policy_version)


def move(
    tx: Tx,
    rows: Mapping[str, Claimed],
    to: str,
    *,
    now: datetime,
    actor: str,
    why: str,
    ready: bool = False,
    **columns: Any,
) -> None:
    """Move locked applications by a person's act, and write it down. `ready`: the status's stage has work with them at once."""
    if not rows:
        return
    moves: dict[str, Move] = {}
    for i, claimed in rows.items():
        decided = transitions.move(claimed.application.status, claimed.application.stage, Advance(to), now=now)
        moves[i] = decided if ready else transitions.by_hand(decided)
    applications.force(tx, moves, now=now, **columns)
    entries = [
        {"application_id": i, "frm": claimed.application.status, "to": to, "outcome": "act", "why": why}
        for i, claimed in rows.items()
    ]
    applications.record(tx, entries, stage=None, now=now, actor=actor)


def tell(tx: Tx, event: Event, *, now: datetime) -> None:
    outbox.append(tx, [event], now=now)


def bundle_event(kind: str, bundle: Record, now: datetime, **data: Any) -> Event:
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


def moved_card_event(kind: str, card: Record, claimed: Claimed, **data: Any) -> Event:
    """An event that goes out with the move it tells of, one version on."""
    moved = replace(claimed.application, version=claimed.application.version + 1)
    return card_event(kind, moved, card.id, card.bundle_id, **data)
