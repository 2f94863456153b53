"""The way back and what follows: storage, given out again, made again, destroyed by two people, region by region."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import func, select, update
from typer.testing import CliRunner

from config.policies import load_policies
from pipeline import deadlines
from pipeline.application import Submission
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.policy import Policy
from pipeline.services import bank_desk, bundles, destruction, discrepancies, returns, storage
from pipeline.store import audit, custody, packing, stock
from pipeline.store import tables as t

from .conftest import Killed

Make = Callable[..., Submission]
Regional = Callable[..., Submission]
HERE, THERE = "out_42010601", "out_42010602"
POLICIES = {policy.key: policy for policy in load_policies().cities()}
WUHAN, SHAOGUAN = POLICIES["wuhan"], POLICIES["shaoguan"]
both = pytest.mark.parametrize("policy", [WUHAN, SHAOGUAN], ids=["WH-11", "SG-10"])


def refused(code: str, act: Callable[[], Any]) -> None:
    with pytest.raises(Refused) as told:
        act()
    assert told.value.reason_code == code, told.value
    assert told.value.zh
    assert told.value.en


def ask_back(line: Any, i: str, reason: Any) -> None:
    card = line.card(i)
    returns.ask_back(line.context, card.id, outlet=card.place, reason=reason, actor="clerk")


def bring_back(line: Any, *ids: str) -> None:
    """The courier brings cards of one outlet to the centre."""
    cards = [line.card(i) for i in ids]
    back = returns.send_back(
        line.context, [c.id for c in cards], outlet=cards[0].place, seal_no="B1", carrier="courier", actor="clerk"
    )
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")


def uncollected(line: Any, *submissions: Submission) -> list[str]:
    """Applications whose card nobody fetched, back at the centre."""
    ids = line.to_outlet(*submissions)
    for i in ids:
        line.notify(i)
    line.later(days=400)
    bring_back(line, *ids)
    return ids


def closings(line: Any) -> int:
    """How often banks were told to close an account."""
    calls = t.external_calls.c
    with line.context.store.transaction() as tx:
        return tx.conn.execute(select(func.count()).where(calls.operation == "close_account")).scalar_one()


def destroyed(line: Any, cards: list[str] | None = None) -> destruction.Receipt:
    listed = destruction.list_for_destruction(line.context, cards, reason="storage over", actor="storekeeper")
    return destruction.destroy(line.context, listed, destroyed_by="storekeeper", witness="auditor", actor="storekeeper")


def in_order(line: Any) -> None:
    """The books of cards and of blanks balance."""
    places = line.balanced()
    with line.context.store.transaction() as tx:
        assert custody.verify(tx).faults == 0
        assert sum(places.values()) == stock.ledger_counts(tx)["bound"]
        assert stock.ledger_balance(tx) == stock.balance(tx)


def test_what_an_outlet_may_not_ask_back_is_refused(line: Any, submission: Make) -> None:
    taken, waits = line.to_outlet(submission(1), submission(2))
    line.hand_over(taken)
    card = line.card(taken).id
    told = {"outlet": HERE, "actor": "clerk"}
    refused("already-collected", lambda: returns.ask_back(line.context, card, reason="damaged", **told))
    refused("not-found", lambda: returns.ask_back(line.context, "card_none", reason="damaged", **told))
    refused("return-reason", lambda: ask_back(line, waits, "ugly"))
    refused("wrong-state", lambda: ask_back(line, waits, "uncollected"))
    card = line.card(waits).id
    sent = {"outlet": HERE, "seal_no": "B", "carrier": "courier", "actor": "clerk"}
    refused("wrong-state", lambda: returns.send_back(line.context, [card], **sent))
    refused("required", lambda: returns.send_back(line.context, [], **sent))
    refused("same-person", lambda: returns.send_back(line.context, [card], **{**sent, "carrier": "Clerk"}))
    ask_back(line, waits, "misrouted")
    refused("going-back", lambda: ask_back(line, waits, "damaged"))
    refused("going-back", lambda: line.hand_over(waits))
    assert line.balanced() == {"holder": 1, "outlet": 1}


def test_a_card_that_is_set_aside_hears_no_clock_and_ends_as_it_was_sent(line: Any, submission: Make) -> None:
    reasons = ("misrouted", "refused", "damaged", "wrong_data", "unreadable")
    ids = line.to_outlet(*(submission(n) for n in range(1, 6)))
    for i, reason in zip(ids, reasons, strict=True):
        line.notify(i)
        ask_back(line, i, reason)
    line.later(days=400)
    assert {line.status(i) for i in ids} == {"notified"}
    assert line.events("card.uncollected_reminder") == line.events("card.uncollected") == 0
    bring_back(line, *ids)
    assert [line.row(i).ending for i in ids] == ["misrouted", "refused", "damaged", "damaged", "damaged"]
    assert {line.status(i) for i in ids} == {"returned"}
    refused("to-be-remade", lambda: storage.reissue(line.context, ids[2], outlet=HERE, actor="d"))
    refused("to-be-reissued", lambda: storage.remake(line.context, ids[0], reason="x", actor="d"))
    refused("required", lambda: storage.remake(line.context, ids[2], reason=" ", actor="d"))
    for i in ids[2:]:
        storage.remake(line.context, i, reason="unreadable", actor="d")
    line.run()
    assert {line.status(i) for i in ids[2:]} == {"dispatch"}
    assert closings(line) == 0
    assert line.balanced() == {"centre": 8}
    in_order(line)


def test_a_stored_card_is_given_out_again_and_its_clocks_run_anew(line: Any, submission: Make) -> None:
    kept, wrong = uncollected(line, submission(1), submission(2))
    for code, application, outlet in (
        ("not-found", "app_none", HERE),
        ("outlet", kept, "Wuchang"),
    ):
        refused(code, lambda a=application, o=outlet: storage.reissue(line.context, a, outlet=o, actor="d"))
    storage.reissue(line.context, kept, outlet=THERE, actor="d")
    refused("wrong-state", lambda: storage.reissue(line.context, kept, outlet=THERE, actor="d"))
    assert (line.status(kept), line.row(kept).ending) == ("reissued", None)
    [bundle] = line.ship()
    assert bundle.outlet == THERE
    bundles.receive(line.context, bundle.id, outlet=THERE, seal_no=bundle.seal_no, actor="clerk2")
    line.later(seconds=1)
    assert line.events("card.ready") == 3
    due = line.notify(kept)
    assert due is not None and due > line.clock.now() + timedelta(days=180)
    assert line.events("card.uncollected") == 2
    line.clock.advance(due - line.clock.now() + timedelta(minutes=1))
    line.sweep()
    line.run()
    assert line.status(kept) == "recalled"
    bring_back(line, kept)
    assert line.status(kept) == "returned"
    storage.reissue(line.context, kept, outlet=HERE, actor="d")
    [bundle] = line.ship()
    bundles.receive(line.context, bundle.id, outlet=HERE, seal_no=bundle.seal_no, actor="clerk")
    line.hand_over(kept)
    assert line.balanced() == {"holder": 1, "centre": 1}
    in_order(line)
    # The account of the other one was closed meanwhile.
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.accounts).values(status="closed", closed_at=line.clock.now()))
    refused("account-closed", lambda: storage.reissue(line.context, wrong, outlet=HERE, actor="d"))


def test_a_lost_card_on_its_second_way_is_made_again(line: Any, submission: Make) -> None:
    [i] = uncollected(line, submission(1))
    storage.reissue(line.context, i, outlet=HERE, actor="d")
    [bundle] = line.ship()
    told = {"outlet": HERE, "seal_no": bundle.seal_no, "actor": "clerk", "received": []}
    [lost] = bundles.receive(line.context, bundle.id, **told).discrepancies
    discrepancies.settle(line.context, lost, resolution="lost", actor="clerk")
    line.run()
    assert line.status(i) == "dispatch"
    assert line.balanced() == {"lost": 1, "centre": 1}
    in_order(line)


def test_a_newer_card_of_the_person_keeps_the_stored_one_in_and_an_older_one_does_not(
    line: Any, submission: Make
) -> None:
    older, stored, newer = line.to_outlet(submission(1), submission(2), submission(3))
    ask_back(line, stored, "misrouted")
    bring_back(line, stored)
    person = line.row(stored).person_id
    cards, applications = t.cards.c, t.applications.c

    def belongs(other: str) -> None:
        line.hand_over(other)
        with line.context.store.transaction() as tx:
            tx.conn.execute(update(t.cards).where(cards.application_id == other).values(person_id=person))
            tx.conn.execute(update(t.applications).where(applications.id == other).values(person_id=person))

    belongs(newer)
    refused("newer-card", lambda: storage.reissue(line.context, stored, outlet=HERE, actor="d"))
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.cards).where(cards.application_id == newer).values(status="cancelled"))
    belongs(older)
    storage.reissue(line.context, stored, outlet=HERE, actor="d")
    assert line.status(stored) == "reissued"


@both
def test_from_the_last_day_to_the_receipt(line: Any, regional: Regional, policy: Policy) -> None:
    [i] = uncollected(line, regional(policy))
    card, ending = line.card(i), policy.collection.ending.value
    assert (line.status(i), line.row(i).ending) == ("returned", ending)
    closes_now = policy.returned.close_account.value == "on_return"
    assert closings(line) == closes_now == (policy is SHAOGUAN)
    if policy is SHAOGUAN:
        refused("not-permitted-by-policy", lambda: storage.reissue(line.context, i, outlet=HERE, actor="d"))
        refused("given-up", lambda: storage.remake(line.context, i, reason="x", actor="d"))
    refused("storage-runs", lambda: destroyed(line, [card.id]))
    refused("none-due", lambda: destroyed(line))
    over = deadlines.storage_until(policy, line.row(i).updated_at, line.context.calendar).at
    line.clock.advance(over - line.clock.now() + timedelta(minutes=1))
    line.sweep()
    line.run()
    assert line.status(i) == "returned"
    receipt = destroyed(line)
    assert line.status(i) == "destroyed"
    assert (line.card(i).status, line.card(i).custody) == ("destroyed", "destroyed")
    assert closings(line) == 1
    assert line.events("card.destroyed") == 1
    assert receipt.document["cards"] == [
        {"card": card.id, "serial": card.blank_serial, "application": i, "reason": "uncollected"}
    ]
    assert receipt.document["receipt_no"].startswith("XH-")
    assert line.balanced() == {"destroyed": 1}
    with line.context.store.transaction() as tx:
        last = stock.lines(tx, card.blank_serial)[-1]
    assert (last.event, last.actor, last.witness, last.document) == (
        "destroyed",
        "storekeeper",
        "auditor",
        receipt.document["receipt_no"],
    )
    in_order(line)


def test_two_people_destroy_what_is_listed_once(line: Any, submission: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waste, kept = line.to_outlet(submission(1), submission(2))
    ask_back(line, waste, "damaged")
    ask_back(line, kept, "refused")
    bring_back(line, waste, kept)
    old = line.card(waste).id
    refused("storage-runs", lambda: destroyed(line, [old]))
    storage.remake(line.context, waste, reason="damaged", actor="d")
    line.run()
    context = line.context
    refused("required", lambda: destruction.list_for_destruction(context, None, reason=" ", actor="s"))
    refused("not-in-storage", lambda: destroyed(line, [line.card(waste).id]))
    first = destruction.list_for_destruction(context, None, reason="waste", actor="s")
    refused("listed", lambda: destruction.list_for_destruction(context, [old], reason="waste", actor="s"))
    refused("none-due", lambda: destruction.list_for_destruction(context, None, reason="waste", actor="s"))
    destruction.withdraw(context, first, actor="s")
    both_named = {"destroyed_by": "li", "witness": "wang", "actor": "s"}
    refused("wrong-state", lambda: destruction.destroy(context, first, **both_named))
    listed = destruction.list_for_destruction(context, [old], reason="waste", actor="s")
    refused("same-person", lambda: destruction.destroy(context, listed, destroyed_by="li", witness="LI", actor="s"))
    refused("not-found", lambda: destruction.destroy(context, "dst_none", **both_named))
    before = line.balanced(), line.blanks()
    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            destruction.destroy(context, listed, **both_named)
    assert (line.balanced(), line.blanks()) == before
    receipt = destruction.destroy(context, listed, **both_named)
    refused("wrong-state", lambda: destruction.destroy(context, listed, **both_named))
    refused("wrong-state", lambda: destruction.withdraw(context, listed, actor="s"))
    assert line.balanced() == {"destroyed": 1, "centre": 2}
    assert (line.status(waste), line.card(waste).status) == ("dispatch", "produced")
    assert closings(line) == 0
    number = receipt.document["receipt_no"]
    assert destruction.receipt(context, number.lower()) == destruction.receipt(context, listed) == receipt
    with context.store.transaction() as tx:
        row = t.destructions.c
        tx.conn.execute(update(t.destructions).where(row.id == listed).values(witness="zhao"))
    assert not destruction.receipt(context, listed).genuine
    with pytest.raises(NotFound):
        destruction.receipt(context, first)
    in_order(line)


def test_a_card_on_a_list_goes_to_nobody_until_that_is_withdrawn(line: Any, submission: Make) -> None:
    [i] = uncollected(line, submission(1))
    line.later(days=800)
    listed = destruction.list_for_destruction(line.context, None, reason="storage over", actor="s")
    refused("listed", lambda: storage.reissue(line.context, i, outlet=HERE, actor="d"))
    destruction.withdraw(line.context, listed, actor="s")
    storage.reissue(line.context, i, outlet=HERE, actor="d")
    refused("none-due", lambda: destroyed(line))


def test_cards_that_go_out_again_are_packed_at_once_in_the_order_of_their_outlets(
    line: Any, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = line.accept(*(submission(n, outlet=outlet) for n, outlet in enumerate((THERE, HERE, THERE), 1)))
    line.run()
    sent = line.ship()
    cards = [line.card(i) for i in ids]
    with line.context.store.transaction() as tx:  # all went astray to a third outlet, and were set aside there
        where = custody.Place("outlet", "out_42010609")
        custody.hand_on(tx, cards, taker=where, now=line.clock.now(), given_by="courier", taken_by="clerk")
        custody.mark_cards(tx, [card.id for card in cards], return_reason="misrouted")
    told = {"outlet": "out_42010609", "seal_no": "B1", "carrier": "courier", "actor": "clerk"}
    back = returns.send_back(line.context, [card.id for card in cards], **told)
    packed: list[int] = []
    write_packed = packing.write_packed

    def writes(tx: Any, facts: Any, **named: Any) -> None:
        packed.append(len(facts))
        write_packed(tx, facts, **named)

    monkeypatch.setattr(packing, "write_packed", writes)
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")
    assert packed == [3]  # card by card, two boxes that came back at once would lock their outlets' bundles crosswise
    again = line.ship()
    assert {bundle.outlet: len(bundle.manifest) for bundle in again} == {HERE: 1, THERE: 2}
    assert not {bundle.id for bundle in again} & {bundle.id for bundle in sent}
    in_order(line)


def test_a_card_that_was_lost_on_its_way_back_ends_with_its_storage(line: Any, submission: Make) -> None:
    [i] = line.to_outlet(submission(1))
    line.notify(i)
    line.later(days=400)
    card = line.card(i)
    back = returns.send_back(line.context, [card.id], outlet=HERE, seal_no="B1", carrier="courier", actor="clerk")
    [lost] = returns.receive_back(
        line.context, back, seal_no="B1", actor="storekeeper", missing=[card.id]
    ).discrepancies
    discrepancies.settle(line.context, lost, resolution="lost", actor="storekeeper")
    assert (line.status(i), line.row(i).ending) == ("returned", "kept")
    refused("to-be-remade", lambda: storage.reissue(line.context, i, outlet=HERE, actor="d"))
    line.later(days=800)
    assert line.status(i) == "destroyed"
    in_order(line)


@pytest.mark.rule("SG-10")
def test_who_gave_a_card_up_gets_another_one_while_the_old_one_is_still_in_storage(
    line: Any, regional: Regional
) -> None:
    [old] = uncollected(line, regional(SHAOGUAN))
    bank_desk.run(line.context, lambda _: line.bank)  # the old account has to be closed first
    bank_desk.run(line.context, lambda _: line.bank)
    [new] = line.to_outlet(regional(SHAOGUAN, external_ref="again"))
    assert (line.status(old), line.status(new)) == ("returned", "delivered")
    line.hand_over(new)
    line.later(days=100)
    destroyed(line)
    assert (line.status(old), line.status(new)) == ("destroyed", "collected")
    assert line.balanced() == {"destroyed": 1, "holder": 1}
    in_order(line)


@pytest.mark.rule("SG-10")
def test_a_card_that_comes_after_its_time_was_over_waits_as_long_from_its_arrival(
    line: Any, regional: Regional
) -> None:
    [i] = line.accept(regional(SHAOGUAN))
    line.run()
    line.later(days=120)
    line.to_outlet()
    assert line.status(i) == "delivered"
    due = line.row(i).collect_by
    assert timedelta(days=90) <= due - line.clock.now() < timedelta(days=91)
    assert line.notify(i) == due
    line.later(days=89)
    assert line.status(i) == "notified"
    line.later(days=3)
    assert line.status(i) == "recalled"
    with pytest.raises(Conflict):
        line.hand_over(i)


@pytest.fixture
def desk(line: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The commands, on the line's installation."""
    from producers.cli import bundle, custody

    here = SimpleNamespace(store=line.context.store, context=line.context)
    for module in (bundle, custody):
        monkeypatch.setattr(module, "existing_installation", lambda _: here)
    apps = {"bundle": bundle.app, "custody": custody.app}
    return lambda group, *arguments: CliRunner().invoke(apps[group], [*map(str, arguments)])


def test_people_do_all_of_it_by_commands(line: Any, submission: Make, desk: Callable[..., Result]) -> None:
    def said(*arguments: Any) -> Any:
        done = desk(*arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout.strip()

    ids = line.accept(*(submission(n) for n in range(1, 5)))
    line.run()
    first, second, third, fourth = (line.card(i) for i in ids)
    bundle = said("bundle", "list", "--status", "packing")["id"]
    seal = said("bundle", "pack", bundle)
    assert said("bundle", "ship", bundle, "--carrier-ref", "SF1", "--by", "d") == 4
    receipt = said(
        "bundle", "receive", bundle, "--outlet", HERE, "--seal", seal, "--missing", first.id, "--damaged", second.blank_serial, "--by", "clerk",
    )  # fmt: skip
    assert receipt["status"] == "disputed"
    shown = said("bundle", "show", bundle)
    assert {row["kind"] for row in shown["discrepancies"]} == {"missing", "damaged"}
    assert isinstance(desk("bundle", "close", bundle).exception, Conflict)
    for row in shown["discrepancies"]:
        said("bundle", "settle", row["id"], "--as", {"missing": "arrived", "damaged": "sent_back"}[row["kind"]])
    said("bundle", "close", bundle)
    line.later(seconds=1)
    said("custody", "ask-back", third.id, "--outlet", HERE, "--reason", "misrouted", "--by", "clerk")
    said("custody", "ask-back", fourth.id, "--outlet", HERE, "--reason", "unreadable", "--by", "clerk")
    back = said("bundle", "return", second.id, third.id, fourth.id, "--outlet", HERE, "--seal", "b7", "--by", "clerk")
    assert said("bundle", "receive-back", back, "--seal", "B7", "--by", "keeper")["status"] == "received"
    assert len(said("bundle", "receipt", back)["cards"]) == 3
    stored = {row["card"]: row["due"] for row in said("custody", "stored", "-o", "json")}
    assert stored == {second.id: True, third.id: False, fourth.id: False}
    said("custody", "reissue", ids[2], "--outlet", THERE)
    said("custody", "remake", ids[3], "--reason", "unreadable")
    assert [row["card"] for row in said("custody", "stored", "--due", "-o", "json")] == [second.id, fourth.id]
    listed = said("custody", "list-waste", "--reason", "waste", second.id)
    assert said("custody", "withdraw", listed) == ""
    listed = said("custody", "list-waste", "--reason", "waste")
    paper = said("custody", "destroy", listed, "--destroyed-by", "li", "--witness", "wang")
    assert fourth.blank_serial in paper and "有效 good" in paper
    assert [row["state"] for row in said("custody", "destructions", "-o", "json")] == ["done", "withdrawn"]
    assert said("custody", "receipt", listed, "-o", "json")["genuine"] is True
    steps = said("custody", "events", second.id, "-o", "json")
    assert [step["taker"] for step in steps] == ["courier", "outlet", "courier", "centre", "destroyed"]
    balance = said("custody", "balance", "-o", "json", "--by-place")
    assert (balance["balanced"], balance["total"], balance["produced"]) == (True, 5, 5)
    assert balance["places"] == {f"outlet/{HERE}": 1, "centre/centre": 2, f"destroyed/{listed}": 2}
    assert said("custody", "verify", "-o", "json")["faults"] == 0
    for table in (["balance"], ["stored"], ["destructions"], ["events", second.id], ["verify"]):
        assert len(desk("custody", *table).stdout.splitlines()) >= 1
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.cards).where(t.cards.c.id == first.id).values(custody="courier"))
    assert desk("custody", "balance").exit_code == desk("custody", "verify").exit_code == 1
