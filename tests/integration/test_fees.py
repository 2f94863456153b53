"""Fees: paid whole by a receipt, waived on a ground the region knows, given back; and the month an agency accounts for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.application import Submission
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.services import bundles, fees
from pipeline.store import fees as store
from pipeline.store import tables as t
from pipeline.store.engine import IntegrityError
from pipeline.store.fees import Due, Total

from .test_counter import changes_nothing

Make = Callable[..., Submission]
AGENCY = "ag_42010601"


@pytest.fixture
def charged(line: Any, submission: Make) -> tuple[Any, str, str]:
    """A line, an application in Wuhan and its fee of 20 yuan."""
    [i] = line.accept(submission())
    [fee] = fees.of(line.context, i)
    return line, i, fee.id


def of(line: Any, i: str) -> Any:
    [fee] = fees.of(line.context, i)
    return fee


def pay(line: Any, fee: str, **told: Any) -> None:
    base: dict[str, Any] = {"amount_fen": 2000, "method": "bank", "receipt_no": "R-7", "actor": "li"}
    fees.pay(line.context, fee, **(base | told))


def waive(line: Any, fee: str, **told: Any) -> None:
    fees.waive(line.context, fee, **({"ground": "disabled", "evidence": "file 12", "actor": "li"} | told))


def test_a_fee_is_paid_whole_by_one_receipt_and_the_same_receipt_again_changes_nothing(charged: Any) -> None:
    line, i, fee = charged
    with changes_nothing(line, "amount-mismatch"):
        pay(line, fee, amount_fen=1999)
    with changes_nothing(line, "required"):
        pay(line, fee, receipt_no=" ")
    with changes_nothing(line, "not-found", NotFound):
        pay(line, "fee_none")
    pay(line, fee, method="cash")
    first = of(line, i)
    pay(line, fee)
    assert of(line, i) == first
    assert (first.status, first.method, first.receipt_no, first.settled_by) == ("paid", "cash", "R-7", "li")
    with changes_nothing(line, "fee-settled", Conflict):
        pay(line, fee, receipt_no="R-8")
    with changes_nothing(line, "fee-settled", Conflict):
        waive(line, fee)


@pytest.mark.rule("WH-14")
def test_a_fee_is_waived_with_evidence_on_a_ground_the_region_knows(charged: Any) -> None:
    line, i, fee = charged
    with changes_nothing(line, "not-permitted-by-policy") as told:
        waive(line, fee, ground="quality")
    assert told.value.rule == "WH-14"
    assert "registered_unemployed" in told.value.zh
    with changes_nothing(line, "required"):
        waive(line, fee, evidence="")
    waive(line, fee)
    waive(line, fee)
    assert (of(line, i).status, of(line, i).ground, of(line, i).evidence) == ("waived", "disabled", "file 12")
    with changes_nothing(line, "fee-settled", Conflict):
        waive(line, fee, ground="veteran")
    line.run()
    for bundle in line.ship():
        bundles.receive(line.context, bundle.id, outlet=bundle.outlet, seal_no=bundle.seal_no, actor="clerk")
    line.hand_over(i, fee_receipt=None)


@pytest.mark.rule("DL-18")
@pytest.mark.rule("KL-6")
def test_somebodys_number_is_neither_receipt_nor_proof(charged: Any) -> None:
    line, _, fee = charged
    number = "999001198001010010"
    for act in (
        lambda: pay(line, fee, receipt_no=number),
        lambda: waive(line, fee, evidence=f"W{number}"),
        lambda: fees.refund(line.context, fee, refund_no="13800001234", actor="cashier"),
    ):
        with pytest.raises(Refused) as told:
            act()
        assert told.value.reason_code == "looks-personal"
        assert number not in str(told.value)


def test_each_region_waives_by_its_own_words_or_not_at_all(line: Any, regional: Callable[..., Submission]) -> None:
    for n, (code, ground, rule) in enumerate(
        [("210200", "quality", None), ("210200", "disabled", "DL-18"), ("650200", "quality", "KL-14")], 1
    ):
        [i] = line.accept(regional(line.context.policies.of(code), n))
        with line.context.store.transaction() as tx:
            due = Due(application_id=i, kind="replacement", amount_fen=2000, rule="KL-14")
            store.charge(tx, [due], now=line.clock.now())
        fee = of(line, i).id
        if rule is None:
            waive(line, fee, ground=ground)
            continue
        with changes_nothing(line, "not-permitted-by-policy") as told:
            waive(line, fee, ground=ground)
        assert told.value.rule == rule


@pytest.mark.rule("WH-11")
def test_a_receipt_shown_at_the_counter_pays_and_a_paid_fee_needs_none(line: Any, submission: Make) -> None:
    one, other = line.to_outlet(submission(1), submission(2))
    line.hand_over(one, fee_receipt=" R-77 ")
    assert (of(line, one).status, of(line, one).receipt_no, of(line, one).settled_by) == ("paid", "R-77", "clerk")
    with changes_nothing(line, "fee-due", Conflict) as told:
        line.hand_over(other, fee_receipt=None)
    assert told.value.rule == "WH-11"
    pay(line, of(line, other).id)
    line.hand_over(other, fee_receipt=None)


def test_a_paid_fee_is_given_back_once_and_is_not_due_again(charged: Any) -> None:
    line, i, fee = charged
    with changes_nothing(line, "fee-settled", Conflict):
        fees.refund(line.context, fee, refund_no="B-1", actor="li")
    pay(line, fee)
    for _ in range(2):
        fees.refund(line.context, fee, refund_no="B-1", actor="wang")
    with changes_nothing(line, "fee-settled", Conflict):
        fees.refund(line.context, fee, refund_no="B-2", actor="wang")
    back = of(line, i)
    assert (back.status, back.receipt_no, back.refund_no, back.refunded_by) == ("refunded", "R-7", "B-1", "wang")


@pytest.mark.rule("WH-13")
@pytest.mark.rule("WH-14")
def test_an_agencys_month_is_the_civil_month_of_china_and_never_changes_once_it_is_over(
    line: Any, submission: Make
) -> None:
    line.clock.advance(datetime(2026, 3, 31, 15, 59, tzinfo=UTC) - line.clock.now())  # 23:59 on the 31st in China
    a, b, c = (of(line, i).id for i in line.accept(*(submission(n) for n in range(1, 4))))
    other = of(line, line.accept(submission(4, agency="ag_42010602"))[0]).id
    pay(line, a)
    pay(line, other)
    march = fees.statement(line.context, AGENCY, date(2026, 3, 15))
    assert (march.month, march.charged, march.paid, march.due) == (
        "2026-03",
        Total(3, 6000),
        Total(1, 2000),
        Total(2, 4000),
    )
    line.clock.advance(timedelta(minutes=2))
    waive(line, b)
    fees.refund(line.context, a, refund_no="B-1", actor="li")
    [new] = line.accept(submission(5))
    assert fees.statement(line.context, AGENCY, date(2026, 3, 1)) == march
    april = fees.statement(line.context, AGENCY, date(2026, 4, 30))
    assert (april.charged, april.paid, april.waived) == (Total(1, 2000), Total(0, 0), Total(1, 2000))
    assert (april.refunded, april.due) == (Total(1, 2000), Total(2, 4000))
    assert [(row.id, row.ground, row.evidence, row.settled_by) for row in april.waivers] == [
        (b, "disabled", "file 12", "li")
    ]
    assert fees.statement(line.context, AGENCY, date(2026, 12, 1)).due == Total(2, 4000)
    with pytest.raises(NotFound):
        fees.statement(line.context, "ag_none", date(2026, 4, 1))
    assert {c, of(line, new).id}.isdisjoint({row.id for row in april.waivers})


def test_fees_are_found_by_each_name_of_their_application(charged: Any) -> None:
    line, i, fee = charged
    for name in (line.application(i).acceptance_no, "T-1"):
        assert [row.id for row in fees.of(line.context, name)] == [fee]
    with pytest.raises(NotFound):
        fees.of(line.context, "T-none")


def test_the_database_keeps_no_payment_without_its_receipt_and_no_waiver_without_its_proof(charged: Any) -> None:
    line, _, fee = charged
    settled = {"settled_at": line.clock.now()}
    wrong: list[dict[str, Any]] = [
        {"status": "paid"},
        {"status": "paid", **settled},
        {"status": "waived", "ground": "disabled", **settled},
        {"status": "refunded", "receipt_no": "R-1", **settled},
        {"status": "due", **settled},
        {"method": "barter"},
    ]
    for values in wrong:
        with pytest.raises(IntegrityError), line.context.store.transaction() as tx:
            tx.conn.execute(update(t.fees).where(t.fees.c.id == fee).values(**values))
