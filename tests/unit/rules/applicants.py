"""Plainly fictitious applicants, and an application that each region accepts as it stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from pipeline.application import Application, Document
from pipeline.identifiers import gb11643_check
from pipeline.outcomes import Correct, Hold, Outcome, Reason, Reject
from pipeline.person import Agent, Person

REGIONS = {"karamay": "650200", "liaoning": "210100", "dalian": "210200", "wuhan": "420100", "shaoguan": "440200"}
NOW = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)


def citizen_number(*, born: date = date(1990, 1, 1), sex: str = "2", area: str = "999001") -> str:
    """A well-formed number in an area code that is assigned to nobody."""
    first17 = f"{area}{born:%Y%m%d}00{1 if sex == '1' else 2}"
    return first17 + gb11643_check(first17)


def citizen(*, born: date = date(1990, 1, 1), sex: str = "2", **changes: Any) -> Person:
    """Whose number, sex and birth date agree."""
    number = citizen_number(born=born, sex=sex)
    person = Person(
        name="张小明",
        id_type="resident_id",
        id_number=number,
        social_security_number=number,
        sex="1" if sex == "1" else "2",
        ethnic="01",
        birth_date=born,
        phone="13800000000",
        address="某路一号",
        occupation="80000",
        id_valid_to=date(9999, 12, 31),
    )
    return replace(person, **changes)


def guardian(**changes: Any) -> Agent:
    """Of a child."""
    agent = Agent(
        name="张大明", id_type="resident_id", id_number=citizen_number(born=date(1985, 5, 5)), relation="mother"
    )
    return replace(agent, **changes)


_PLACES = {
    "karamay": ("urban_employee", "650203", "ag_65020301", "agency"),
    "liaoning": ("urban_employee", "210102", "ag_21010201", "provincial_bureau"),
    "dalian": ("urban_rural_resident", "210202", "ag_21020201", "street_office"),
    "wuhan": ("urban_employee", "420106", "ag_42010601", "agency"),
    "shaoguan": ("urban_employee", "440203", "ag_44020301", "insurance_agency"),
}


def application(region: str, /, **changes: Any) -> Application:
    """One that passes in `region` (a key of `REGIONS`), with the fields named changed."""
    category, district, agency, window = _PLACES[region]
    accepted = Application(
        id="app_0",
        version=1,
        status="validation",
        stage="validation",
        region=REGIONS[region],
        policy_version="",
        kind="first",
        priority="normal",
        lane="normal",
        category=category,
        district=district,
        agency=agency,
        window=window,
        outlet="out_1",
        bank_code="95533",
        acceptance_no="SL-1",
        received_at=NOW,
        due_at=NOW,
        person=citizen(),
        guardian=None,
        proxy=None,
        documents=(Document(type="application_form"), Document(type="identity_copy")),
        confirmed=True,
        collect_by="person",
        person_id="per_0",
        photo_original="photo",
        photo_result=None,
        unit_code="A1",
    )
    return replace(accepted, **changes)


def reasons(outcome: Outcome) -> tuple[Reason, ...]:
    """All reasons of an outcome; none where it advances."""
    match outcome:
        case Correct(found) | Reject(found):
            return found
        case Hold(reason):
            return (reason,)
    return ()


def told(outcome: Outcome) -> set[tuple[str, str | None, str | None]]:
    """(code, rule, pointer) of every reason."""
    return {(reason.code, reason.rule, reason.pointer) for reason in reasons(outcome)}
