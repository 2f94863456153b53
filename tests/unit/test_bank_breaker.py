"""The breaker before a bank: when it opens, what it lets through, and that one exchange alone decides whether it closes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clock import VirtualClock
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.gateways.bank_breaker import BankBreaker
from pipeline.ports import BankFailure, BankReply, Declined, Done, Instruction, Key, LateReplies, NotTried
from tests.support.banks import opening

START = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
SHORT, LONG = timedelta(seconds=10), timedelta(seconds=31)
DONE = Done(account_ref="1", card_number="6214670000000000000")
DECLINED = Declined(code="listed", text="黑名单")
UNREACHABLE, UNKNOWN, WRONG, NOT_TRIED = TransientError(), OutcomeUnknown(), Defect(), NotTried()
LOST = (UNREACHABLE, UNKNOWN)


class Scripted:
    """A bank that answers as it is told, and remembers what reached it."""

    def __init__(self) -> None:
        self.fate: Callable[[Key], object] = lambda _: DONE
        self.heard: list[list[Key]] = []

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        return cast("Mapping[Key, BankReply | BankFailure]", self._answer([i.key for i in instructions]))

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        return cast("Mapping[Key, BankReply | BankFailure | None]", self._answer(keys))

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        return LateReplies(cursor=after)

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, BankReply]:
        answer = self._answer(["statement"])["statement"]
        if isinstance(answer, Exception):
            raise answer
        return {}

    def _answer(self, keys: Sequence[Key]) -> dict[Key, object]:
        self.heard.append(list(keys))
        fate = self.fate
        return {key: fate(key) for key in keys}


class Rig:
    """A breaker that opens after three failures, its bank and its clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START)
        self.bank = Scripted()
        self.breaker = BankBreaker(
            self.bank, name="95533", clock=self.clock, failures=3, open_for=timedelta(seconds=30)
        )

    def submit(self, *fates: object) -> list[object]:
        """The answers to so many instructions, of which those that reach the bank have these fates."""
        told = [opening(n, key=f"k-{n}") for n in range(len(fates))]
        self.bank.fate = lambda key: fates[int(key[2:])]
        return list(self.breaker.submit(told, deadline=self.soon()).values())

    def find(self, *fates: object) -> list[object]:
        self.bank.fate = lambda key: fates[int(key[2:])]
        return list(self.breaker.find([f"k-{n}" for n in range(len(fates))], deadline=self.soon()).values())

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(seconds=60)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def opened(rig: Rig) -> Rig:
    rig.submit(*[UNREACHABLE] * 3)
    rig.bank.heard.clear()
    return rig


def test_it_opens_after_so_many_failures_in_a_row_over_several_calls(rig: Rig) -> None:
    for fate in (UNREACHABLE, UNKNOWN):
        assert rig.submit(fate) == [fate]
        assert rig.breaker.state == "closed"
    assert rig.find(UNREACHABLE) == [UNREACHABLE]
    assert rig.breaker.state == "open"


@pytest.mark.parametrize("answer", [DONE, DECLINED, None])
def test_an_answer_in_between_begins_the_count_anew(rig: Rig, answer: object) -> None:
    rig.find(UNREACHABLE, UNREACHABLE, answer, UNREACHABLE, UNREACHABLE)
    assert rig.breaker.state == "closed"
    rig.find(UNREACHABLE)
    assert rig.breaker.state == "open"


@pytest.mark.parametrize("fate", [WRONG, NOT_TRIED])
def test_what_tells_nothing_of_the_bank_neither_counts_nor_forgives(rig: Rig, fate: Exception) -> None:
    rig.submit(*[fate] * 20)
    assert rig.breaker.state == "closed"
    rig.submit(UNREACHABLE, UNREACHABLE, fate, UNREACHABLE)
    assert rig.breaker.state == "open"


def test_while_it_is_open_the_bank_hears_nothing_and_every_key_is_answered(opened: Rig) -> None:
    opened.clock.advance(timedelta(seconds=20))
    assert [type(answer) for answer in opened.submit(DONE, DONE)] == [NotTried, NotTried]
    assert [type(answer) for answer in opened.find(DONE)] == [NotTried]
    with pytest.raises(NotTried):
        opened.breaker.statement(START.date(), deadline=opened.soon())
    assert opened.bank.heard == []


def test_what_is_brought_in_here_is_collected_while_it_is_open(opened: Rig) -> None:
    assert opened.breaker.collect(after="7", limit=10) == LateReplies(cursor="7")


def test_one_exchange_shows_that_the_bank_is_back_and_the_rest_of_the_call_follows(opened: Rig) -> None:
    opened.clock.advance(LONG)
    assert opened.submit(DONE, DECLINED, DONE) == [DONE, DECLINED, DONE]
    assert opened.bank.heard == [["k-0"], ["k-1", "k-2"]]
    assert opened.breaker.state == "closed"


@pytest.mark.parametrize("fate", LOST)
def test_one_exchange_shows_that_the_bank_is_still_away_and_the_rest_is_not_sent(opened: Rig, fate: Exception) -> None:
    opened.clock.advance(LONG)
    answers = opened.submit(fate, DONE, DONE)
    assert answers[0] is fate
    assert [type(answer) for answer in answers[1:]] == [NotTried, NotTried]
    assert opened.bank.heard == [["k-0"]]
    opened.clock.advance(SHORT)
    assert opened.breaker.state == "open"
    opened.clock.advance(LONG)
    assert opened.breaker.state == "half_open"


@pytest.mark.parametrize("fate", [WRONG, NOT_TRIED])
def test_a_probe_that_tells_nothing_leaves_the_decision_to_the_next(opened: Rig, fate: Exception) -> None:
    opened.clock.advance(LONG)
    assert opened.submit(fate, DONE, DONE) == [fate, DONE, DONE]
    assert opened.bank.heard == [["k-0"], ["k-1"], ["k-2"]]


def test_a_statement_is_a_probe_too(opened: Rig) -> None:
    opened.clock.advance(LONG)
    opened.bank.fate = lambda _: UNREACHABLE
    with pytest.raises(TransientError):
        opened.breaker.statement(START.date(), deadline=opened.soon())
    assert opened.breaker.state == "open"
    opened.clock.advance(LONG)
    opened.bank.fate = lambda _: DONE
    assert opened.breaker.statement(START.date(), deadline=opened.soon()) == {}
    assert opened.breaker.state == "closed"


def test_a_probe_that_breaks_off_by_a_fault_of_ours_lets_the_next_one_through(opened: Rig) -> None:
    opened.clock.advance(LONG)
    opened.bank.fate = lambda _: 1 // 0
    with pytest.raises(ZeroDivisionError):
        opened.breaker.find(["k-0"], deadline=opened.soon())
    assert opened.find(DONE) == [DONE]
    assert opened.breaker.state == "closed"


def test_while_one_thread_probes_the_others_are_answered_at_once(opened: Rig) -> None:
    opened.clock.advance(LONG)
    probing, others_answered = threading.Event(), threading.Event()

    def answer(_: Key) -> object:
        probing.set()
        assert others_answered.wait(30)
        return DONE

    opened.bank.fate = answer
    with ThreadPoolExecutor(8) as threads:
        probe = threads.submit(opened.breaker.find, ["k-0"], deadline=opened.soon())
        assert probing.wait(30)
        others = [threads.submit(opened.breaker.find, ["k-1"], deadline=opened.soon()) for _ in range(7)]
        assert {type(other.result(timeout=30)["k-1"]) for other in others} == {NotTried}
        others_answered.set()
        assert probe.result(timeout=30) == {"k-0": DONE}
    assert opened.bank.heard == [["k-0"]]


def test_an_answer_to_what_was_asked_before_it_opened_does_not_close_it(rig: Rig) -> None:
    asked, opened = threading.Event(), threading.Event()

    def answer(_: Key) -> object:
        asked.set()
        assert opened.wait(30)
        return DONE

    rig.bank.fate = answer
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(rig.breaker.find, ["k-0"], deadline=rig.soon())
        assert asked.wait(30)
        rig.find(*[UNREACHABLE] * 3)
        opened.set()
        assert slow.result(timeout=30) == {"k-0": DONE}
    assert rig.breaker.state == "open"


def test_failures_of_what_was_asked_before_it_opened_do_not_open_it_again(rig: Rig) -> None:
    asked, closed = threading.Event(), threading.Event()

    def answer(key: Key) -> object:
        if key.startswith("old"):
            asked.set()
            assert closed.wait(30)
            return UNREACHABLE
        return DONE

    rig.bank.fate = answer
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(rig.breaker.find, ["old-1", "old-2", "old-3"], deadline=rig.soon())
        assert asked.wait(30)
        rig.find(*[UNREACHABLE] * 3)
        rig.clock.advance(LONG)
        assert rig.find(DONE) == [DONE]
        closed.set()
        assert set(slow.result(timeout=30).values()) == {UNREACHABLE}
    assert rig.breaker.state == "closed"


def test_failures_of_all_threads_are_counted_together(rig: Rig) -> None:
    all_there = threading.Barrier(4)
    fates: Iterator[object] = iter([UNREACHABLE, UNREACHABLE, UNREACHABLE, DONE])

    def answer(_: Key) -> object:
        all_there.wait(30)
        return next(fates)

    rig.bank.fate = answer
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(rig.breaker.find, [f"k-{n}"], deadline=rig.soon()) for n in range(4)]
        answers = [answer for call in calls for answer in call.result(timeout=30).values()]
    assert answers.count(DONE) == 1
    # The one answer may have come before, between or after the failures: only three in a row open.
    rig.find(*[UNREACHABLE] * 2)
    assert rig.breaker.state == "open"


def test_a_clock_that_is_put_back_does_not_keep_a_bank_waiting(opened: Rig) -> None:
    opened.breaker._clock = VirtualClock(START - timedelta(hours=1))
    assert opened.breaker.state == "half_open"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from([DONE, DECLINED, *LOST, WRONG, NOT_TRIED]), min_size=1, max_size=4),
            st.sampled_from([SHORT, LONG]),
        ),
        max_size=30,
    )
)
def test_the_bank_hears_no_more_than_the_breaker_allows(steps: list[list[object] | timedelta]) -> None:
    rig = Rig()
    in_a_row, opened_at = 0, None
    for step in steps:
        if isinstance(step, timedelta):
            rig.clock.advance(step)
            continue
        before, rig.bank.heard = rig.breaker.state, []
        answers = rig.submit(*step)
        heard = [key for call in rig.bank.heard for key in call]
        assert len(answers) == len(step)
        assert heard == [f"k-{n}" for n in range(len(heard))]
        assert all(answers[n] is step[n] for n in range(len(heard)))
        assert all(type(answer) is NotTried for answer in answers[len(heard) :])
        if before == "open":
            assert heard == []
            continue
        if before == "closed":
            assert rig.bank.heard == [heard]
        for fate in step[: len(heard)]:
            if isinstance(fate, NotTried | Defect):
                continue
            failed = isinstance(fate, Exception)
            if opened_at is None or failed:
                in_a_row = in_a_row + 1 if failed else 0
            else:
                in_a_row, opened_at = 0, None
            if failed and (opened_at is not None or in_a_row == 3):
                in_a_row, opened_at = 0, rig.clock.now()
                break
        assert (rig.breaker.state == "closed") == (opened_at is None)
