"""The spec of the simulated bank's faults: what it means, and how plainly a wrong one is refused."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gateways.bank_faults import BALANCE_NOT_ZERO
from pipeline.gateways.bank_simulated import SCRIPT, Faults, Mishap, luhn_digit
from pipeline.gateways.bank_wire import OPERATIONS
from pipeline.ports import CloseAccount, Declined, Done, Instruction, OpenAccount
from tests.support.banks import all_about, opening


def test_a_spec_is_read_name_by_name() -> None:
    faults = Faults.parse(" decline=0.02, timeout=0.01,late=0.05,drop_after_commit=0.02,error=0.01,slow_ms=20, ")
    assert faults == Faults(decline=0.02, timeout=0.01, late=0.05, drop_after_commit=0.02, error=0.01, slow_ms=20)


def test_an_empty_spec_is_a_bank_without_faults() -> None:
    assert Faults.parse("") == Faults()
    assert all(Faults().draw(Random(n)) is None for n in range(100))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("declin=0.02", "'declin' is not known; known are decline,"),
        ("decline_names=0", "not known"),
        ("decline", "decline needs a number, as in decline=0.02"),
        ("decline=", "decline needs a number"),
        ("decline=2%", "decline needs a number"),
        ("decline=0.1,decline=0.2", "decline is given twice"),
        ("decline=1.5", "decline: a share is between 0 and 1"),
        ("decline=-0.1", "decline: a share is between 0 and 1"),
        ("decline=nan", "decline: a share is between 0 and 1"),
        ("slow_ms=-1", "slow_ms: a time is between 0 and one day"),
        ("late_s=inf", "late_s: a time is between 0 and one day"),
        ("decline=0.6,error=0.6", "add up to more than 1"),
        ("close_declined=0.6,wrong_reply=0.3,error_after_commit=0.2", "add up to more than 1"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        Faults.parse(spec)
    assert message in str(refused.value)


@given(st.text())
def test_any_text_is_a_spec_or_a_value_error(text: str) -> None:
    try:
        Faults.parse(text)
    except ValueError:
        return


@pytest.mark.parametrize("mishap", [m for m in Mishap if m is not Mishap.CONFLICT])
def test_a_fault_that_is_certain_strikes_always(mishap: Mishap) -> None:
    faults = Faults.parse(f"{mishap.value}=1")
    assert {faults.draw(Random(n)) for n in range(100)} == {mishap}


def test_a_certain_refusal_takes_its_wordings_in_turn() -> None:
    drawn = {Faults(decline=1.0).draw(Random(n)) for n in range(100)}
    assert drawn <= set(SCRIPT.values())
    assert len(drawn) == 3
    assert all(isinstance(strike, Declined) for strike in drawn)


def test_a_fault_strikes_at_most_the_share_it_was_given() -> None:
    faults = Faults(
        decline=0.1, error=0.1, timeout=0.1, late=0.1, drop_after_commit=0.1, wrong_reply=0.1, error_after_commit=0.1
    )
    drawn = [faults.draw(Random(n)) for n in range(5000)]
    for mishap in (Mishap.UNAVAILABLE, Mishap.SILENT, Mishap.LATE, Mishap.DROPPED, Mishap.WRONG_REPLY, Mishap.FAILED):
        assert drawn.count(mishap) / 5000 == pytest.approx(0.1, abs=0.02)
    assert sum(isinstance(strike, Declined) for strike in drawn) / 5000 == pytest.approx(0.1, abs=0.02)
    assert drawn.count(None) / 5000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_a_bank_refuses_by_chance_only_to_open_and_to_close(kind: type[Instruction]) -> None:
    drawn = {Faults(decline=1.0, close_declined=1.0).draw(Random(n), kind) for n in range(50)}
    if kind is OpenAccount:
        assert drawn == {SCRIPT["0451"], SCRIPT["0453"], SCRIPT["0454"]}
    else:
        assert drawn == ({BALANCE_NOT_ZERO} if kind is CloseAccount else {None})


def test_a_phone_number_chooses_refusals_of_openings_and_mishaps_of_all_that_names_its_holder() -> None:
    refused, dropped = opening(phone="13800000451"), opening(phone="13800000462")
    later = all_about(Done(account_ref="1", card_number="6214670000000000000"))
    for person in (refused, dropped):
        fates = {
            Faults().scripted_for(replace(instruction, holder=person.holder))
            for instruction in later
            if hasattr(instruction, "holder")
        }
        assert fates == ({Mishap.DROPPED} if person is dropped else {None})
    assert Faults().scripted_for(refused) == SCRIPT["0451"]
    assert Faults(scripted=0).scripted_for(refused) is None
    assert {Faults().scripted_for(instruction) for instruction in later} == {None}


def test_names_on_the_list_do_not_show() -> None:
    assert "张三" not in repr(Faults(decline_names={"张三": Declined(code="listed", text="黑名单")}))


@pytest.mark.parametrize("number", ["4539148803436467", "6011000990139424", "79927398713"])
def test_the_check_digit_is_luhns(number: str) -> None:
    assert luhn_digit(number[:-1]) == number[-1]


@given(st.text("0123456789", min_size=18, max_size=18), st.integers(0, 17), st.integers(1, 9))
def test_the_check_digit_notices_a_wrong_digit(payload: str, place: int, change: int) -> None:
    wrong = payload[:place] + str((int(payload[place]) + change) % 10) + payload[place + 1 :]
    assert luhn_digit(wrong) != luhn_digit(payload)
