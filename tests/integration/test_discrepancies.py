"""Bundles that do not hold what their list says: each difference is written down, the rest goes on, and people settle it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from pipeline.application import Submission
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services import bundles, discrepancies, returns, storage
from pipeline.store import audit, custody, packing, stock, views
from pipeline.store import discrepancies as books
from pipeline.store import tables as t

from .conftest import Killed

Make = Callable[..., Submission]
HERE, THERE = "out_42010601", "out_42010602"


@pytest.fixture
def shipped(line: Any, submission: Make) -> tuple[Any, Any, list[str]]:
    """A line, its one bundle with the courier, and the three applications whose cards lie in it."""
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    line.run()
    [bundle] = line.ship()
    return line, bundle, ids


def receive(line: Any, bundle: Any, **changes: Any) -> bundles.Receipt:
    told = {"outlet": bundle.outlet, "seal_no": bundle.seal_no, "actor": "clerk"} | changes
    return bundles.receive(line.context, bundle.id, **told)


def settle(line: Any, discrepancy: str, resolution: str, actor: str = "clerk") -> str:
    return discrepancies.settle(line.context, discrepancy, resolution=resolution, actor=actor, note="seen")


def refused(code: str, act: Callable[[], Any]) -> None:
    with pytest.raises(Refused) as told:
        act()
    assert told.value.reason_code == code, told.value
    assert told.value.zh
    assert told.value.en


def open_in(line: Any, bundle: Any) -> list[str]:
    with line.context.store.transaction() as tx:
        return [row.id for row in books.listing(tx, bundle_id=bundle.id, state="open")]


def bundle_of(line: Any, bundle: Any) -> Any:
    with line.context.store.transaction() as tx:
        return custody.bundle(tx, bundle.id)


def every_card(line: Any, application_id: str) -> list[Any]:
    """Cards of an application, void ones too, oldest first."""
    with line.context.store.transaction() as tx:
        query = select(t.cards).where(t.cards.c.application_id == application_id).order_by(t.cards.c.id)
        return list(tx.conn.execute(query).all())


def verified(line: Any) -> None:
    with line.context.store.transaction() as tx:
        assert custody.verify(tx).faults == 0


def test_what_may_not_be_told_of_a_bundle_is_refused_and_changes_nothing(shipped: Any) -> None:
    line, bundle, ids = shipped
    card = line.card(ids[0])
    for code, told in (
        ("same-person", {"actor": " Courier "}),
        ("required", {"actor": " "}),
        ("required", {"seal_no": " "}),
        ("card-not-in-bundle", {"damaged": ["card_none"]}),
        ("card-not-in-bundle", {"missing": ["BL0050"]}),
        ("card-in-bundle", {"extra": [card.blank_serial]}),
        ("card-serial", {"extra": ["张小明"]}),
        ("card-named-twice", {"missing": [card.id], "damaged": [card.blank_serial]}),
    ):
        refused(code, lambda told=told: receive(line, bundle, **told))
    assert line.balanced() == {"courier": 3}
    assert bundle_of(line, bundle).status == "shipped"
    assert open_in(line, bundle) == []


def test_a_bundle_with_nothing_wrong_is_closed_by_hand_or_by_time(shipped: Any) -> None:
    line, bundle, _ = shipped
    refused("wrong-state", lambda: bundles.close(line.context, bundle.id, actor="d"))
    with pytest.raises(NotFound):
        bundles.close(line.context, "bun_none", actor="d")
    assert receive(line, bundle).status == "received"
    assert line.sweep().closed_bundles == 1
    closed = bundle_of(line, bundle)
    assert closed.status == "closed"
    assert closed.received_at <= closed.closed_at
    refused("wrong-state", lambda: bundles.close(line.context, bundle.id, actor="d"))


def test_a_lost_card_is_void_and_made_again_with_a_number_of_its_own(shipped: Any) -> None:
    line, bundle, ids = shipped
    before = line.card(ids[0])
    receipt = receive(line, bundle, missing=[before.blank_serial])
    assert (receipt.status, receipt.missing, len(receipt.received)) == ("disputed", (before.id,), 2)
    [missing] = receipt.discrepancies
    refused("discrepancy-open", lambda: bundles.close(line.context, bundle.id, actor="d"))
    refused("resolution", lambda: settle(line, missing, "sent_back"))
    refused("same-person", lambda: settle(line, missing, "lost", actor="courier"))
    assert settle(line, missing, "lost") == "received"
    refused("settled", lambda: settle(line, missing, "arrived"))
    assert line.balanced() == {"lost": 1, "outlet": 2}
    assert line.status(ids[0]) == "account"
    assert line.events("card.remake_started") == line.events("bundle.settled") == 1
    bundles.close(line.context, bundle.id, actor="d")
    line.run()
    old, new = every_card(line, ids[0])
    assert (old.status, old.custody, new.status, new.custody) == ("voided", "lost", "produced", "centre")
    assert (line.status(ids[0]), new.card_number == old.card_number) == ("dispatch", False)
    assert line.blanks() == {"stocked": 46, "bound": 3, "voided": 1}
    with line.context.store.transaction() as tx:
        assert stock.ledger_balance(tx) == stock.balance(tx)
        [job] = stock.jobs(tx, state=None, station=None, limit=5)
        assert stock.figures(tx, [job.id])[job.id].unaccounted == 0
    [again] = line.ship()
    assert receive(line, again).received == (new.id,)
    line.later(seconds=1)
    line.hand_over(ids[0])
    verified(line)
    # Whoever finds the old one brings waste.
    refused("same-person", lambda: storage.found(line.context, old.id, found_by="x", actor="X"))
    storage.found(line.context, old.id, found_by="police", actor="storekeeper")
    refused("wrong-state", lambda: storage.found(line.context, old.id, found_by="police", actor="storekeeper"))
    assert line.balanced() == {"centre": 1, "outlet": 2, "holder": 1}
    verified(line)


def test_a_damaged_card_is_never_delivered_and_follows_its_replacement_as_waste(shipped: Any) -> None:
    line, bundle, ids = shipped
    card = line.card(ids[1])
    receipt = receive(line, bundle, damaged=[card.id])
    assert (receipt.damaged, receipt.status) == ((card.id,), "disputed")
    assert [line.status(i) for i in ids] == ["delivered", "dispatch", "delivered"]
    with pytest.raises(Conflict):
        line.hand_over(ids[1])
    [damaged] = receipt.discrepancies
    refused("resolution", lambda: settle(line, damaged, "accepted"))
    assert settle(line, damaged, "sent_back") == "received"
    line.run()
    assert line.status(ids[1]) == "dispatch"
    old, new = every_card(line, ids[1])
    assert (old.status, old.custody, new.custody) == ("voided", "outlet", "centre")
    assert line.balanced() == {"outlet": 3, "centre": 1}
    back = returns.send_back(line.context, [old.id], outlet=HERE, seal_no="B1", carrier="courier", actor="clerk")
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")
    assert line.status(ids[1]) == "dispatch"
    assert line.balanced() == {"outlet": 2, "centre": 2}
    assert line.events("card.returned") == 0
    verified(line)


def test_a_damaged_card_that_comes_back_before_anybody_settled_it_is_made_again_once(shipped: Any) -> None:
    line, bundle, ids = shipped
    card = line.card(ids[0])
    [damaged] = receive(line, bundle, damaged=[card.id]).discrepancies
    back = returns.send_back(line.context, [card.id], outlet=HERE, seal_no="B1", carrier="courier", actor="clerk")
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")
    assert line.status(ids[0]) == "account"
    assert settle(line, damaged, "sent_back") == "received"
    line.run()
    assert [row.status for row in every_card(line, ids[0])] == ["voided", "produced"]


def test_a_broken_seal_is_accepted_or_all_that_is_still_there_goes_back_and_is_made_again(shipped: Any) -> None:
    line, bundle, ids = shipped
    receipt = receive(line, bundle, seal_intact=False)
    [seal] = receipt.discrepancies
    assert (receipt.status, len(receipt.received)) == ("disputed", 3)
    line.later(seconds=1)
    line.hand_over(ids[0])
    settle(line, seal, "sent_back")
    refused("going-back", lambda: line.notify(ids[1]))
    line.later(days=400)
    assert {line.status(i) for i in ids[1:]} == {"delivered"}
    cards = [line.card(i).id for i in ids[1:]]
    back = returns.send_back(line.context, cards, outlet=HERE, seal_no="B1", carrier="courier", actor="clerk")
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")
    for i in ids[1:]:
        assert (line.status(i), line.row(i).ending) == ("returned", "damaged")
        storage.remake(line.context, i, reason="seal broken", actor="d")
    line.run()
    assert {line.status(i) for i in ids[1:]} == {"dispatch"}
    assert line.balanced() == {"holder": 1, "centre": 4}


@pytest.fixture
def swapped(line: Any, submission: Make) -> tuple[Any, Any, Any, str]:
    """A line and two bundles with the courier, for two outlets; the application whose card lies in the first one, but is of the second."""
    _, theirs = line.accept(submission(1), submission(2, outlet=THERE))
    line.run()
    ours, other = sorted(line.ship(), key=lambda bundle: bundle.outlet)
    return line, ours, other, theirs


def test_an_extra_card_is_forwarded_to_its_own_outlet_and_is_not_missed_there_twice(swapped: Any) -> None:
    line, ours, other, theirs = swapped
    card = line.card(theirs)
    # The other outlet is the first to open its box.
    [missing] = receive(line, other, received=[], missing=[card.id]).discrepancies
    receipt = receive(line, ours, extra=[f" {card.blank_serial.lower()} ", "BL9999"])
    assert receipt.extra == (card.blank_serial, "BL9999")
    extra, unknown = sorted(receipt.discrepancies)
    assert line.balanced() == {"outlet": 2}
    assert line.status(theirs) == "dispatch"
    refused("card-found", lambda: settle(line, missing, "lost"))
    refused("not-ours", lambda: settle(line, unknown, "forwarded"))
    refused("ours", lambda: settle(line, extra, "not_ours"))
    refused("resolution", lambda: settle(line, extra, "arrived"))
    settle(line, unknown, "not_ours")
    assert settle(line, extra, "forwarded") == "received"
    assert settle(line, missing, "arrived", actor="clerk2") == "received"
    [direct] = line.bundles("sealed")
    assert (direct.outlet, [entry["card"] for entry in direct.manifest]) == (THERE, [card.id])
    bundles.ship(line.context, direct.id, carrier="courier", actor="clerk")
    assert receive(line, direct, actor="clerk2").received == (card.id,)
    assert line.status(theirs) == "delivered"
    assert line.balanced() == {"outlet": 2}
    verified(line)


@pytest.fixture
def forwarded(swapped: Any) -> tuple[Any, Any, str]:
    """A line, a sealed box of one card at the wrong outlet, and the card's application, whose own outlet has signed for it unseen."""
    line, ours, other, theirs = swapped
    receive(line, other)
    line.later(seconds=1)
    [extra] = receive(line, ours, extra=[line.card(theirs).blank_serial]).discrepancies
    assert settle(line, extra, "forwarded") == "received"
    [direct] = line.bundles("sealed")
    return line, direct, theirs


def test_a_card_that_is_sealed_to_be_forwarded_is_neither_told_of_nor_handed_over_nor_set_aside(forwarded: Any) -> None:
    line, direct, theirs = forwarded
    card = line.card(theirs)
    for act in (
        lambda: line.notify(theirs),
        lambda: line.hand_over(theirs),
        lambda: returns.ask_back(line.context, card.id, outlet=HERE, reason="damaged", actor="clerk"),
    ):
        refused("card-packed", act)
    assert bundles.ship(line.context, direct.id, carrier="courier", actor="clerk") == 1
    assert receive(line, direct, actor="clerk2").received == (card.id,)
    line.hand_over(theirs)
    verified(line)


@pytest.mark.parametrize(
    "changed",
    [
        {"custody": "holder", "place": "holder"},
        {"place": THERE},
        {"status": "frozen"},
        {"status": "voided"},
        {"return_reason": "damaged"},
    ],
)
def test_a_card_that_is_not_ready_where_it_was_packed_keeps_its_box_in(forwarded: Any, changed: Any) -> None:
    line, direct, theirs = forwarded
    card = line.card(theirs)
    with line.context.store.transaction() as tx:
        custody.mark_cards(tx, [card.id], **changed)
    with pytest.raises(Conflict, match=card.id) as told:
        bundles.ship(line.context, direct.id, carrier="courier", actor="clerk")
    assert told.value.reason_code == "card-not-ready"
    with line.context.store.transaction() as tx:
        after = custody.card(tx, card.id)
    assert (after.custody, after.place) == (changed.get("custody", "outlet"), changed.get("place", HERE))
    assert bundle_of(line, direct).status == "sealed"


def test_a_box_of_the_centre_leaves_only_from_the_centre(line: Any, submission: Make) -> None:
    first, _ = line.accept(submission(1), submission(2))
    line.run()
    line.later(hours=5)
    [bundle] = line.bundles("sealed")
    card = line.card(first)
    with line.context.store.transaction() as tx:
        custody.mark_cards(tx, [card.id], custody="outlet", place=THERE)
    refused("card-not-ready", lambda: bundles.ship(line.context, bundle.id, carrier="courier", actor="clerk"))
    assert {line.card(first).place, bundle_of(line, bundle).status} == {THERE, "sealed"}


def test_a_card_that_was_set_aside_goes_back_and_not_on(swapped: Any) -> None:
    line, ours, other, theirs = swapped
    card = line.card(theirs)
    receive(line, other, damaged=[card.id])
    [extra] = receive(line, ours, extra=[card.blank_serial]).discrepancies
    refused("resolution", lambda: settle(line, extra, "forwarded"))
    assert settle(line, extra, "sent_back") == "received"
    assert line.bundles("sealed") == []
    assert line.card(theirs).return_reason == "damaged"


def test_a_card_that_was_extra_in_two_boxes_is_forwarded_in_one(swapped: Any, submission: Make) -> None:
    line, ours, _, theirs = swapped
    line.accept(submission(3))
    line.run()
    [next_one] = line.ship()
    told = {"extra": [line.card(theirs).blank_serial]}
    [first] = receive(line, ours, **told).discrepancies
    [second] = receive(line, next_one, **told).discrepancies
    settle(line, first, "forwarded")
    refused("card-packed", lambda: settle(line, second, "sent_back"))
    assert settle(line, second, "forwarded") == "received"
    [direct] = line.bundles("sealed")
    assert [entry["card"] for entry in direct.manifest] == [line.card(theirs).id]


def beside(line: Any, act: Callable[[], Any], other: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do `act`; when its cards have changed hands, and before it commits, another process has read its box and wants them too.

    What `other` answered, or the refusal it got.
    """
    read, asked = threading.Event(), []
    here = threading.current_thread()
    hand_on, cards_in = custody.hand_on, custody.cards_in

    def reads(*args: Any) -> Any:
        rows = cards_in(*args)
        if threading.current_thread() is not here:
            read.set()
        return rows

    def hands_on(*args: Any, **named: Any) -> None:
        hand_on(*args, **named)
        if threading.current_thread() is here:
            asked.append(pool.submit(other))
            # On SQLite the other one cannot even begin.
            assert not line.context.store.postgres or read.wait(30)

    monkeypatch.setattr(custody, "hand_on", hands_on)
    monkeypatch.setattr(custody, "cards_in", reads)
    with ThreadPoolExecutor(1) as pool:
        act()
        return asked[0].exception(60) or asked[0].result()


def test_a_box_leaves_without_the_card_that_is_just_scanned_elsewhere(
    line: Any, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.accept(submission(1))
    line.run()
    [ours] = line.ship()
    stray, _ = line.accept(submission(2, outlet=THERE), submission(3, outlet=THERE))
    line.run()
    line.later(hours=5)
    [theirs] = line.bundles("sealed")
    left = beside(
        line,
        lambda: receive(line, ours, extra=[line.card(stray).blank_serial]),
        lambda: bundles.ship(line.context, theirs.id, carrier="courier", actor="dispatcher"),
        monkeypatch,
    )
    assert left == 1
    assert line.card(stray).place == HERE
    verified(line)


def test_a_card_that_is_handed_over_while_its_box_is_fetched_stays_its_holders(
    forwarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, direct, theirs = forwarded
    # As if the counter had looked before the box was sealed.
    monkeypatch.setattr(packing, "sealed_in", lambda *_: None)
    left = beside(
        line,
        lambda: line.hand_over(theirs),
        lambda: bundles.ship(line.context, direct.id, carrier="courier", actor="clerk9"),
        monkeypatch,
    )
    assert isinstance(left, Conflict), left
    assert left.reason_code == "card-not-ready"
    assert (line.card(theirs).custody, line.status(theirs)) == ("holder", "collected")
    verified(line)


def test_a_card_that_was_settled_as_lost_turns_up_in_its_own_disputed_box(shipped: Any) -> None:
    line, bundle, ids = shipped
    lost, missing = line.card(ids[0]), line.card(ids[1])
    receipt = receive(line, bundle, missing=[lost.id, missing.id])
    with line.context.store.transaction() as tx:
        [told] = [row.id for row in books.listing(tx, bundle_id=bundle.id) if row.card_id == lost.id]
    assert settle(line, told, "lost") == "disputed"
    refused("card-not-in-bundle", lambda: receive(line, bundle, received=[lost.id]))
    again = receive(line, bundle, extra=[lost.blank_serial])
    assert (again.extra, again.missing) == ((lost.blank_serial,), (missing.id,))
    [extra] = again.discrepancies
    refused("resolution", lambda: settle(line, extra, "arrived"))
    settle(line, extra, "sent_back")
    assert line.balanced() == {"outlet": 2, "courier": 1}
    assert receipt.status == "disputed"
    verified(line)


def test_somebodys_number_typed_as_a_serial_is_refused_and_kept_nowhere(shipped: Any) -> None:
    line, bundle, ids = shipped
    number = line.application(ids[0]).person.id_number
    with pytest.raises(Refused) as told:
        receive(line, bundle, extra=[number])
    assert told.value.reason_code == "looks-personal"
    assert number not in str(told.value)
    assert (open_in(line, bundle), bundle_of(line, bundle).status) == ([], "shipped")


def test_a_card_that_was_found_in_another_box_is_not_missed_when_its_own_is_opened_later(swapped: Any) -> None:
    line, ours, other, theirs = swapped
    card = line.card(theirs)
    [extra] = receive(line, ours, extra=[card.blank_serial]).discrepancies
    settle(line, extra, "sent_back")
    receipt = receive(line, other, missing=[card.blank_serial])
    assert (receipt.missing, receipt.status) == ((), "received")
    back = returns.send_back(line.context, [card.id], outlet=HERE, seal_no="B1", carrier="courier", actor="clerk")
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")
    assert line.card(theirs).return_reason is None
    [again] = line.ship()
    assert (again.outlet, receive(line, again).received) == (THERE, (card.id,))
    assert line.status(theirs) == "delivered"
    verified(line)


def test_cards_that_come_back_are_scanned_in_with_discrepancies_too(line: Any, submission: Make) -> None:
    ids = line.to_outlet(*(submission(n) for n in range(1, 5)))
    there, gone, odd, stray = (line.card(i) for i in ids)
    for card in (there, gone, odd):
        returns.ask_back(line.context, card.id, outlet=HERE, reason="refused", actor="clerk")
    back = returns.send_back(
        line.context,
        [there.id, gone.id, odd.id],
        outlet=HERE,
        seal_no="B1",
        carrier="courier",
        carrier_ref="SF1",
        actor="clerk",
    )
    told = {"seal_no": "B1", "actor": "storekeeper", "seal_intact": False}
    receipt = returns.receive_back(
        line.context, back, missing=[gone.id], damaged=[odd.id], extra=[stray.blank_serial], **told
    )
    assert (receipt.status, len(receipt.discrepancies)) == ("disputed", 4)
    assert line.balanced() == {"centre": 3, "courier": 1}
    assert [(line.status(i), line.row(i).ending) for i in ids] == [
        ("returned", "refused"),
        ("notified" if line.row(ids[1]).notified_at else "delivered", None),
        ("returned", "damaged"),
        ("returned", "misrouted"),
    ]
    with line.context.store.transaction() as tx:
        by_kind = {row.kind: row.id for row in books.listing(tx, bundle_id=back)}
    for kind, resolution in (("damaged", "accepted"), ("extra", "accepted"), ("seal", "accepted"), ("missing", "lost")):
        status = settle(line, by_kind[kind], resolution, actor="storekeeper")
    assert status == "received"
    assert line.balanced() == {"centre": 3, "lost": 1}
    assert (line.status(ids[1]), line.row(ids[1]).ending) == ("returned", "damaged")
    storage.remake(line.context, ids[1], reason="lost on its way back", actor="d")
    line.run()
    assert line.status(ids[1]) == "dispatch"
    document = returns.receipt(line.context, back)
    assert (document["receipt_no"], document["carrier"]) == (back, "courier")
    assert [card["reason"] for card in document["cards"]] == ["refused", "refused", None]
    signature = bytes.fromhex(document.pop("signature"))
    assert line.context.store.sealer.signed(document, signature)
    with pytest.raises(NotFound):
        returns.receipt(line.context, "bun_none")
    verified(line)


def test_a_bundle_that_nobody_signs_for_is_told_to_both_sides_once(shipped: Any) -> None:
    line, bundle, _ = shipped
    line.later(hours=71)
    assert line.events("bundle.overdue") == 0
    line.later(hours=2)
    line.later(hours=2)
    assert line.events("bundle.overdue") == 1
    assert bundle_of(line, bundle).alerted_at is not None
    assert receive(line, bundle).status == "received"


def test_who_dies_before_the_commit_has_done_nothing(shipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line, bundle, ids = shipped
    cards = [line.card(i) for i in ids]

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    def killed(act: Callable[[], Any]) -> None:
        before = line.balanced(), [line.status(i) for i in ids], line.blanks()
        with monkeypatch.context() as patch:
            patch.setattr(audit, "append", dies)
            with pytest.raises(Killed):
                act()
        assert (line.balanced(), [line.status(i) for i in ids], line.blanks()) == before

    def signed() -> bundles.Receipt:
        return receive(line, bundle, missing=[cards[0].id], damaged=[cards[1].id])

    killed(signed)
    for discrepancy in signed().discrepancies:
        with line.context.store.transaction() as tx:
            kind = books.find(tx, discrepancy).kind
        resolution = {"missing": "lost", "damaged": "sent_back"}[kind]
        killed(lambda d=discrepancy, r=resolution: settle(line, d, r))
        settle(line, discrepancy, resolution)
    line.run()

    def sent() -> str:
        return returns.send_back(
            line.context, [cards[1].id], outlet=HERE, seal_no="B1", carrier="courier", actor="clerk"
        )

    killed(sent)
    back = sent()
    killed(lambda: returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper"))
    returns.receive_back(line.context, back, seal_no="B1", actor="storekeeper")
    assert line.balanced() == {"outlet": 1, "lost": 1, "centre": 3}
    verified(line)


def test_a_changed_event_a_missing_one_and_a_moved_card_are_found(shipped: Any) -> None:
    line, bundle, ids = shipped
    receive(line, bundle)
    cards = [line.card(i).id for i in ids]
    e = t.custody_events.c
    with line.context.store.transaction() as tx:
        assert custody.verify(tx) == custody.Verified(cards=3, events=6, faults=0, broken=())
        tx.conn.execute(update(t.custody_events).where(e.card_id == cards[0], e.taker == "outlet").values(taken_by="x"))
        tx.conn.execute(delete(t.custody_events).where(e.card_id == cards[1], e.taker == "courier"))
        tx.conn.execute(update(t.cards).where(t.cards.c.id == cards[2]).values(place=THERE))
        found = custody.verify(tx)
    assert (found.cards, found.faults) == (3, 3)
    problems = dict(found.broken)
    assert problems[cards[0]].startswith("signature of cst_")
    assert problems[cards[1]].startswith("chain ends at")
    assert problems[cards[2]].startswith("card is not where")
    with line.context.store.transaction() as tx:
        by_row, by_event = custody.balance(tx, by_place=True)
        assert (by_row, by_event) == (
            {f"outlet/{HERE}": 2, f"outlet/{THERE}": 1},
            {f"outlet/{HERE}": 3},
        )
        assert views.card_row(tx, ids[0]) is not None
