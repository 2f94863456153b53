"""Applications for tests of a single stage."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from pipeline.application import Application
from pipeline.person import Person


def an_application(
    number: int, *, stage: str, policy_version: str, received_at: datetime, phone: str = "13800000000", **changed: Any
) -> Application:
    """An application of a fictitious person that stands in `stage`; `changed` replaces fields."""
    person = Person(
        name="测试甲",
        id_type="resident_id",
        id_number=f"9990011990010{number:05d}",
        social_security_number=f"9990011990010{number:05d}",
        sex="1",
        ethnic="01",
        birth_date=date(1990, 1, 1),
        phone=phone,
    )
    base = Application(
        id=f"app_{number}",
        version=1,
        status=stage,
        stage=stage,
        region="420100",
        policy_version=policy_version,
        kind="first",
        priority="normal",
        lane="normal",
        category="resident",
        district="420102",
        agency="A1",
        window="district_agency",
        outlet="42010601",
        bank_code="95533",
        acceptance_no=f"N{number}",
        received_at=received_at,
        due_at=received_at + timedelta(days=20),
        person=person,
        guardian=None,
        proxy=None,
        documents=(),
        confirmed=True,
        collect_by="person",
        person_id=f"per_{number}",
        photo_original="",
        photo_result="picture",
        attempts=1,
    )
    return replace(base, **changed)
