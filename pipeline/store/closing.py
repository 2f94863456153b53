"""Accounts that nobody has use for any more: the bank is to close them, as a part of the act that ended their cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Column, Text, and_, exists, func, or_, select, true

from pipeline.identifiers import new_id
from pipeline.stages.collection import AccountUnused
from pipeline.states import LIVE
from pipeline.store import bank_desk
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.stock import IN_FORCE

_ID = Column("id", Text)
a = t.applications.c
c = t.cards.c
e = t.external_calls.c
k = t.accounts.c


def close_unused(tx: Tx, ended: Mapping[str, str], *, actor: str, now: datetime) -> int:
    """Instruct that the accounts of cards (by id, with the word the bank is told as its reason) are closed. Returns how many.

    One is left alone that was closed, or is told to be, and one that its person still uses: that another card in force carries,
    or that another live application at the bank may take (KL-10). Cards and applications that were given up count as none.
    Locks the accounts: applications and cards are locked before.
    """
    if not ended:
        return 0
    asked = {"given": params([{"id": i} for i in ended])}
    these = given(tx, _ID)
    named = c.id.in_(select(these.c.id))
    locked = tx.conn.execute(
        select(k.id, c.id.label("card"))
        .select_from(t.accounts)
        .join(t.cards, and_(k.id == c.account_id, named))
        .where(k.status == "open")
        .order_by(k.id, c.id)
        .with_for_update(of=t.accounts),
        asked,
    ).all()
    last = {row.id: row.card for row in locked}
    if not last:
        return 0
    told = given(tx, _ID, Column("key", Text), Column("reason", Text), name="told")
    card, application = t.cards.alias("another").c, t.applications.alias("another_one").c
    its = given(tx, _ID, name="ended")
    mine = t.cards.alias("mine").c
    in_force = exists(
        select(card.id)
        .join(t.applications, a.id == card.application_id)
        .where(
            card.account_id == k.id,
            card.status.in_(IN_FORCE),
            card.id.not_in(select(its.c.id)),
            func.coalesce(a.ending, "") != "abandoned",
        )
    )
    live = exists(
        select(application.id).where(
            application.person_id == k.person_id,
            application.bank_code == k.bank_code,
            application.status.in_(LIVE),
            func.coalesce(application.ending, "") != "abandoned",
            application.id.not_in(select(mine.application_id).where(mine.id.in_(select(its.c.id)))),
        )
    )
    holds = or_(e.state.not_in(("declined", "closed")), e.held == true())
    instructed = exists(select(e.key).where(e.account_id == k.id, e.operation == "close_account", holds))
    columns = bank_desk.intended(told.c.key, "close_account", reason=told.c.reason, actor=actor)
    source = (
        select(*columns.values())
        .select_from(told.join(t.cards, c.id == told.c.id).join(t.accounts, k.id == c.account_id))
        .where(k.status == "open", ~in_force, ~live, ~instructed)
    )
    rows = [
        {"id": i, "key": new_id("ca-", now=now, random=tx.random), "reason": ended[i]} for i in sorted(last.values())
    ]
    done = tx.conn.execute(
        upserting(tx, t.external_calls).from_select(list(columns), source),
        {"told": params(rows), "ended": asked["given"], "now": now},
    )
    return done.rowcount


def write_unused(tx: Tx, facts: Sequence[AccountUnused], *, now: datetime) -> None:
    """Applications have ended whose cards are void: the newest of each tells the account."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(c.application_id, func.max(c.id).label("card"))
        .where(c.application_id.in_(select(asked.c.id)), c.account_id.is_not(None))
        .group_by(c.application_id),
        {"given": params([{"id": fact.application_id} for fact in facts])},
    ).all()
    reasons = {fact.application_id: fact.reason for fact in facts}
    close_unused(tx, {row.card: reasons[row.application_id] for row in rows}, actor="engine", now=now)
