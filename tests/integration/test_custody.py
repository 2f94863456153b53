"""Cards on their way: every hand-over has two parties, and what may not be is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.application import Submission
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services import bundles, counter, returns
from pipeline.store import fees

Make = Callable[..., Submission]


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


def code_of(told: pytest.ExceptionInfo[Refused]) -> str:
    assert told.value.zh
    assert told.value.en
    return told.value.reason_code


def test_a_full_bundle_is_closed_and_the_next_one_opened(line: Any, submission: Make) -> None:
    from pipeline.stages.dispatch import Packed

    ids = line.accept(*(submission(n) for n in range(1, 6)))
    line.until("dispatch")
    stage = line.stages["dispatch"]

    def small(case: Any, *told: Any) -> Any:
        decision = stage.prepare(case, *told)
        facts = [{name: getattr(f, name) for name in Packed.__dataclass_fields__} for f in decision.facts]
        return type(decision)(decision.outcome, tuple(Packed(**f | {"bundle_size": 2}) for f in facts))

    from pipeline.services import run_stage

    from .conftest import Stand

    run_stage.run(line.context, Stand(stage, prepare=small), ids, worker="w1")
    assert [len(bundle.manifest) for bundle in line.bundles("sealed")] == [2, 2]
    assert len(line.bundles("packing")) == 1
    assert sorted(line.card(i).slot for i in ids) == ["001", "001", "001", "002", "002"]


def test_each_outlet_has_its_own_bundle_and_it_waits_for_its_time(line: Any, submission: Make) -> None:
    line.accept(submission(1), submission(2, outlet="out_42010602"))
    line.run()
    line.later(hours=3)
    assert len(line.bundles("packing")) == 2
    line.later(hours=2)
    assert {len(bundle.manifest) for bundle in line.bundles("sealed")} == {1}


def test_a_card_is_packed_once(line: Any, submission: Make) -> None:
    from sqlalchemy import update

    from pipeline.store import tables as t

    [i] = line.accept(submission())
    line.run()
    bundle = line.card(i).bundle_id
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.applications).values(work="ready"))
    line.step("dispatch")
    assert (line.card(i).bundle_id, line.card(i).slot) == (bundle, "001")


def test_a_bundle_that_is_not_sealed_is_not_shipped(line: Any, submission: Make) -> None:
    line.accept(submission())
    line.run()
    [bundle] = line.bundles("packing")
    with pytest.raises(Conflict):
        bundles.ship(line.context, bundle.id, carrier="courier", actor="d")
    with pytest.raises(NotFound):
        bundles.ship(line.context, "bun_none", carrier="courier", actor="d")
    assert line.balanced() == {"centre": 1}


def test_a_bundle_with_another_seal_is_not_signed_for(shipped: Any) -> None:
    line, bundle, _ = shipped
    with pytest.raises(Refused) as told:
        receive(line, bundle, seal_no="S0000000000")
    assert code_of(told) == "seal-mismatch"
    assert line.balanced() == {"courier": 3}
    assert receive(line, bundle, seal_no=f" {bundle.seal_no.lower()} ").status == "received"


def test_a_bundle_is_signed_for_by_its_own_outlet_once(shipped: Any) -> None:
    line, bundle, _ = shipped
    with pytest.raises(NotFound):
        receive(line, bundle, outlet="out_42010699")
    receive(line, bundle)
    with pytest.raises(Conflict):
        receive(line, bundle)
    assert line.balanced() == {"outlet": 3}


def test_a_missing_card_leaves_the_bundle_disputed_and_the_others_go_on(shipped: Any) -> None:
    line, bundle, ids = shipped
    here = [line.card(i).id for i in ids[:2]]
    receipt = receive(line, bundle, received=here)
    assert receipt.status == "disputed"
    assert receipt.missing == (line.card(ids[2]).id,)
    assert [line.status(i) for i in ids] == ["delivered", "delivered", "dispatch"]
    assert line.balanced() == {"outlet": 2, "courier": 1}
    line.later(seconds=1)
    assert line.events("card.ready") == 2
    assert line.events("bundle.disputed") == 1
    line.hand_over(ids[0])
    assert line.balanced() == {"holder": 1, "outlet": 1, "courier": 1}


def test_a_card_that_turns_up_later_is_signed_for_and_settles_the_dispute(shipped: Any) -> None:
    line, bundle, ids = shipped
    receive(line, bundle, received=[line.card(i).id for i in ids[:2]])
    with pytest.raises(Refused) as told:
        receive(line, bundle, received=[line.card(ids[0]).id])
    assert code_of(told) == "card-not-in-bundle"
    assert receive(line, bundle).received == ()  # whoever counts again without naming it has not found it
    assert line.balanced() == {"outlet": 2, "courier": 1}
    late = receive(line, bundle, received=[line.card(ids[2]).id])
    assert (late.received, late.missing, late.status) == ((line.card(ids[2]).id,), (), "received")
    assert line.status(ids[2]) == "delivered"
    assert line.events("bundle.settled") == 1
    assert line.balanced() == {"outlet": 3}


def test_one_more_difference_told_later_does_not_sign_for_what_is_still_missing(shipped: Any) -> None:
    line, bundle, ids = shipped
    missing = line.card(ids[0]).id
    receive(line, bundle, missing=[missing])
    again = receive(line, bundle, extra=["BL9999"])
    assert (again.received, again.missing, again.status) == ((), (missing,), "disputed")
    assert (line.card(ids[0]).custody, line.status(ids[0])) == ("courier", "dispatch")


def test_a_packing_list_has_no_place_twice(line: Any, submission: Make) -> None:
    [other] = line.accept(submission(3, outlet="out_42010602"))
    line.run()
    [theirs] = line.ship()
    gone, stays = line.accept(submission(1), submission(2))
    line.run()
    assert {line.card(i).slot for i in (gone, stays)} == {"001", "002"}
    first = min((gone, stays), key=lambda i: line.card(i).slot)
    receive(line, theirs, extra=[line.card(first).blank_serial])  # out of the open box, into another outlet's
    line.accept(submission(4))
    line.run()
    [ours] = line.ship()
    assert [entry["slot"] for entry in ours.manifest] == ["002", "003"]
    assert line.status(other) == "delivered"


@pytest.mark.rule("KL-19")
def test_a_strangers_document_takes_no_card(line: Any, submission: Callable[..., Submission]) -> None:
    [i] = line.to_outlet(submission())
    with pytest.raises(Refused) as told:
        line.hand_over(i, document_number="999001198001019999")
    assert code_of(told) == "not-the-holder"
    assert line.balanced() == {"outlet": 1}
    line.hand_over(i)
    assert line.balanced() == {"holder": 1}


def test_a_card_that_is_not_on_the_packing_list_is_refused_with_the_whole_receipt(shipped: Any) -> None:
    line, bundle, ids = shipped
    with pytest.raises(Refused) as told:
        receive(line, bundle, received=[line.card(ids[0]).id, "card_other"])
    assert code_of(told) == "card-not-in-bundle"
    assert line.balanced() == {"courier": 3}


@pytest.fixture
def waiting(line: Any, submission: Make) -> tuple[Any, str]:
    """A line, and an application whose card waits at its outlet and whose holder was told."""
    [i] = line.to_outlet(submission())
    line.notify(i)
    return line, i


def test_another_card_an_unpaid_fee_or_another_place_stops_a_hand_over_and_changes_nothing(waiting: Any) -> None:
    line, i = waiting
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"serial": "BL0002"}, "serial-mismatch"),
        ({"fee_receipt": None}, "fee-due"),
        ({"outlet": "out_42010699"}, "not-found"),
        ({"outlet": None}, "not-found"),
    ]
    for change, code in wrong:
        with pytest.raises(Refused) as told:
            line.hand_over(i, **change)
        assert code_of(told) == code
        assert line.status(i) == "notified"
        assert line.balanced() == {"outlet": 1}
    assert line.hand_over(i).startswith("hov_")


def test_a_card_is_handed_over_once(waiting: Any) -> None:
    line, i = waiting
    outlet = line.card(i).place
    line.hand_over(i)
    with pytest.raises(Conflict) as told:
        line.hand_over(i, outlet=outlet)
    assert code_of(told) == "already-collected"
    assert line.balanced() == {"holder": 1}
    assert line.events("card.collected") == 1


def test_a_collector_the_region_does_not_allow_is_sent_away(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line, i = waiting
    policy = line.context.policies.of("420100")
    who = policy.collection.who.model_copy(update={"value": ("person", "guardian")})
    strict = policy.model_copy(update={"collection": policy.collection.model_copy(update={"who": who})})
    monkeypatch.setattr(type(line.context.policies), "of", lambda self, code, version=None: strict)
    with pytest.raises(Refused) as told:
        line.hand_over(i, taken_by="proxy")
    assert (code_of(told), told.value.rule) == ("not-permitted-by-policy", "WH-11")
    line.hand_over(i)


def test_the_receipt_pays_the_fee_and_a_waiver_makes_it_unnecessary(line: Any, submission: Make) -> None:
    paid, waived = line.to_outlet(submission(1), submission(2))
    with line.context.store.transaction() as tx:
        [fee] = fees.of(tx, waived)
        fees.waive(tx, fee.id, ground="hardship", evidence="doc", actor="clerk", now=line.clock.now())
    line.hand_over(paid, fee_receipt="R-77")
    line.hand_over(waived, fee_receipt=None)
    with line.context.store.transaction() as tx:
        [one], [other] = fees.of(tx, paid), fees.of(tx, waived)
    assert (one.status, one.receipt_no) == ("paid", "R-77")
    assert (other.status, other.receipt_no) == ("waived", None)


def test_who_comes_before_the_notice_gets_the_card_and_is_told_of_nothing_more(line: Any, submission: Make) -> None:
    [i] = line.to_outlet(submission())
    line.hand_over(i)
    assert line.status(i) == "collected"
    line.later(days=400)
    assert line.events("card.notice_overdue") == line.events("card.uncollected_reminder") == 0


def test_a_card_under_way_is_handed_to_nobody(shipped: Any) -> None:
    line, bundle, ids = shipped
    with pytest.raises(NotFound):
        line.hand_over(ids[0], outlet=bundle.outlet)
    with pytest.raises(NotFound):
        counter.give_notice(line.context, line.card(ids[0]).id, outlet=bundle.outlet, method="sms", actor="c")


def test_of_two_clerks_with_one_card_one_hands_it_over(waiting: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    line, i = waiting
    outlet = line.card(i).place

    def clerk() -> str:
        try:
            return line.hand_over(i, outlet=outlet)[:4]
        except Conflict as error:
            return error.reason_code

    with ThreadPoolExecutor(2) as pool:
        told = sorted(future.result(30) for future in [pool.submit(clerk) for _ in range(2)])
    assert told == ["already-collected", "hov_"]


def test_an_urgent_card_is_handed_over_at_the_centres_own_counter(line: Any, submission: Make) -> None:
    [i] = line.accept(submission(priority="urgent", window="information_centre"))
    line.run()
    assert (line.status(i), line.why(i)) == ("personalisation", "centre.counter")
    line.later(days=3)
    assert line.bundles("packing") == line.bundles("sealed") == []
    assert line.balanced() == {"centre": 1}
    with pytest.raises(NotFound):
        line.hand_over(i, outlet="out_42010601")
    line.hand_over(i, outlet=None)
    assert line.status(i) == "collected"
    assert line.balanced() == {"holder": 1}
    with pytest.raises(Conflict) as told:
        line.hand_over(i, outlet=None)
    assert code_of(told) == "already-collected"


def test_a_card_that_waits_for_the_courier_is_not_handed_over_at_the_counter(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    line.run()
    with pytest.raises(Conflict):
        line.hand_over(i, outlet=None)


def test_cards_that_are_called_back_come_back_under_their_seal(waiting: Any) -> None:
    line, i = waiting
    with pytest.raises(Conflict):
        line.call_back(i)
    line.later(days=200)
    assert line.status(i) == "recalled"
    with pytest.raises(NotFound):
        returns.send_back(
            line.context, [line.card(i).id], outlet="out_42010699", seal_no="B", carrier="c", actor="clerk"
        )
    bundle = line.call_back(i)
    assert line.balanced() == {"courier": 1}
    with pytest.raises(Refused) as told:
        returns.receive_back(line.context, bundle, seal_no="other", actor="centre")
    assert code_of(told) == "seal-mismatch"
    receipt = returns.receive_back(line.context, bundle, seal_no="back-1", actor="centre")
    assert receipt.received == (line.card(i).id,)
    assert (line.status(i), line.balanced()) == ("returned", {"centre": 1})
    assert line.events("card.returned") == 1
    with pytest.raises(Conflict):
        returns.receive_back(line.context, bundle, seal_no="Back-1", actor="centre")


def test_a_cards_history_names_giver_and_taker_of_every_step(waiting: Any) -> None:
    from pipeline.store import custody as store_custody

    line, i = waiting
    line.hand_over(i)
    card = line.card(i).id
    with line.context.store.transaction() as tx:
        steps = [(e.giver, e.given_by, e.taker, e.taken_by) for e in store_custody.history(tx, card)]
    assert steps[:2] == [
        ("centre", "dispatcher", "courier", "courier"),
        ("courier", "courier", "outlet", "clerk"),
    ]
    assert steps[2][:3] == ("outlet", "clerk", "holder")
    assert len(steps) == 3
