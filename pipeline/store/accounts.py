"""Bank accounts and the instructions that opened them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Column, Text, bindparam, literal, select, true, update

from pipeline.identifiers import new_id
from pipeline.stages.account import AccountOpened, BankCall, CallSettled
from pipeline.stages.base import AccountFact, CallFact
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant

_ID = Column("id", Text)
_CALL = (Column("key", Text), Column("application_id", Text), Column("system", Text), Column("operation", Text))


def open_accounts(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, AccountFact]:
    """By application: the open account its person has at its bank."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(t.applications.c.id.label("application"), t.accounts.c.id, t.accounts.c.sealed)
        .join(
            t.accounts,
            (t.accounts.c.person_id == t.applications.c.person_id)
            & (t.accounts.c.bank_code == t.applications.c.bank_code)
            & (t.accounts.c.status == "open"),
        )
        .where(t.applications.c.id.in_(select(asked.c.id))),
        {"given": params([{"id": i} for i in application_ids])},
    )
    return {
        row.application: AccountFact(
            id=row.id, bank_card_number=tx.sealer.open(row.sealed, bound_to=f"accounts/{row.id}")["card_number"]
        )
        for row in rows
    }


def calls(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, tuple[CallFact, ...]]:
    """By application: what its bank was asked for its person, oldest first."""
    asked = given(tx, _ID)
    c = t.external_calls.c
    rows = tx.conn.execute(
        select(t.applications.c.id.label("application"), c.key, c.state, c.created_at, c.tries)
        .join(
            t.external_calls,
            (c.person_id == t.applications.c.person_id) & (c.system == t.applications.c.bank_code),
        )
        .where(t.applications.c.id.in_(select(asked.c.id)), c.operation == "open_account")
        .order_by(c.created_at, c.key),
        {"given": params([{"id": i} for i in application_ids])},
    )
    found: dict[str, tuple[CallFact, ...]] = {}
    for row in rows:
        fact = CallFact(key=row.key, state=row.state, created_at=row.created_at, tries=row.tries)
        found[row.application] = (*found.get(row.application, ()), fact)
    return found


def intend(tx: Tx, wanted: Mapping[str, BankCall], *, now: datetime) -> Mapping[str, object]:
    """Commit the intent to call before the call. A call that was surely not received becomes an intent again."""
    rows = given(tx, *_CALL)
    a = t.applications.c
    names = ["key", "application_id", "person_id", "system", "operation", "state", "tries", "created_at"]
    source = (
        select(
            rows.c.key,
            rows.c.application_id,
            a.person_id,
            rows.c.system,
            rows.c.operation,
            bindparam("state", "intent", type_=Text),
            literal(1),
            bindparam("now", type_=Instant),
        )
        .join(t.applications, a.id == rows.c.application_id)
        .where(true())
    )
    c = t.external_calls.c
    insert = upserting(tx, t.external_calls).from_select(names, source)
    statement = insert.on_conflict_do_update(
        index_elements=[c.key],
        set_={"state": "intent", "tries": c.tries + 1, "created_at": insert.excluded.created_at},
        where=c.state == "not_received",
    )
    values = [
        {"key": w.key, "application_id": i, "system": w.system, "operation": w.operation} for i, w in wanted.items()
    ]
    tx.conn.execute(statement, {"given": params(values), "now": now})
    return dict.fromkeys(wanted, True)


def write_settled(tx: Tx, facts: Sequence[CallSettled], *, now: datetime) -> None:
    """What became of calls."""
    rows = given(tx, Column("key", Text), Column("state", Text), Column("code", Text))
    c = t.external_calls.c
    tx.conn.execute(
        update(t.external_calls)
        .where(c.key == rows.c.key)
        .values(state=rows.c.state, code=rows.c.code, settled_at=bindparam("now", type_=Instant)),
        {"given": params([{"key": f.key, "state": f.state, "code": f.code} for f in facts]), "now": now},
    )


def write_opened(tx: Tx, facts: Sequence[AccountOpened], *, now: datetime) -> None:
    """Accounts the bank says it opened. The same one told twice is one; a second open one is refused by the database."""
    rows = []
    for fact in facts:
        account_id = new_id("acc_", now=now, random=tx.random)
        clear = {
            "account_ref": fact.done.account_ref,
            "card_number": fact.done.card_number,
            "account_class": fact.done.account_class,
        }
        rows.append(
            {
                "id": account_id,
                "person_id": fact.person_id,
                "bank_code": fact.bank_code,
                "application_id": fact.application_id,
                "key": fact.key,
                "generation": fact.generation,
                "status": "open",
                "sealed": tx.sealer.seal(clear, bound_to=f"accounts/{account_id}"),
                "opened_at": now,
            }
        )
    tx.conn.execute(upserting(tx, t.accounts).on_conflict_do_nothing(index_elements=["key"]), rows)
