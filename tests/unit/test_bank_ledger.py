"""The simulated bank's books against a plain model of accounts, whatever is told in whatever order."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.clock import VirtualClock, civil_date
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.ports import BankReply, Declined, Done, Instruction
from tests.support.banks import activating, binding, closing, freezing, opening, produced, releasing, updating

START = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
PEOPLE = st.integers(1, 3)
CHANGES = {
    "card_produced": produced,
    "activate_financial": activating,
    "freeze_financial": freezing,
    "release_financial": releasing,
}


@dataclass
class Account:
    """An account as the model has it."""

    person: int
    card: Done
    phone: str = "13800000000"
    status: str = "open"
    produced: bool = False
    activated: bool = False
    history: list[str] = field(default_factory=lambda: ["open_account"])


class Books(RuleBasedStateMachine):
    """One bank that is told things, and closed and opened again."""

    accounts = Bundle("accounts")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = VirtualClock(START)
        self.model: list[Account] = []
        self.told: dict[str, Instruction] = {}
        self.replies: dict[str, BankReply] = {}

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger(Path(self.directory.name) / "bank.db")
        self.bank = SimulatedBank(self.ledger, faults=Faults(), clock=self.clock, random=Random(1))

    def teardown(self) -> None:
        self.ledger.close()
        self.directory.cleanup()

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.begin()

    @rule(target=accounts, person=PEOPLE)
    def open(self, person: int) -> object:
        reply = self._tell(opening(person, key=f"oa-{len(self.replies)}"))
        if any(account.person == person and account.status != "closed" for account in self.model):
            assert reply == Declined(code="account_exists", text="已有Ⅰ类户")
            return multiple()
        assert isinstance(reply, Done)
        self.model.append(Account(person=person, card=reply))
        return self.model[-1]

    @rule(account=accounts, operation=st.sampled_from(sorted(CHANGES)), times=st.integers(1, 2))
    def change(self, account: Account, operation: str, times: int) -> None:
        for _ in range(times):
            self._change(account, operation)

    def _change(self, account: Account, operation: str) -> None:
        reply = self._tell(CHANGES[operation](account.card))
        if self._closed(account, reply):
            return
        assert reply == account.card
        was = (account.status, account.produced, account.activated)
        account.status = {"freeze_financial": "frozen", "release_financial": "open"}.get(operation, account.status)
        account.produced |= operation == "card_produced"
        account.activated |= operation == "activate_financial"
        if was != (account.status, account.produced, account.activated):
            account.history.append(operation)

    @rule(account=accounts)
    def bind(self, account: Account) -> None:
        reply = self._tell(binding(account.card, account.person))
        if self._closed(account, reply):
            return
        assert isinstance(reply, Done)
        assert reply.account_ref == account.card.account_ref
        assert reply.card_number not in {known.card.card_number for known in self.model}
        account.card, account.produced, account.activated = reply, False, False
        account.history.append("bind_card")

    @rule(account=accounts, phone=st.sampled_from(["13800000000", "13900000000"]))
    def update(self, account: Account, phone: str) -> None:
        reply = self._tell(updating(account.card, account.person, phone=phone))
        if not self._closed(account, reply) and phone != account.phone:
            account.phone = phone
            account.history.append("update_holder")

    @rule(account=accounts)
    def close(self, account: Account) -> None:
        if not self._closed(account, self._tell(closing(account.card))):
            account.status = "closed"
            account.history.append("close_account")

    @rule(account=accounts)
    def use_an_old_number(self, account: Account) -> None:
        ended = replace(account.card, card_number="6200000000000000000")
        reply = self._tell(produced(ended))
        assert self._closed(account, reply) or reply == Declined(code="card_not_bound", text="卡号与账户不符")

    @rule(days=st.integers(1, 2))
    def wait(self, days: int) -> None:
        self.clock.advance(timedelta(days=days))

    @precondition(lambda self: self.told)
    @rule(place=st.integers(0, 1000))
    def tell_again(self, place: int) -> None:
        key = list(self.told)[place % len(self.told)]
        deadline = self.clock.now() + timedelta(seconds=60)
        assert self.bank.submit([self.told[key]], deadline=deadline) == {key: self.replies[key]}

    @invariant()
    def books_and_model_agree(self) -> None:
        theirs = {account.account_ref: account for account in self.ledger.accounts()}
        assert len(theirs) == len(self.model)
        for mine in self.model:
            kept = theirs[mine.card.account_ref]
            assert (kept.card_number, kept.status) == (mine.card.card_number, mine.status)
            assert (kept.produced, kept.activated) == (mine.produced, mine.activated)
            assert self.ledger.history(mine.card.account_ref) == mine.history
        assert self.ledger.counts()["accounts"] == sum(account.status != "closed" for account in self.model)

    @invariant()
    def every_key_has_its_first_answer(self) -> None:
        assert {key: record.reply for key, record in self.ledger.find(list(self.replies)).items()} == self.replies

    @invariant()
    def statements_hold_every_instruction_once(self) -> None:
        days = {civil_date(START) + timedelta(days=n) for n in range((self.clock.now() - START).days + 1)}
        listed = [record.key for day in days for record in self.ledger.statement(day, limit=-1)]
        assert sorted(listed) == sorted(self.replies)

    def _tell(self, instruction: Instruction) -> BankReply:
        reply = self.bank.submit([instruction], deadline=self.clock.now() + timedelta(seconds=60))[instruction.key]
        assert isinstance(reply, Done | Declined)
        self.told[instruction.key], self.replies[instruction.key] = instruction, reply
        return reply

    def _closed(self, account: Account, reply: BankReply) -> bool:
        refused = reply == Declined(code="account_closed", text="账户已销户")
        assert refused == (account.status == "closed")
        return refused


def test_the_books_keep_to_the_rules_of_accounts_whatever_is_told() -> None:
    run_state_machine_as_test(Books, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))
