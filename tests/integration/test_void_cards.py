"""A card that is void, or not where its list says, moves nothing but itself: its application lives on with another card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.application import Submission
from pipeline.errors import Conflict
from pipeline.services import bundles, counter, discrepancies, returns
from pipeline.store import custody

Make = Callable[..., Submission]
HERE, THERE = "out_42010601", "out_42010602"


def sent(line: Any, outlet: str = HERE) -> Any:
    """The bundle that just left for an outlet."""
    [bundle] = [bundle for bundle in line.ship() if bundle.outlet == outlet]
    return bundle


def receive(line: Any, bundle: Any, **told: Any) -> bundles.Receipt:
    return bundles.receive(line.context, bundle.id, outlet=bundle.outlet, seal_no=bundle.seal_no, actor="clerk", **told)


def settle(line: Any, discrepancy: str, resolution: str) -> str:
    return discrepancies.settle(line.context, discrepancy, resolution=resolution, actor="clerk")


def refused(code: str, act: Callable[[], Any]) -> None:
    with pytest.raises(Conflict) as told:
        act()
    assert told.value.reason_code == code


def in_order(line: Any) -> None:
    line.balanced()
    with line.context.store.transaction() as tx:
        assert custody.verify(tx).faults == 0


@pytest.mark.parametrize("told", [True, False], ids=["at its outlet", "under way"])
def test_waste_that_is_lost_on_its_way_back_leaves_the_new_card_alone(line: Any, submission: Make, told: bool) -> None:
    [i] = line.accept(submission())
    line.run()
    damaged = line.card(i)
    [discrepancy] = receive(line, sent(line), damaged=[damaged.id]).discrepancies
    settle(line, discrepancy, "sent_back")
    line.run()
    again = sent(line)
    new = line.card(i)
    if told:
        receive(line, again)
        line.later(seconds=1)
        line.notify(i)
    back = returns.send_back(line.context, [damaged.id], outlet=HERE, seal_no="B", carrier="courier", actor="clerk")
    receipt = returns.receive_back(line.context, back, seal_no="B", missing=[damaged.id], actor="storekeeper")
    settle(line, receipt.discrepancies[0], "lost")
    line.run()
    if not told:
        receive(line, again)
        line.later(seconds=1)
    assert (line.status(i), line.card(i).id) == ("notified" if told else "delivered", new.id)
    line.hand_over(i)
    assert line.balanced() == {"lost": 1, "holder": 1}
    in_order(line)


def test_a_card_that_is_to_be_forwarded_leaves_with_its_box_and_is_handed_over_no_more(
    line: Any, submission: Make
) -> None:
    [i] = line.to_outlet(submission())
    line.notify(i)
    line.accept(submission(2, outlet=THERE))
    line.run()
    receipt = receive(line, sent(line, THERE), extra=[line.card(i).blank_serial])
    settle(line, receipt.discrepancies[0], "forwarded")
    [forwarding] = line.bundles("sealed")
    refused("card-packed", lambda: line.hand_over(i))
    assert bundles.ship(line.context, forwarding.id, carrier="courier", actor="clerk") == 1
    assert (line.card(i).custody, line.status(i)) == ("courier", "notified")
    in_order(line)


def test_a_void_card_that_turns_up_at_an_outlet_is_neither_told_of_nor_set_aside_for_the_new_one(
    line: Any, submission: Make
) -> None:
    [i] = line.accept(submission())
    line.run()
    lost = line.card(i)
    [discrepancy] = receive(line, sent(line), missing=[lost.id]).discrepancies
    settle(line, discrepancy, "lost")
    line.run()
    receipt = receive(line, sent(line), extra=[lost.blank_serial])
    line.later(seconds=1)
    told = {"outlet": HERE, "actor": "clerk"}
    refused("card-void", lambda: counter.give_notice(line.context, lost.id, method="sms", **told))
    refused("card-void", lambda: returns.ask_back(line.context, lost.id, reason="damaged", **told))
    settle(line, receipt.discrepancies[0], "sent_back")
    line.notify(i)
    line.later(days=400)
    assert line.status(i) == "recalled"


def test_a_stored_card_that_turns_up_at_an_outlet_can_only_go_back(line: Any, submission: Make) -> None:
    [i] = line.to_outlet(submission())
    line.notify(i)
    line.later(days=400)
    back = line.call_back(i)
    returns.receive_back(line.context, back, seal_no="Back-1", actor="storekeeper")
    line.accept(submission(2))
    line.run()
    receipt = receive(line, sent(line), extra=[line.card(i).blank_serial])
    for resolution in ("arrived", "forwarded"):
        refused("resolution", lambda r=resolution: settle(line, receipt.discrepancies[0], r))
    settle(line, receipt.discrepancies[0], "sent_back")
    returns.receive_back(line.context, line.call_back(i), seal_no="Back-1", actor="storekeeper")
    assert (line.card(i).custody, line.status(i)) == ("centre", "returned")
    in_order(line)
