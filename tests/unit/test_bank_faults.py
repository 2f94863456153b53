"""The spec of the simulated bank's faults: what it means, and how plainly a wrong one is refused."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gateways.bank_simulated import SCRIPT, Faults, Mishap, luhn_digit
from pipeline.ports import Declined


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


def test_names_on_the_list_do_not_show() -> None:
    assert "张三" not in repr(Faults(decline_names={"张三": Declined(code="listed", text="黑名单")}))


@pytest.mark.parametrize("number", ["4539148803436467", "6011000990139424", "79927398713"])
def test_the_check_digit_is_luhns(number: str) -> None:
    assert luhn_digit(number[:-1]) == number[-1]


@given(st.text("0123456789", min_size=18, max_size=18), st.integers(0, 17), st.integers(1, 9))
def test_the_check_digit_notices_a_wrong_digit(payload: str, place: int, change: int) -> None:
    wrong = payload[:place] + str((int(payload[place]) + change) % 10) + payload[place + 1 :]
    assert luhn_digit(wrong) != luhn_digit(payload)
