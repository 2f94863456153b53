"""Accounts and bindings that nobody asks about any more: the application that wanted them was withdrawn while the bank was at it.

    claim      one tx: calls of the account stage without an application there, on a lease
    find       the bank, outside any transaction: asked about, never given
    settle     one tx: what became of the calls, and the account that the bank opened or the number that it gave

So an account that a bank keeps is always known here: the person's next application takes it (KL-10).
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pipeline.errors import NeedsOperator, ZhikaError
from pipeline.ports import Declined, Done, Key, Pending
from pipeline.services.bank_desk import LEASE, Banks
from pipeline.services.context import Context
from pipeline.stages.account import AccountOpened, CardBound
from pipeline.stages.bank_calls import Patience
from pipeline.store import accounts, audit, bank_desk, unclaimed
from pipeline.store.bank_desk import Settled
from pipeline.store.engine import Tx
from pipeline.store.types import Record

log = logging.getLogger("zhika.bank_desk")
CHUNK = 100
AGAIN = timedelta(minutes=5)
"""When a bank is asked again that gave no answer. It is asked for as long as it takes."""


def ask(context: Context, banks: Banks, *, limit: int = CHUNK, patience: Patience | None = None) -> Counter[str]:
    """Ask about what is due; returns how many calls became what, `lost` those that an application has asked about meanwhile.

    A call is left to whoever gave it until a worker's lease is over and nothing can be on its way to the bank any more: what the
    bank has not seen by then it never will.

    Raises:
        TransientError: the database is away.
    """
    patience = patience or Patience()
    token = f"unclaimed/{secrets.token_hex(8)}"
    now = context.now()
    before = now - LEASE - patience.settle_after
    with context.store.transaction() as tx:
        rows = unclaimed.claim(tx, token=token, now=now, until=now + LEASE, given_before=before, limit=limit)
    by_bank: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        by_bank[row.system].append(row)
    answers: dict[Key, Any] = {}
    for code, calls in by_bank.items():
        answers |= _found(context, banks, code, [call.key for call in calls], patience)
    if not rows:
        return Counter()
    now = context.now()
    settled = {row.key: _judged(row, answers, now) for row in rows}
    with context.store.transaction() as tx:
        ours = bank_desk.settle(tx, list(settled.values()), accounts=[], token=token, now=now)
        done = [(row, answers[row.key]) for row in rows if row.key in ours and settled[row.key].state == "done"]
        _write(tx, done, now=now)
    return Counter(one.state if one.key in ours else "lost" for one in settled.values())


def _found(context: Context, banks: Banks, code: str, keys: Sequence[Key], patience: Patience) -> Mapping[Key, Any]:
    """A bank's answers; of a bank that gave none they are left out."""
    try:
        return banks(code).find(keys, deadline=context.now() + patience.deadline)
    except NeedsOperator:  # not connected
        return {}
    except ZhikaError as error:
        log.info("bank %s: %s; asked again later", code, type(error).__name__)
        return {}
    except Exception as error:
        log.error("bank %s: %s", code, type(error).__name__, exc_info=True)
        return {}


def _judged(call: Record, answers: Mapping[Key, Any], now: datetime) -> Settled:
    """What a bank's answer makes of a call. That the bank never saw it ends it; no answer leaves it as it is."""
    if call.key in answers:
        match answers[call.key]:
            case None:
                return Settled(key=call.key, state="not_received", tries=call.tries)
            case Done():
                return Settled(key=call.key, state="done", tries=call.tries)
            case Declined(code=code):
                return Settled(key=call.key, state="declined", code=code, tries=call.tries)
            case Pending(expected_by=by):
                again = max(by, now + AGAIN)
                return Settled(key=call.key, state="pending", expected_by=by, next_try_at=again, tries=call.tries)
    state = "pending" if call.state == "pending" else "unknown"
    return Settled(key=call.key, state=state, next_try_at=now + AGAIN, tries=call.tries)


def _write(tx: Tx, done: Sequence[tuple[Record, Done]], *, now: datetime) -> None:
    """The accounts that were opened, and the numbers that were given, unless a later one was."""
    opened = [
        AccountOpened(
            application_id=call.application_id,
            person_id=call.person_id,
            bank_code=call.system,
            key=call.key,
            generation=int(call.key.rpartition("-")[2]),
            done=reply,
        )
        for call, reply in done
        if call.operation == "open_account"
    ]
    if opened:
        accounts.write_opened(tx, opened, now=now)
    bindings = [(call, reply) for call, reply in done if call.operation == "bind_card"]
    if bindings:
        about = accounts.open_accounts(tx, [call.application_id for call, _ in bindings])
        past = unclaimed.outlived(tx, [call.key for call, _ in bindings])
        bound = [
            CardBound(account_id=account.id, done=reply)
            for call, reply in bindings
            if call.key not in past
            and (account := about.get(call.application_id)) is not None
            and account.account_ref == reply.account_ref
        ]
        if bound:
            accounts.write_bound(tx, bound, now=now)
    for call, _ in done:
        audit.append(tx, actor="bank-desk", action="bank.found", target=call.key, now=now)
