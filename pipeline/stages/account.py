"""The account stage: the person's account at the cooperating bank, opened once and found again for every later card.

An instruction whose end is not known is asked about, never repeated under another key. Its key is a function of bank and person,
so two applications, two workers or two attempts cannot open two accounts (KL-10).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from pipeline.clock import Clock
from pipeline.errors import OutcomeUnknown, TransientError, ZhikaError
from pipeline.outcomes import Advance, Correct, Hold, Outcome, Reason, Reject, Wait
from pipeline.policy import Policy
from pipeline.ports import BankGateway, BankReply, Declined, Done, Key, OpenAccount, Pending
from pipeline.stages.bank_refusals import Refusal, refusal
from pipeline.stages.base import CallFact, Case, Decision, Fact, Intent, Need, Reconciler

NEXT = "personalisation"
UNAVAILABLE_AGAIN = timedelta(minutes=15)
"""How long a bank that cannot verify identities is left alone."""

_OPEN = frozenset({"intent", "unknown", "pending"})
_KEY_CHARS = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class BankCall(Intent):
    """An instruction is about to be given. A known key in state `not_received` becomes an intent again."""

    key: Key
    system: str
    operation: str = "open_account"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOpened(Fact):
    """The bank opened the account."""

    application_id: str
    person_id: str
    bank_code: str
    key: Key
    generation: int
    done: Done


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettled(Fact):
    """What is now known of an instruction: `done`, `declined` (with the bank's code), `pending`, `not_received`, `unknown`."""

    key: Key
    state: str
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRequest:
    """An instruction to give, or with `ask_only` to ask about. `since`: when it was first given, for those asked about."""

    instruction: OpenAccount
    ask_only: bool
    intent: BankCall | None
    since: datetime | None = None

    def granted(self, grant: Any) -> Self:
        """The request itself: the commit is all that was needed."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """The bank has not seen the instruction, but it may still be on its way there: ask again at `until`."""

    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StillUnknown:
    """Asked for so long that a person has to look."""


AccountReply = BankReply | NotYet | StillUnknown

UNKNOWN = Reason(
    code="bank.unknown",
    zh="银行长时间未答复开户结果，须人工向银行核实",
    en="The bank's answer has not come for hours: ask the bank what became of the account",
)


class Account:
    """`stages.base.Stage` for accounts. Any worker may end what another began: the bank is asked."""

    name: ClassVar[str] = "account"
    chunk: int = 20
    needs: ClassVar[frozenset[Need]] = frozenset({"account", "calls"})
    reconciler: ClassVar[Reconciler] = "worker"
    lease: timedelta = timedelta(seconds=120)

    def __init__(
        self,
        banks: Callable[[str], BankGateway],
        *,
        key_secret: bytes,
        clock: Clock,
        deadline: timedelta = timedelta(seconds=10),
        settle_after: timedelta = timedelta(seconds=60),
        hold_after: timedelta = timedelta(hours=4),
    ) -> None:
        """`banks` gives the gateway of a bank code; it raises `NeedsOperator` for a bank that is not connected.

        `key_secret` makes the keys: it must never change while a call is open.

        `deadline` is for one call to the bank; an instruction the bank never saw is given again `settle_after` it was first
        given; one without an answer for `hold_after` is held.

        Raises:
            ValueError: an empty secret, or `settle_after` is shorter than two deadlines.
        """
        if not key_secret:
            raise ValueError("the secret for keys is empty")
        if settle_after < 2 * deadline:
            raise ValueError("settle_after must be at least twice the deadline: a call may still be on its way")
        self._banks = banks
        self._secret = key_secret
        self._clock = clock
        self._deadline = deadline
        self._settle_after = settle_after
        self._hold_after = hold_after

    def prepare(self, case: Case, policy: Policy, now: datetime) -> AccountRequest | Decision:
        """Bind to the account that exists (KL-10), ask about the call that is open, or give an instruction."""
        if case.facts.get("account") is not None:
            return Decision(Advance(NEXT))
        application = case.application
        key, _ = self._key(case)
        last = _last(case)
        asked = last is not None and last.state in _OPEN
        return AccountRequest(
            instruction=OpenAccount(
                key=key,
                bank_code=application.bank_code,
                branch=application.outlet,
                region=application.region,
                holder=application.person,
                guardian=application.guardian,
            ),
            ask_only=asked,
            intent=None if asked else BankCall(key=key, system=application.bank_code),
            since=last.created_at if last is not None and asked else None,
        )

    def act(self, requests: Mapping[str, AccountRequest]) -> Mapping[str, AccountReply | ZhikaError]:
        """Bank by bank, ask in one call, then submit in one: what is new, and what the bank never saw and cannot still be on its way.

        A bank out of reach is a reply to each of its rows.
        """
        by_bank: dict[str, dict[str, AccountRequest]] = defaultdict(dict)
        for i, request in requests.items():
            by_bank[request.instruction.bank_code][i] = request
        replies: dict[str, AccountReply | ZhikaError] = {}
        for bank_code, group in by_bank.items():
            try:
                replies |= self._act(self._banks(bank_code), group)
            except ZhikaError as error:
                replies |= dict.fromkeys(group, error)
        return replies

    def _act(self, bank: BankGateway, requests: Mapping[str, AccountRequest]) -> dict[str, AccountReply | ZhikaError]:
        asked = {i: request for i, request in requests.items() if request.ask_only}
        found = self._called(bank.find, [request.instruction.key for request in asked.values()])
        replies: dict[str, AccountReply | ZhikaError] = {}
        giving = {i: request for i, request in requests.items() if not request.ask_only}
        for i, request in asked.items():
            answer = found[request.instruction.key]
            if answer is not None:
                replies[i] = self._patience(request, answer)
            elif self._age(request) >= self._settle_after:
                giving[i] = request
            else:
                replies[i] = NotYet(until=self._since(request) + self._settle_after)
        instructions = {request.instruction.key: request.instruction for request in giving.values()}
        given = self._called(bank.submit, list(instructions.values()))
        for i, request in giving.items():
            replies[i] = self._patience(request, given[request.instruction.key] or _unanswered())
        return replies

    def settle(self, case: Case, reply: AccountReply, policy: Policy, now: datetime) -> Decision:
        """What the bank's answer means; a refusal by `bank_refusals`."""
        key, generation = self._key(case)
        match reply:
            case Done():
                application = case.application
                opened = AccountOpened(
                    application_id=case.id,
                    person_id=application.person_id,
                    bank_code=application.bank_code,
                    key=key,
                    generation=generation,
                    done=reply,
                )
                return Decision(Advance(NEXT), (opened, CallSettled(key=key, state="done")))
            case Declined(code=code, text=text):
                outcome = _refused(refusal(code, text), tries=generation, most=policy.max_attempts.value, now=now)
                return Decision(outcome, (CallSettled(key=key, state="declined", code=code),))
            case Pending(expected_by=expected_by):
                # A bank that is late by its own word is not asked without a pause.
                until = expected_by if expected_by > now else now + self._deadline
                return Decision(Wait(until, "bank.pending"), (CallSettled(key=key, state="pending"),))
            case NotYet(until=until):
                return Decision(Wait(until, "bank.asked"))
            case StillUnknown():
                return Decision(Hold(UNKNOWN), (CallSettled(key=key, state="unknown"),))

    def failed(self, case: Case, request: AccountRequest, error: BaseException) -> tuple[Fact, ...]:
        """Of an instruction that was surely not received the call is open no more; every other error leaves it unknown."""
        if isinstance(error, TransientError):
            return () if request.ask_only else (CallSettled(key=request.instruction.key, state="not_received"),)
        return (CallSettled(key=request.instruction.key, state="unknown"),)

    def _key(self, case: Case) -> tuple[Key, int]:
        """The key of the instruction the case is about, and its generation: one more than what is over and done with."""
        calls: Sequence[CallFact] = case.facts.get("calls", ())
        generation = 1 + sum(call.state in ("done", "declined") for call in calls)
        last = _last(case)
        if last is not None and last.state not in ("done", "declined"):
            return last.key, generation
        person = case.application.person
        named = f"{case.application.bank_code}|{person.id_type}|{person.id_number}"
        digest = hmac.digest(self._secret, named.encode(), hashlib.sha256)
        return f"oa-{base64.b32encode(digest).decode().lower()[:_KEY_CHARS]}-{generation}", generation

    def _called(self, call: Callable[..., Mapping[Key, Any]], about: Sequence[Any]) -> Mapping[Key, Any]:
        """The bank's answers; an error of the whole call, and an answer left out, belong to every key concerned."""
        keys = [item.key if isinstance(item, OpenAccount) else item for item in about]
        if not keys:
            return {}
        try:
            answers = call(about, deadline=self._clock.now() + self._deadline)
        except ZhikaError as error:
            return dict.fromkeys(keys, error)
        return {key: answers[key] if key in answers else _unanswered() for key in keys}

    def _patience(self, request: AccountRequest, answer: BankReply | ZhikaError) -> AccountReply | ZhikaError:
        lost = isinstance(answer, TransientError | OutcomeUnknown)
        return StillUnknown() if lost and request.ask_only and self._age(request) >= self._hold_after else answer

    def _age(self, request: AccountRequest) -> timedelta:
        return self._clock.now() - self._since(request)

    def _since(self, request: AccountRequest) -> datetime:
        return request.since or self._clock.now()


def _last(case: Case) -> CallFact | None:
    calls: Sequence[CallFact] = case.facts.get("calls", ())
    return calls[-1] if calls else None


def _unanswered() -> OutcomeUnknown:
    return OutcomeUnknown("the gateway gave no answer to this instruction")


def _refused(refused: Refusal, *, tries: int, most: int, now: datetime) -> Outcome:
    match refused.disposition:
        case "correct":
            return Correct((refused.reason,))
        case "reject":
            return Reject((refused.reason,))
        case "wait" if tries < most:
            return Wait(now + UNAVAILABLE_AGAIN, refused.reason.code)
        case _:
            return Hold(refused.reason)
