"""Destruction (WH-12, KL-15, LN-7): waste and unclaimed cards are listed, destroyed by two people, and receipted.

A receipt is numbered and signed; it stands in the database with the cards' new state, or neither does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.clock import civil_date
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services.acts import move, moved_card_event, policy_of, two_people
from pipeline.services.context import Context
from pipeline.store import applications, audit, closing, custody, destructions, handing, outbox, stock, timers
from pipeline.store.applications import Claimed
from pipeline.store.custody import Place
from pipeline.store.engine import Tx
from pipeline.store.stock import Act
from pipeline.store.types import Record, instant_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What two people destroyed: `document` is what was signed, `genuine` whether the signature still fits what the rows say."""

    document: dict[str, Any]
    signature: str
    genuine: bool


def list_for_destruction(context: Context, card_ids: Sequence[str] | None, *, reason: str, actor: str) -> str:
    """List cards at the centre to be destroyed: those named, or all that are due. Returns the list.

    Due are waste (voided, cancelled) and returned cards whose time in storage is over.

    Raises:
        Conflict: a card is not at the centre, is neither waste nor over its time, or stands on another list; or none is due.
        Refused: no reason.
    """
    now = context.now()
    if not reason.strip():
        raise Refused("须写明销毁原因", "give the reason", code="required")
    with context.store.transaction() as tx:
        wanted = None if card_ids is None else list(dict.fromkeys(card_ids))
        first = destructions.stored(tx, now=now, card_ids=wanted, due=wanted is None)
        applications.load(tx, [row.application for row in first], lock=True)
        rows = destructions.stored(tx, now=now, card_ids=[row.card for row in first], due=wanted is None)
        if wanted is not None:
            _may_be_listed(wanted, rows)
        if not rows:
            raise Conflict("没有到期应销毁的卡", "no card is due to be destroyed", code="none-due")
        items = [
            {"card": row.card, "serial": row.serial, "application": row.application, "reason": _why(row)}
            for row in rows
        ]
        listed = destructions.open_list(tx, items, reason=reason.strip(), by=actor, now=now)
        audit.append(
            tx,
            actor=actor,
            action="destruction.list",
            target=listed,
            now=now,
            detail={"cards": [i["card"] for i in items]},
        )
    return listed


def withdraw(context: Context, destruction_id: str, *, actor: str) -> None:
    """Cards of a list are not destroyed after all; they stay in storage.

    Raises:
        NotFound: no such list.
        Conflict: it was carried out or withdrawn.
    """
    now = context.now()
    with context.store.transaction() as tx:
        _listed(tx, destruction_id)
        destructions.end(tx, destruction_id, state="withdrawn", now=now)
        audit.append(tx, actor=actor, action="destruction.withdraw", target=destruction_id, now=now)


def destroy(context: Context, destruction_id: str, *, destroyed_by: str, witness: str, actor: str) -> Receipt:
    """Two people have destroyed every card of a list. Cards and blanks are destroyed, applications end, accounts as the region says.

    Who made the list may be one of the two.

    Raises:
        NotFound: no such list.
        Conflict: it was carried out or withdrawn, or a card of it has left the centre.
        Refused: not two people.
    """
    now = context.now()
    two_people(destroyed_by, witness)
    with context.store.transaction() as tx:
        told = _listed(tx, destruction_id)
        apps = applications.load(tx, [item["application"] for item in told.items], lock=True)
        cards = handing.cards(tx, [item["card"] for item in told.items])
        if gone := [card.id for card in cards.values() if card.custody != "centre"]:
            raise Conflict(
                f"{len(gone)} 张卡已不在中心，请撤销清单后重列",
                f"{len(gone)} cards are not at the centre any more: withdraw the list and make a new one",
                code="list-changed",
            )
        [number] = stock.next_numbers(tx, "destruction", 1)
        receipt_no = f"XH-{civil_date(now):%Y}-{number:06d}"
        custody.hand_on(
            tx,
            list(cards.values()),
            taker=Place("destroyed", destruction_id),
            now=now,
            given_by=destroyed_by,
            taken_by=witness,
            status="destroyed",
        )
        act = Act(at=now, actor=destroyed_by, witness=witness, reason=told.reason, document=receipt_no)
        stock.write_off(tx, [card.blank_serial for card in cards.values()], "destroyed", act)
        _end_applications(context, tx, list(cards.values()), apps, why=receipt_no, actor=actor, now=now)
        said = {"destroyed_by": destroyed_by, "witness": witness, "receipt_no": receipt_no}
        document = _document(told, settled_at=now, **said)
        signature = tx.sealer.sign(document)
        destructions.end(tx, destruction_id, state="done", now=now, signature=signature, **said)
        audit.append(
            tx,
            actor=actor,
            action="destruction.done",
            target=destruction_id,
            now=now,
            detail={**said, "cards": len(cards)},
        )
    return Receipt(document=document, signature=signature.hex(), genuine=True)


def receipt(context: Context, name: str) -> Receipt:
    """The receipt of a list, by its number or by the list's id, with its signature verified.

    Raises:
        NotFound: there is none.
    """
    with context.store.transaction() as tx:
        row = destructions.find(tx, name) or destructions.find_receipt(tx, name.strip().upper())
        if row is None or row.state != "done":
            raise NotFound(f"没有销毁收条 {name}", f"there is no receipt {name}")
        said = {"destroyed_by": row.destroyed_by, "witness": row.witness, "receipt_no": row.receipt_no}
        document = _document(row, settled_at=row.settled_at, **said)
        signature = bytes(row.signature)
        genuine = tx.sealer.signed(document, signature)
    return Receipt(document=document, signature=signature.hex(), genuine=genuine)


def _document(row: Record, *, settled_at: datetime, **said: str) -> dict[str, Any]:
    """What is signed."""
    return {
        **said,
        "destruction": row.id,
        "reason": row.reason,
        "cards": row.items,
        "listed_by": row.listed_by,
        "listed_at": instant_text(row.listed_at),
        "destroyed_at": instant_text(settled_at),
    }


def _listed(tx: Tx, destruction_id: str) -> Record:
    row = destructions.find(tx, destruction_id, lock=True)
    if row is None:
        raise NotFound(f"没有销毁清单 {destruction_id}", f"no such list: {destruction_id}")
    if row.state != "listed":
        raise Conflict(
            f"销毁清单 {destruction_id} 状态为 {row.state}", f"list {destruction_id} is {row.state}, not listed"
        )
    return row


def _may_be_listed(wanted: Sequence[str], rows: Sequence[Record]) -> None:
    known = {row.card: row for row in rows}
    if strange := [card for card in wanted if card not in known]:
        raise Conflict(
            f"卡片 {strange[0]} 不在中心保管，或不是退回卡、废卡",
            f"card {strange[0]} is not in storage at the centre, or neither returned nor waste",
            code="not-in-storage",
        )
    for row in rows:
        if row.listed:
            raise Conflict(f"卡片 {row.card} 已在待销毁清单中", f"card {row.card} is listed already", code="listed")
        if not row.due:
            raise Conflict(
                f"卡片 {row.card} 保管期未满，不能销毁",
                f"card {row.card} is kept until {row.storage_until:%Y-%m-%dT%H:%M:%SZ}: its person may still ask for it",
                code="storage-runs",
            )


def _why(row: Record) -> str:
    """Why a card is destroyed, as the receipt says it."""
    return (
        str(row.reason or row.ending or row.card_status)
        if row.card_status == "produced"
        else f"{row.card_status}:{row.reason or 'found'}"
    )


def _end_applications(
    context: Context,
    tx: Tx,
    cards: Sequence[Record],
    apps: dict[str, Claimed],
    *,
    why: str,
    actor: str,
    now: datetime,
) -> None:
    """What the destruction of cards that were not void means: no more of their applications, nor, perhaps, of their accounts."""
    ending: dict[str, Claimed] = {}
    unused: dict[str, str] = {}
    for card in cards:
        claimed = apps[card.application_id]
        if card.status == "produced" and claimed.application.status == "returned":
            ending[card.application_id] = claimed
            if policy_of(context, claimed).returned.close_account.value != "never":
                unused[card.id] = "destroyed"
    closing.close_unused(tx, unused, actor=actor, now=now)
    told = [moved_card_event("card.destroyed", card, apps[card.application_id], receipt_no=why) for card in cards]
    outbox.append(tx, told, now=now)
    move(tx, ending, "destroyed", now=now, actor=actor, why=why)
    timers.cancel(tx, list(ending), now=now)
