"""The line, stage by stage, on both databases."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.application import Submission
from pipeline.services import bundles, counter
from pipeline.store import custody as store_custody
from pipeline.store import stock, views


def _bundle(line, status: str, direction: str = "out"):  # type: ignore[no-untyped-def]
    with line.context.store.transaction() as tx:
        return store_custody.bundles(tx, status=status, direction=direction)


def test_an_application_becomes_a_card_in_a_persons_hand(line, submission: Callable[..., Submission]) -> None:  # type: ignore[no-untyped-def]
    [i] = line.accept(submission())
    line.run()
    assert line.status(i) == "dispatch"
    line.later(hours=5)
    [bundle] = _bundle(line, "sealed")
    assert bundles.ship(line.context, bundle.id, carrier="courier", actor="dispatcher") == 1
    receipt = bundles.receive(line.context, bundle.id, outlet=bundle.outlet, seal_no=bundle.seal_no, actor="clerk")
    assert receipt.status == "received"
    line.later(seconds=1)
    assert line.status(i) == "delivered"
    [card] = receipt.received
    due = counter.give_notice(line.context, card, outlet=bundle.outlet, method="sms", actor="clerk")
    assert due is not None
    assert line.status(i) == "notified"
    counter.hand_over(
        line.context,
        card,
        outlet=bundle.outlet,
        serial="BL0001",
        taken_by="holder",
        document_type="resident_id",
        document_number=line.application(i).person.id_number,
        fee_receipt="R1",
        actor="clerk",
    )
    assert line.status(i) == "collected"
    with line.context.store.transaction() as tx:
        by_row, by_event = store_custody.balance(tx)
        assert by_row == by_event == {"holder": 1}
        assert stock.ledger_counts(tx) == {"received": 50, "issued": 50, "taken": 1, "bound": 1}
        assert views.accounts(tx) == {"open": 1}
    assert line.history(i) == [
        "received", "validation", "photo", "account", "personalisation", "dispatch", "dispatch", "delivered", "delivered",
        "notified", "collected",
    ]  # fmt: skip
