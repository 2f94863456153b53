"""The bank desk: gives the instructions that are due, asks about those whose end is not known, and compares books at night.

    claim      one tx: of every account the oldest call that is not settled, on a lease
    put        the bank, outside any transaction: asked about first, given when it is new or the bank never saw it
    settle     one tx: what became of the calls, and of the accounts they are about

A process that dies anywhere in between loses nothing: the lease ends, and the call is asked about before it is given again.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

from pipeline.clock import SHANGHAI
from pipeline.errors import Defect, NeedsOperator, OutcomeUnknown, TransientError, ZhikaError
from pipeline.ports import BankGateway, BankReply, Declined, Done, Key, Pending
from pipeline.services.context import Context
from pipeline.stages.bank_calls import UNKNOWN, WRONG_REPLY, Answered, BankRequest, NotYet, Patience, StillUnknown, put
from pipeline.store import bank_books, bank_desk
from pipeline.store.bank_desk import Due, Settled

log = logging.getLogger("zhika.bank_desk")
CHUNK = 100
LEASE = timedelta(seconds=120)
"""How long a chunk may take: two calls to each of its banks."""

BACK_OFF_S = (30, 60, 120, 300, 900)
"""Seconds before a call is tried again that met no bank; the last one repeats."""

STATEMENT_WITHIN = timedelta(seconds=60)
"""How long a bank may take for its list of a day."""

Banks = Callable[[str], BankGateway]
"""The gateway of a bank code. Raises `NeedsOperator` for a bank that is not connected."""


# --------------------------------------------------------------------------------------------------------------- giving


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of the calls that were due, by their new state; `held`, and `lost` to another holder, are counted as such."""

    calls: Counter[str] = field(default_factory=Counter)
    limit: int = CHUNK

    @property
    def busy(self) -> bool:
        """Whether there may be more to do at once."""
        return self.calls.total() >= self.limit


def run(context: Context, banks: Banks, *, limit: int = CHUNK, patience: Patience | None = None) -> Ran:
    """Give or ask about the calls that are due. Raises nothing that belongs to a single bank or call.

    Raises:
        TransientError: the database is away; what was given is asked about when the lease ends.
    """
    token = f"bank-desk/{secrets.token_hex(8)}"
    now = context.now()
    with context.store.transaction() as tx:
        due = bank_desk.claim(tx, token=token, now=now, until=now + LEASE, limit=limit)
    if not due:
        return Ran(limit=limit)
    patience = patience or Patience()
    by_bank: dict[str, list[Due]] = defaultdict(list)
    for call in due:
        by_bank[call.bank_code].append(call)
    answers: dict[Key, Answered] = {}
    for code, calls in by_bank.items():
        answers |= _asked(context, banks, code, calls, patience)
    now = context.now()
    settled = [judged(call, answers.get(call.key), now) for call in due]
    with context.store.transaction() as tx:
        accounts = sorted({call.account_id for call in due})
        ours = bank_desk.settle(tx, settled, accounts=accounts, token=token, now=now)
    ran = Ran(limit=limit)
    for one in settled:
        ran.calls["lost" if one.key not in ours else "held" if one.held else one.state] += 1
    if ran.calls["held"]:
        log.error("%d instructions to banks wait for a person: zhika bank list --held", ran.calls["held"])
    return ran


def _asked(
    context: Context, banks: Banks, code: str, calls: Sequence[Due], patience: Patience
) -> Mapping[Key, Answered]:
    """A bank's answers; what no gateway was called for is left out."""
    requests = [
        BankRequest(instruction=c.instruction, ask_only=c.asked, since=c.since, expected_by=c.expected_by)
        for c in calls
        if c.instruction is not None
    ]
    try:
        bank = banks(code)
    except ZhikaError as error:
        log.warning("bank %s: %s", code, type(error).__name__)
        return {}
    try:
        return put(bank, requests, clock=context.clock, patience=patience)
    except Exception as error:
        log.error("bank %s: %s", code, type(error).__name__, exc_info=True)
        return {request.instruction.key: OutcomeUnknown() for request in requests}


def judged(call: Due, answer: Answered | None, now: datetime) -> Settled:
    """What a bank's answer makes of a call. None: it was neither given nor asked about."""
    if call.instruction is None:
        return _held(call, "bank.no_data")
    tries = call.tries + 1
    later = now + timedelta(seconds=BACK_OFF_S[min(tries, len(BACK_OFF_S)) - 1])
    open_state = "unknown" if call.asked and call.state != "pending" else call.state
    match answer:
        case Done(account_ref=ref) if ref != call.account_ref:
            return _held(call, WRONG_REPLY.code)
        case Done():
            return Settled(key=call.key, state="done")
        case Declined(code=code):
            # That an older card was made or may be used, a bank may decline once the next one is bound: nobody needs that any more.
            return Settled(key=call.key, state="declined", held=not call.outdated, code=code)
        case Pending(expected_by=by):
            return Settled(key=call.key, state="pending", expected_by=by, next_try_at=max(by, later))
        case NotYet(until=until):
            return Settled(key=call.key, state="unknown", next_try_at=until)
        case StillUnknown():
            return _held(call, UNKNOWN.code)
        case None:
            return Settled(key=call.key, state=open_state, tries=tries, next_try_at=later)
        case TransientError():
            state = open_state if call.asked else "not_received"
            return Settled(key=call.key, state=state, tries=tries, next_try_at=later)
        case Defect() | NeedsOperator():
            return _held(call, "bank.defect")
        case _:
            state = open_state if call.asked else "unknown"
            return Settled(key=call.key, state=state, tries=tries, next_try_at=later)


def _held(call: Due, code: str) -> Settled:
    """For a person, who asks again or settles it; whatever the bank may have done is not known."""
    return Settled(key=call.key, state="unknown", held=True, code=code, tries=call.tries)


# --------------------------------------------------------------------------------------------------------- late replies


def collect(context: Context, banks: Banks, codes: Sequence[str], *, limit: int = 500) -> int:
    """Let each bank's gateway do what is due, and wake whoever waits for an answer that has come. Returns how many.

    The cursor moves in the transaction that wakes them, and only once nobody was just asking who may have asked too early: the same
    replies are then told again, which wakes who is still waiting.
    """
    woken = 0
    with context.store.transaction() as tx:
        cursors = bank_desk.cursors(tx)
    for code in codes:
        try:
            late = banks(code).collect(after=cursors.get(code), limit=limit)
        except NeedsOperator:  # not connected
            continue
        except ZhikaError as error:  # asked again within a second
            log.info("bank %s: late replies cannot be read: %s", code, type(error).__name__)
            continue
        except Exception as error:
            log.error("bank %s: late replies: %s", code, type(error).__name__, exc_info=True)
            continue
        if not late.keys and late.cursor in (None, cursors.get(code)):
            continue
        now = context.now()
        with context.store.transaction() as tx:
            count, busy = bank_desk.wake(tx, late.keys, now=now)
            if late.cursor is not None and not busy:
                bank_desk.move_cursor(tx, code, late.cursor, now=now)
            if count:
                tx.nudge()
        woken += count
    return woken


def codes_of(context: Context) -> tuple[str, ...]:
    """Every bank there is something to do with: those the regions have, and those that accounts are kept at."""
    with context.store.transaction() as tx:
        kept = bank_books.bank_codes(tx)
    return tuple(sorted(kept.union(*(policy.banks for policy in context.policies.cities()))))


# ------------------------------------------------------------------------------------------------------- reconciliation


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """A bank's books of a day beside ours: how many instructions agree, and the keys of those that do not.

    `different`: another end, or another account. `asked` False: the bank could not be asked, nothing was compared; `problem` tells
    in Chinese and English what a person has to do about that, where one has.
    """

    bank_code: str
    day: date
    agreed: int = 0
    ours_only: tuple[Key, ...] = ()
    theirs_only: tuple[Key, ...] = ()
    different: tuple[Key, ...] = ()
    asked: bool = True
    problem: str | None = None

    @property
    def count(self) -> int:
        return len(self.ours_only) + len(self.theirs_only) + len(self.different)


Standing = Mapping[Key, tuple[str, str | None]]
"""By key: the state of a call in our books, and the bank's name for its account where we know that."""


def compare(bank_code: str, day: date, ours: Standing, theirs: Mapping[Key, BankReply | None]) -> Differences:
    """Our books beside the bank's, where None is an instruction that the bank never saw."""
    seen = {key: reply for key, reply in theirs.items() if reply is not None}
    both = sorted(ours.keys() & seen.keys())
    different = tuple(key for key in both if not _agree(*ours[key], seen[key]))
    return Differences(
        bank_code=bank_code,
        day=day,
        agreed=len(both) - len(different),
        ours_only=tuple(sorted(ours.keys() - seen.keys())),
        theirs_only=tuple(sorted(seen.keys() - ours.keys())),
        different=different,
    )


def _agree(state: str, account_ref: str | None, reply: BankReply) -> bool:
    match reply:
        case Done():
            return state == "done" and account_ref in (None, reply.account_ref)
        case Declined():
            return state == "declined"
        case Pending():
            return state in ("unknown", "pending")


def reconcile(
    context: Context, banks: Banks, day: date, *, codes: Sequence[str] | None = None
) -> tuple[Differences, ...]:
    """Compare what each bank did on a civil day in China with what we know. Changes nothing.

    What we learnt that day and the bank did on another (it was asked about later) is asked for by key. A bank that is not connected
    is left out when there was nothing to do with it.

    Raises:
        TransientError: the database is away.
    """
    compared = (_reconciled(context, banks, code, day) for code in codes or codes_of(context))
    return tuple(one for one in compared if one is not None)


def _reconciled(context: Context, banks: Banks, code: str, day: date) -> Differences | None:
    """None: a bank that is not connected, and nothing was to do with it that day."""
    begin = datetime.combine(day, time.min, tzinfo=SHANGHAI)
    with context.store.transaction() as tx:
        ours = dict(bank_books.settled_between(tx, code, begin, begin + timedelta(days=1)))
    try:
        bank = banks(code)
        theirs: dict[Key, BankReply | None] = dict(bank.statement(day, deadline=context.now() + STATEMENT_WITHIN))
        if missing := sorted(ours.keys() - theirs.keys()):
            for key, reply in bank.find(missing, deadline=context.now() + STATEMENT_WITHIN).items():
                if isinstance(reply, Exception):
                    raise reply
                theirs[key] = reply
    except ZhikaError as error:
        if isinstance(error, NeedsOperator) and not ours:
            return None
        problem = f"{error.zh} / {error.en}" if isinstance(error, NeedsOperator) else None
        log.warning("bank %s: its books of %s cannot be read: %s", code, day, problem or type(error).__name__)
        return Differences(bank_code=code, day=day, asked=False, problem=problem)
    with context.store.transaction() as tx:
        ours |= bank_books.standing(tx, code, list(theirs))
        others = bank_books.elsewhere(tx, code, list(theirs))
    theirs = {key: reply for key, reply in theirs.items() if key not in others}
    return compare(code, day, ours, theirs)
