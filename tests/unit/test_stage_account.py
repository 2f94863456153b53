"""The account stage: one account a person and bank, whatever the bank, the wire and our own processes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.policies import load_policies
from pipeline.application import Application
from pipeline.clock import VirtualClock
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_simulated import SCRIPT, Faults, Ledger, SimulatedBank
from pipeline.outcomes import Advance, Correct, Hold, Reject, Wait
from pipeline.person import Agent
from pipeline.policy import Policy, Sourced
from pipeline.ports import BindCard, Declined, Done, Instruction, Key, OpenAccount, Pending
from pipeline.stages.account import Account, AccountOpened, AccountRequest, BankCall, CallSettled, CardBound
from pipeline.stages.bank_calls import NotYet, Patience, StillUnknown
from pipeline.stages.bank_refusals import OTHER, TABLE, refusal
from pipeline.stages.base import AccountFact, Acting, CallFact, Case, Decision, Stage
from tests.support.applications import an_application

POLICY = load_policies().of("420100")
START = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
SECRET = b"secret of the tests"
ACCOUNT = AccountFact(id="acc_1", bank_card_number="6200000000000000000", account_ref="ref")


def application(number: int = 1, **changed: Any) -> Application:
    return an_application(number, stage="account", policy_version=POLICY.version, received_at=START, **changed)


def case(*calls: CallFact, account: AccountFact | None = None, of: Application | None = None) -> Case:
    return Case(application=of or application(), facts={"account": account, "calls": calls})


def call(state: str, *, key: Key = "oa-x-1", age: timedelta = timedelta(0), due: datetime | None = None) -> CallFact:
    operation = "bind_card" if key.startswith("bc-") else "open_account"
    return CallFact(key=key, state=state, created_at=START - age, operation=operation, expected_by=due)


class StillClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time


class Bank:
    """A bank that answers from a script and notes what it was asked."""

    def __init__(self, *, submit: Any = None, find: Any = None) -> None:
        self.answers = {"submit": submit, "find": find}
        self.submitted: list[list[Instruction]] = []
        self.asked: list[list[Key]] = []
        self.deadlines: list[datetime] = []

    def submit(self, instructions: Sequence[Instruction], *, deadline: datetime) -> Mapping[Key, Any]:
        self.submitted.append(list(instructions))
        return self._answered("submit", [i.key for i in instructions], deadline)

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, Any]:
        self.asked.append(list(keys))
        return self._answered("find", keys, deadline)

    def _answered(self, what: str, keys: Sequence[Key], deadline: datetime) -> Mapping[Key, Any]:
        self.deadlines.append(deadline)
        answer = self.answers[what]
        if callable(answer):
            raise answer()
        return answer if isinstance(answer, dict) else dict.fromkeys(keys, answer)


def stage(bank: Any = None, **options: Any) -> Account:
    return Account(lambda _: bank or Bank(), key_secret=SECRET, clock=StillClock(), **options)


def prepared(made: Account, about: Case) -> AccountRequest:
    request = made.prepare(about, POLICY, START)
    assert isinstance(request, AccountRequest)
    return request


DONE = Done(account_ref="ref", card_number="6200000000000000018")


def test_it_is_a_stage_whose_requests_act() -> None:
    made: Stage = stage()
    assert (made.name, made.reconciler) == ("account", "worker")
    assert made.needs == frozenset({"account", "calls"})
    request = prepared(stage(), case())
    assert isinstance(request, Acting)
    assert request.granted(True) is request


# ------------------------------------------------------------------------------------------------------------- prepare


@pytest.mark.rule("KL-10")
def test_a_first_card_takes_the_account_that_exists_without_asking_the_bank() -> None:
    about = case(call("unknown"), account=ACCOUNT)
    assert stage().prepare(about, POLICY, START) == Decision(Advance("personalisation"))


@pytest.mark.rule("KL-10")
@pytest.mark.parametrize("kind", ["replacement", "exchange"])
def test_a_later_card_is_bound_to_the_account_that_exists_and_no_second_one_is_opened(kind: str) -> None:
    request = prepared(stage(), case(call("done"), account=ACCOUNT, of=application(kind=kind)))
    assert isinstance(request.instruction, BindCard)
    assert (request.instruction.key, request.instruction.account_ref) == ("bc-1", "ref")
    assert request.intent == BankCall(key="bc-1", system="95533", operation="bind_card")


def test_a_later_card_of_a_person_without_an_account_opens_one() -> None:
    request = prepared(stage(), case(of=application(kind="replacement")))
    assert isinstance(request.instruction, OpenAccount)


@pytest.mark.parametrize("state", ["intent", "unknown", "pending"])
def test_a_binding_whose_end_is_not_known_is_asked_about_by_its_key(state: str) -> None:
    about = case(call("done"), call(state, key="bc-1"), account=ACCOUNT, of=application(kind="exchange"))
    request = prepared(stage(), about)
    assert (request.ask_only, request.intent, request.instruction.key) == (True, None, "bc-1")


def test_after_a_binding_was_done_nothing_is_asked_any_more() -> None:
    about = case(call("done"), call("done", key="bc-1"), account=ACCOUNT, of=application(kind="exchange"))
    assert stage().prepare(about, POLICY, START) == Decision(Advance("personalisation"))


@pytest.mark.parametrize(("calls", "key"), [((), "bc-1"), ((call("done", key="bc-1"),), "bc-1-2")])
def test_a_card_that_is_made_again_is_bound_anew_since_the_number_was_that_of_the_card_before(
    calls: tuple[CallFact, ...], key: str
) -> None:
    used = replace(ACCOUNT, used=True, opened_for="app_1")
    assert prepared(stage(), case(call("done"), *calls, account=used)).instruction.key == key


def test_a_later_card_takes_the_number_of_the_account_that_was_opened_for_it() -> None:
    about = case(call("done"), account=replace(ACCOUNT, opened_for="app_1"), of=application(kind="replacement"))
    assert stage().prepare(about, POLICY, START) == Decision(Advance("personalisation"))


def test_a_binding_that_was_declined_is_tried_under_the_next_key_once_that_was_mended() -> None:
    about = case(call("declined", key="bc-1"), account=ACCOUNT, of=application(kind="exchange"))
    assert prepared(stage(), about).instruction.key == "bc-1-2"


def test_a_card_waits_while_the_old_account_of_its_person_is_being_closed() -> None:
    decision = stage().prepare(case(account=replace(ACCOUNT, closing=True)), POLICY, START)
    assert decision == Decision(Wait(START + timedelta(minutes=1), "bank.closing"))


def test_the_first_instruction_is_committed_before_it_is_given() -> None:
    guardian = Agent(name="测试乙", id_type="resident_id", id_number="999001196001010000")
    request = prepared(stage(), case(of=application(guardian=guardian)))
    assert request.intent is not None
    assert (request.intent.key, request.intent.system) == (request.instruction.key, "95533")
    assert request.intent.operation == "open_account"
    assert (request.ask_only, request.instruction.guardian) == (False, guardian)


def test_a_key_names_bank_and_person_and_tells_nothing_of_them() -> None:
    key = prepared(stage(), case()).instruction.key
    again = prepared(stage(), case(of=application(phone="13800000001"))).instruction.key
    elsewhere = prepared(stage(), case(of=application(bank_code="95588"))).instruction.key
    somebody = prepared(stage(), case(of=application(2))).instruction.key
    foreign = Account(lambda _: Bank(), key_secret=b"another", clock=StillClock())
    assert key == again
    assert len({key, elsewhere, somebody, prepared(foreign, case()).instruction.key}) == 4
    assert key.startswith("oa-")
    assert key.endswith("-1")
    assert len(key) == len("oa-") + 26 + len("-1")
    assert key == key.lower()
    assert key.isascii()


@pytest.mark.parametrize("state", ["intent", "unknown", "pending"])
def test_an_open_call_is_asked_about_under_its_own_key(state: str) -> None:
    request = prepared(stage(), case(call("declined", key="oa-x-1"), call(state, key="oa-x-2")))
    assert (request.ask_only, request.intent, request.instruction.key) == (True, None, "oa-x-2")


def test_a_call_that_was_not_received_is_given_again_with_the_same_key() -> None:
    request = prepared(stage(), case(call("not_received")))
    assert request.intent is not None
    assert (request.ask_only, request.intent.key, request.instruction.key) == (False, "oa-x-1", "oa-x-1")


@pytest.mark.parametrize("over", ["declined", "done"])
def test_what_was_declined_or_closed_is_followed_by_the_next_generation(over: str) -> None:
    assert prepared(stage(), case(call(over), call(over, key="oa-x-2"))).instruction.key.endswith("-3")


# ----------------------------------------------------------------------------------------------------------------- act


def acted(bank: Bank, *cases: Case, **options: Any) -> dict[str, Any]:
    made = stage(bank, **options)
    return dict(made.act({about.id: prepared(made, about) for about in cases}))


def test_a_chunk_is_one_question_and_one_submission() -> None:
    bank = Bank(submit=DONE, find=DONE)
    chunk = [case(of=application(n)) for n in (1, 2)]
    chunk += [case(call("unknown", key=f"oa-x{n}-1"), of=application(n)) for n in (3, 4)]
    assert acted(bank, *chunk) == dict.fromkeys(("app_1", "app_2", "app_3", "app_4"), DONE)
    assert [len(part) for part in bank.asked] == [len(part) for part in bank.submitted] == [2]
    assert bank.deadlines == [START + timedelta(seconds=10)] * 2


def test_nothing_to_ask_or_give_calls_nobody() -> None:
    bank = Bank()
    assert acted(bank) == {}
    assert not bank.asked
    assert not bank.submitted


def test_a_call_the_bank_never_saw_waits_until_it_cannot_be_on_its_way_any_more() -> None:
    bank = Bank(submit=DONE, find=None)
    young, old = call("unknown", age=timedelta(seconds=59)), call("unknown", key="oa-y-1", age=timedelta(seconds=60))
    replies = acted(bank, case(young), case(old, of=application(2)))
    assert replies == {"app_1": NotYet(until=START + timedelta(seconds=1)), "app_2": DONE}
    assert [[i.key for i in part] for part in bank.submitted] == [["oa-y-1"]]


def test_a_bank_out_of_reach_is_each_rows_own_error_and_spoils_no_other_answer() -> None:
    bank = Bank(submit=TransientError, find=DONE)
    replies = acted(bank, case(), case(call("unknown"), of=application(2)))
    assert isinstance(replies["app_1"], TransientError)
    assert replies["app_2"] == DONE


@pytest.mark.parametrize("known", [case(), case(call("unknown"))])
def test_an_answer_left_out_is_unknown_and_not_taken_for_never_seen(known: Case) -> None:
    bank = Bank(submit={}, find={})
    assert isinstance(acted(bank, known)["app_1"], OutcomeUnknown)
    assert len(bank.submitted) + len(bank.asked) == 1


@pytest.mark.parametrize("answer", [TransientError, OutcomeUnknown])
def test_a_call_without_answer_for_hours_is_asked_once_more_and_then_held(answer: type[Exception]) -> None:
    bank = Bank(find=answer)
    about = case(call("unknown", age=timedelta(hours=4)))
    assert acted(bank, about) == {"app_1": StillUnknown()}
    decision = stage().settle(about, StillUnknown(), POLICY, START)
    assert isinstance(decision.outcome, Hold)
    assert decision.outcome.reason.code == "bank.unknown"
    assert decision.facts == (CallSettled(key="oa-x-1", state="unknown"),)
    assert acted(Bank(find=DONE), about) == {"app_1": DONE}


@pytest.mark.parametrize("answer", [TransientError, OutcomeUnknown])
def test_a_younger_call_without_answer_is_left_to_the_schedule(answer: type[Exception]) -> None:
    about = case(call("unknown", age=timedelta(hours=3, minutes=59)))
    assert isinstance(acted(Bank(find=answer), about)["app_1"], answer)


@pytest.mark.parametrize("answer", [TransientError, OutcomeUnknown])
def test_a_bank_that_named_a_far_hour_is_waited_for_until_hours_after_it(answer: type[Exception]) -> None:
    in_time = call("pending", age=timedelta(days=3), due=START - timedelta(hours=3, minutes=59))
    late = call("pending", key="oa-y-1", age=timedelta(days=3), due=START - timedelta(hours=4))
    replies = acted(Bank(find=answer), case(in_time), case(late, of=application(2)))
    assert isinstance(replies["app_1"], answer)
    assert replies["app_2"] == StillUnknown()


def test_a_bank_that_goes_on_to_say_later_long_after_its_own_hour_is_for_a_person() -> None:
    about = case(call("pending", age=timedelta(days=3)))
    waiting = Pending(expected_by=START - timedelta(hours=3))
    assert acted(Bank(find=waiting), about) == {"app_1": waiting}
    assert acted(Bank(find=Pending(expected_by=START - timedelta(hours=4))), about) == {"app_1": StillUnknown()}


# -------------------------------------------------------------------------------------------------------------- settle


def test_an_opened_account_goes_on_with_its_facts() -> None:
    about = case(call("declined"), call("unknown", key="oa-x-2"))
    decision = stage().settle(about, DONE, POLICY, START)
    opened = AccountOpened(
        application_id="app_1", person_id="per_1", bank_code="95533", key="oa-x-2", generation=2, done=DONE
    )
    assert decision == Decision(Advance("personalisation"), (opened, CallSettled(key="oa-x-2", state="done")))
    assert DONE.card_number not in repr(decision)


def test_a_pending_call_waits_for_the_banks_own_hour() -> None:
    until = START + timedelta(minutes=5)
    decision = stage().settle(case(call("intent")), Pending(expected_by=until), POLICY, START)
    settled = CallSettled(key="oa-x-1", state="pending", expected_by=until)
    assert decision == Decision(Wait(until, "bank.pending"), (settled,))


BINDING = case(call("done"), call("intent", key="bc-1"), account=ACCOUNT, of=application(kind="exchange"))


def test_a_bound_card_brings_its_own_number_and_goes_on() -> None:
    decision = stage().settle(BINDING, DONE, POLICY, START)
    bound = CardBound(account_id="acc_1", done=DONE)
    assert decision == Decision(Advance("personalisation"), (bound, CallSettled(key="bc-1", state="done")))
    assert DONE.card_number not in repr(decision)


def test_a_binding_to_another_account_than_ours_is_for_a_person_and_changes_no_number() -> None:
    decision = stage().settle(BINDING, replace(DONE, account_ref="another"), POLICY, START)
    assert isinstance(decision.outcome, Hold)
    assert decision.outcome.reason.code == "bank.wrong_reply"
    assert decision.facts == (CallSettled(key="bc-1", state="unknown", code="bank.wrong_reply"),)


def ruled(exception_path: str) -> Policy:
    return POLICY.model_copy(update={"exception_path": Sourced[Any](value=exception_path, rule="KL-25")})


@pytest.mark.rule("KL-25")
@pytest.mark.parametrize("text", ["不符合开户条件", "未成年人不予开户", "外籍人士不予开户"])
def test_who_cannot_have_an_account_gets_a_card_without_one_or_is_for_a_person_as_the_region_says(text: str) -> None:
    declined = Declined(code="Z1", text=f"该客户{text}")
    without = stage().settle(case(call("intent")), declined, ruled("without_financial"), START)
    assert without == Decision(Advance("personalisation"), (CallSettled(key="oa-x-1", state="declined", code="Z1"),))
    held = stage().settle(case(call("intent")), declined, ruled("hold"), START).outcome
    assert isinstance(held, Hold)
    assert (held.reason.code, held.reason.rule) == ("exception_path", "KL-25")


def test_an_account_that_exists_is_never_left_out_of_a_card_because_binding_was_refused() -> None:
    declined = Declined(code="not_eligible", text="")
    outcome = stage().settle(BINDING, declined, ruled("without_financial"), START).outcome
    assert isinstance(outcome, Hold)
    assert outcome.reason.code == "bank.not_eligible"


def test_a_bank_late_by_its_own_word_is_not_asked_without_a_pause() -> None:
    decision = stage().settle(case(call("pending")), Pending(expected_by=START), POLICY, START)
    assert isinstance(decision.outcome, Wait)
    assert decision.outcome.until == START + timedelta(seconds=10)


def test_a_call_that_may_be_on_its_way_waits() -> None:
    until = START + timedelta(seconds=30)
    assert stage().settle(case(call("unknown")), NotYet(until=until), POLICY, START) == Decision(
        Wait(until, "bank.asked")
    )


def test_a_refusal_is_recorded_with_the_banks_code_and_shown_without_its_text() -> None:
    decision = stage().settle(case(call("intent")), Declined(code="Z9", text="李四本人须到网点"), POLICY, START)
    assert decision.facts == (CallSettled(key="oa-x-1", state="declined", code="Z9"),)
    assert decision.outcome == Hold(OTHER.reason)
    assert "李四" not in repr(decision)


def test_a_bank_that_cannot_verify_is_tried_again_but_not_for_ever() -> None:
    declined = Declined(code="verification_unavailable", text="公安库网络异常")
    tries = [call("declined", key=f"oa-x-{n}") for n in range(1, POLICY.max_attempts.value + 1)]
    first = stage().settle(case(call("intent")), declined, POLICY, START).outcome
    last = stage().settle(case(*tries[:-1], call("intent", key="oa-x-9")), declined, POLICY, START).outcome
    assert first == Wait(START + timedelta(minutes=15), "bank.verification_unavailable")
    assert isinstance(last, Hold)


# -------------------------------------------------------------------------------------------------------------- failed


@pytest.mark.parametrize(
    ("calls", "error", "facts"),
    [
        ((), TransientError(), "not_received"),
        ((), OutcomeUnknown(), "unknown"),
        ((), Defect(), "unknown"),
        ((), ValueError(), "unknown"),
        ((call("unknown"),), TransientError(), None),
        ((call("unknown"),), OutcomeUnknown(), "unknown"),
    ],
)
def test_only_what_was_surely_not_received_may_be_given_again(
    calls: tuple[CallFact, ...], error: Exception, facts: str | None
) -> None:
    about = case(*calls)
    request = prepared(stage(), about)
    expected = () if facts is None else (CallSettled(key=request.instruction.key, state=facts),)
    assert stage().failed(about, request, error) == expected


def test_a_stage_that_could_open_two_accounts_is_not_built() -> None:
    with pytest.raises(ValueError, match="secret"):
        Account(lambda _: Bank(), key_secret=b"", clock=StillClock())
    with pytest.raises(ValueError, match="settle_after"):
        Patience(settle_after=timedelta(seconds=19))


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("code", "ours", "outcome"),
    [
        ("name_mismatch", "bank.name_mismatch", Correct),
        ("id_expired", "bank.id_expired", Correct),
        ("phone_invalid", "bank.phone_invalid", Correct),
        ("nine_items_missing", "bank.nine_items_missing", Correct),
        ("account_exists", "bank.account_exists", Hold),
        ("rare_character", "bank.rare_character", Hold),
        ("verification_unavailable", "bank.verification_unavailable", Wait),
        ("listed", "bank.listed", Reject),
        ("unlisted_reason", "bank.other", Hold),
    ],
)
def test_every_refusal_of_the_simulated_bank_has_its_end_by_code_and_by_wording(
    code: str, ours: str, outcome: type
) -> None:
    told = next(reply for reply in SCRIPT.values() if isinstance(reply, Declined) and reply.code == code)
    for reply in (told, Declined(code="E17", text=f"失败：{told.text}。")):
        assert refusal(reply.code, reply.text).reason.code == ours
        assert isinstance(stage().settle(case(call("intent")), reply, POLICY, START).outcome, outcome)


def test_the_script_holds_no_refusal_beside_those() -> None:
    assert sum(isinstance(reply, Declined) for reply in SCRIPT.values()) == 9


def test_the_table_has_one_entry_a_code_and_each_wording_finds_its_own() -> None:
    assert len({entry.code for entry in TABLE}) == len(TABLE)
    for entry in TABLE:
        assert entry.wordings
        assert all(refusal("?", wording) is entry for wording in entry.wordings)
        assert entry.reason.final is (entry.disposition == "reject")
        assert (entry.reason.pointer is not None) or entry.disposition != "correct"


# --------------------------------------------------------------------------------------------- one account, whatever is

FATES = ("ok", "refused", "lost before", "lost after", "crash before", "crash after")


class Killed(BaseException):
    """The worker's process ends."""


class Wire:
    """What lies between us and a good bank; the next fate strikes the next call."""

    def __init__(self, bank: SimulatedBank) -> None:
        self.bank = bank
        self.fates: list[str] = []

    def submit(self, instructions: Sequence[OpenAccount], *, deadline: datetime) -> Mapping[Key, Any]:
        return self._through(lambda: self.bank.submit(instructions, deadline=deadline), [i.key for i in instructions])

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, Any]:
        return self._through(lambda: self.bank.find(keys, deadline=deadline), keys)

    def _through(self, does: Any, keys: Sequence[Key]) -> Mapping[Key, Any]:
        fate = self.fates.pop(0) if self.fates else "ok"
        if fate == "refused":
            return {key: TransientError() for key in keys}
        if fate == "crash before":
            raise Killed
        answers: Mapping[Key, Any] = {} if fate == "lost before" else does()
        if fate == "crash after":
            raise Killed
        return answers if fate == "ok" else {key: OutcomeUnknown() for key in keys}


class Books:
    """Our records of calls, kept as the store keeps them: facts are committed, a killed worker commits nothing more."""

    def __init__(self) -> None:
        self.calls: dict[Key, CallFact] = {}
        self.opened: list[AccountOpened] = []

    def intend(self, request: AccountRequest, now: datetime) -> None:
        if request.intent is None:
            return
        known = self.calls.get(request.intent.key)
        if known is None or known.state == "not_received":
            self.calls[request.intent.key] = CallFact(key=request.intent.key, state="intent", created_at=now)

    def write(self, facts: Sequence[Any]) -> None:
        for fact in facts:
            if isinstance(fact, AccountOpened):
                self.opened.append(fact)
            else:
                self.calls[fact.key] = replace(self.calls[fact.key], state=fact.state)


@settings(max_examples=150, deadline=None)
@given(
    fates=st.lists(st.tuples(st.sampled_from(FATES), st.integers(0, 100)), max_size=12),
    phone=st.sampled_from(["13800000000", "13800000461", "13800000462", "13800000463", "13800000464"]),
    slow=st.booleans(),
)
def test_one_account_is_opened_and_recorded_whatever_goes_wrong_on_the_way(
    fates: list[tuple[str, int]], phone: str, slow: bool
) -> None:
    clock, books = StillClock(), Books()
    ledger = Ledger()
    bank = SimulatedBank(
        ledger, faults=Faults(late_s=40 if slow else 2), clock=clock, random=Random(1), sleep=lambda _: None
    )
    wire = Wire(bank)
    made = Account(lambda _: wire, key_secret=SECRET, clock=clock)
    for fate, seconds in [*fates, *[("ok", 90)] * 4]:
        if books.opened:
            break
        wire.fates = [fate]
        about = case(*books.calls.values(), of=application(phone=phone))
        request = made.prepare(about, POLICY, clock.now())
        assert isinstance(request, AccountRequest)
        books.intend(request, clock.now())
        try:
            reply = made.act({"app_1": request})["app_1"]
        except Killed:
            clock.time += timedelta(seconds=seconds)
            continue
        if isinstance(reply, Exception):
            books.write(made.failed(about, request, reply))
        else:
            books.write(made.settle(about, reply, POLICY, clock.now()).facts)
        clock.time += timedelta(seconds=seconds)
    (account,) = ledger.accounts()
    (opened,) = books.opened
    assert opened.done.card_number == account.card_number
    assert opened.key == account.key == next(iter(books.calls))
    assert [known.state for known in books.calls.values()] == ["done"]
    ledger.close()


def test_a_clock_that_runs_serves_as_well() -> None:
    clock = VirtualClock(START)
    ledger = Ledger()
    bank = SimulatedBank(ledger, faults=Faults(), clock=clock, random=Random(1))
    made = Account(lambda _: bank, key_secret=SECRET, clock=clock)
    reply = made.act({"app_1": prepared(made, case())})["app_1"]
    assert isinstance(reply, Done)
    ledger.close()
