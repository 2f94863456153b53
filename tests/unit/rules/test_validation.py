"""The validation stage, rule by rule: what passes and what is refused, in the region whose rule it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from config.policies import Policies
from pipeline.application import Document
from pipeline.identifiers import gb11643_check
from pipeline.outcomes import Advance, Correct, Hold, Outcome, Reject
from pipeline.person import Agent, Person
from pipeline.stages import validation
from pipeline.stages.base import Stage
from pipeline.stages.validation import CODES, Validation
from tests.unit.rules.applicants import REGIONS, citizen, citizen_number, guardian, reasons, told

Rule = Callable[..., Outcome]
PASSES = Advance("photo")
CHILD = {"person": citizen(born=date(2016, 11, 24)), "guardian": guardian()}


def changed(number: str, at: int, to: str) -> str:
    return number[:at] + to + number[at + 1 :]


def numbered(number: str) -> Person:
    return citizen(id_number=number, social_security_number=number)


@pytest.mark.parametrize("region", REGIONS)
def test_a_good_application_goes_on_to_the_photo(rule: Rule, region: str) -> None:
    assert rule(region) == PASSES


def test_it_is_a_stage() -> None:
    stage: Stage = Validation()
    assert (stage.name, stage.chunk, stage.reconciler) == ("validation", 200, "none")
    assert stage.needs == frozenset({"register"})
    assert stage.lease.total_seconds() == 60


# ------------------------------------------------------------------------------------------------------- who it is for


@pytest.mark.rule("DL-16(1)")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (changed(citizen_number(), 17, "0" if citizen_number()[17] != "0" else "1"), "id_number.checksum"),
        (citizen_number()[:17], "format"),
        (changed(citizen_number(), 5, "A"), "format"),
        ("99900119900230002" + gb11643_check("99900119900230002"), "date.invalid"),
    ],
)
def test_a_bad_document_number_goes_back(rule: Rule, number: str, code: str) -> None:
    outcome = rule("dalian", person=numbered(number))
    assert isinstance(outcome, Correct)
    assert (code, "DL-16(1)", "#/person/id_number") in told(outcome)
    assert ("social_security_number.format", "DL-16(1)", "#/person/social_security_number") in told(outcome)


@pytest.mark.rule("DL-16(1)")
@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"sex": "1"}, "person.sex_mismatch", "sex"),
        ({"sex": "9"}, "person.sex_mismatch", "sex"),
        ({"birth_date": date(1990, 1, 2)}, "person.birth_date_mismatch", "birth_date"),
        (
            {"social_security_number": citizen_number(sex="1")},
            "social_security_number.mismatch",
            "social_security_number",
        ),
        ({"social_security_number": ""}, "required", "social_security_number"),
        ({"id_number": ""}, "required", "id_number"),
        ({"name": ""}, "required", "name"),
        ({"name": "张3明"}, "name.characters", "name"),
        ({"name": "张\ue000"}, "name.characters", "name"),
        ({"name": "阿" * 26}, "length", "name"),
    ],
)
def test_data_that_does_not_hold_together_goes_back(rule: Rule, changes: dict[str, Any], code: str, field: str) -> None:
    outcome = rule("dalian", person=replace(citizen(), **changes))
    assert isinstance(outcome, Correct)
    assert told(outcome) == {(code, "DL-16(1)", f"#/person/{field}")}


def test_the_longest_name_a_card_holds_passes(rule: Rule) -> None:
    assert rule("dalian", person=citizen(name="阿" * 25)) == PASSES


@pytest.mark.rule("KL-6")
@pytest.mark.parametrize(
    "person",
    [
        citizen(id_type="passport", id_number="E00000000", social_security_number="USA0E00000000", nationality="USA"),
        citizen(id_type="hk_permit", id_number="H0000000001", social_security_number="HKG000000000"),
        citizen(
            id_type="foreigner_pr",
            id_number="USA999000000000",
            social_security_number="USA0999000000000",
            nationality="USA",
        ),
        citizen(id_type="foreigner_pr", nationality="USA"),
        citizen(id_type="military_id", id_number="军字第000000号"),
        citizen(id_type="passport", id_number="E00000000", nationality="CHN"),
    ],
    ids=lambda person: f"{person.id_type}-{person.nationality}",
)
def test_people_without_a_resident_card_are_served(rule: Rule, person: Person) -> None:
    assert rule("karamay", person=person) == PASSES


@pytest.mark.parametrize(("id_type", "number"), [("hk_permit", "X1"), ("tw_permit", "1"), ("passport", "E-1")])
def test_a_foreign_document_number_has_a_form(rule: Rule, id_type: str, number: str) -> None:
    person = citizen(id_type=id_type, id_number=number, nationality="USA")
    assert {("format", "KL-7", "#/person/id_number")} <= told(rule("karamay", person=person))


def test_an_officer_has_a_citizen_number(rule: Rule) -> None:
    person = citizen(id_type="military_id", id_number="军字第000000号", social_security_number="HKG000000000")
    assert [reason.code for reason in reasons(rule("dalian", person=person))] == ["social_security_number.format"]


@pytest.mark.rule("DL-6")
def test_an_identity_the_document_does_not_settle_is_verified(rule: Rule) -> None:
    renewed = citizen(
        id_type="passport", id_number="E00000001", social_security_number="USA0E00000000", nationality="USA"
    )
    outcome = rule("dalian", person=renewed)
    assert isinstance(outcome, Hold)
    assert told(outcome) == {("identity.verification", "DL-6", "#/person/social_security_number")}
    assert rule("dalian", person=renewed, documents=(Document(type=validation.VERIFIED),)) == PASSES


def test_a_birth_date_in_the_future_goes_back_and_says_nothing_of_age(rule: Rule) -> None:
    person = citizen(
        id_type="passport",
        id_number="E00000000",
        social_security_number="USA0E00000000",
        nationality="USA",
        birth_date=date(2026, 11, 24),
    )
    assert told(rule("dalian", person=person)) == {("date.invalid", "DL-16(1)", "#/person/birth_date")}


def test_age_follows_the_number_not_the_mistyped_date(rule: Rule) -> None:
    outcome = rule("dalian", person=citizen(birth_date=date(2019, 1, 1)))
    assert [reason.code for reason in reasons(outcome)] == ["person.birth_date_mismatch"]


# ------------------------------------------------------------------------------------------------- what is handed in


@pytest.mark.rule("DL-16(2)")
def test_a_document_holds_to_its_last_day(rule: Rule) -> None:
    assert rule("dalian", person=citizen(id_valid_to=date(2026, 11, 23))) == PASSES
    expired = rule("dalian", person=citizen(id_valid_to=date(2026, 11, 22)))
    assert isinstance(expired, Correct)
    assert told(expired) == {("document.expired", "DL-16(2)", "#/person/id_valid_to")}


@pytest.mark.rule("KL-7")
def test_karamay_wants_form_and_copy_at_once(rule: Rule) -> None:
    outcome = rule("karamay", documents=())
    assert isinstance(outcome, Correct)
    assert [(r.code, r.rule, r.pointer) for r in reasons(outcome)] == [("document.missing", "KL-7", "#/documents")] * 2
    assert len({reason.zh for reason in reasons(outcome)}) == 2


@pytest.mark.rule("SG-8")
def test_shaoguan_wants_the_form(rule: Rule) -> None:
    assert told(rule("shaoguan", documents=())) == {("document.missing", "SG-8", "#/documents")}


@pytest.mark.rule("WH-7")
def test_wuhan_wants_phone_and_address(rule: Rule) -> None:
    outcome = rule("wuhan", person=citizen(phone="", address=" "))
    assert told(outcome) == {("required", "WH-7", "#/person/phone"), ("required", "WH-7", "#/person/address")}
    assert rule("dalian", person=citizen(phone="", address="")) == PASSES


@pytest.mark.parametrize(
    ("region", "article"),
    [
        pytest.param("karamay", "KL-7", marks=pytest.mark.rule("KL-7")),
        pytest.param("wuhan", "WH-7", marks=pytest.mark.rule("WH-7")),
        pytest.param("shaoguan", "SG-8", marks=pytest.mark.rule("SG-8")),
        pytest.param("dalian", "DL-16(1)", marks=pytest.mark.rule("DL-16(1)")),
    ],
)
def test_data_is_confirmed_by_the_applicant(rule: Rule, region: str, article: str) -> None:
    outcome = rule(region, confirmed=False)
    assert isinstance(outcome, Correct)
    assert told(outcome) == {("confirmation.missing", article, "#/confirmation")}


@pytest.mark.rule("DL-16(2)")
def test_an_id_type_the_region_does_not_accept_goes_back(rule: Rule, policies: Policies) -> None:
    policy = policies.of("210200")
    types = policy.required.id_types.model_copy(update={"value": ("passport",)})
    narrow = policy.model_copy(update={"required": policy.required.model_copy(update={"id_types": types})})
    assert told(rule("dalian", policy=narrow)) == {("document.missing", "DL-16(2)", "#/person/id_type")}


def test_a_bank_that_does_not_cooperate_is_named(rule: Rule) -> None:
    outcome = rule("liaoning", bank_code="95588")
    assert isinstance(outcome, Correct)
    assert told(outcome) == {("bank.unknown_code", None, "#/bank_code")}
    assert rule("wuhan", bank_code="95588") == PASSES


# ----------------------------------------------------------------------------------------------------- who may have one


@pytest.mark.parametrize(
    ("region", "category", "article"),
    [
        pytest.param("karamay", "uninsured", "KL-6", marks=pytest.mark.rule("KL-6")),
        pytest.param("dalian", "preschool", "DL-4", marks=pytest.mark.rule("DL-4")),
        pytest.param("wuhan", "insured_elsewhere", "WH-4", marks=pytest.mark.rule("WH-4")),
        pytest.param("shaoguan", "uninsured", "SG-7", marks=pytest.mark.rule("SG-7")),
        pytest.param("wuhan", "no_such_category", "WH-4", marks=pytest.mark.rule("WH-4")),
    ],
)
def test_who_is_not_covered_is_refused_with_the_rule(rule: Rule, region: str, category: str, article: str) -> None:
    outcome = rule(region, category=category)
    assert isinstance(outcome, Reject)
    assert told(outcome) == {("eligibility.not_covered", article, "#/insured/category")}


@pytest.mark.rule("DL-4")
def test_dalian_serves_nobody_of_preschool_age(rule: Rule) -> None:
    six, five = citizen(born=date(2020, 11, 23)), citizen(born=date(2020, 11, 24))
    assert rule("dalian", person=six, guardian=guardian()) == PASSES
    outcome = rule("dalian", person=five, guardian=guardian())
    assert told(outcome) == {("eligibility.not_covered", "DL-4", "#/person/birth_date")}
    assert rule("wuhan", person=five, guardian=guardian()) == PASSES


OTHER_RESIDENT: dict[str, Any] = {"category": "other_resident", "window": "service_point"}


@pytest.mark.rule("SG-7")
def test_shaoguan_residents_who_are_not_insured_are_16_and_of_local_hukou(rule: Rule) -> None:
    of_age, too_young = citizen(born=date(2010, 11, 23)), citizen(born=date(2010, 11, 24))
    assert rule("shaoguan", person=of_age, **OTHER_RESIDENT) == PASSES
    young = rule("shaoguan", person=too_young, guardian=guardian(), **OTHER_RESIDENT)
    assert told(young) == {("eligibility.not_covered", "SG-7", "#/person/birth_date")}
    elsewhere = rule("shaoguan", district="420106", agency="ag_42010601", **OTHER_RESIDENT)
    assert ("eligibility.not_covered", "SG-7", "#/insured/district") in told(elsewhere)
    assert rule("shaoguan", person=too_young, guardian=guardian()) == PASSES


@pytest.mark.parametrize(
    ("region", "changes", "article"),
    [
        pytest.param("liaoning", {}, "LN-8.3", marks=pytest.mark.rule("LN-8.3")),
        pytest.param(
            "dalian",
            {"category": "student", "window": "card_agency"},
            "DL-14",
            marks=pytest.mark.rule("DL-14"),
        ),
    ],
)
def test_employers_and_schools_apply_for_their_people(
    rule: Rule, region: str, changes: dict[str, Any], article: str
) -> None:
    assert rule(region, **changes) == PASSES
    assert told(rule(region, unit_code="", **changes)) == {("required", article, "#/insured/unit_code")}


@pytest.mark.rule("WH-28")
def test_no_second_card_but_by_replacement(rule: Rule) -> None:
    outcome = rule("wuhan", card_exists=True)
    assert isinstance(outcome, Reject)
    assert told(outcome) == {("card.exists", "WH-28", "#/kind")}
    assert outcome.reasons[0].final
    assert rule("wuhan", card_exists=True, kind="replacement") == PASSES


# ------------------------------------------------------------------------------------------------- who acts for another


@pytest.mark.rule("DL-14")
def test_under_16_goes_through_a_guardian(rule: Rule) -> None:
    assert rule("dalian", **CHILD) == PASSES
    alone = rule("dalian", person=CHILD["person"])
    assert isinstance(alone, Reject)
    assert told(alone) == {("guardian.required", "DL-14", "#/guardian")}
    assert rule("dalian", person=citizen(born=date(2010, 11, 23))) == PASSES


@pytest.mark.rule("DL-14")
@pytest.mark.parametrize("field", ["name", "id_number", "relation"])
def test_a_guardian_is_named_with_number_and_relation(rule: Rule, field: str) -> None:
    outcome = rule("dalian", person=CHILD["person"], guardian=guardian(**{field: ""}))
    assert isinstance(outcome, Reject)
    assert told(outcome) == {("guardian.required", "DL-14", f"#/guardian/{field}")}


@pytest.mark.rule("DL-14")
def test_a_guardians_number_is_checked_like_any_other(rule: Rule) -> None:
    outcome = rule("dalian", person=CHILD["person"], guardian=guardian(id_number=citizen_number()[:17]))
    assert isinstance(outcome, Correct)
    assert told(outcome) == {("format", "DL-14", "#/guardian/id_number")}


PROXY = Agent(name="李四", id_type="resident_id", id_number=citizen_number(sex="1"))
FORM, MANDATE = Document(type="application_form"), Document(type="mandate")


@pytest.mark.parametrize(
    ("region", "article"),
    [
        pytest.param("wuhan", "WH-7", marks=pytest.mark.rule("WH-7")),
        pytest.param("shaoguan", "SG-8", marks=pytest.mark.rule("SG-8")),
    ],
)
def test_a_proxy_shows_a_mandate_and_is_named(rule: Rule, region: str, article: str) -> None:
    assert rule(region, proxy=PROXY, documents=(FORM, MANDATE)) == PASSES
    assert told(rule(region, proxy=PROXY, documents=(FORM,))) == {("document.missing", article, "#/documents")}
    nameless = rule(region, proxy=replace(PROXY, name=""), documents=(FORM, MANDATE))
    assert told(nameless) == {("required", article, "#/proxy/name")}


# ------------------------------------------------------------------------------------------------------ at which office


@pytest.mark.parametrize(
    ("region", "changes", "article"),
    [
        pytest.param("karamay", {"window": "street_office"}, "KL-4", marks=pytest.mark.rule("KL-4")),
        pytest.param("karamay", {"window": "oilfield_centre"}, "KL-4", marks=pytest.mark.rule("KL-4")),
        pytest.param("karamay", {"agency": "ag_65020201"}, "KL-4", marks=pytest.mark.rule("KL-4")),
        pytest.param("karamay", {"agency": "counter-7"}, "KL-4", marks=pytest.mark.rule("KL-4")),
        pytest.param("dalian", {"window": "card_agency"}, "DL-15", marks=pytest.mark.rule("DL-15")),
        pytest.param("dalian", {"agency": "ag_21020301"}, "DL-15", marks=pytest.mark.rule("DL-15")),
        pytest.param(
            "dalian", {"kind": "replacement", "window": "street_office"}, "DL-20", marks=pytest.mark.rule("DL-20")
        ),
        pytest.param("shaoguan", {"window": "service_point"}, "SG-8", marks=pytest.mark.rule("SG-8")),
        pytest.param("liaoning", {"window": "card_outlet"}, "LN-8.3", marks=pytest.mark.rule("LN-8.3")),
        pytest.param("wuhan", {"window": "information_centre"}, "WH-8", marks=pytest.mark.rule("WH-8")),
        pytest.param(
            "wuhan",
            {"district": "420112", "agency": "ag_42011201"},
            "WH-30",
            marks=pytest.mark.rule("WH-30"),
        ),
        pytest.param(
            "wuhan", {"region": "420112", "window": "district_agency"}, "WH-30", marks=pytest.mark.rule("WH-30")
        ),
    ],
)
def test_another_office_than_the_competent_one_is_refused(
    rule: Rule, region: str, changes: dict[str, Any], article: str
) -> None:
    outcome = rule(region, **changes)
    assert isinstance(outcome, Reject)
    assert told(outcome) == {("window.not_competent", article, "#/agency")}


@pytest.mark.parametrize(
    ("region", "changes"),
    [
        pytest.param(
            "karamay",
            {"category": "oilfield", "window": "oilfield_centre", "agency": "ag_65020001"},
            marks=pytest.mark.rule("KL-4"),
        ),
        pytest.param(
            "karamay",
            {"category": "urban_rural_resident", "window": "street_office"},
            marks=pytest.mark.rule("KL-4"),
        ),
        pytest.param("dalian", {"kind": "replacement", "window": "card_agency"}, marks=pytest.mark.rule("DL-20")),
        pytest.param("liaoning", {"kind": "replacement", "window": "card_outlet"}, marks=pytest.mark.rule("LN-8.3")),
        pytest.param(
            "wuhan",
            {"region": "420112", "district": "420112", "agency": "ag_42011201", "window": "district_agency"},
            marks=pytest.mark.rule("WH-30"),
        ),
    ],
)
def test_the_competent_office_serves(rule: Rule, region: str, changes: dict[str, Any]) -> None:
    assert rule(region, **changes) == PASSES


def test_an_office_that_was_not_said_is_not_judged(rule: Rule) -> None:
    assert rule("karamay", window="", agency="ag_99999901") == PASSES


@pytest.mark.rule("WH-8")
def test_urgent_cards_are_the_information_centres(rule: Rule) -> None:
    assert rule("wuhan", priority="urgent", window="information_centre", agency="ag_42010001") == PASSES
    outcome = rule("wuhan", priority="urgent")
    assert isinstance(outcome, Reject)
    assert told(outcome) == {("urgent.wrong_window", "WH-8", "#/agency")}


def test_a_region_without_urgent_cards_says_so_even_if_no_office_was_said(rule: Rule) -> None:
    outcome = rule("karamay", priority="urgent", window="")
    assert isinstance(outcome, Reject)
    assert [reason.code for reason in outcome.reasons] == ["urgent.wrong_window"]


# ------------------------------------------------------------------------------------------------------------ verdict


def test_everything_is_found_at_once(rule: Rule) -> None:
    outcome = rule("wuhan", person=citizen(name="", phone=""), confirmed=False, bank_code="0")
    assert isinstance(outcome, Correct)
    assert {reason.code for reason in outcome.reasons} == {"required", "confirmation.missing", "bank.unknown_code"}
    assert len(outcome.reasons) == 4


def test_the_worst_decides(rule: Rule) -> None:
    doubtful = citizen(
        id_type="passport", id_number="E00000001", social_security_number="USA0E00000000", nationality="USA"
    )
    assert isinstance(rule("wuhan", person=doubtful), Hold)
    assert isinstance(rule("wuhan", person=doubtful, confirmed=False), Correct)
    refused = rule("wuhan", person=doubtful, confirmed=False, card_exists=True, category="uninsured")
    assert isinstance(refused, Reject)
    assert {reason.code for reason in refused.reasons} == {"eligibility.not_covered", "card.exists"}


def test_no_reason_holds_what_the_person_told(rule: Rule) -> None:
    person = citizen(id_number="SECRET-NUMBER", social_security_number="SECRET", name="秘密9", phone="")
    outcome = rule("wuhan", person=person, guardian=guardian(id_number="SECRET-GUARDIAN"))
    assert len(reasons(outcome)) >= 5
    assert "SECRET" not in repr(outcome)
    assert "秘密" not in repr(outcome)


def test_every_text_is_there_in_both_languages_and_filled_in(rule: Rule) -> None:
    outcomes = [
        rule("karamay", documents=(), person=citizen(name="", id_number="1", social_security_number="")),
        rule("dalian", person=citizen(born=date(2022, 1, 1))),
        rule("wuhan", priority="urgent"),
        rule("wuhan", window="information_centre"),
    ]
    found = [reason for outcome in outcomes for reason in reasons(outcome)]
    assert len(found) >= 8
    for reason in found:
        assert "{" not in reason.zh + reason.en
        assert reason.en.isascii()
        assert any("\u4e00" <= char <= "\u9fff" for char in reason.zh)
        assert reason.code in CODES
