"""How instructions are put to a bank: what is new is given, what may have been given is asked about first. No state of its own.

The account stage and the bank desk share it, so that both keep the one promise: an instruction whose end is not known is asked
about under its key, and given again under the same key only when the bank never saw it and it cannot be on its way any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.clock import Clock
from pipeline.errors import OutcomeUnknown, TransientError, ZhikaError
from pipeline.outcomes import Reason
from pipeline.ports import BankGateway, BankReply, Instruction, Key, Pending

UNKNOWN = Reason(
    code="bank.unknown",
    zh="银行长时间未答复办理结果，须人工向银行核实",
    en="The bank's answer has not come for hours: ask the bank what became of the instruction",
)
WRONG_REPLY = Reason(
    code="bank.wrong_reply",
    zh="银行的答复所指账户与本系统记录不一致，须人工向银行核实",
    en="The bank's answer speaks of another account than ours: clear it up with the bank",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BankRequest:
    """An instruction to give, or with `ask_only` to ask about.

    `since`: when it was first given, and `expected_by`: when the bank said it would answer, of those asked about.
    """

    instruction: Instruction
    ask_only: bool
    since: datetime | None = None
    expected_by: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """The bank has not seen the instruction, but it may still be on its way there: ask again at `until`."""

    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StillUnknown:
    """Asked for so long that a person has to look."""


Answered = BankReply | NotYet | StillUnknown | ZhikaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a bank is waited for.

    `deadline` is for one call; an instruction the bank never saw is given again `settle_after` it was first given; one without an
    answer is for a person `hold_after` that, or `hold_after` the hour by which the bank itself meant to answer: a bank that takes
    days by files says so, and is waited for.

    Raises:
        ValueError: `settle_after` is shorter than two deadlines.
    """

    deadline: timedelta = timedelta(seconds=10)
    settle_after: timedelta = timedelta(seconds=60)
    hold_after: timedelta = timedelta(hours=4)

    def __post_init__(self) -> None:
        if self.settle_after < 2 * self.deadline:
            raise ValueError("settle_after must be at least twice the deadline: a call may still be on its way")


def put(bank: BankGateway, requests: Sequence[BankRequest], *, clock: Clock, patience: Patience) -> dict[Key, Answered]:
    """Ask in one call, then submit in one: what is new, and what the bank never saw and cannot still be on its way. Answers every key."""
    by_key = {request.instruction.key: request for request in requests}
    found = _called(bank.find, [key for key, request in by_key.items() if request.ask_only], clock, patience)
    answers: dict[Key, Answered] = {}
    giving: dict[Key, Instruction] = {}
    for key, request in by_key.items():
        answer = found.get(key)
        given_again_at = _since(request, clock) + patience.settle_after
        if not request.ask_only or (answer is None and clock.now() >= given_again_at):
            giving[key] = request.instruction
        elif answer is None:
            answers[key] = NotYet(until=given_again_at)
        else:
            answers[key] = _patient(request, answer, clock, patience)
    for key, answer in _called(bank.submit, list(giving.values()), clock, patience).items():
        answers[key] = _patient(by_key[key], answer or _unanswered(), clock, patience)
    return answers


def _called(
    call: Callable[..., Mapping[Key, Any]], about: Sequence[Any], clock: Clock, patience: Patience
) -> Mapping[Key, Any]:
    """The bank's answers; an error of the whole call, and an answer left out, belong to every key concerned."""
    keys: list[Key] = [item if isinstance(item, Key) else item.key for item in about]
    if not keys:
        return {}
    try:
        answers = call(about, deadline=clock.now() + patience.deadline)
    except ZhikaError as error:
        return dict.fromkeys(keys, error)
    return {key: answers[key] if key in answers else _unanswered() for key in keys}


def _patient(
    request: BankRequest, answer: BankReply | ZhikaError, clock: Clock, patience: Patience
) -> BankReply | StillUnknown | ZhikaError:
    match answer:
        case Pending(expected_by=expected_by):
            waited = clock.now() - expected_by
        case TransientError() | OutcomeUnknown() if request.ask_only:
            since = _since(request, clock)
            waited = clock.now() - max(since, request.expected_by or since)
        case _:
            return answer
    return StillUnknown() if waited >= patience.hold_after else answer


def _since(request: BankRequest, clock: Clock) -> datetime:
    return request.since or clock.now()


def _unanswered() -> OutcomeUnknown:
    return OutcomeUnknown("the gateway gave no answer to this instruction")
