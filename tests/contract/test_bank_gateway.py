"""What every bank gateway promises: one set of tests for all of them, each on real books behind it.

Another adapter is one more factory in `ADAPTERS`. One that answers by and by says so (`instant=False`) and makes the bank work in
`Rig.deliver`; one that does not carry every instruction says which it carries. What only one of them can do wrong is tested
beside it: `test_bank_http.py`, `test_bank_tls.py`, `test_bank_simulator.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from pipeline.clock import SystemClock, VirtualClock, civil_date
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_breaker import BankBreaker
from pipeline.gateways.bank_files.exchange import DirectoryExchange
from pipeline.gateways.bank_files.gateway import BankFiles, Terms
from pipeline.gateways.bank_http import BankHttp
from pipeline.gateways.bank_simulated import SCRIPT, Faults, Ledger, SimulatedBank, luhn_digit
from pipeline.gateways.bank_wire import OPERATIONS
from pipeline.gateways.objects import ObjectMemory
from pipeline.person import Agent
from pipeline.ports import (
    BankFailure,
    BankGateway,
    BankReply,
    BindCard,
    Declined,
    Done,
    Instruction,
    NotTried,
    OpenAccount,
    Pending,
)
from pipeline.store.bank_files import BankFileJournal
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer
from producers.simulators.bank import BankServer
from producers.simulators.bank_files import FileBank
from tests.support.banks import (
    BANK,
    activating,
    all_about,
    binding,
    closing,
    freezing,
    opening,
    produced,
    releasing,
    sample_person,
    updating,
)

CLOCK = SystemClock()
NO_SUCH_ACCOUNT = Done(account_ref="000000000000000000", card_number="6200000000000000000")


def _nothing() -> None:
    """An instant bank has answered already."""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A gateway with the books of the bank behind it, a switch for the bank, and what lets it work (`deliver`)."""

    gateway: BankGateway
    ledger: Ledger
    clock: VirtualClock
    go_down: Callable[[], None]
    deliver: Callable[[], None] = _nothing

    def submit(self, *instructions: Instruction) -> dict[str, BankReply | BankFailure]:
        return dict(self.gateway.submit(instructions, deadline=self.soon()))

    def find(self, *keys: str) -> dict[str, BankReply | BankFailure | None]:
        return dict(self.gateway.find(keys, deadline=self.soon()))

    def settled(self, *instructions: Instruction) -> dict[str, BankReply | BankFailure | None]:
        """Answers as they are once the bank has had its time."""
        answers: dict[str, BankReply | BankFailure | None] = dict(self.submit(*instructions))
        late = [key for key, answer in answers.items() if isinstance(answer, Pending)]
        if late:
            self.deliver()
            answers |= self.find(*late)
        return answers

    def done(self, instruction: Instruction) -> Done:
        reply = self.settled(instruction)[instruction.key]
        assert isinstance(reply, Done)
        return reply

    def declined(self, instruction: Instruction) -> str:
        reply = self.settled(instruction)[instruction.key]
        assert isinstance(reply, Declined)
        return reply.code

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """How to build one kind of gateway with the faults of its bank; what is to be closed afterwards goes into the list."""

    build: Callable[[Path, Faults, list[Callable[[], None]]], Rig]
    instant: bool = True
    instructions: frozenset[type[Instruction]] = field(default=frozenset(OPERATIONS))


def _simulated(directory: Path, faults: Faults, closing: list[Callable[[], None]]) -> Rig:
    clock, ledger = VirtualClock(CLOCK.now()), Ledger(directory / "bank.db")
    closing.append(ledger.close)
    gateway = SimulatedBank(ledger, faults=faults, clock=clock, random=Random(1))

    def go_down() -> None:
        gateway.faults = Faults(error=1.0)

    return Rig(gateway=gateway, ledger=ledger, clock=clock, go_down=go_down)


def _http(directory: Path, faults: Faults, closing: list[Callable[[], None]]) -> Rig:
    clock = VirtualClock(CLOCK.now())
    server = BankServer(ledger_path=directory / "bank.db", faults=faults, clock=clock).start()
    gateway = BankHttp(server.url, bank_code=BANK, clock=clock, timeout_s=1.0)
    closing.extend([gateway.close, server.stop])
    return Rig(gateway=gateway, ledger=server.ledger, clock=clock, go_down=server.stop)


def _http_behind_a_breaker(directory: Path, faults: Faults, closing: list[Callable[[], None]]) -> Rig:
    rig = _http(directory, faults, closing)
    return replace(rig, gateway=BankBreaker(rig.gateway, name=BANK, clock=rig.clock, failures=50))


def _batch_files(directory: Path, faults: Faults, closing: list[Callable[[], None]]) -> Rig:
    clock, ledger = VirtualClock(CLOCK.now()), Ledger(directory / "bank.db")
    store = Store(f"sqlite:///{directory / 'zhika.db'}", Sealer(bytes(32)))
    store.migrate(now=clock.now())
    store.open()
    closing.extend([ledger.close, store.close])
    out_dir, in_dir = directory / "out", directory / "in"
    simulated = SimulatedBank(ledger, faults=faults, clock=clock, random=Random(1))
    files = FileBank(out_dir, in_dir, bank=simulated, bank_code=BANK)
    gateway = BankFiles(
        Terms(sender=BANK, every=timedelta(0), quiet=timedelta(0)),
        journal=BankFileJournal(store, BANK),
        exchange=DirectoryExchange(out_dir, in_dir),
        objects=ObjectMemory(key=bytes(32), clock=clock),
        clock=clock,
    )

    def collect() -> None:
        gateway.collect(after=None, limit=1)

    def deliver() -> None:
        collect()
        files.once()
        collect()  # a file is read when it is seen for the second time
        collect()

    def go_down() -> None:
        out_dir.rename(directory / "away")

    return Rig(gateway=gateway, ledger=ledger, clock=clock, go_down=go_down, deliver=deliver)


ADAPTERS: dict[str, Adapter] = {
    "batch files": Adapter(build=_batch_files, instant=False, instructions=frozenset({OpenAccount})),
    "simulated": Adapter(build=_simulated),
    "http": Adapter(build=_http),
    "http behind a breaker": Adapter(build=_http_behind_a_breaker),
}
INSTANT = [name for name, adapter in ADAPTERS.items() if adapter.instant]
WHOLE = [name for name, adapter in ADAPTERS.items() if adapter.instructions == frozenset(OPERATIONS)]

Bank = Callable[..., Rig]


def _banks(request: pytest.FixtureRequest, directory: Path) -> Iterator[Bank]:
    closing: list[Callable[[], None]] = []
    adapter = ADAPTERS[request.param]
    yield lambda **faults: adapter.build(directory, Faults(**faults), closing)
    for close in closing:
        close()


@pytest.fixture(params=ADAPTERS)
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """Makes the bank with the faults asked for."""
    yield from _banks(request, tmp_path)


@pytest.fixture(params=INSTANT)
def instant_bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """The same, of the adapters whose call brings the answer."""
    yield from _banks(request, tmp_path)


@pytest.fixture(params=WHOLE)
def whole_bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """The same, of the adapters that carry every instruction."""
    yield from _banks(request, tmp_path)


# --------------------------------------------------------------------------------------------- every gateway promises


def test_every_key_of_a_call_gets_an_account_of_its_own(bank: Bank) -> None:
    rig = bank()
    replies = rig.settled(*(opening(n) for n in range(1, 21)))
    numbers = {reply.card_number for reply in replies.values() if isinstance(reply, Done)}
    assert set(replies) == {f"oa-{n}-1" for n in range(1, 21)}
    assert len(numbers) == 20
    assert all(len(n) == 19 and n.startswith("62") and luhn_digit(n[:-1]) == n[-1] for n in numbers)
    assert {account.card_number for account in rig.ledger.accounts()} == numbers


def test_an_empty_call_is_answered(bank: Bank) -> None:
    rig = bank()
    assert rig.submit() == {}
    assert rig.find() == {}


def test_the_same_key_gets_the_same_reply_and_no_second_account(bank: Bank) -> None:
    rig = bank()
    first, again = rig.settled(opening()), rig.settled(opening())
    assert first == again
    assert rig.ledger.counts()["accounts"] == 1


def test_an_instruction_given_twice_in_one_call_is_carried_out_once(bank: Bank) -> None:
    rig = bank()
    assert len(rig.settled(opening(), opening())) == 1
    assert rig.ledger.counts()["accounts"] == 1


def test_one_key_for_two_people_in_one_call_is_refused_before_anything_is_sent(bank: Bank) -> None:
    rig = bank()
    with pytest.raises(ValueError, match="two contents"):
        rig.submit(opening(1, key="oa-x"), opening(2, key="oa-x"))
    rig.deliver()
    assert rig.ledger.counts()["accounts"] == 0


def test_a_refusal_is_a_value(bank: Bank) -> None:
    rig = bank()
    reply = rig.settled(opening(phone="13800000451"))["oa-1-1"]
    assert isinstance(reply, Declined)
    assert reply.text == "姓名与证件号不符"
    assert rig.find("oa-1-1") == {"oa-1-1": reply}
    assert rig.ledger.counts() == {"accounts": 0, "frozen": 0, "closed": 0, "declined": 1}


def test_a_person_has_one_account_at_a_bank(bank: Bank) -> None:
    rig = bank()
    rig.done(opening(key="oa-1-1"))
    reply = rig.settled(opening(key="oa-1-2"))["oa-1-2"]
    assert isinstance(reply, Declined)
    assert reply.text == "已有Ⅰ类户"
    assert rig.ledger.counts()["accounts"] == 1


def test_a_known_key_with_other_content_is_a_defect_of_that_key_alone(bank: Bank) -> None:
    rig = bank()
    rig.done(opening(1))
    replies = rig.settled(opening(2, key="oa-1-1"), opening(3))
    assert isinstance(replies["oa-1-1"], Defect)
    assert isinstance(replies["oa-3-1"], Done)
    assert rig.ledger.counts()["accounts"] == 2


def test_a_guardian_is_part_of_the_content(bank: Bank) -> None:
    rig = bank()
    guarded = replace(opening(), guardian=Agent(name="李父", id_type="resident_id", id_number="99900119200101001X"))
    rig.done(guarded)
    assert isinstance(rig.submit(opening())["oa-1-1"], Defect)


def test_a_key_that_was_never_seen_is_not_found(bank: Bank) -> None:
    rig = bank()
    rig.done(opening(1))
    found = rig.find("oa-1-1", "oa-2-1")
    assert isinstance(found["oa-1-1"], Done)
    assert found["oa-2-1"] is None


def test_a_statement_lists_exactly_what_was_done_that_day(bank: Bank) -> None:
    rig = bank()
    today = civil_date(rig.clock.now())
    first = rig.settled(opening(1), opening(2, phone="13800000451"))
    rig.clock.advance(timedelta(days=1))
    second = rig.settled(opening(3))
    assert {type(reply) for reply in first.values()} == {Done, Declined}
    assert rig.gateway.statement(today, deadline=rig.soon()) == first
    assert rig.gateway.statement(today + timedelta(days=1), deadline=rig.soon()) == second
    assert rig.gateway.statement(today - timedelta(days=1), deadline=rig.soon()) == {}


def test_collecting_goes_on_from_where_it_stood(bank: Bank) -> None:
    rig = bank()
    rig.submit(opening())
    rig.deliver()
    told = rig.gateway.collect(after=None, limit=10)
    assert rig.gateway.collect(after=told.cursor, limit=10).keys == ()


# -------------------------------------------------------------------------------- every gateway that answers at once


@pytest.mark.parametrize(("digits", "fate"), [(d, f) for d, f in SCRIPT.items() if isinstance(f, Declined)])
def test_a_phone_number_chooses_the_refusal(instant_bank: Bank, digits: str, fate: Declined) -> None:
    assert instant_bank().submit(opening(phone=f"1380000{digits}")) == {"oa-1-1": fate}


def test_a_person_on_the_list_is_refused(instant_bank: Bank) -> None:
    listed = Declined(code="listed", text="黑名单")
    rig = instant_bank(decline_names={"李梅2": listed})
    replies = rig.submit(opening(1), opening(2))
    assert isinstance(replies["oa-1-1"], Done)
    assert replies["oa-2-1"] == listed


@pytest.mark.parametrize("fault", ["drop_after_commit", "error_after_commit", "wrong_reply"])
def test_a_lost_or_wrong_answer_is_unknown_and_asking_brings_the_right_one(instant_bank: Bank, fault: str) -> None:
    rig = instant_bank(**{fault: 1.0})
    assert isinstance(rig.submit(opening())["oa-1-1"], OutcomeUnknown)
    found = rig.find("oa-1-1")["oa-1-1"]
    assert isinstance(found, Done)
    assert rig.submit(opening()) == {"oa-1-1": found}
    assert rig.ledger.counts()["accounts"] == 1


def test_a_statement_tells_what_the_answer_did_not(instant_bank: Bank) -> None:
    rig = instant_bank(drop_after_commit=1.0)
    assert isinstance(rig.submit(opening())["oa-1-1"], OutcomeUnknown)
    statement = rig.gateway.statement(civil_date(rig.clock.now()), deadline=rig.soon())
    assert statement == rig.find("oa-1-1")


def test_an_instruction_that_got_lost_at_the_bank_is_unknown_and_can_be_sent_again(instant_bank: Bank) -> None:
    rig = instant_bank()
    lost = opening(phone="13800000464")
    assert isinstance(rig.submit(lost)["oa-1-1"], OutcomeUnknown)
    assert rig.find("oa-1-1") == {"oa-1-1": None}
    assert isinstance(rig.submit(lost)["oa-1-1"], Done)
    assert rig.ledger.counts()["accounts"] == 1


def test_a_bank_that_is_busy_has_certainly_not_taken_it(instant_bank: Bank) -> None:
    rig = instant_bank()
    busy = opening(phone="13800000463")
    assert isinstance(rig.submit(busy)["oa-1-1"], TransientError)
    assert rig.find("oa-1-1") == {"oa-1-1": None}
    assert isinstance(rig.submit(busy)["oa-1-1"], Done)


def test_a_bank_that_is_down_is_transient_for_every_key(instant_bank: Bank) -> None:
    rig = instant_bank()
    rig.go_down()
    replies = rig.submit(opening(1), opening(2))
    assert [type(reply) for reply in replies.values()] == [TransientError, TransientError]


def test_a_late_result_is_pending_until_it_is_ready(instant_bank: Bank) -> None:
    rig = instant_bank(late=1.0, late_s=3600)
    pending = rig.submit(opening())["oa-1-1"]
    assert isinstance(pending, Pending)
    assert pending.expected_by > rig.clock.now()
    assert rig.find("oa-1-1") == {"oa-1-1": pending}
    rig.clock.advance(timedelta(seconds=3601))
    assert isinstance(rig.find("oa-1-1")["oa-1-1"], Done)


def test_nothing_is_sent_once_the_deadline_has_passed(instant_bank: Bank) -> None:
    rig = instant_bank()
    past = rig.clock.now() - timedelta(seconds=1)
    assert isinstance(rig.gateway.submit([opening()], deadline=past)["oa-1-1"], NotTried)
    assert isinstance(rig.gateway.find(["oa-1-1"], deadline=past)["oa-1-1"], NotTried)
    with pytest.raises(NotTried):
        rig.gateway.statement(civil_date(past), deadline=past)
    assert rig.ledger.counts()["accounts"] == 0


def test_a_slow_bank_is_unknown_at_the_deadline(instant_bank: Bank) -> None:
    rig = instant_bank(slow_ms=30_000)
    began = rig.clock.now()
    replies = rig.gateway.submit([opening()], deadline=began + timedelta(seconds=0.3))
    assert isinstance(replies["oa-1-1"], OutcomeUnknown)
    assert rig.clock.now() - began < timedelta(seconds=20)


def test_what_goes_wrong_never_names_a_person(instant_bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rig = instant_bank()
    rig.submit(opening(1))
    replies = rig.submit(opening(2, key="oa-1-1"), opening(3, phone="13800000462"), opening(4, phone="13800000463"))
    told = caplog.text + repr(replies) + repr(rig.gateway) + "".join(map(repr, rig.ledger.accounts()))
    assert len({type(reply) for reply in replies.values()}) == 3
    assert not any(secret in told for secret in ("李", "9990011949", "1380000", "朝阳"))


def test_the_same_seed_strikes_the_same_people_whatever_the_order(instant_bank: Bank) -> None:
    rig = instant_bank(decline=0.3, error=0.2)
    people = [opening(n) for n in range(1, 41)]
    replies = rig.submit(*people)
    other = SimulatedBank(Ledger(), faults=Faults(decline=0.3, error=0.2), clock=CLOCK, random=Random(1))
    expected = other.submit(people[::-1], deadline=CLOCK.now() + timedelta(seconds=5))
    assert {key: _comparable(reply) for key, reply in replies.items()} == {
        key: _comparable(r) for key, r in expected.items()
    }
    assert {type(reply) for reply in replies.values()} == {Done, Declined, TransientError}


def _comparable(reply: object) -> object:
    return type(reply) if isinstance(reply, Exception) else reply


# ----------------------------------------------------------------------- every gateway that carries every instruction


def test_the_life_of_a_card_is_told_step_by_step(whole_bank: Bank) -> None:
    rig = whole_bank()
    account = rig.done(opening())
    steps = [produced, activating, updating, freezing, releasing, closing]
    for step in steps:
        assert rig.done(step(account)).account_ref == account.account_ref
    assert rig.ledger.history(account.account_ref) == [
        "open_account", "card_produced", "activate_financial", "update_holder", "freeze_financial",
        "release_financial", "close_account",
    ]  # fmt: skip


def test_a_new_card_is_bound_to_the_account_that_exists_and_the_old_number_ends(whole_bank: Bank) -> None:
    rig = whole_bank()
    first = rig.done(opening())
    second = rig.done(binding(first))
    assert second.account_ref == first.account_ref
    assert second.card_number != first.card_number
    assert rig.declined(activating(first)) == "card_not_bound"
    rig.done(activating(second))
    [account] = rig.ledger.accounts()
    assert (account.card_number, account.activated) == (second.card_number, True)


def test_a_lost_card_is_replaced_while_its_account_stays_frozen(whole_bank: Bank) -> None:
    rig = whole_bank()
    first = rig.done(opening())
    rig.done(freezing(first))
    second = rig.done(binding(first))
    assert rig.ledger.counts()["frozen"] == 1
    rig.done(releasing(second))
    assert rig.ledger.counts()["frozen"] == 0


def test_a_card_is_never_bound_to_another_persons_account(whole_bank: Bank) -> None:
    rig = whole_bank()
    account = rig.done(opening(1))
    assert rig.declined(binding(account, 2)) == "customer_mismatch"
    assert rig.ledger.history(account.account_ref) == ["open_account"]


def test_freezing_twice_freezes_once(whole_bank: Bank) -> None:
    rig = whole_bank()
    account = rig.done(opening())
    rig.done(freezing(account, key="ff-1"))
    rig.done(freezing(account, key="ff-1"))
    rig.done(freezing(account, key="ff-2"))
    assert rig.ledger.history(account.account_ref) == ["open_account", "freeze_financial"]
    assert [a.status for a in rig.ledger.accounts()] == ["frozen"]


def test_nothing_is_done_with_a_closed_account_and_a_new_one_may_be_opened(whole_bank: Bank) -> None:
    rig = whole_bank()
    first = rig.done(opening(key="oa-1-1"))
    rig.done(freezing(first))
    rig.done(closing(first))
    assert {rig.declined(instruction) for instruction in all_about(first)} == {"account_closed"}
    second = rig.done(opening(key="oa-1-2"))
    assert second.account_ref != first.account_ref
    assert [a.status for a in rig.ledger.accounts()] == ["closed", "open"]
    assert rig.ledger.history(first.account_ref) == ["open_account", "freeze_financial", "close_account"]


def test_an_account_with_money_on_it_is_not_closed(whole_bank: Bank) -> None:
    rig = whole_bank(close_declined=1.0)
    account = rig.done(opening())
    assert rig.declined(closing(account, key="ca-1")) == "balance_not_zero"
    assert rig.declined(closing(account, key="ca-1")) == "balance_not_zero"
    assert [a.status for a in rig.ledger.accounts()] == ["open"]


def test_an_account_that_the_bank_does_not_know_is_refused(whole_bank: Bank) -> None:
    rig = whole_bank()
    rig.done(opening())
    assert {rig.declined(instruction) for instruction in all_about(NO_SUCH_ACCOUNT)} == {"no_such_account"}


def test_a_person_does_not_become_another_who_has_an_account(whole_bank: Bank) -> None:
    rig = whole_bank()
    account = rig.done(opening(1))
    rig.done(opening(2))
    assert rig.declined(updating(account, 2)) == "account_exists"
    moved = replace(updating(account), holder=sample_person(3))
    rig.done(moved)
    assert isinstance(rig.settled(binding(account, 3, key="bc-3"))["bc-3"], Done)


@pytest.mark.parametrize(
    "fault", ["drop_after_commit", "error_after_commit", "wrong_reply", "duplicate", "late", "error"]
)
def test_whatever_happens_to_an_instruction_it_is_done_once_and_answered_by_its_key(
    whole_bank: Bank, fault: str
) -> None:
    rig = whole_bank(**{fault: 0.6}, late_s=0.0)
    account = _insist(rig, opening())
    told = all_about(account)
    for instruction in told:
        if isinstance(instruction, BindCard):
            account = _insist(rig, instruction)
        else:
            _insist(rig, instruction)
    names = [OPERATIONS[type(instruction)] for instruction in told]
    assert rig.ledger.history(account.account_ref) == ["open_account", *names]


def _insist(rig: Rig, instruction: Instruction) -> Done:
    """As a stage does: ask before anything is told again."""
    for _ in range(30):
        answer = rig.submit(instruction)[instruction.key]
        if isinstance(answer, OutcomeUnknown | Pending):
            found = rig.find(instruction.key)[instruction.key]
            answer = found or answer
        if isinstance(answer, Done):
            return answer
    raise AssertionError("the bank never answered")


def test_an_instruction_is_bound_to_its_content(whole_bank: Bank) -> None:
    rig = whole_bank()
    account = rig.done(opening(1))
    other = rig.done(opening(2))
    for number, (first, second) in enumerate(zip(all_about(account), all_about(other), strict=True)):
        key = f"xx-{number}"
        rig.done(replace(first, key=key))
        assert isinstance(rig.submit(replace(second, key=key))[key], Defect)
    assert rig.ledger.history(other.account_ref) == ["open_account"]
