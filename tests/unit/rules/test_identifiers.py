"""Numbers, names and ids: the standards' own vectors, and what no single slip of the pen gets past."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identifiers import (
    CROCKFORD,
    card_number,
    gb11643_check,
    gb11714_check,
    name_problem,
    new_id,
    normalise_name,
    resident_facts,
    resident_id_problem,
    social_security_number,
    social_security_number_problem,
    split_name,
)
from pipeline.person import IdType
from tests.unit.rules.applicants import citizen_number

births = st.dates(date(1900, 1, 1), date(2026, 1, 1))


@pytest.mark.parametrize(
    ("first17", "check"),
    [("11010519491231002", "X"), ("44052418800101001", "4"), ("31011519900101123", "2")],
)
def test_gb11643_vectors(first17: str, check: str) -> None:
    assert gb11643_check(first17) == check
    assert resident_id_problem(first17 + check) is None


def test_a_number_tells_region_birth_and_sex() -> None:
    facts = resident_facts("11010519491231002X")
    assert (facts.region, facts.birth_date, facts.sex) == ("110105", date(1949, 12, 31), "2")


@given(born=births, at=st.integers(0, 17), step=st.integers(1, 9), sex=st.sampled_from("12"))
def test_any_single_changed_digit_is_caught(born: date, at: int, step: int, sex: str) -> None:
    number = citizen_number(born=born, sex=sex)
    digits = "0123456789X" if at == 17 else "0123456789"
    wrong = number[:at] + digits[(digits.index(number[at]) + step) % len(digits)] + number[at + 1 :]
    assert resident_id_problem(number) is None
    assert resident_id_problem(wrong) is not None


@given(born=births, at=st.integers(0, 16))
def test_two_neighbours_swapped_are_caught(born: date, at: int) -> None:
    number = citizen_number(born=born)
    swapped = number[:at] + number[at + 1] + number[at] + number[at + 2 :]
    assert (resident_id_problem(swapped) is None) == (swapped == number)


@pytest.mark.parametrize(
    ("first8", "check"), [("12345678", "8"), ("D2143569", "X"), ("71093465", "X"), ("00000000", "0")]
)
def test_gb11714_vectors(first8: str, check: str) -> None:
    """The standard's sample D2143569-X; the others computed by hand."""
    assert gb11714_check(first8) == check


@pytest.mark.parametrize(("prefix", "sequence"), [("WH", 10**6), ("A", 10**7), ("WH", -1), ("wh", 1), ("ABC", 1)])
def test_a_card_number_that_does_not_fit_is_refused(prefix: str, sequence: int) -> None:
    with pytest.raises(ValueError):
        card_number(prefix, sequence)


@given(prefix=st.from_regex(r"[A-Z]{1,2}", fullmatch=True), sequence=st.integers(0, 10**6 - 1))
def test_card_numbers_have_nine_characters_and_their_check(prefix: str, sequence: int) -> None:
    number = card_number(prefix, sequence)
    assert len(number) == 9
    assert number.startswith(prefix)
    assert number[8] == gb11714_check(number[:8])
    assert int(number[len(prefix) : 8]) == sequence


@pytest.mark.parametrize(
    ("id_type", "number", "nationality", "expected"),
    [
        ("resident_id", "11010519491231002X", "CHN", "11010519491231002X"),
        ("hk_permit", "H0123456701", "CHN", "HKG001234567"),
        ("mo_permit", "M01234567", "CHN", "MAC001234567"),
        ("tw_permit", "01234567", "CHN", "TWN001234567"),
        ("passport", "E00000000", "USA", "USA0E00000000"),
        ("foreigner_pr", "USA999000000000", "USA", "USA0999000000000"),
        ("military_id", "1", "CHN", None),
        ("resident_id", "110105194912310021", "CHN", None),
        ("hk_permit", "0123456701", "CHN", None),
    ],
)
def test_the_social_security_number_follows_from_the_document(
    id_type: IdType, number: str, nationality: str, expected: str | None
) -> None:
    found = social_security_number(id_type, number, nationality=nationality)
    assert found == expected
    assert found is None or social_security_number_problem(found) is None


@pytest.mark.parametrize("number", ["", "HKG12345678", "hkg001234567", "USA1E0000000", "USA0", "USA0" + "1" * 15])
def test_a_badly_formed_social_security_number_is_seen(number: str) -> None:
    assert social_security_number_problem(number) == "form"


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("张 三", "张三"),
        ("买买提•艾力", "买买提·艾力"),
        ("买买提．艾力", "买买提·艾力"),
        ("买买提.艾力", "买买提·艾力"),
        ("买买提·· 艾力", "买买提·艾力"),
        ("ＪＯＨＮ  ＳＭＩＴＨ", "JOHN SMITH"),
        ("J. R. Smith", "J. R. Smith"),
    ],
)
def test_names_are_spelt_one_way(written: str, spelt: str) -> None:
    assert normalise_name(written) == spelt
    assert name_problem(spelt) is None


@given(st.text(max_size=30))
def test_a_name_without_problem_is_its_own_normal_form_and_fits(name: str) -> None:
    if name_problem(name) is None:
        head, rest = split_name(name)
        assert normalise_name(name) == name
        assert (head + rest).decode("gb18030") == name
        assert len(head) <= 30
        assert len(rest) <= 20


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("张3", "characters"),
        ("张\ue000", "characters"),
        ("张 三", "characters"),
        ("阿" * 26, "length"),
    ],
)
def test_a_name_no_card_can_carry_is_seen(name: str, problem: str) -> None:
    assert name_problem(name) == problem


def test_rare_characters_are_names() -> None:
    assert name_problem("\u9fcf\U00020bb7") is None


START = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40))
def test_later_ids_sort_after_earlier_ones_even_within_a_millisecond(steps: list[int]) -> None:
    moment, ids = START, []
    for step in steps:
        moment += timedelta(milliseconds=step)
        ids.append(new_id("app_", now=moment))
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_an_id_is_a_prefix_and_26_characters_of_crockford() -> None:
    made = new_id("card_", now=START)
    assert made.startswith("card_")
    assert len(made) == 5 + 26
    assert set(made[5:]) <= set(CROCKFORD)


@pytest.mark.parametrize("now", [datetime(2026, 1, 1), datetime(1969, 1, 1, tzinfo=UTC)])
def test_an_id_needs_an_aware_time_that_fits(now: datetime) -> None:
    with pytest.raises(ValueError):
        new_id("app_", now=now)
