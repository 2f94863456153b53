"""A cooperating bank as a model: a durable ledger, one account a person, and the ways a bank fails.

Tests and the demo use it in process, the stand-alone simulator puts HTTP in front of it. It knows neither HTTP nor our
database. `bank_ledger` holds its books and rules, `bank_faults` its faults.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from random import Random
from typing import cast

from pipeline.clock import Clock
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_faults import NOT_DONE, SCRIPT, Faults, Mishap
from pipeline.gateways.bank_ledger import Account, Entry, Ledger, Record, luhn_digit
from pipeline.gateways.bank_wire import OPERATIONS, document
from pipeline.person import Person
from pipeline.ports import BankFailure, BankReply, Declined, Instruction, Key, LateReplies, NotTried

__all__ = ["SCRIPT", "Account", "Answer", "Faults", "Ledger", "Mishap", "Record", "SimulatedBank", "luhn_digit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the bank makes of one instruction: a reply unless a mishap forbids one."""

    reply: BankReply | None = None
    mishap: Mishap | None = None


class SimulatedBank:
    """Every cooperating bank at once, behind the `BankGateway` port or a front of its own (`answer`, `ledger`).

    What strikes an instruction depends on the seed of `random`, its key and its attempt, never on the order of arrival.
    A known key is answered from the ledger and nothing strikes it again.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        faults: Faults,
        clock: Clock,
        random: Random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ledger = ledger
        self.faults = faults
        self.clock = clock
        self._salt = f"{random.getrandbits(64):016x}"
        self._sleep = sleep
        self._attempts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"SimulatedBank({self.faults!r})"

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        """Answer every key; the whole call is one commit.

        Raises:
            ValueError: one key with two contents in the same call.
            sqlite3.Error: the ledger's disk fails.
        """
        by_key: dict[Key, Instruction] = {}
        for instruction in instructions:
            if by_key.setdefault(instruction.key, instruction) != instruction:
                raise ValueError("one key with two contents in one call")
        if self.clock.now() >= deadline:
            return {key: _not_sent() for key in by_key}
        answers = self.answer(list(by_key.values()))
        if not self._in_time(deadline):
            return {key: OutcomeUnknown("the bank did not answer in time") for key in by_key}
        return {key: _value(answer) for key, answer in answers.items()}

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        """Answer every key.

        Raises:
            sqlite3.Error: the ledger's disk fails.
        """
        if self.clock.now() >= deadline:
            return {key: _not_sent() for key in keys}
        if not self._in_time(deadline):
            return {key: TransientError("the bank could not be asked in time") for key in keys}
        known, now = self.ledger.find(keys), self.clock.now()
        return {key: known[key].reply_at(now) if key in known else None for key in keys}

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        """Nothing: this bank answers at once, and what is `Pending` is asked about."""
        return LateReplies(cursor=after)

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, BankReply]:
        """The day's instructions with their results, of every bank that is simulated here.

        Raises:
            TransientError: the deadline passed before the list was there.
            sqlite3.Error: the ledger's disk fails.
        """
        if self.clock.now() >= deadline:
            raise _not_sent()
        if not self._in_time(deadline):
            raise TransientError("the bank could not be asked in time")
        now = self.clock.now()
        return {record.key: record.reply_at(now) for record in self.ledger.statement(day, limit=-1)}

    def answer(self, instructions: Sequence[Instruction]) -> Mapping[Key, Answer]:
        """What the bank does with instructions of distinct keys, committed when this returns.

        Raises:
            sqlite3.Error: the ledger's disk fails.
        """
        known, now = self.ledger.find([i.key for i in instructions]), self.clock.now()
        strikes = {i.key: None if i.key in known else self._strike(i) for i in instructions}
        entries = [self._entry(i, strikes[i.key], now) for i in instructions if strikes[i.key] not in NOT_DONE]
        records = self.ledger.record(entries)
        with self._lock:
            for key in records:
                self._attempts.pop(key, None)
        return {key: self._answer(strike, records, key, now) for key, strike in strikes.items()}

    def _in_time(self, deadline: datetime) -> bool:
        left_s = (deadline - self.clock.now()).total_seconds()
        self._sleep(max(0.0, min(self.faults.slow_ms / 1000, left_s)))
        return self.faults.slow_ms / 1000 < left_s

    def _strike(self, instruction: Instruction) -> Declined | Mishap | None:
        with self._lock:
            attempt = self._attempts[instruction.key]
            self._attempts[instruction.key] += 1
        scripted = self.faults.scripted_for(instruction)
        if scripted in NOT_DONE and attempt:
            scripted = None
        # Not for secrets: the same seed has to give the same bank.
        chance = Random(f"{self._salt}:{instruction.key}:{attempt}")
        return scripted or self.faults.draw(chance, type(instruction))

    def _entry(self, instruction: Instruction, strike: Declined | Mishap | None, now: datetime) -> Entry:
        holder: Person | None = getattr(instruction, "holder", None)
        told = document(instruction)
        late = timedelta(seconds=self.faults.late_s if strike is Mishap.LATE else 0)
        return Entry(
            key=instruction.key,
            operation=OPERATIONS[type(instruction)],
            content=self.ledger.digest(json.dumps(told)),
            bank_code=instruction.bank_code,
            identity=None if holder is None else self.ledger.digest(holder.id_type, holder.id_number),
            holder=None if holder is None else self.ledger.digest(json.dumps(told["holder"])),
            account_ref=getattr(instruction, "account_ref", None),
            card_number=getattr(instruction, "card_number", None),
            refusal=strike if isinstance(strike, Declined) else None,
            number_seed=f"{self._salt}:{instruction.key}",
            at=now,
            ready_at=now + late,
        )

    def _answer(
        self, strike: Declined | Mishap | None, records: Mapping[Key, Record | None], key: Key, now: datetime
    ) -> Answer:
        mishap = strike if isinstance(strike, Mishap) else None
        if key not in records:
            return Answer(mishap=mishap)
        record = records[key]
        if record is None:
            return Answer(mishap=Mishap.CONFLICT)
        return Answer(reply=record.reply_at(now), mishap=mishap)


def _not_sent() -> NotTried:
    return NotTried("the deadline passed before anything was sent")


def _value(answer: Answer) -> BankReply | BankFailure:
    match answer.mishap:
        case Mishap.UNAVAILABLE:
            return TransientError("the bank takes nothing now")
        case Mishap.SILENT | Mishap.DROPPED:
            return OutcomeUnknown("the bank did not answer")
        case Mishap.WRONG_REPLY:
            return OutcomeUnknown("the bank's answer is about something else")
        case Mishap.FAILED:
            return OutcomeUnknown("the bank failed")
        case Mishap.CONFLICT:
            # Not a failure of the bank: asking it again would bring back the answer to another request.
            return cast("BankFailure", Defect("the bank knows this key with other content"))
    if answer.reply is None:
        raise AssertionError("an answer without a mishap carries a reply")
    return answer.reply
