"""Bank accounts, and the instructions of the account stage: to open one, and to bind a card to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Column, Text, and_, bindparam, exists, func, literal, or_, select, true, union_all, update

from pipeline.identifiers import new_id
from pipeline.ports import Key
from pipeline.stages.account import AccountOpened, BankCall, CallSettled, CardBound
from pipeline.stages.base import AccountFact, CallFact
from pipeline.store import tables as t
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant

_ID = Column("id", Text)
_CALL = (Column("key", Text), Column("application_id", Text), Column("system", Text), Column("operation", Text))


def open_accounts(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, AccountFact]:
    """By application: the open account its person has at its bank."""
    asked = given(tx, _ID)
    c = t.external_calls.c
    closing = exists(
        select(c.key).where(
            c.account_id == t.accounts.c.id,
            c.operation == "close_account",
            or_(c.state.not_in(("done", "declined", "closed")), c.held == true()),
        )
    )
    shown = (t.accounts.c.id, t.accounts.c.sealed, t.accounts.c.application_id, closing.label("closing"))
    rows = tx.conn.execute(
        select(t.applications.c.id.label("application"), *shown)
        .join(
            t.accounts,
            (t.accounts.c.person_id == t.applications.c.person_id)
            & (t.accounts.c.bank_code == t.applications.c.bank_code)
            & (t.accounts.c.status == "open"),
        )
        .where(t.applications.c.id.in_(select(asked.c.id))),
        {"given": params([{"id": i} for i in application_ids])},
    ).all()
    used = _numbers_of_cards(tx, sorted({row.id for row in rows}))
    found = {}
    for row in rows:
        clear = tx.sealer.open(row.sealed, bound_to=f"accounts/{row.id}")
        found[row.application] = AccountFact(
            id=row.id,
            bank_card_number=clear["card_number"],
            account_ref=clear["account_ref"],
            closing=bool(row.closing),
            opened_for=row.application_id,
            used=clear["card_number"] in used[row.id],
        )
    return found


def _numbers_of_cards(tx: Tx, account_ids: Sequence[str]) -> Mapping[str, frozenset[str]]:
    """By account: the bank card numbers that cards were made with, void and destroyed ones too."""
    found: dict[str, frozenset[str]] = defaultdict(frozenset)
    if not account_ids:
        return found
    asked = given(tx, _ID)
    c = t.cards.c
    rows = tx.conn.execute(
        select(c.id, c.account_id, c.sealed).where(c.account_id.in_(select(asked.c.id)), c.sealed.is_not(None)),
        {"given": params([{"id": i} for i in account_ids])},
    )
    for row in rows:
        found[row.account_id] |= {number_of_card(tx, row.id, row.sealed)}
    return found


def number_of_card(tx: Tx, card_id: str, sealed: bytes) -> str:
    """The bank card number a card was made with."""
    return str(tx.sealer.open(sealed, bound_to=f"cards/{card_id}")["bank_card_number"])


def calls(tx: Tx, application_ids: Sequence[str]) -> Mapping[str, tuple[CallFact, ...]]:
    """By application: what its bank was asked to open for its person, and to bind for itself, oldest first."""
    asked = given(tx, _ID)
    a, c = t.applications.c, t.external_calls.c
    opened = and_(c.person_id == a.person_id, c.system == a.bank_code, c.operation == "open_account")
    bound = and_(c.application_id == a.id, c.operation == "bind_card")
    told = (c.key, c.state, c.created_at, c.tries, c.operation, c.expected_by)
    query = select(a.id.label("application"), *told)
    mine = a.id.in_(select(asked.c.id))
    both = union_all(
        query.join(t.external_calls, opened).where(mine), query.join(t.external_calls, bound).where(mine)
    ).subquery()
    rows = tx.conn.execute(
        select(both).order_by(both.c.created_at, both.c.key), {"given": params([{"id": i} for i in application_ids])}
    )
    found: dict[str, tuple[CallFact, ...]] = {}
    for row in rows:
        fact = CallFact(
            key=row.key,
            state=row.state,
            created_at=row.created_at,
            tries=row.tries,
            operation=row.operation,
            expected_by=row.expected_by,
        )
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


def lease(tx: Tx, keys: Sequence[Key], *, token: str, until: datetime) -> None:
    """Calls are this process's to ask about, until then; their rows are locked."""
    if not keys:
        return
    asked = given(tx, Column("key", Text))
    c = t.external_calls.c
    tx.conn.execute(
        update(t.external_calls)
        .where(c.key.in_(select(asked.c.key)))
        .values(lease_token=token, lease_until=bindparam("until", type_=Instant)),
        {"given": params([{"key": key} for key in keys]), "until": until},
    )


def write_settled(tx: Tx, facts: Sequence[CallSettled], *, now: datetime) -> None:
    """What became of calls. The hour by which a bank meant to answer stays until it names another."""
    rows = given(tx, Column("key", Text), Column("state", Text), Column("code", Text), Column("expected_by", Instant))
    c = t.external_calls.c
    tx.conn.execute(
        update(t.external_calls)
        .where(c.key == rows.c.key)
        .values(
            state=rows.c.state,
            code=rows.c.code,
            expected_by=func.coalesce(rows.c.expected_by, c.expected_by),
            settled_at=bindparam("now", type_=Instant),
            lease_token=None,  # whoever else was asking about it has nothing to add
            lease_until=None,
        ),
        {
            "given": params(
                [{"key": f.key, "state": f.state, "code": f.code, "expected_by": f.expected_by} for f in facts]
            ),
            "now": now,
        },
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


def write_bound(tx: Tx, facts: Sequence[CardBound], *, now: datetime) -> None:
    """Accounts whose card is another one from now on."""
    numbers = {fact.account_id: fact.done.card_number for fact in facts}
    asked = given(tx, _ID)
    c = t.accounts.c
    rows = tx.conn.execute(
        select(c.id, c.sealed).where(c.id.in_(select(asked.c.id))).order_by(c.id).with_for_update(),
        {"given": params([{"id": i} for i in numbers])},
    ).all()
    values = []
    for row in rows:
        bound_to = f"accounts/{row.id}"
        clear = tx.sealer.open(row.sealed, bound_to=bound_to) | {"card_number": numbers[row.id]}
        values.append({"b_id": row.id, "b_sealed": tx.sealer.seal(clear, bound_to=bound_to)})
    tx.conn.execute(update(t.accounts).where(c.id == bindparam("b_id")).values(sealed=bindparam("b_sealed")), values)
