"""An account and its cards: what becomes of the one when the others are lost, made again, given up or never made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update

from config.policies import load_policies
from pipeline.application import Submission
from pipeline.errors import Conflict
from pipeline.gateways.bank_simulated import SimulatedBank
from pipeline.ports import (
    BindCard,
    CardProduced,
    CloseAccount,
    Declined,
    FreezeFinancial,
    Instruction,
    Key,
    LateReplies,
    Pending,
)
from pipeline.services import (
    accounts,
    bank_desk,
    destruction,
    discrepancies,
    operate,
    produced,
    returns,
    run_stage,
    storage,
    unclaimed,
)
from pipeline.stages.account import Account
from pipeline.store import bank_desk as store_desk
from pipeline.store import tables as t

from .conftest import Line
from .test_bank_desk import Wire, account, call, clear, drain, history
from .test_discrepancies import receive, settle

Make = Callable[..., Submission]
Regional = Callable[..., Submission]
POLICIES = {policy.key: policy for policy in load_policies().cities()}


class Noting(Wire):
    """A wire that keeps what went through it."""

    def __init__(self, bank: SimulatedBank) -> None:
        super().__init__(bank)
        self.given: list[Instruction] = []

    def submit(self, instructions: Sequence[Instruction], *, deadline: datetime) -> Any:
        self.given += instructions
        return super().submit(instructions, deadline=deadline)

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.given if isinstance(one, kind)]


@pytest.fixture
def wire(line: Line) -> Wire:
    return Wire(line.bank)


@pytest.fixture
def noting(line: Line) -> Noting:
    return Noting(line.bank)


@pytest.fixture
def again(line: Line, submission: Make) -> str:
    """The replacement that the holder of a card applies for, at the account stage."""
    [first] = line.to_outlet(submission())
    line.hand_over(first)
    [i] = line.accept(submission(external_ref="T-again", kind="replacement"))
    line.until("account")
    return i


def wired(line: Line, wire: Wire) -> None:
    """The account stage speaks to its banks over this wire."""
    line.stages["account"] = Account(wire, key_secret=b"k" * 32, clock=line.clock)


def number_of(line: Line, card: Any) -> str:
    with line.context.store.transaction() as tx:
        sealed = tx.conn.execute(select(t.cards.c.sealed).where(t.cards.c.id == card.id)).scalar_one()
        return str(tx.sealer.open(sealed, bound_to=f"cards/{card.id}")["bank_card_number"])


def count(line: Line, table: Any) -> int:
    with line.context.store.transaction() as tx:
        return len(tx.conn.execute(select(table)).all())


def bring_back(line: Line, i: str, **told: Any) -> Any:
    return returns.receive_back(line.context, line.call_back(i), seal_no="Back-1", actor="storekeeper", **told)


def destroy(line: Line) -> None:
    listed = destruction.list_for_destruction(line.context, None, reason="over", actor="storekeeper")
    destruction.destroy(line.context, listed, destroyed_by="storekeeper", witness="auditor", actor="storekeeper")


# ------------------------------------------------------------------------------------------------- who still uses an account


@pytest.mark.rule("KL-10")
@pytest.mark.parametrize("key", ["shaoguan", "wuhan"])
@pytest.mark.parametrize("kind", ["exchange", "replacement"])
def test_a_later_card_that_nobody_fetched_leaves_the_account_to_the_card_its_person_has(
    line: Line,
    wire: Wire,
    regional: Regional,
    key: str,
    kind: str,
) -> None:
    policy = POLICIES[key]
    [first] = line.to_outlet(regional(policy, 1))
    line.hand_over(first)
    [second] = line.to_outlet(regional(policy, 1, external_ref="T-again", kind=kind))
    line.notify(second)
    line.later(days=400)
    bring_back(line, second)
    line.later(days=800)
    destroy(line)
    drain(line, wire)
    held = line.card(first)
    assert (line.status(second), held.custody) == ("destroyed", "holder")
    assert account(line, held.account_id).status == "open"
    assert "close_account" not in history(line, held.account_id)


@pytest.mark.rule("SG-10")
def test_an_account_goes_with_the_last_card_that_carries_it(line: Line, wire: Wire, regional: Regional) -> None:
    policy = POLICIES["shaoguan"]
    [first] = line.to_outlet(regional(policy, 1))
    line.hand_over(first)
    old = line.card(first)
    [second] = line.to_outlet(regional(policy, 1, external_ref="T-again", kind="replacement"))
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.cards).where(t.cards.c.id == old.id).values(status="cancelled"))
    line.notify(second)
    line.later(days=400)
    bring_back(line, second)
    line.later(days=100)
    destroy(line)
    drain(line, wire)
    assert account(line, old.account_id).status == "closed"
    assert history(line, old.account_id).count("close_account") == 1


@pytest.mark.rule("KL-10")
def test_an_account_stays_for_the_live_application_that_may_take_it(line: Line, wire: Wire, regional: Regional) -> None:
    policy = POLICIES["shaoguan"]
    [first] = line.to_outlet(regional(policy, 1))
    line.notify(first)
    line.later(days=400)
    wire.says[CloseAccount] = Declined(code="balance", text="账户余额不为零")
    bring_back(line, first)
    drain(line, wire)
    [declined] = accounts.listing(line.context, held=True)
    accounts.settle_by_hand(line.context, declined.key, "declined", by="li", approved_by="wang", reason="money on it")
    wire.says.clear()
    [second] = line.accept(regional(policy, 1, external_ref="T-again"))
    line.encoder.stopped = True
    line.later(days=100)
    destroy(line)
    drain(line, wire)
    assert (line.status(second), line.card(second)) == ("personalisation", None)
    assert account(line, line.card(first).account_id).status == "open"


def test_the_account_of_a_card_that_was_lost_on_its_way_back_ends_with_its_storage(
    line: Line,
    wire: Wire,
    submission: Make,
) -> None:
    [i] = line.to_outlet(submission())
    line.notify(i)
    line.later(days=400)
    card = line.card(i)
    [lost] = bring_back(line, i, received=[]).discrepancies
    discrepancies.settle(line.context, lost, resolution="lost", actor="storekeeper")
    drain(line, wire)
    assert account(line, card.account_id).status == "open"  # until then it can be made again
    line.later(days=800)
    assert line.status(i) == "destroyed"
    drain(line, wire)
    assert account(line, card.account_id).status == "closed"
    assert history(line, card.account_id)[-1] == "close_account"


# ---------------------------------------------------------------------------------------------------------- the next number


@pytest.mark.rule("KL-10")
def test_a_lost_card_that_is_made_again_has_another_bank_card_number_and_the_lost_one_has_none(
    line: Line, noting: Noting, submission: Make
) -> None:
    wired(line, noting)
    [i] = line.accept(submission())
    line.run()
    [bundle] = line.ship()
    drain(line, noting)
    numbers, cards = [], []
    for n in range(2):
        card = line.card(i)
        numbers.append(number_of(line, card))
        cards.append(card)
        [missing] = receive(line, bundle, missing=[card.id]).discrepancies
        settle(line, missing, "lost")
        assert line.status(i) == "account"
        line.run()
        drain(line, noting)
        [bundle] = line.ship()
        ulid = i.removeprefix("app_")
        assert [one.key for one in noting.of(BindCard)] == [f"bc-{ulid}", f"bc-{ulid}-2"][: n + 1]
    new = line.card(i)
    numbers.append(number_of(line, new))
    assert len(set(numbers)) == 3
    assert [one.card_number for one in noting.of(CardProduced)] == numbers
    [theirs] = line.ledger.accounts()
    assert (theirs.card_number, theirs.status) == (numbers[-1], "open")
    told = ["open_account", "card_produced", "bind_card", "card_produced", "bind_card", "card_produced"]
    assert history(line, new.account_id) == told
    assert produced.order_of_chip(line.context, new.chip_id).bank_card_number == numbers[-1]


def test_what_is_told_of_an_older_card_names_that_card_and_holds_nothing_up_that_is_told_of_the_newer(
    line: Line,
    noting: Noting,
    again: str,
) -> None:
    with line.context.store.transaction() as tx:
        [old] = tx.conn.execute(select(t.cards)).all()
    first = number_of(line, old)
    line.run()
    new = line.card(again)
    second = clear(line, new.account_id)["card_number"]
    accounts.freeze(line.context, old.id, reason="lost", actor="li")
    drain(line, noting)
    assert [one.card_number for one in noting.of(CardProduced)] == [first, second]
    assert [one.card_number for one in noting.of(FreezeFinancial)] == [first]
    outdated = call(line, "cp-" + old.id.removeprefix("card_"))
    assert (outdated.state, outdated.held) == ("declined", False)
    assert account(line, new.account_id).frozen_at is not None
    assert produced.order_of_chip(line.context, old.chip_id).bank_card_number == first


def test_what_is_told_again_is_the_same_to_the_letter_though_a_newer_card_was_bound(
    line: Line,
    noting: Noting,
    again: str,
) -> None:
    drain(line, noting)
    with line.context.store.transaction() as tx:
        [old] = tx.conn.execute(select(t.cards)).all()
    noting.fates = ["lost before"]
    accounts.freeze(line.context, old.id, reason="lost", actor="li")
    bank_desk.run(line.context, noting)
    line.run()
    line.clock.advance(timedelta(minutes=2))
    drain(line, noting)
    one, other = noting.of(FreezeFinancial)
    assert one == other


# ------------------------------------------------------------------------------------------------------- an account that ends


@pytest.mark.rule("KL-10")
@pytest.mark.parametrize("closed_first", [True, False], ids=["closed", "closing"])
def test_no_card_is_made_on_an_account_that_ends(
    line: Line,
    wire: Wire,
    again: str,
    closed_first: bool,
) -> None:
    drain(line, wire)
    line.step("account")
    assert line.status(again) == "personalisation"
    with line.context.store.transaction() as tx:
        [old] = tx.conn.execute(select(t.cards)).all()
    accounts.close(line.context, old.id, reason="ended", actor="li")
    if closed_first:
        drain(line, wire)
    line.run()
    if not closed_first:
        assert (line.status(again), line.why(again), line.card(again)) == ("account", "bank.closing", None)
        drain(line, wire)
    line.later(minutes=2)
    card = line.card(again)
    assert card.account_id != old.account_id
    assert (account(line, old.account_id).status, account(line, card.account_id).status) == ("closed", "open")
    drain(line, wire)
    assert history(line, card.account_id) == ["open_account", "card_produced"]


def test_a_damaged_card_whose_account_was_closed_is_made_again_on_a_new_one(
    line: Line,
    wire: Wire,
    submission: Make,
) -> None:
    [i] = line.to_outlet(submission())
    card = line.card(i)
    returns.ask_back(line.context, card.id, outlet=card.place, reason="damaged", actor="clerk")
    bring_back(line, i)
    accounts.close(line.context, card.id, reason="ended", actor="li")
    storage.remake(line.context, i, reason="damaged", actor="d")
    line.run()
    drain(line, wire)
    line.later(minutes=2)
    new = line.card(i)
    assert (line.status(i), account(line, new.account_id).status) == ("dispatch", "open")
    assert account(line, card.account_id).status == "closed"


# --------------------------------------------------------------------------------------------------- what nobody asks about


def withdrawn_while_opening(line: Line, wire: Wire, submission: Make, fate: str) -> Key:
    wired(line, wire)
    [i] = line.accept(submission())
    line.until("account")
    wire.fates = [fate]
    line.step("account")
    operate.cancel(line.context, i, reason="withdrawn", actor="window")
    [shown] = accounts.listing(line.context)
    return str(shown.key)


@pytest.fixture
def withdrawn(line: Line, wire: Wire, submission: Make) -> Key:
    """The opening of an account whose answer was lost, and whose application was withdrawn then."""
    return withdrawn_while_opening(line, wire, submission, "lost after")


def test_an_account_that_was_opened_for_a_withdrawn_application_is_found_and_is_the_next_ones(
    line: Line,
    wire: Wire,
    withdrawn: Key,
    submission: Make,
) -> None:
    assert unclaimed.ask(line.context, wire) == {}  # it may still be on its way
    line.clock.advance(timedelta(minutes=3))
    wire.fates = ["lost before"]
    assert unclaimed.ask(line.context, wire) == {"unknown": 1}
    line.clock.advance(unclaimed.AGAIN)
    assert unclaimed.ask(line.context, wire) == {"done": 1}
    assert unclaimed.ask(line.context, wire) == {}
    with line.context.store.transaction() as tx:
        [ours] = tx.conn.execute(select(t.accounts)).all()
    assert (ours.key, ours.generation, ours.status) == (withdrawn, 1, "open")
    assert [theirs.key for theirs in line.ledger.accounts()] == [withdrawn]
    [i] = line.accept(submission(external_ref="T-next"))
    line.run()
    assert (line.status(i), line.card(i).account_id) == ("dispatch", ours.id)
    assert len(line.ledger.accounts()) == 1


def test_a_person_may_have_it_asked_at_once_or_two_may_settle_it(line: Line, wire: Wire, withdrawn: Key) -> None:
    line.clock.advance(timedelta(minutes=3))
    wire.fates = ["lost before"]
    unclaimed.ask(line.context, wire)
    assert unclaimed.ask(line.context, wire) == {}
    accounts.ask_again(line.context, withdrawn, actor="li")
    wire.finds[withdrawn] = Pending(expected_by=line.context.now() + timedelta(days=2))
    assert unclaimed.ask(line.context, wire) == {"pending": 1}
    accounts.settle_by_hand(
        line.context, withdrawn, "not_received", by="li", approved_by="wang", reason="asked by telephone"
    )
    assert call(line, withdrawn).state == "not_received"
    with pytest.raises(Conflict):
        accounts.settle_by_hand(line.context, withdrawn, "declined", by="li", approved_by="wang", reason="again")


def test_a_late_reply_has_it_asked_and_what_the_bank_never_saw_is_over(
    line: Line,
    wire: Wire,
    submission: Make,
) -> None:
    key = withdrawn_while_opening(line, wire, submission, "lost before")
    line.clock.advance(timedelta(minutes=3))
    wire.finds[key] = Pending(expected_by=line.context.now() + timedelta(days=2))
    assert unclaimed.ask(line.context, wire) == {"pending": 1}
    wire.finds.clear()
    wire.late = LateReplies(keys=(key,), cursor="c")
    assert bank_desk.collect(line.context, wire, ["95533"]) == 1
    assert unclaimed.ask(line.context, wire) == {"not_received": 1}
    assert count(line, t.accounts) == len(line.ledger.accounts()) == 0
    [i] = line.accept(submission(external_ref="T-next"))
    line.run()
    assert line.status(i) == "dispatch"
    assert [theirs.key for theirs in line.ledger.accounts()] == [key]


def test_an_application_that_stands_at_the_account_stage_asks_itself(
    line: Line,
    wire: Wire,
    withdrawn: Key,
    submission: Make,
) -> None:
    [i] = line.accept(submission(external_ref="T-next"))
    line.until("account")
    line.clock.advance(timedelta(minutes=3))
    assert unclaimed.ask(line.context, wire) == {}
    line.run()
    assert line.status(i) == "dispatch"
    assert count(line, t.accounts) == len(line.ledger.accounts()) == 1


def test_the_number_of_a_binding_nobody_asks_about_is_taken_unless_a_later_one_was_given(
    line: Line,
    wire: Wire,
    again: str,
    submission: Make,
) -> None:
    drain(line, wire)
    wired(line, wire)
    wire.fates = ["lost after"]
    line.step("account")
    operate.cancel(line.context, again, reason="withdrawn", actor="window")
    line.clock.advance(timedelta(minutes=3))
    with line.context.store.transaction() as tx:
        [ours] = tx.conn.execute(select(t.accounts)).all()
    wire.fates = ["lost before"]
    unclaimed.ask(line.context, wire)
    [i] = line.accept(submission(external_ref="T-third", kind="replacement"))
    line.until("account")
    wire.fates = ["lost after"]
    line.step("account")
    operate.cancel(line.context, i, reason="withdrawn", actor="window")
    line.clock.advance(timedelta(minutes=6))
    assert unclaimed.ask(line.context, wire) == {"done": 2}
    [theirs] = line.ledger.accounts()
    assert clear(line, ours.id)["card_number"] == theirs.card_number


# ---------------------------------------------------------------------------------------------------------------- late replies


def test_a_reply_that_comes_while_a_worker_ends_its_asking_wakes_it_or_is_read_again(
    line: Line,
    wire: Wire,
    submission: Make,
) -> None:
    """The worker settles "pending" between two statements of the waking, which only PostgreSQL lets it do."""
    [i] = line.accept(submission())
    line.until("account")
    wired(line, wire)
    wire.fates = ["lost after"]
    line.step("account")
    [shown] = accounts.listing(line.context)
    line.clock.advance(timedelta(minutes=1))
    line.sweep()
    wire.finds[shown.key] = Pending(expected_by=line.context.now() + timedelta(days=2))
    asked, going = threading.Event(), threading.Event()
    find = wire.find

    def slow(keys: Sequence[Key], *, deadline: datetime) -> Any:
        answers = find(keys, deadline=deadline)
        asked.set()
        assert going.wait(30)
        return answers

    wire.find = slow  # type: ignore[method-assign]
    ids = line.lease("account")
    stage = line.stages["account"]
    worker = threading.Thread(target=lambda: run_stage.run(line.context, stage, ids, worker="w1"))
    worker.start()
    assert asked.wait(30)
    wire.late = LateReplies(keys=(shown.key,), cursor="c")

    def after(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE applications SET work") and threading.current_thread() is not worker:
            going.set()
            if line.context.store.postgres:
                worker.join(30)

    event.listen(line.context.store.engine, "after_cursor_execute", after)
    try:
        bank_desk.collect(line.context, wire, ["95533"])
        worker.join(30)
    finally:
        event.remove(line.context.store.engine, "after_cursor_execute", after)
    with line.context.store.transaction() as tx:
        assert store_desk.cursors(tx) == {}
    assert line.row(i).work == "waiting"
    assert bank_desk.collect(line.context, wire, ["95533"]) == 1
    with line.context.store.transaction() as tx:
        assert store_desk.cursors(tx) == {"95533": "c"}
