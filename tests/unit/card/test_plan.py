"""From an order to a plan: the worked card, determinism, and every problem at once."""

from dataclasses import replace
from datetime import date

import pytest

from card_personalization.atr import Atr
from card_personalization.errors import PlanError
from card_personalization.keys.software import SoftwareKeys
from card_personalization.personalize import identifier
from card_personalization.plan import CardOrder, Plan, Send, Step, build
from card_personalization.profiles import CardProfile, Diversify

WORKED = f"""
00DC0104120110210100D156000005000000013D17946F 00DC020403020133 00DC0304060304322E3030
00DC04040E040C915600000221010021010001 00DC050406050420260105 00DC060406060420360105 00DC07040B0709413030303030303258
00DC0104140812313130313035313934393132333130303258 00DC020420091EB0A2D2C0B9C5C0F6A1A4C2F2C2F2CCE1{0:028}
00DC0304164E14{0:040} 00DC0404030A0132 00DC0504030B0105 00DC0604050C03110105 00DC0704060D0419491231
""".split()


def problems(profile: CardProfile, order: CardOrder) -> set[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        build(profile, order)
    return {(problem.field, problem.code) for problem in caught.value.problems}


def steps(plan: Plan, part: str) -> list[Step]:
    return [step for found in plan.parts if found.name == part for step in found.steps]


def updates(plan: Plan) -> list[str]:
    sends = (step for step in steps(plan, "social") if isinstance(step, Send))
    return [bytes(step.apdu).hex().upper() for step in sends if step.mutating]


def writes(plan: Plan) -> int:
    return sum(step.mutating for step in steps(plan, "social"))


def test_the_worked_card_is_written_byte_for_byte(profile: CardProfile, order: CardOrder) -> None:
    plan = build(profile, order)
    assert updates(plan) == WORKED[1:]
    assert writes(plan) == len(WORKED)


def test_the_identifier_follows_the_worked_card(profile: CardProfile) -> None:
    atr = Atr.parse(bytes.fromhex("3B6D000000815A4B318660210100000001"))
    key = replace(profile.identifier_key, diversify=Diversify.NONE)
    value = identifier(city="210100", atr=atr, keys=SoftwareKeys.demo(), key=key)
    assert value.hex().upper() == WORKED[0][-32:]


def test_the_same_order_gives_the_same_plan_and_digest(profile: CardProfile, order: CardOrder) -> None:
    digest = SoftwareKeys.demo().digest
    assert build(profile, order) == build(profile, order)
    assert build(profile, order).digest(digest) == build(profile, order).digest(digest)


def test_any_other_datum_or_key_gives_another_digest(
    profile: CardProfile, order: CardOrder, other_order: CardOrder
) -> None:
    digest = SoftwareKeys.demo().digest
    first = build(profile, order).digest(digest)
    assert build(profile, replace(order, city="210200")).digest(digest) != first
    assert build(profile, other_order).digest(digest) != first
    assert build(profile, order).digest(lambda data: bytes(32)) != first


def test_all_problems_are_told_at_once(profile: CardProfile, order: CardOrder) -> None:
    holder = replace(
        order.holder, name="张\ue000", sex="3", ethnic="77", birth_place="1101", birth_date=date(2027, 1, 1)
    )
    bad = replace(
        order, holder=holder, card_number="A00000021", city="210101", expires=order.issued, bank_card_number="12"
    )
    assert problems(profile, bad) >= {
        ("name", "private-use"),
        ("sex", "code"),
        ("ethnic", "code"),
        ("birth_place", "length"),
        ("birth_date", "after-issue"),
        ("birth_date", "disagrees"),
        ("card_number", "check-character"),
        ("city", "city"),
        ("expires", "before-issue"),
        ("bank_card_number", "form"),
    }


@pytest.mark.parametrize(
    ("number", "code"),
    [("110105194912310021", "check-character"), ("12345", "form"), ("hkg012345678", "form"), ("", "form")],
)
def test_a_wrong_number_of_a_person_is_a_problem(
    profile: CardProfile, order: CardOrder, number: str, code: str
) -> None:
    bad = replace(order, holder=replace(order.holder, social_security_number=number))
    assert ("social_security_number", code) in problems(profile, bad)


@pytest.mark.parametrize("number", ["HKG012345678", "TWN012345678", "USA0AB123456", "11010519491231002X"])
def test_numbers_of_all_kinds_of_persons_are_taken(profile: CardProfile, order: CardOrder, number: str) -> None:
    plan = build(profile, replace(order, holder=replace(order.holder, social_security_number=number)))
    assert f"0812{number.encode().hex().upper().ljust(36, '0')}" in updates(plan)[6]


def test_problems_and_reprs_carry_no_personal_data(profile: CardProfile, order: CardOrder) -> None:
    bad = replace(order, holder=replace(order.holder, social_security_number="110105194912310021"))
    with pytest.raises(PlanError) as caught:
        build(profile, bad)
    shown = f"{caught.value} {order!r} {order.holder!r} {build(profile, order)!r} {build(profile, order).face!r}"
    assert not any(secret in shown for secret in ("194912", "古丽", "A0000002X", "622202"))


def test_a_kind_of_card_without_extension_takes_short_names_only(profile: CardProfile, order: CardOrder) -> None:
    files = tuple(
        replace(file, records=tuple(r for r in file.records if r.field.value != "name_extension"))
        for file in profile.files
    )
    old = replace(profile, files=files)
    assert writes(build(old, order)) == 13
    long = replace(order, holder=replace(order.holder, name="阿卜杜热合曼·托合提尼亚孜·𬀩"))
    assert problems(old, long) == {("name", "too-long")}
