"""The policies and the calendar as they are shipped, and validation as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from config.policies import Policies, load_policies
from pipeline.calendar import ChineseCalendar
from pipeline.outcomes import Outcome
from pipeline.policy import Policy
from pipeline.stages.base import Case, RegisterFacts
from pipeline.stages.validation import Validation
from tests.unit.rules.applicants import NOW, application


@pytest.fixture(scope="session")
def policies() -> Policies:
    return load_policies()


@pytest.fixture(scope="session")
def calendar() -> ChineseCalendar:
    return ChineseCalendar()


Rule = Callable[..., Outcome]


@pytest.fixture
def rule(policies: Policies) -> Rule:
    """`rule(region, **changes)`: what validation says of an application; `policy` and `card_exists` may be given."""

    def outcome(region: str, /, *, policy: Policy | None = None, card_exists: bool = False, **changes: Any) -> Outcome:
        case = Case(
            application=application(region, **changes), facts={"register": RegisterFacts(card_exists=card_exists)}
        )
        return Validation().prepare(case, policy or policies.of(case.application.region), NOW).outcome

    return outcome
