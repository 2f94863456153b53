"""The financial application's data: what each group holds, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_personalization import tlv
from card_personalization.emv import (
    CardKeysRecipe,
    CheckValuesRecipe,
    Debit,
    Filled,
    PinBlockRecipe,
    check_pan,
    fill,
    month_end,
)
from card_personalization.errors import EncodingError, PlanError
from card_personalization.plan import CardOrder, build
from card_personalization.profiles import CardProfile, EmvApplication

DEBIT = Debit(
    pan="6222021234567890128",
    name="阿依古丽·买买提",
    document_number="11010519491231002X",
    effective=date(2026, 1, 5),
    expires=date(2036, 1, 31),
)


def application(profile: CardProfile, name: str) -> EmvApplication:
    return next(found for found in profile.applications if found.name == name)


def filled(profile: CardProfile, debit: Debit = DEBIT, name: str = "debit") -> dict[str, Filled]:
    groups = fill(application(profile, name), issuer=profile.issuer, debit=debit)
    return {group.group.name: group for group in groups}


def objects(found: Filled, template: int | None = None) -> dict[int, bytes]:
    assert isinstance(found.value, bytes)
    return tlv.children(found.value if template is None else tlv.find(found.value, template) or b"")


def test_the_records_carry_the_order(profile: CardProfile) -> None:
    groups = filled(profile)
    first = objects(groups["0101"], 0x70)
    assert first[0x57].hex().upper() == "6222021234567890128D360122000000000F"
    assert first[0x5F20].decode("gb18030") == DEBIT.name
    assert (first[0x9F61], first[0x9F62]) == (b"11010519491231002X", b"\x00")
    third = objects(groups["0301"], 0x70)
    assert third[0x5A].hex().upper() == "6222021234567890128F"
    assert (third[0x5F24].hex(), third[0x5F25].hex()) == ("360131", "260105")
    assert objects(groups["0201"], 0x70)[0x5F34] == b"\x01"
    assert objects(groups["0202"], 0x70)[0x5F30] == bytes.fromhex("0220")


def test_the_afl_covers_exactly_the_records(profile: CardProfile) -> None:
    afl = objects(filled(profile)["9104"])[0x94]
    assert afl.hex() == "080101001001020018010100"


def test_what_only_keys_can_make_stays_a_recipe(profile: CardProfile) -> None:
    groups = filled(profile)
    keys = groups["8000"].value
    assert isinstance(keys, CardKeysRecipe)
    assert (
        keys.factor.hex() == "2123456789012801"
    )  # the last 16 digits of card number and sequence (EMV book 2, A1.4.1)
    assert [ref.name for ref in keys.refs] == ["IMK-AC", "IMK-MAC", "IMK-ENC"]
    assert groups["9000"].value == CheckValuesRecipe(keys)
    assert groups["8010"].value == PinBlockRecipe()
    assert [name for name, group in groups.items() if group.group.encrypted] == ["8000", "8010"]


@pytest.mark.parametrize(("name", "tag"), [("王" * 13, 0x5F20), ("王" * 13 + "a", 0x9F0B), ("王" * 22 + "a", 0x9F0B)])
def test_a_long_name_stands_in_the_extended_object(profile: CardProfile, name: str, tag: int) -> None:
    first = objects(filled(profile, replace(DEBIT, name=name))["0101"], 0x70)
    assert first[tag].decode("gb18030") == name
    assert len(first.keys() & {0x5F20, 0x9F0B}) == 1


def test_a_name_no_object_can_hold_is_a_problem_of_the_order(profile: CardProfile, order: CardOrder) -> None:
    long = replace(order, holder=replace(order.holder, name="王" * 23))
    with pytest.raises(PlanError) as caught:
        build(profile, long)
    assert [(p.field, p.code) for p in caught.value.problems] == [("name", "too-long")]


@pytest.mark.parametrize(
    ("pan", "code"),
    [
        ("6222021234567890123", "check-digit"),
        ("622202123456789", "form"),
        ("62220212345678901234", "form"),
        ("6222O21234567890128", "form"),
        ("4000000000000002", "issuer"),
        (None, "missing"),
    ],
)
def test_a_wrong_card_number_of_the_bank_is_a_problem(
    profile: CardProfile, order: CardOrder, pan: str | None, code: str
) -> None:
    with pytest.raises(PlanError) as caught:
        build(profile, replace(order, bank_card_number=pan))
    assert [(p.field, p.code) for p in caught.value.problems] == [("bank_card_number", code)]
    assert pan is None or pan not in str(caught.value)


def test_a_card_without_financial_application_needs_no_account(social: CardProfile, order: CardOrder) -> None:
    plan = build(social, replace(order, bank_card_number=None))
    assert ([part.name for part in plan.parts], plan.images) == (["preflight", "social"], ())


def test_a_record_that_cannot_be_read_in_one_command_is_refused(profile: CardProfile) -> None:
    debit = application(profile, "debit")
    (fat, *_) = (group for group in debit.groups if group.name == "0201")
    padded = replace(fat, objects=(*fat.objects, replace(fat.objects[0], value=bytes(240))))
    wrong = replace(debit, groups=tuple(padded if group is fat else group for group in debit.groups))
    with pytest.raises(EncodingError, match="0201"):
        fill(wrong, issuer=profile.issuer, debit=DEBIT)


@given(st.integers(0, 10**16 - 1))
def test_one_digit_of_ten_makes_a_card_number_right(number: int) -> None:
    right = []
    for digit in range(10):
        pan = f"62{number:016d}{digit}"
        try:
            check_pan(pan, prefix="62")
        except EncodingError:
            continue
        right.append(pan)
    assert len(right) == 1


@given(st.dates(date(2000, 1, 1), date(2090, 12, 31)))
def test_a_month_ends_before_the_next_begins(day: date) -> None:
    end = month_end(day)
    assert (end.year, end.month) == (day.year, day.month)
    assert end >= day
    assert date.fromordinal(end.toordinal() + 1).day == 1


@given(st.integers(1, 0xFFFF), st.binary(max_size=700))
def test_an_object_comes_back_from_its_encoding(number: int, value: bytes) -> None:
    tag = 0xDF00 | (number & 0x7F)
    assert tlv.children(tlv.ber(tag, value)) == {tag: value}
