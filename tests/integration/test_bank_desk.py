"""The bank desk: each account's instructions reach the bank once and in order, whatever the bank, the wire and our processes do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.application import Submission
from pipeline.clock import civil_date
from pipeline.errors import Conflict, NeedsOperator, NotFound, OutcomeUnknown, Refused, TransientError
from pipeline.gateways.bank_simulated import SimulatedBank
from pipeline.policy import Policy, Sourced
from pipeline.ports import CardProduced, Declined, Done, FreezeFinancial, Instruction, Key, LateReplies, Pending
from pipeline.services import accounts, bank_desk, run_stage
from pipeline.services.context import PolicyBook
from pipeline.stages.account import Account
from pipeline.store import bank_books
from pipeline.store import tables as t
from producers.bank_desk import BankDesk

from .conftest import Killed, Line, dies_after, dies_before

Make = Callable[..., Submission]
FATES = ("ok", "refused", "lost before", "lost after", "crash before", "crash after")


class Wire:
    """What lies between the desk and a good bank: the next fate strikes the next call, `says` replaces answers by operation."""

    def __init__(self, bank: SimulatedBank) -> None:
        self.bank = bank
        self.fates: list[str] = []
        self.says: dict[type, Any] = {}
        self.finds: dict[Key, Any] = {}
        self.late = LateReplies()
        self.calls: list[tuple[str, tuple[Key, ...]]] = []
        self.cursors: list[str | None] = []
        self.gone = False

    def __call__(self, code: str) -> Wire:
        if self.gone:
            raise NeedsOperator("bank.not_connected")
        return self

    def submit(self, instructions: Sequence[Instruction], *, deadline: datetime) -> Mapping[Key, Any]:
        keys = [i.key for i in instructions]
        self.calls.append(("submit", tuple(keys)))
        said = {i.key: self.says[type(i)] for i in instructions if type(i) in self.says}
        through = [i for i in instructions if i.key not in said]
        return said | dict(
            self._through(lambda: self.bank.submit(through, deadline=deadline), [i.key for i in through])
        )

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, Any]:
        self.calls.append(("find", tuple(keys)))
        through = [key for key in keys if key not in self.finds]
        said = {key: self.finds[key] for key in keys if key in self.finds}
        return said | dict(self._through(lambda: self.bank.find(through, deadline=deadline), through))

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        self.cursors.append(after)
        return self.late

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, Any]:
        return self._through(lambda: self.bank.statement(day, deadline=deadline), [])

    def _through(self, does: Callable[[], Mapping[Key, Any]], keys: Sequence[Key]) -> Mapping[Key, Any]:
        fate = self.fates.pop(0) if self.fates else "ok"
        if fate == "refused":
            return {key: TransientError() for key in keys}
        if fate == "crash before":
            raise Killed
        answers = {} if fate == "lost before" else does()
        if fate == "crash after":
            raise Killed
        return answers if fate == "ok" else {key: OutcomeUnknown() for key in keys}


@pytest.fixture
def wire(line: Line) -> Wire:
    return Wire(line.bank)


@pytest.fixture
def card(line: Line, submission: Make) -> Any:
    """A card with an account, made and not yet told of."""
    [i] = line.accept(submission())
    line.run()
    return line.card(i)


def desk(line: Line, wire: Wire) -> bank_desk.Ran:
    return bank_desk.run(line.context, wire)


def drain(line: Line, wire: Wire, *, rounds: int = 60) -> None:
    """Go on, with time, until nothing is to be done by itself."""
    for _ in range(rounds):
        desk(line, wire)
        if not [row for row in accounts.listing(line.context) if row.seq is not None and not row.held]:
            return
        line.clock.advance(timedelta(minutes=3))
    raise AssertionError("the desk does not come to rest")


def call(line: Line, key: Key) -> Any:
    with line.context.store.transaction() as tx:
        return tx.conn.execute(t.external_calls.select().where(t.external_calls.c.key == key)).one()


def account(line: Line, account_id: str) -> Any:
    with line.context.store.transaction() as tx:
        return tx.conn.execute(t.accounts.select().where(t.accounts.c.id == account_id)).one()


def clear(line: Line, account_id: str) -> dict[str, Any]:
    with line.context.store.transaction() as tx:
        row = tx.conn.execute(t.accounts.select().where(t.accounts.c.id == account_id)).one()
        return tx.sealer.open(row.sealed, bound_to=f"accounts/{row.id}")


def history(line: Line, account_id: str) -> list[str]:
    return list(line.ledger.history(clear(line, account_id)["account_ref"]))


def freeze(line: Line, card: Any) -> Key:
    return accounts.freeze(line.context, card.id, reason="lost", actor="li")


def end(line: Line, card: Any) -> Key:
    """The account ends with its card, as a part of the act that ends that."""
    with line.context.store.transaction() as tx:
        told = {"account_id": card.account_id, "card_id": card.id, "reason": "ended", "actor": "li"}
        key = accounts.instruct(tx, operation="close_account", now=line.clock.now(), **told)
    assert key is not None
    return key


# ------------------------------------------------------------------------------------------------------------ once each


def test_a_bank_is_told_once_of_a_card_that_was_made(line: Line, wire: Wire, card: Any) -> None:
    key = "cp-" + card.id.removeprefix("card_")
    assert call(line, key).state == "intent"
    assert desk(line, wire).calls == {"done": 1}
    assert desk(line, wire).calls == {}
    assert wire.calls == [("submit", (key,))]
    assert history(line, card.account_id) == ["open_account", "card_produced"]


@pytest.mark.rule("KL-12")
@pytest.mark.rule("KL-13")
def test_a_freeze_its_release_and_the_close_reach_the_bank_in_order_and_show_on_the_account(
    line: Line, wire: Wire, card: Any
) -> None:
    freeze(line, card)
    accounts.release(line.context, card.id, reason="found", actor="li")
    end(line, card)
    states = []
    for _ in range(4):  # of one account only the oldest is given, so each takes a round
        assert desk(line, wire).calls == {"done": 1}
        row = account(line, card.account_id)
        states.append((row.status, row.frozen_at is not None, row.closed_at is not None))
    assert states == [
        ("open", False, False), ("open", True, False), ("open", False, False), ("closed", False, True),
    ]  # fmt: skip
    expected = ["open_account", "card_produced", "freeze_financial", "release_financial", "close_account"]
    assert history(line, card.account_id) == expected
    [theirs] = line.ledger.accounts()
    assert theirs.status == "closed"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_goes_wrong_the_bank_does_each_thing_once_and_in_the_order_it_was_asked_for(
    line: Line, wire: Wire, submission: Make, seed: int
) -> None:
    random = Random(seed)
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    line.run()
    cards = [line.card(i) for i in ids]
    asked: dict[str, list[str]] = {card.account_id: ["card_produced"] for card in cards}
    verbs = {
        "freeze_financial": accounts.freeze,
        "release_financial": accounts.release,
        "activate_financial": accounts.activate,
    }
    for _ in range(30):
        chosen, (operation, verb) = random.choice(cards), random.choice(list(verbs.items()))
        if random.random() < 0.4:
            with suppress(Conflict):
                verb(line.context, chosen.id, reason="test", actor="li")
                asked[chosen.account_id].append(operation)
        wire.fates = [random.choice(FATES) for _ in range(2)]
        with suppress(Killed):
            desk(line, wire)
        line.clock.advance(timedelta(seconds=random.choice((1, 20, 70, 130))))
    for chosen in cards:
        end(line, chosen)
        asked[chosen.account_id].append("close_account")
    wire.fates = []
    drain(line, wire)
    for account_id, operations in asked.items():
        assert history(line, account_id) == ["open_account", *operations]
        assert account(line, account_id).status == "closed"
    assert {theirs.status for theirs in line.ledger.accounts()} == {"closed"}
    today = civil_date(line.context.now())
    [books] = [one for one in bank_desk.reconcile(line.context, wire, today) if one.agreed]
    assert (books.count, books.asked) == (0, True)


# ------------------------------------------------------------------------------------------------------------ when in doubt


@pytest.mark.parametrize("fate", ["crash before", "crash after"])
def test_what_a_dead_process_held_is_asked_about_before_it_is_given(
    line: Line, wire: Wire, card: Any, fate: str
) -> None:
    wire.fates = [fate]
    with pytest.raises(Killed):
        desk(line, wire)
    assert desk(line, wire).calls == {}  # its lease runs
    line.clock.advance(bank_desk.LEASE)
    wire.calls.clear()
    desk(line, wire)
    assert [what for what, _ in wire.calls] == ["find"]
    line.clock.advance(timedelta(minutes=2))
    drain(line, wire)
    assert history(line, card.account_id) == ["open_account", "card_produced"]


def test_what_the_bank_never_saw_is_given_again_under_its_key_when_it_cannot_be_on_its_way(
    line: Line, wire: Wire, card: Any
) -> None:
    wire.fates = ["lost before"]
    assert desk(line, wire).calls == {"unknown": 1}
    line.clock.advance(timedelta(seconds=31))
    assert desk(line, wire).calls == {"unknown": 1}
    assert [what for what, _ in wire.calls] == ["submit", "find"]
    line.clock.advance(timedelta(seconds=30))
    assert desk(line, wire).calls == {"done": 1}
    assert [what for what, _ in wire.calls] == ["submit", "find", "find", "submit"]
    assert len({keys for _, keys in wire.calls}) == 1


def test_a_call_without_an_answer_for_hours_is_held_and_goes_on_once_the_bank_tells(
    line: Line, wire: Wire, card: Any
) -> None:
    wire.fates = ["lost after"]
    desk(line, wire)
    key = wire.calls[0][1][0]
    later = freeze(line, card)
    for _ in range(5):
        line.clock.advance(timedelta(hours=1))
        wire.fates = ["lost after"]
        desk(line, wire)
    row = call(line, key)
    assert (row.state, row.held, row.code) == ("unknown", True, "bank.unknown")
    assert desk(line, wire).calls == {}
    assert call(line, later).state == "intent"
    wire.fates = []
    accounts.ask_again(line.context, key, actor="li")
    drain(line, wire)
    assert history(line, card.account_id) == ["open_account", "card_produced", "freeze_financial"]


# ------------------------------------------------------------------------------------------------------------- for people


@pytest.fixture
def declined(line: Line, wire: Wire, card: Any) -> Key:
    """A freeze that the bank has declined."""
    desk(line, wire)
    wire.says[FreezeFinancial] = Declined(code="E7", text="张小明不在册")
    key = freeze(line, card)
    assert desk(line, wire).calls == {"held": 1}
    wire.says.clear()
    return key


def test_what_the_bank_declines_is_for_a_person_and_keeps_the_accounts_later_calls_waiting(
    line: Line, wire: Wire, card: Any, declined: Key
) -> None:
    closing = end(line, card)
    line.clock.advance(timedelta(days=1))
    assert desk(line, wire).calls == {}
    [shown] = accounts.listing(line.context, held=True)
    assert (shown.key, shown.state, shown.code) == (declined, "declined", "E7")
    accounts.settle_by_hand(line.context, declined, "declined", by="li", approved_by="wang", reason="told by telephone")
    assert desk(line, wire).calls == {"done": 1}
    assert (call(line, declined).state, call(line, closing).state) == ("declined", "done")


def test_what_two_people_know_was_done_shows_on_the_account_and_one_alone_settles_nothing(
    line: Line, card: Any, declined: Key
) -> None:
    for people, code in (
        ({"by": "li", "approved_by": " LI "}, "same-person"),
        ({"by": "li", "approved_by": ""}, "required"),
        ({"by": "li", "approved_by": "wang", "reason": " "}, "required"),
    ):
        with pytest.raises(Refused) as refused:
            accounts.settle_by_hand(line.context, declined, "done", **({"reason": "known"} | people))
        assert refused.value.reason_code == code
    assert call(line, declined).held
    accounts.settle_by_hand(line.context, declined, "done", by="li", approved_by="wang", reason="letter of the bank")
    row = call(line, declined)
    assert (row.state, row.held, account(line, card.account_id).frozen_at is not None) == ("done", False, True)
    with line.context.store.transaction() as tx:
        [entry] = tx.conn.execute(t.audit.select().where(t.audit.c.action == "bank.settle")).all()
    assert (entry.actor, entry.target) == ("li", declined)
    assert entry.detail == {"outcome": "done", "approved_by": "wang", "reason": "letter of the bank"}


def test_what_was_never_received_is_given_again_under_its_key(line: Line, wire: Wire, card: Any, declined: Key) -> None:
    wire.calls.clear()
    accounts.settle_by_hand(line.context, declined, "not_received", by="li", approved_by="wang", reason="asked")
    desk(line, wire)
    assert wire.calls == [("submit", (declined,))]
    assert history(line, card.account_id)[-1] == "freeze_financial"


def test_what_the_desk_does_by_itself_is_settled_by_nobody_else(line: Line, wire: Wire, card: Any) -> None:
    key = "cp-" + card.id.removeprefix("card_")
    with pytest.raises(Conflict):
        accounts.settle_by_hand(line.context, key, "done", by="li", approved_by="wang", reason="r")
    wire.fates = ["crash after"]
    with pytest.raises(Killed):
        desk(line, wire)
    with pytest.raises(Conflict):
        accounts.ask_again(line.context, key, actor="li")
    line.clock.advance(bank_desk.LEASE)
    drain(line, wire)
    with pytest.raises(Conflict):
        accounts.ask_again(line.context, key, actor="li")
    with pytest.raises(NotFound):
        accounts.ask_again(line.context, "ff-none", actor="li")


def test_an_account_whose_opening_is_not_known_for_hours_is_asked_about_again_or_given_again_by_two_people(
    line: Line, wire: Wire, submission: Make
) -> None:
    line.stages["account"] = Account(wire, key_secret=b"k" * 32, clock=line.clock)
    [i] = line.accept(submission())
    wire.fates = ["lost before"] + ["lost after"] * 20
    line.run()
    for _ in range(12):
        line.later(minutes=30)
    assert line.status(i) == "held"
    [shown] = accounts.listing(line.context)
    with pytest.raises(Refused) as refused:
        accounts.settle_by_hand(line.context, shown.key, "done", by="li", approved_by="wang", reason="r")
    assert refused.value.reason_code == "ask-the-bank"
    accounts.ask_again(line.context, shown.key, actor="li")
    line.run()
    assert line.status(i) == "held"
    wire.fates = []
    accounts.settle_by_hand(line.context, shown.key, "not_received", by="li", approved_by="wang", reason="asked")
    line.run()
    assert line.status(i) == "dispatch"
    assert [theirs.key for theirs in line.ledger.accounts()] == [shown.key]


# ---------------------------------------------------------------------------------------------------------- late replies


def test_an_answer_that_comes_early_wakes_its_call_and_the_cursor_outlives_the_process(
    line: Line, wire: Wire, card: Any
) -> None:
    wire.says[CardProduced] = Pending(expected_by=line.context.now() + timedelta(days=2))
    desk(line, wire)
    key = wire.calls[0][1][0]
    ref = clear(line, card.account_id)["account_ref"]
    wire.finds[key] = Done(account_ref=ref, card_number="1")
    wire.late = LateReplies(keys=(key,), cursor="7")
    assert bank_desk.collect(line.context, wire, ["95533"]) == 1
    assert desk(line, wire).calls == {"done": 1}
    wire.late = LateReplies(cursor="7")
    assert bank_desk.collect(line.context, wire, ["95533"]) == 0
    assert wire.cursors == [None, "7"]


def test_an_answer_that_comes_while_its_call_is_just_being_asked_about_is_told_again(
    line: Line, wire: Wire, card: Any
) -> None:
    wire.fates = ["crash after"]
    with pytest.raises(Killed):
        desk(line, wire)
    wire.late = LateReplies(keys=wire.calls[0][1], cursor="7")
    bank_desk.collect(line.context, wire, ["95533"])
    line.clock.advance(bank_desk.LEASE)
    desk(line, wire)
    bank_desk.collect(line.context, wire, ["95533"])
    bank_desk.collect(line.context, wire, ["95533"])
    assert wire.cursors == [None, None, "7"]


def test_an_answer_wakes_the_application_that_waits_for_it(line: Line, wire: Wire, submission: Make) -> None:
    real = line.stages["account"]
    line.stages["account"] = Account(wire, key_secret=b"k" * 32, clock=line.clock)
    [i] = line.accept(submission())
    line.until("account")
    wire.fates = ["lost after"]
    line.step("account")
    [shown] = accounts.listing(line.context)
    wire.finds[shown.key] = Pending(expected_by=line.context.now() + timedelta(days=2))
    line.later(minutes=1)
    assert (line.row(i).work, line.why(i)) == ("waiting", "bank.pending")
    line.stages["account"] = real
    wire.late = LateReplies(keys=(shown.key,), cursor="c")
    assert bank_desk.collect(line.context, wire, ["95533"]) == 1
    line.run()
    assert line.status(i) == "dispatch"


# ------------------------------------------------------------------------------------------------------ what is refused


def test_nonsense_is_refused_and_told_to_no_bank(line: Line, wire: Wire, card: Any) -> None:
    def refused(verb: Callable[..., Key], reason: str = "test", card_id: str = card.id) -> str:
        with pytest.raises(Refused) as error:
            verb(line.context, card_id, reason=reason, actor="li")
        return error.value.reason_code

    assert refused(accounts.freeze, card_id="card_none") == "not-found"
    assert refused(accounts.freeze, reason="李四说丢了") == "bad-reason"
    assert refused(accounts.release) == "not-frozen"
    freeze(line, card)
    assert refused(accounts.freeze) == "told-already"
    drain(line, wire)
    assert refused(accounts.freeze) == "told-already"
    end(line, card)
    moot = accounts.activate(line.context, card.id, actor="li")
    assert refused(accounts.close) == "told-already"
    drain(line, wire)
    assert call(line, moot).state == "closed"
    assert refused(accounts.freeze) == "account-closed"
    assert history(line, card.account_id) == ["open_account", "card_produced", "freeze_financial", "close_account"]


class Lenient(PolicyBook):
    """Every region makes cards without the financial application where no account can be opened (KL-25)."""

    def __init__(self, book: PolicyBook) -> None:
        self._book = book

    def of(self, region_code: str, version: str | None = None) -> Policy:
        return self._changed(self._book.of(region_code))

    def cities(self) -> tuple[Policy, ...]:
        return tuple(self._changed(policy) for policy in self._book.cities())

    def _changed(self, policy: Policy) -> Policy:
        rule = Sourced[Any](value="without_financial", rule="KL-25")
        return policy.model_copy(update={"exception_path": rule})


@pytest.mark.rule("KL-25")
def test_a_card_without_an_account_is_made_and_no_bank_hears_of_it(line: Line, wire: Wire, submission: Make) -> None:
    line.context = replace(line.context, policies=Lenient(line.context.policies))
    policy = line.context.policies.of("420100")
    line.supply("NA01", blank_type=policy.kind_of_card("95533", account=False)[0])
    line.bank.faults = replace(line.bank.faults, decline_names={"张小明": Declined(code="E9", text="外籍人士不予开户")})
    [i] = line.accept(submission())
    line.run()
    made = line.card(i)
    assert (line.status(i), made.account_id) == ("dispatch", None)
    assert desk(line, wire).calls == {}
    with pytest.raises(Refused) as refused:
        freeze(line, made)
    assert refused.value.reason_code == "no-account"


# ---------------------------------------------------------------------------------------------------------- a later card


@pytest.fixture
def again(line: Line, submission: Make) -> str:
    """The replacement that the holder of a card applies for, at the account stage."""
    [first] = line.to_outlet(submission())
    line.notify(first)
    line.hand_over(first)
    [i] = line.accept(submission(external_ref="T-again", kind="replacement"))
    line.until("account")
    return i


@pytest.mark.rule("KL-10")
@pytest.mark.parametrize("dies", [dies_before, dies_after], ids=["before the bank", "after the bank"])
def test_a_replacement_is_bound_to_the_account_once_and_carries_the_number_the_bank_gave(
    line: Line, wire: Wire, again: str, dies: Any
) -> None:
    drain(line, wire)
    [before] = line.ledger.accounts()
    with pytest.raises(Killed):
        run_stage.run(line.context, dies(line.stages["account"]), line.lease("account"), worker="w-dead")
    for _ in range(3):
        line.later(minutes=11)
    drain(line, wire)
    card = line.card(again)
    [after] = line.ledger.accounts()
    assert (after.account_ref, clear(line, card.account_id)["card_number"]) == (before.account_ref, after.card_number)
    assert before.card_number != after.card_number
    told = ["open_account", "card_produced", "bind_card", "card_produced"]
    assert [what for what in history(line, card.account_id) if what != "activate_financial"] == told


@pytest.mark.rule("KL-10")
def test_a_card_waits_for_the_close_of_the_old_account_and_gets_a_new_one(line: Line, wire: Wire, again: str) -> None:
    with line.context.store.transaction() as tx:
        old = tx.conn.execute(t.accounts.select()).one()
        accounts.instruct(
            tx,
            operation="close_account",
            account_id=old.id,
            card_id=None,
            reason="ended",
            actor="li",
            now=line.clock.now(),
        )
    line.step("account")
    assert line.why(again) == "bank.closing"
    drain(line, wire)
    line.later(minutes=2)
    card = line.card(again)
    assert card.account_id != old.id
    assert account(line, card.account_id).generation == 2
    assert sorted(theirs.status for theirs in line.ledger.accounts()) == ["closed", "open"]


# -------------------------------------------------------------------------------------------------------- the bank's books


def test_books_that_agree_agree_however_late_an_end_was_learnt(line: Line, wire: Wire, card: Any) -> None:
    wire.fates = ["lost after"]
    desk(line, wire)
    line.clock.advance(timedelta(days=1))
    desk(line, wire)
    for day in (line.context.now() - timedelta(days=1), line.context.now()):
        [books] = bank_desk.reconcile(line.context, wire, civil_date(day), codes=["95533"])
        assert (books.count, books.asked) == (0, True)
        assert books.agreed > 0


def test_what_only_one_side_has_and_what_ended_otherwise_is_told_by_key(line: Line, wire: Wire, card: Any) -> None:
    desk(line, wire)
    done = wire.calls[0][1][0]
    theirs = CardProduced(
        key="cp-foreign", bank_code="95533", account_ref="none", card_number="1", chip_id="1", card_serial="1",
        issued=date(2026, 3, 2), expires=date(2036, 3, 2),
    )  # fmt: skip
    line.bank.submit([theirs], deadline=line.context.now() + timedelta(minutes=1))
    wire.fates = ["lost before"]
    ours = freeze(line, card)
    desk(line, wire)
    accounts.settle_by_hand(line.context, ours, "done", by="li", approved_by="wang", reason="a mistake")
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.external_calls).where(t.external_calls.c.key == done).values(state="declined"))
    [books] = bank_desk.reconcile(line.context, wire, civil_date(line.context.now()), codes=["95533"])
    assert (books.ours_only, books.theirs_only, books.different) == ((ours,), ("cp-foreign",), (done,))
    assert books.agreed == 1


def test_a_bank_out_of_reach_is_told_as_not_asked_and_one_that_is_not_connected_only_if_it_was_used(
    line: Line, wire: Wire, card: Any
) -> None:
    desk(line, wire)

    def banks(code: str) -> Any:
        raise NeedsOperator("bank.not_connected")

    today = civil_date(line.context.now())
    assert {one.bank_code for one in bank_desk.reconcile(line.context, banks, today)} == {"95533"}
    with line.context.store.transaction() as tx:
        assert bank_books.bank_codes(tx) == {"95533"}
    line.bank.faults = replace(line.bank.faults, slow_ms=120_000)
    line.bank._sleep = lambda _: None
    [books] = bank_desk.reconcile(line.context, wire, today, codes=["95533"])
    assert not books.asked


# ------------------------------------------------------------------------------------------------------------ the process


def test_the_desk_gives_what_is_due_until_it_is_told_to_stop(line: Line, wire: Wire, card: Any) -> None:
    stopping = threading.Event()
    settled = threading.Event()

    def banks(code: str) -> Any:
        row = call(line, "cp-" + card.id.removeprefix("card_"))
        if row.state == "done":
            settled.set()
        return wire

    thread = threading.Thread(target=BankDesk(context=line.context, banks=banks, every_s=0.01).run, args=(stopping,))
    thread.start()
    try:
        assert settled.wait(30)
    finally:
        stopping.set()
        thread.join(30)
    assert not thread.is_alive()
    assert history(line, card.account_id) == ["open_account", "card_produced"]


# ---------------------------------------------------------------------------------------------- a card that waits for its holder


@pytest.mark.rule("KL-16")
def test_nobody_closes_the_account_of_a_card_that_is_still_to_be_collected(
    line: Line, wire: Wire, submission: Make
) -> None:
    [i] = line.to_outlet(submission())
    card = line.card(i)
    drain(line, wire)
    with pytest.raises(Conflict) as refused:
        accounts.close(line.context, card.id, reason="ended", actor="li")
    assert refused.value.reason_code == "to-be-collected"
    assert accounts.listing(line.context) == []
    line.hand_over(i)
    key = accounts.close(line.context, card.id, reason="ended", actor="li")
    drain(line, wire)
    assert (call(line, key).state, account(line, card.account_id).status) == ("done", "closed")


def test_a_card_whose_account_is_closed_or_being_closed_is_given_to_nobody(
    line: Line, wire: Wire, submission: Make
) -> None:
    [i] = line.to_outlet(submission())
    card = line.card(i)
    end(line, card)
    for _ in range(2):  # about to be told, and told
        with pytest.raises(Conflict) as refused:
            line.hand_over(i)
        assert refused.value.reason_code == "account-closed"
        assert (line.status(i), line.card(i).custody) == ("delivered", "outlet")
        drain(line, wire)
    assert account(line, card.account_id).status == "closed"
