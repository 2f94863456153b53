"""What people look at. Read-only; nothing here decides anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, exists, func, or_, select

from pipeline.application import LANES
from pipeline.states import STAGES
from pipeline.store import tables as t
from pipeline.store.engine import Tx
from pipeline.store.types import Record

a = t.applications.c
s = t.submissions.c
n = t.notices.c


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage and lane: how many rows stand where, and since when the oldest that could go on waits."""

    stage: str
    lane: str
    ready: int = 0
    running: int = 0
    waiting: int = 0
    held: int = 0
    oldest: datetime | None = None
    paused: bool = False


def stages(tx: Tx) -> list[StageRow]:
    """Every stage and lane."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    oldest: dict[tuple[str, str], datetime] = {}
    query = (
        select(a.stage, a.lane, a.work, func.count().label("n"), func.min(a.updated_at).label("oldest"))
        .where(a.stage.is_not(None))
        .group_by(a.stage, a.lane, a.work)
    )
    names = {"ready": "ready", "queued": "ready", "running": "running", "reconcile": "running", "waiting": "waiting"}
    for row in tx.conn.execute(query):
        key = (row.stage, row.lane)
        name = names.get(row.work)
        if name is None:
            continue
        sums.setdefault(key, {})[name] = sums.get(key, {}).get(name, 0) + row.n
        if name in ("ready", "running"):
            oldest[key] = min(oldest.get(key, row.oldest), row.oldest)
    held = select(a.held_from, a.lane, func.count().label("n")).where(a.status == "held").group_by(a.held_from, a.lane)
    for row in tx.conn.execute(held):
        sums.setdefault((row.held_from, row.lane), {})["held"] = row.n
    stopped = {row.stage for row in tx.conn.execute(select(t.stage_control).where(t.stage_control.c.paused))}
    return [
        StageRow(
            stage=stage,
            lane=lane,
            paused=stage in stopped,
            oldest=oldest.get((stage, lane)),
            **sums.get((stage, lane), {}),
        )
        for stage in STAGES
        for lane in LANES
    ]


def by_status(tx: Tx) -> dict[str, int]:
    """Applications by status."""
    rows = tx.conn.execute(select(a.status, func.count().label("n")).group_by(a.status).order_by(a.status))
    return {row.status: row.n for row in rows}


def by_region_and_status(tx: Tx) -> dict[tuple[str, str], int]:
    """Applications by region code and status."""
    rows = tx.conn.execute(select(a.region, a.status, func.count().label("n")).group_by(a.region, a.status))
    return {(row.region, row.status): row.n for row in rows}


def deadlines(tx: Tx, *, now: datetime) -> tuple[int, int]:
    """Cards still to be made: in time, and late."""
    open_ = select(func.count()).select_from(t.applications).where(a.delivered_at.is_(None), a.work != "none")
    late = tx.conn.execute(open_.where(a.due_at < now)).scalar_one()
    return tx.conn.execute(open_).scalar_one() - late, late


def calls(tx: Tx) -> dict[str, int]:
    """Instructions to banks by state."""
    c = t.external_calls.c
    rows = tx.conn.execute(select(c.state, func.count().label("n")).group_by(c.state))
    return {row.state: row.n for row in rows}


def blanks(tx: Tx) -> list[Record]:
    """Blanks by type, location and state."""
    b = t.blanks.c
    return list(
        tx.conn.execute(
            select(b.type, b.location, b.state, func.count().label("n"))
            .group_by(b.type, b.location, b.state)
            .order_by(b.type, b.location, b.state)
        ).all()
    )


def accounts(tx: Tx) -> dict[str, int]:
    """Accounts by status."""
    c = t.accounts.c
    return {row.status: row.n for row in tx.conn.execute(select(c.status, func.count().label("n")).group_by(c.status))}


def cards_by_status(tx: Tx) -> dict[str, int]:
    """Cards by status."""
    c = t.cards.c
    rows = tx.conn.execute(select(c.status, func.count().label("n")).group_by(c.status))
    return {row.status: row.n for row in rows}


def verified_cards(tx: Tx) -> int:
    """Cards whose chip was read back and compared."""
    c = t.cards.c
    return tx.conn.execute(select(func.count()).select_from(t.cards).where(c.verified_at.is_not(None))).scalar_one()


def applications_with_card(tx: Tx) -> int:
    """Applications for which a card was made, once or again."""
    return tx.conn.execute(select(func.count(t.cards.c.application_id.distinct()))).scalar_one()


def outlets(tx: Tx) -> dict[str, str]:
    """Outlets that applications name, each with a region it serves."""
    rows = tx.conn.execute(select(a.outlet, func.min(a.region).label("region")).group_by(a.outlet).order_by(a.outlet))
    return {row.outlet: row.region for row in rows}


def endings(tx: Tx) -> dict[str, int]:
    """Applications whose card has come back to the centre, by their ending."""
    rows = tx.conn.execute(
        select(a.ending, func.count().label("n")).where(a.ending.is_not(None)).group_by(a.ending).order_by(a.ending)
    )
    return {row.ending: row.n for row in rows}


def destroyed(tx: Tx) -> int:
    """Cards that stand on the receipt of a destruction."""
    d, e = t.destructions.c, t.destruction_cards.c
    query = select(func.count()).select_from(t.destruction_cards).join(t.destructions, d.id == e.destruction_id)
    return tx.conn.execute(query.where(d.state == "done")).scalar_one()


def untold(tx: Tx) -> int:
    """What banks and outlets are still to be told: instructions, events without a place or not yet handed to a webhook, deliveries."""
    x, o, w, d = t.external_calls.c, t.outbox.c, t.webhook_endpoints.c, t.deliveries.c
    calls = (
        select(func.count())
        .select_from(t.external_calls)
        .where(x.seq.is_not(None), x.held.is_(False), x.state.not_in(("done", "declined", "closed")))
    )
    behind = (
        select(func.count())
        .select_from(t.outbox)
        .join(t.webhook_endpoints, (w.outlet == o.outlet) & (w.state == "enabled"))
        .where(o.position.is_(None) | (o.position > w.position))
    )
    owed = (
        select(func.count())
        .select_from(t.deliveries)
        .join(t.webhook_endpoints, w.id == d.endpoint_id)
        .where(w.state == "enabled", d.state.in_(("waiting", "sending")))
    )
    return sum(tx.conn.execute(query).scalar_one() for query in (calls, behind, owed))


def application_ids(
    tx: Tx, *, batch_ids: Sequence[str] = (), status: str | None = None, limit: int | None = None
) -> list[str]:
    """Ids of applications, oldest first."""
    query = select(a.id).order_by(a.id)
    if batch_ids:
        query = query.join(t.submissions, s.id == a.id).where(s.batch_id.in_(batch_ids))
    if status:
        query = query.where(a.status == status)
    return list(tx.conn.execute(query.limit(limit)).scalars())


def find(tx: Tx, name: str) -> str | None:
    """The application of an id, an acceptance number or an external reference."""
    query = select(s.id).where((s.id == name) | (s.acceptance_no == name) | (s.external_ref == name)).limit(1)
    return tx.conn.execute(query).scalar()


def history(tx: Tx, application_id: str) -> list[Record]:
    """An application's way, oldest first."""
    h = t.transitions.c
    return list(tx.conn.execute(select(t.transitions).where(h.application_id == application_id).order_by(h.seq)).all())


def card_row(tx: Tx, application_id: str) -> Record | None:
    """The application's card that is neither void nor destroyed; of an application that ended with its destruction, that one."""
    c = t.cards.c
    ended = exists(select(a.id).where(a.id == c.application_id, a.status == "destroyed"))
    its = or_(c.status.not_in(("voided", "destroyed")), and_(c.status == "destroyed", ended))
    query = select(t.cards).where(c.application_id == application_id, its).order_by(c.id.desc()).limit(1)
    return tx.conn.execute(query).first()


def card_of_chip(tx: Tx, chip_id: str) -> Record | None:
    """The unvoided card with this chip."""
    c = t.cards.c
    return tx.conn.execute(select(t.cards).where(c.chip_id == chip_id, c.status != "voided")).first()


def at_outlet(tx: Tx, outlet: str, *, statuses: Sequence[str]) -> list[Record]:
    """Cards an outlet holds whose application has one of these statuses: card, application, serial, status, collect-by."""
    c = t.cards.c
    return list(
        tx.conn.execute(
            select(
                c.id.label("card"),
                a.id.label("application"),
                s.acceptance_no,
                c.blank_serial,
                a.status,
                a.delivered_at,
                a.notified_at,
                a.collect_by,
            )
            .join(t.applications, a.id == c.application_id)
            .join(t.submissions, s.id == a.id)
            .where(c.custody == "outlet", c.place == outlet, c.status != "voided", a.status.in_(statuses))
            .order_by(c.id)
        ).all()
    )


def at_centre_counter(tx: Tx) -> list[Record]:
    """Urgent cards that wait at the centre's own counter (WH-8)."""
    c = t.cards.c
    return list(
        tx.conn.execute(
            select(c.id.label("card"), a.id.label("application"), c.blank_serial)
            .join(t.applications, a.id == c.application_id)
            .where(c.custody == "centre", c.status == "produced", a.priority == "urgent", a.status == "personalisation")
            .order_by(c.id)
        ).all()
    )


def outlets_with_cards(tx: Tx) -> list[str]:
    """Outlets that hold cards."""
    c = t.cards.c
    return list(tx.conn.execute(select(c.place).where(c.custody == "outlet").distinct().order_by(c.place)).scalars())


def fees_due(tx: Tx, application_id: str) -> int:
    """What is still to be paid, in fen."""
    f = t.fees.c
    query = select(func.coalesce(func.sum(f.amount_fen), 0)).where(
        f.application_id == application_id, f.status == "due"
    )
    return int(tx.conn.execute(query).scalar_one())


def ever_delivered(tx: Tx) -> int:
    """How often an application was delivered to its outlet."""
    h = t.transitions.c
    query = (
        select(func.count())
        .select_from(t.transitions)
        .where(h.to == "delivered", h.frm.not_in(("delivered", "collected")))
    )
    return tx.conn.execute(query).scalar_one()


def bundles(tx: Tx) -> list[Record]:
    """Bundles by direction and status."""
    b = t.bundles.c
    return list(
        tx.conn.execute(
            select(b.direction, b.status, func.count().label("n"))
            .group_by(b.direction, b.status)
            .order_by(b.direction.desc(), b.status)
        ).all()
    )


def cards_by_place(tx: Tx) -> dict[str, int]:
    """Cards by whose custody they are in."""
    c = t.cards.c
    rows = tx.conn.execute(select(c.custody, func.count().label("n")).group_by(c.custody).order_by(c.custody))
    return {row.custody: row.n for row in rows}


def discrepancies(tx: Tx) -> dict[str, int]:
    """What bundles held beyond or short of their lists: by kind, and how many of them are open."""
    d = t.discrepancies.c
    rows = tx.conn.execute(select(d.kind, d.state, func.count().label("n")).group_by(d.kind, d.state))
    found: dict[str, int] = {}
    for row in rows:
        found[row.kind] = found.get(row.kind, 0) + row.n
        if row.state == "open":
            found["open"] = found.get("open", 0) + row.n
    return found


def counter(tx: Tx) -> dict[str, int]:
    """What happened at the counters: notices given, hand-overs that stand, hand-overs that were undone."""
    h = t.hand_overs.c
    told = select(func.count(n.application_id.distinct())).select_from(t.notices).scalar_subquery()
    stand = select(func.count()).select_from(t.hand_overs).where(h.reverted_at.is_(None)).scalar_subquery()
    undone = select(func.count()).select_from(t.hand_overs).where(h.reverted_at.is_not(None)).scalar_subquery()
    row = tx.conn.execute(select(told.label("told"), stand.label("stand"), undone.label("undone"))).one()
    return {"notices": row.told, "hand_overs": row.stand, "undone": row.undone}


def deliveries(tx: Tx) -> dict[str, int]:
    """Deliveries to webhooks by state."""
    d = t.deliveries.c
    rows = tx.conn.execute(select(d.state, func.count().label("n")).group_by(d.state))
    return {row.state: row.n for row in rows}


def channels(tx: Tx) -> dict[str, int]:
    """Webhooks and outlet queues: how many are enabled, disabled, and refused by the broker at present."""
    w, q = t.webhook_endpoints.c, t.outlet_queues.c
    found = {
        f"webhooks_{row.state}": row.n
        for row in tx.conn.execute(select(w.state, func.count().label("n")).group_by(w.state))
    }
    found |= {
        f"queues_{row.state}": row.n
        for row in tx.conn.execute(select(q.state, func.count().label("n")).group_by(q.state))
    }
    refused = select(func.count()).select_from(t.outlet_queues).where(q.refused_since.is_not(None))
    return found | {"queues_refused": tx.conn.execute(refused).scalar_one()}
