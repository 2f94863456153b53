"""The account stage: the person's account at the cooperating bank, opened once and found again for every later card.

An instruction whose end is not known is asked about, never repeated under another key. The key that opens is a function of bank
and person, so two applications, two workers or two attempts cannot open two accounts; every later card, of another application or
made again for the same one, is bound to the account that is there under a key of its application (KL-10).
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
from pipeline.errors import TransientError, ZhikaError
from pipeline.identifiers import outlet_code
from pipeline.outcomes import Advance, Correct, Hold, Outcome, Reason, Reject, Wait
from pipeline.policy import Policy
from pipeline.ports import BankGateway, BankReply, BindCard, Declined, Done, Instruction, Key, OpenAccount, Pending
from pipeline.stages.bank_calls import UNKNOWN, WRONG_REPLY, BankRequest, NotYet, Patience, StillUnknown, put
from pipeline.stages.bank_refusals import Refusal, refusal
from pipeline.stages.base import AccountFact, CallFact, Case, Decision, Fact, Intent, Need, Reconciler

NEXT = "personalisation"
UNAVAILABLE_AGAIN = timedelta(minutes=15)
"""How long a bank that cannot verify identities is left alone."""

CLOSING_AGAIN = timedelta(minutes=1)
"""How soon an application asks again whose person's old account is just being closed."""

_OPEN = frozenset({"intent", "unknown", "pending"})
_OVER = frozenset({"done", "declined"})
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
class CardBound(Fact):
    """The bank bound a new card to an account: from now on its number is the one in `done`."""

    account_id: str
    done: Done


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettled(Fact):
    """What is now known of an instruction: `done`, `declined` (with the bank's code), `pending`, `not_received`, `unknown`."""

    key: Key
    state: str
    code: str | None = None
    expected_by: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRequest(BankRequest):
    """An instruction to give with its intent, or one to ask about."""

    intent: BankCall | None

    def granted(self, grant: Any) -> Self:
        """The request itself: the commit is all that was needed."""
        return self


AccountReply = BankReply | NotYet | StillUnknown


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
        patience: Patience | None = None,
    ) -> None:
        """`banks` gives the gateway of a bank code; it raises `NeedsOperator` for a bank that is not connected.

        `key_secret` makes the keys: it must never change while a call is open.

        Raises:
            ValueError: an empty secret.
        """
        if not key_secret:
            raise ValueError("the secret for keys is empty")
        self._banks = banks
        self._secret = key_secret
        self._clock = clock
        self._patience = patience or Patience()

    def prepare(self, case: Case, policy: Policy, now: datetime) -> AccountRequest | Decision:
        """Go on with the account that exists (KL-10), or ask about the call that is open, or give an instruction.

        A first card takes the account's own number; any later card is bound to the account under a number of its own, so that the
        bank ends the number of the card before: that one may be lost.
        """
        account = _account(case)
        if account is not None and account.closing:
            return Decision(Wait(now + CLOSING_AGAIN, "bank.closing"))
        if account is not None and not account.used and _numbered(case, account):
            return Decision(Advance(NEXT))
        key, _ = self._key(case)
        last = _last(case)
        asked = last is not None and last.state in _OPEN
        intent = BankCall(key=key, system=case.application.bank_code, operation=_operation(case))
        return AccountRequest(
            instruction=_instruction(case, key),
            ask_only=asked,
            intent=None if asked else intent,
            since=last.created_at if last is not None and asked else None,
            expected_by=last.expected_by if last is not None and asked else None,
        )

    def act(self, requests: Mapping[str, AccountRequest]) -> Mapping[str, AccountReply | ZhikaError]:
        """Bank by bank; a bank out of reach is a reply to each of its rows."""
        by_bank: dict[str, dict[str, AccountRequest]] = defaultdict(dict)
        for i, request in requests.items():
            by_bank[request.instruction.bank_code][i] = request
        replies: dict[str, AccountReply | ZhikaError] = {}
        for bank_code, group in by_bank.items():
            try:
                bank = self._banks(bank_code)
            except ZhikaError as error:
                replies |= dict.fromkeys(group, error)
                continue
            answers = put(bank, list(group.values()), clock=self._clock, patience=self._patience)
            replies |= {i: answers[request.instruction.key] for i, request in group.items()}
        return replies

    def settle(self, case: Case, reply: AccountReply, policy: Policy, now: datetime) -> Decision:
        """What the bank's answer means; a refusal by `bank_refusals`."""
        key, generation = self._key(case)
        match reply:
            case Done():
                return _done(case, reply, key, generation)
            case Declined(code=code, text=text):
                refused = refusal(code, text)
                outcome = _refused(refused, case, policy, tries=generation, now=now)
                return Decision(outcome, (CallSettled(key=key, state="declined", code=code),))
            case Pending(expected_by=expected_by):
                # A bank that is late by its own word is not asked without a pause.
                until = expected_by if expected_by > now else now + self._patience.deadline
                settled = CallSettled(key=key, state="pending", expected_by=expected_by)
                return Decision(Wait(until, "bank.pending"), (settled,))
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
        generation = 1 + sum(call.state in _OVER for call in _calls(case))
        last = _last(case)
        if last is not None and last.state not in _OVER:
            return last.key, generation
        if _account(case) is not None:
            ulid = case.id.removeprefix("app_")
            return f"bc-{ulid}" + (f"-{generation}" if generation > 1 else ""), generation
        person = case.application.person
        named = f"{case.application.bank_code}|{person.id_type}|{person.id_number}"
        digest = hmac.digest(self._secret, named.encode(), hashlib.sha256)
        return f"oa-{base64.b32encode(digest).decode().lower()[:_KEY_CHARS]}-{generation}", generation


def _account(case: Case) -> AccountFact | None:
    return case.facts.get("account")


def _operation(case: Case) -> str:
    return "open_account" if _account(case) is None else "bind_card"


def _calls(case: Case) -> list[CallFact]:
    """The calls of the kind that the case is about, oldest first."""
    calls: Sequence[CallFact] = case.facts.get("calls", ())
    return [call for call in calls if call.operation == _operation(case)]


def _last(case: Case) -> CallFact | None:
    calls = _calls(case)
    return calls[-1] if calls else None


def _numbered(case: Case, account: AccountFact) -> bool:
    """Whether the number the account has now is for this application's card."""
    mine = account.opened_for == case.id or any(call.state == "done" for call in _calls(case))
    return mine or case.application.kind == "first"


def _instruction(case: Case, key: Key) -> Instruction:
    application, account = case.application, _account(case)
    if account is None:
        return OpenAccount(
            key=key,
            bank_code=application.bank_code,
            branch=outlet_code(application.outlet),
            region=application.region,
            holder=application.person,
            guardian=application.guardian,
        )
    return BindCard(
        key=key,
        bank_code=application.bank_code,
        branch=outlet_code(application.outlet),
        region=application.region,
        account_ref=account.account_ref,
        holder=application.person,
    )


def _done(case: Case, done: Done, key: Key, generation: int) -> Decision:
    application, account = case.application, _account(case)
    if account is not None and done.account_ref != account.account_ref:
        return Decision(Hold(WRONG_REPLY), (CallSettled(key=key, state="unknown", code=WRONG_REPLY.code),))
    fact: Fact
    if account is not None:
        fact = CardBound(account_id=account.id, done=done)
    else:
        fact = AccountOpened(
            application_id=case.id,
            person_id=application.person_id,
            bank_code=application.bank_code,
            key=key,
            generation=generation,
            done=done,
        )
    return Decision(Advance(NEXT), (fact, CallSettled(key=key, state="done")))


def _refused(refused: Refusal, case: Case, policy: Policy, *, tries: int, now: datetime) -> Outcome:
    """What follows a refusal. That no account can be bound to is for a person, since the bank once gave this one."""
    match refused.disposition:
        case "correct":
            return Correct((refused.reason,))
        case "reject":
            return Reject((refused.reason,))
        case "wait" if tries < policy.max_attempts.value:
            return Wait(now + UNAVAILABLE_AGAIN, refused.reason.code)
        case "exception" if _account(case) is None:
            return _exception(policy)
        case _:
            return Hold(refused.reason)


def _exception(policy: Policy) -> Outcome:
    """No account can be opened for this person (KL-25): the card is made without the financial application, or a person decides."""
    if policy.exception_path.value == "without_financial":
        return Advance(NEXT)
    return Hold(
        Reason(
            code="exception_path",
            zh="申请人不符合开户条件，按地区规定须人工处理",
            en="The bank cannot open an account for this person: the region has a person decide",
            rule=policy.exception_path.rule,
        )
    )
