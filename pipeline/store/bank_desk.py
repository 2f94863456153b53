"""What the bank desk gives by itself: instructions about accounts that exist, in each account's own order.

Whoever touches an account and its calls locks the account first, then the calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)

from pipeline.errors import Defect
from pipeline.ports import (
    ActivateFinancial,
    CardProduced,
    CloseAccount,
    FreezeFinancial,
    Instruction,
    Key,
    ReleaseFinancial,
    UpdateHolder,
)
from pipeline.store import tables as t
from pipeline.store import unclaimed
from pipeline.store.accounts import lease, number_of_card
from pipeline.store.applications import person_from_json
from pipeline.store.engine import Tx, given, params, upserting
from pipeline.store.types import Instant, Record

_ID = Column("id", Text)
_KEY = Column("key", Text)
_NOW = bindparam("now", type_=Instant)
e = t.external_calls.c
k = t.accounts.c
c = t.cards.c

# Written into the statement word for word: a partial index is used only where its own condition stands.
_OVER = [literal_column(f"'{state}'", Text) for state in ("done", "declined", "closed")]


def _open(call: Any) -> ColumnElement[bool]:
    return and_(call.seq.is_not(None), call.state.not_in(_OVER))


# ---------------------------------------------------------------------------------------------------------- instructing


def lock(tx: Tx, account_ids: Sequence[str]) -> Mapping[str, Record]:
    """Accounts by id, locked until commit."""
    asked = given(tx, _ID)
    rows = tx.conn.execute(
        select(t.accounts).where(k.id.in_(select(asked.c.id))).order_by(k.id).with_for_update(),
        {"given": params([{"id": i} for i in account_ids])},
    )
    return {row.id: row for row in rows}


def told(tx: Tx, account_id: str) -> Sequence[Record]:
    """What was instructed about an account and holds: not what the bank declined or what came too late. In order."""
    stands = or_(e.state.not_in(("declined", "closed")), e.held == true())
    query = select(e.operation, e.card_id, e.state, e.held).where(e.account_id == account_id, e.seq.is_not(None))
    return tx.conn.execute(query.where(stands).order_by(e.seq)).all()


def add(
    tx: Tx, account: Record, *, key: Key, operation: str, card_id: str | None, reason: str, actor: str, now: datetime
) -> None:
    """Commit the intent to instruct the bank about an account that the caller has locked; it comes after all earlier ones."""
    last = tx.conn.execute(select(func.max(e.seq)).where(e.account_id == account.id)).scalar()
    application = select(c.application_id).where(c.id == card_id).scalar_subquery()
    tx.conn.execute(
        insert(t.external_calls).values(
            key=key,
            application_id=func.coalesce(application, account.application_id),
            person_id=account.person_id,
            system=account.bank_code,
            operation=operation,
            state="intent",
            tries=0,
            created_at=now,
            account_id=account.id,
            card_id=card_id,
            seq=(last or 0) + 1,
            held=False,
            reason=reason,
            actor=actor,
        )
    )


def intended(key: Any, operation: str, *, reason: Any, actor: str) -> Mapping[str, Any]:
    """The columns of an intent about accounts and their cards, for a selection of both: the last in each account's list.

    The accounts are locked, and each has one card in the selection. Binds `now`.
    """
    earlier = t.external_calls.alias("earlier").c
    last = select(func.max(earlier.seq)).where(earlier.account_id == k.id).scalar_subquery()
    return {
        "key": key,
        "application_id": c.application_id,
        "person_id": c.person_id,
        "system": k.bank_code,
        "operation": literal(operation),
        "state": literal("intent"),
        "tries": literal(0),
        "created_at": _NOW,
        "account_id": k.id,
        "card_id": c.id,
        "seq": func.coalesce(last, 0) + 1,
        "held": false(),
        "reason": reason,
        "actor": literal(actor),
    }


def tell_produced(tx: Tx, card_ids: Sequence[str], *, now: datetime) -> None:
    """Cards were made: their banks are to be told, each once, of those that carry an account."""
    asked = {"given": params([{"id": i} for i in card_ids])}
    cards = given(tx, _ID)
    mine = and_(k.id == c.account_id, k.status == "open", c.id.in_(select(cards.c.id)))
    tx.conn.execute(select(k.id).join(t.cards, mine).order_by(k.id).with_for_update(of=t.accounts), asked).all()
    key = literal("cp-") + func.substr(c.id, len("card_") + 1)
    columns = intended(key, "card_produced", reason=literal("personalised"), actor="engine")
    source = select(*columns.values()).select_from(t.cards.join(t.accounts, mine)).where(true())
    statement = upserting(tx, t.external_calls).from_select(list(columns), source)
    tx.conn.execute(statement.on_conflict_do_nothing(index_elements=[e.key]), {**asked, "now": now})


# --------------------------------------------------------------------------------------------------------------- giving


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A call whose turn it is.

    `asked`: it may have been given before, so the bank is asked about it. `since`: from when on its end is unknown then.
    `instruction` None: it cannot be made up any more. `outdated`: the card it tells of is not the account's card any more.
    """

    key: Key
    bank_code: str
    account_id: str
    operation: str
    state: str
    asked: bool
    since: datetime | None
    expected_by: datetime | None
    tries: int
    account_ref: str
    instruction: Instruction | None
    outdated: bool = False


def claim(tx: Tx, *, token: str, now: datetime, until: datetime, limit: int) -> list[Due]:
    """Take calls that are due, of every account only the oldest that is not settled: one that is held keeps the later ones waiting."""
    older = t.external_calls.alias("older").c
    waits = exists(
        select(older.key).where(
            older.account_id == e.account_id, older.seq < e.seq, or_(_open(older), older.held == true())
        )
    )
    due = or_(e.next_try_at.is_(None), e.next_try_at <= _NOW)
    free = or_(e.lease_until.is_(None), e.lease_until <= _NOW)
    person = t.persons.c.sealed.label("person_sealed")
    card = (c.blank_serial, c.chip_id, c.issued_on, c.expires_on, c.sealed.label("card_sealed"))
    rows = tx.conn.execute(
        select(*t.external_calls.c, k.sealed, k.application_id.label("opened_for"), person, *card)
        .join(t.accounts, k.id == e.account_id)
        .join(t.persons, t.persons.c.id == k.person_id)
        .outerjoin(t.cards, c.id == e.card_id)
        .where(_open(e), e.held == false(), due, free, ~waits)
        .order_by(func.coalesce(e.next_try_at, e.created_at), e.key)
        .limit(limit)
        .with_for_update(skip_locked=True, of=t.external_calls),
        {"now": now},
    ).all()
    lease(tx, [row.key for row in rows], token=token, until=until)
    return [_due(tx, row) for row in rows]


def _due(tx: Tx, row: Record) -> Due:
    # Who held the call and did not settle it may have given it, up to the end of the lease.
    deserted = row.lease_token is not None
    asked = deserted or row.state in ("unknown", "pending")
    account_ref, instruction, outdated = _instruction(tx, row)
    return Due(
        key=row.key,
        bank_code=row.system,
        account_id=row.account_id,
        operation=row.operation,
        state=row.state,
        asked=asked,
        since=None if not asked else row.lease_until if deserted else row.settled_at,
        expected_by=row.expected_by,
        tries=row.tries,
        account_ref=account_ref,
        instruction=instruction,
        outdated=outdated,
    )


_OF_THE_CARD_IN_USE = ("card_produced", "activate_financial")


def _instruction(tx: Tx, row: Record) -> tuple[str, Instruction | None, bool]:
    """The bank's name for the account, and the instruction: None where what it needs can no longer be read.

    A card is named by the number it was made with: what is told again is the same to the letter, whatever was bound meanwhile.
    """
    try:
        account = tx.sealer.open(row.sealed, bound_to=f"accounts/{row.account_id}")
        number = account["card_number"] if row.card_id is None else _number(tx, row)
        outdated = row.operation in _OF_THE_CARD_IN_USE and number != account["card_number"]
        return account["account_ref"], _made(tx, row, account["account_ref"], number), outdated
    except Defect:
        return "", None, False


def _number(tx: Tx, row: Record) -> str:
    if row.card_sealed is None:
        raise Defect("a card with an account, but without its number")
    return number_of_card(tx, row.card_id, row.card_sealed)


def _made(tx: Tx, row: Record, account_ref: str, number: str) -> Instruction:
    who: dict[str, Any] = {"key": row.key, "bank_code": row.system, "account_ref": account_ref}
    match row.operation:
        case "card_produced":
            return CardProduced(
                **who,
                card_number=number,
                chip_id=row.chip_id,
                card_serial=row.blank_serial,
                issued=row.issued_on,
                expires=row.expires_on,
            )
        case "activate_financial":
            return ActivateFinancial(**who, card_number=number)
        case "freeze_financial":
            return FreezeFinancial(**who, card_number=number, reason=row.reason)
        case "release_financial":
            return ReleaseFinancial(**who, card_number=number, reason=row.reason)
        case "update_holder":
            person = tx.sealer.open(row.person_sealed, bound_to=f"persons/{row.person_id}")
            return UpdateHolder(**who, holder=person_from_json(person))
        case "close_account":
            return CloseAccount(**who, reason=row.reason)
    raise Defect(f"the desk gives no {row.operation}")


# ------------------------------------------------------------------------------------------------------------- settling


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What is known of a call from now on. A held one waits for a person; `tries` counts what was in vain in a row."""

    key: Key
    state: str
    held: bool = False
    code: str | None = None
    next_try_at: datetime | None = None
    expected_by: datetime | None = None
    tries: int = 0


_SETTLED = (
    _KEY,
    Column("state", Text),
    Column("held", Boolean),
    Column("code", Text),
    Column("next_try_at", Instant),
    Column("expected_by", Instant),
    Column("tries", Integer),
)


def settle(
    tx: Tx, calls: Sequence[Settled], *, accounts: Sequence[str], token: str | None, now: datetime
) -> frozenset[Key]:
    """Write what became of calls about these accounts, and of the accounts; returns the keys that were still the token's.

    `settled_at` tells since when a call has been in its state.
    """
    lock(tx, accounts)
    rows = given(tx, *_SETTLED)
    r = rows.c
    held_by = e.lease_token == bindparam("token", type_=Text) if token else e.lease_token.is_(None)
    done = tx.conn.execute(
        update(t.external_calls)
        .where(e.key == r.key, held_by, or_(e.state.not_in(_OVER), e.held == true()))
        .values(
            state=r.state,
            held=r.held,
            code=r.code,
            next_try_at=r.next_try_at,
            expected_by=func.coalesce(r.expected_by, e.expected_by),
            tries=r.tries,
            settled_at=case((e.state == r.state, func.coalesce(e.settled_at, _NOW)), else_=_NOW),
            lease_token=None,
            lease_until=None,
        )
        .returning(e.key),
        {
            "given": params([{name.name: getattr(call, name.name) for name in _SETTLED} for call in calls]),
            "now": now,
            **({"token": token} if token else {}),
        },
    )
    ours = frozenset(done.scalars())
    _take_effect(tx, [call.key for call in calls if call.key in ours and call.state == "done"], now=now)
    return ours


_EFFECTS: Mapping[str, Mapping[str, Any]] = {
    "freeze_financial": {"frozen_at": _NOW},
    "release_financial": {"frozen_at": None},
    "close_account": {"status": "closed", "closed_at": _NOW},
}


def _take_effect(tx: Tx, keys: Sequence[Key], *, now: datetime) -> None:
    """What the bank did to accounts; what was still to be said about one that has ended is said no more."""
    if not keys:
        return
    asked = given(tx, _KEY)
    values = {"given": params([{"key": key} for key in keys])}
    for operation, columns in _EFFECTS.items():
        about = select(e.account_id).where(e.key.in_(select(asked.c.key)), e.operation == operation)
        timed = {"now": now} if any(value is _NOW for value in columns.values()) else {}
        tx.conn.execute(update(t.accounts).where(k.id.in_(about)).values(**columns), {**values, **timed})
    ended = select(k.id).join(t.external_calls, e.account_id == k.id)
    ended = ended.where(e.key.in_(select(asked.c.key)), e.operation == "close_account")
    tx.conn.execute(
        update(t.external_calls)
        .where(e.account_id.in_(ended), _open(e), e.lease_token.is_(None))
        .values(state="closed", held=False, settled_at=_NOW),
        {**values, "now": now},
    )


# --------------------------------------------------------------------------------------------------------- late replies


def cursors(tx: Tx) -> Mapping[str, str]:
    """By bank: how far its late replies were read."""
    return {row.bank_code: row.cursor for row in tx.conn.execute(select(t.bank_cursors))}


def move_cursor(tx: Tx, bank_code: str, to: str, *, now: datetime) -> None:
    """They were read so far."""
    values = {"cursor": to, "at": now}
    statement = upserting(tx, t.bank_cursors).values(bank_code=bank_code, **values)
    tx.conn.execute(statement.on_conflict_do_update(index_elements=["bank_code"], set_=values))


def wake(tx: Tx, keys: Sequence[Key], *, now: datetime) -> tuple[int, bool]:
    """Whoever waits for the answer to one of these calls asks now: how many were woken, and whether somebody is just asking."""
    asked = given(tx, _KEY)
    values = {"given": params([{"key": key} for key in keys])}
    named = e.key.in_(select(asked.c.key))
    a = t.applications.c
    waiting = exists(select(e.key).where(named, e.seq.is_(None), e.person_id == a.person_id, e.system == a.bank_code))
    running = exists(select(a.id).where(a.stage == "account", a.work == "running", waiting))
    leased = exists(select(e.key).where(named, e.lease_token.is_not(None)))
    # Before anybody is woken: who ends his asking in between is waiting by then, and woken. Asked afterwards he would be neither.
    busy = bool(tx.conn.execute(select(or_(running, leased)), values).scalar())
    calls = tx.conn.execute(
        update(t.external_calls)
        .where(named, or_(_open(e), unclaimed.left()), e.held == false(), e.lease_token.is_(None))
        .values(next_try_at=_NOW)
        .returning(e.key),
        {**values, "now": now},
    ).all()
    applications = tx.conn.execute(
        update(t.applications)
        .where(a.stage == "account", a.work == "waiting", waiting)
        .values(work="ready", next_try_at=None)
        .returning(a.id),
        values,
    ).all()
    return len(calls) + len(applications), busy
