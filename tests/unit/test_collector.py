"""Who may take a card with what, in every region: each paper the region asks for is asked for by name and article."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from config.policies import load_policies
from pipeline.application import Application
from pipeline.errors import Refused
from pipeline.person import Agent, Person
from pipeline.policy import Policy
from pipeline.services.collector import COLLECTORS, MANDATE, Shown, Taker, admit

CITIES = load_policies().cities()
TODAY = date(2026, 11, 2)
AGENT = Agent(name="王样例", id_type="resident_id", id_number="999001198001010092", relation="配偶")
HOLDER = Person(
    name="张小明",
    id_type="resident_id",
    id_number="99900119800101001X",
    social_security_number="99900119800101001X",
    sex="1",
    ethnic="01",
    birth_date=date(1980, 1, 1),
)


def application(policy: Policy, **changes: Any) -> Application:
    at = datetime(2026, 3, 2, tzinfo=UTC)
    base = Application(
        id="app_1", version=9, status="notified", stage="collection", region=policy.code, policy_version=policy.version,
        kind="first", priority="normal", lane="normal", category="retiree", district=policy.code, agency="ag", window="w",
        outlet="out", bank_code="95533", acceptance_no="SL-1", received_at=at, due_at=at, person=HOLDER, guardian=None,
        proxy=None, documents=(), confirmed=True, collect_by="person", person_id="per_1", photo_original="o",
        photo_result="r",
    )  # fmt: skip
    return replace(base, **changes)


def shown(taken_by: Taker, **changes: Any) -> Shown:
    base = Shown(
        taken_by=taken_by,
        document_type=AGENT.id_type,
        document_number=AGENT.id_number,
        valid_to=TODAY,
        agent=AGENT,
        papers={MANDATE: "M-1", "holder_document": "seen", "introduction_letter": "L-1"},
    )
    return replace(base, **changes)


@pytest.mark.rule("WH-11")
@pytest.mark.rule("DL-16(3)")
@pytest.mark.rule("SG-10")
@pytest.mark.parametrize("policy", CITIES, ids=lambda policy: policy.key)
@pytest.mark.parametrize("taken_by", ["guardian", "proxy", "unit"])
def test_each_paper_a_region_asks_for_is_missed_by_name_and_article(policy: Policy, taken_by: Taker) -> None:
    app = application(policy, guardian=AGENT, proxy=AGENT)
    admit(shown(taken_by), app, policy, today=TODAY)
    needed = policy.collection.papers_of(COLLECTORS[taken_by])
    for paper in needed.value:
        papers = {name: ref for name, ref in shown(taken_by).papers.items() if name != paper}
        with pytest.raises(Refused) as told:
            admit(shown(taken_by, papers=papers), app, policy, today=TODAY)
        assert (told.value.reason_code, told.value.rule) == ("papers-missing", needed.rule)
        named = {"mandate": "委托书", "holder_document": "持卡人身份证件", "introduction_letter": "单位介绍信"}[paper]
        assert named in told.value.zh


@pytest.mark.rule("KL-19")
@pytest.mark.parametrize("policy", CITIES, ids=lambda policy: policy.key)
def test_a_proxy_who_is_not_on_record_has_a_mandate_even_where_no_paper_is_asked_for(policy: Policy) -> None:
    papers = {"holder_document": "seen"}
    for known in (None, replace(AGENT, id_number="999001198001010113")):
        with pytest.raises(Refused) as told:
            admit(shown("proxy", papers=papers), application(policy, proxy=known), policy, today=TODAY)
        assert told.value.reason_code == "papers-missing"
    admit(shown("proxy"), application(policy), policy, today=TODAY)


def test_a_refusal_tells_nothing_of_the_person_and_neither_does_what_was_shown() -> None:
    [policy, *_] = CITIES
    for told in (shown("holder"), shown("guardian"), shown("proxy", agent=None), shown("unit", document_number="999")):
        with pytest.raises(Refused) as refused:
            admit(told, application(policy), policy, today=TODAY)
        for value in (HOLDER.name, HOLDER.id_number, AGENT.name, AGENT.id_number):
            assert value not in str(refused.value)
            assert value not in repr(told)


def test_a_documents_last_day_is_a_good_day_and_the_two_documents_of_one_number_stand_for_each_other() -> None:
    [policy, *_] = CITIES
    own: dict[str, Any] = {"document_number": " 99900119800101001x ", "agent": None, "papers": {}}
    for kind in ("resident_id", "household_book"):
        admit(shown("holder", document_type=kind, **own), application(policy), policy, today=TODAY)
    with pytest.raises(Refused, match="已过期"):
        admit(shown("holder", **own), application(policy), policy, today=date(2026, 11, 3))
    with pytest.raises(Refused, match="不符"):
        admit(shown("holder", document_type="military_id", **own), application(policy), policy, today=TODAY)
