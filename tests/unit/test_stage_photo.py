"""The photo stage: the findings and the region's policy decide, and every run says what it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from config.policies import load_policies
from pipeline.errors import Defect, NotFound, TransientError
from pipeline.gateways.objects import ObjectMemory
from pipeline.outcomes import Advance, Correct, Hold, Level
from pipeline.photo.findings import CATALOGUE, Finding, confirmed, find, restored, worst_first
from pipeline.photo.profile import load_profiles
from pipeline.photo.result import Adjust, Normalised
from pipeline.policy import Policy, Sourced
from pipeline.stages.base import Case, Decision, PictureFact
from pipeline.stages.photo import REVIEW, Photo, PhotoJudged, PhotoReply, PhotoRequest
from pipeline.transitions import move
from tests.support.applications import an_application

POLICY = load_policies().of("420100")
PROFILES = load_profiles(Path(config.__file__).parent / "photo")
NOW = datetime(2026, 11, 24, 17, 0, tzinfo=UTC)

BY_CODE = [
    restored(code, level, 12.0, "<= 10")
    for code, entry in CATALOGUE.items()
    for level in entry.levels
    if entry.by == "code"
]
found = st.lists(st.sampled_from(BY_CODE), max_size=5, unique_by=lambda finding: finding.code).map(worst_first)


def photo_policy(**changed: Any) -> Policy:
    """Wuhan's policy with other words about photos."""
    told = {name: Sourced(value=value, default="a test") for name, value in changed.items()}
    return POLICY.model_copy(update={"photo": POLICY.photo.model_copy(update=told)})


def case(number: int = 1, **facts: Any) -> Case:
    application = an_application(
        number, stage="photo", policy_version=POLICY.version, received_at=NOW, photo_original="upload"
    )
    return Case(application=application, facts={"photo": b"bytes", "picture": None, **facts})


class Normaliser:
    """Answers as it is told; notes what it was asked."""

    def __init__(self, answers: Mapping[str, Normalised | Defect]) -> None:
        self.answers = answers
        self.asked: list[tuple[tuple[str, ...], str, bool]] = []

    def normalise(
        self,
        photos: Mapping[str, bytes],
        *,
        profile: str,
        replace_background: bool = False,
        adjust: Adjust | None = None,
    ) -> Mapping[str, Normalised | Defect]:
        self.asked.append((tuple(photos), profile, replace_background))
        return {i: self.answers[i] for i in photos}


def made(*findings: Finding) -> Normalised:
    rejected = any(finding.level == "reject" for finding in findings)
    return Normalised(picture=None if rejected else b"jpeg", findings=worst_first(findings), background="kept")


def stage(answers: Mapping[str, Normalised | Defect] | None = None, objects: ObjectMemory | None = None) -> Photo:
    return Photo(Normaliser(answers or {}), objects=objects or ObjectMemory(key=bytes(32)), profiles=PROFILES)


def settled(normalised: Normalised, policy: Policy = POLICY) -> Decision:
    line = stage({"app_1": normalised})
    request = line.prepare(case(), policy, NOW)
    assert isinstance(request, PhotoRequest)
    reply = line.act({"app_1": request})["app_1"]
    assert isinstance(reply, PhotoReply)
    return line.settle(case(), reply, policy, NOW)


def judged(decision: Decision) -> PhotoJudged:
    [fact] = decision.facts
    assert isinstance(fact, PhotoJudged)
    return fact


# ------------------------------------------------------------------------------------------------------------- verdict


@given(findings=found, hold_codes=st.sets(st.sampled_from(sorted(CATALOGUE))))
def test_the_verdict_is_that_of_findings_and_policy(findings: tuple[Finding, ...], hold_codes: set[str]) -> None:
    decision = settled(made(*findings), photo_policy(hold_codes=tuple(hold_codes)))
    fact, outcome = judged(decision), decision.outcome
    levels = {finding.level for finding in findings}
    doubts = [finding for finding in findings if finding.level == "warn" and finding.code in hold_codes]
    if "reject" in levels:
        assert isinstance(outcome, Correct)
        assert [reason.code for reason in outcome.reasons] == [f"photo.{f.code.lower()}" for f in findings]
        assert outcome.reasons[0].level == "reject"
        assert (fact.state, fact.object_name) == ("rejected", None)
    elif doubts:
        assert isinstance(outcome, Hold)
        assert outcome.reason.code == REVIEW
        assert all(doubt.zh in outcome.reason.zh and doubt.en in outcome.reason.en for doubt in doubts)
        assert fact.state == "review" and fact.object_name
    else:
        assert outcome == Advance("account")
        assert fact.state == "normalised" and fact.object_name
    assert fact.normalised.findings == findings
    move("photo", "photo", outcome, now=NOW)


def test_a_run_says_what_it_was_made_from_and_by() -> None:
    fact = judged(settled(made()))
    profile = PROFILES[POLICY.photo.profile.value]
    assert (fact.application_id, fact.original) == ("app_1", "upload")
    assert (fact.profile, fact.profile_version) == (profile.name, profile.version)
    assert fact.adjust is None


def test_a_remark_holds_nobody_even_if_its_code_is_one_that_holds() -> None:
    remark = find("EYES_CLOSED", level="info")
    assert settled(made(remark), photo_policy(hold_codes=("EYES_CLOSED",))).outcome == Advance("account")


def test_a_photo_without_picture_and_without_a_refusal_is_a_defect() -> None:
    with pytest.raises(Defect):
        settled(replace(made(), picture=None))


# ------------------------------------------------------------------------------------------------------------- request


@pytest.mark.parametrize("data", [b"", None])
def test_without_a_photo_the_application_goes_back(data: bytes | None) -> None:
    decision = stage().prepare(case(photo=data), POLICY, NOW)
    assert isinstance(decision, Decision)
    assert isinstance(decision.outcome, Correct)
    assert [reason.code for reason in decision.outcome.reasons] == ["photo.file_empty"]
    assert decision.facts == ()


def test_the_picture_that_a_person_approved_stands_for_the_same_upload_only() -> None:
    approved = PictureFact(name="picture", original="upload")
    assert stage().prepare(case(picture=approved), POLICY, NOW) == Decision(Advance("account"))
    assert stage().prepare(case(picture=approved, photo=b""), POLICY, NOW) == Decision(Advance("account"))
    other = replace(approved, original="another upload")
    assert isinstance(stage().prepare(case(picture=other), POLICY, NOW), PhotoRequest)


def test_photos_that_are_wanted_alike_are_made_together() -> None:
    normaliser = Normaliser({f"app_{n}": made() for n in range(1, 5)})
    line = Photo(normaliser, objects=ObjectMemory(key=bytes(32)), profiles=PROFILES)
    wanted = {
        1: photo_policy(profile="ssc-national"),
        2: photo_policy(profile="ssc-national", replace_background=True),
        3: photo_policy(profile="ssc-national"),
        4: photo_policy(profile="ssc-national", replace_background=True),
    }
    requests = {f"app_{n}": line.prepare(case(n), policy, NOW) for n, policy in wanted.items()}
    assert len(line.act(requests)) == 4  # type: ignore[arg-type]
    assert normaliser.asked == [
        (("app_1", "app_3"), "ssc-national", False),
        (("app_2", "app_4"), "ssc-national", True),
    ]


def test_a_profile_that_is_not_there_is_a_defect_of_its_own_rows() -> None:
    line = stage({"app_1": made(), "app_2": made()})
    wanted = {"app_1": POLICY, "app_2": photo_policy(profile="ssc-mars")}
    replies = line.act({i: line.prepare(case(), policy, NOW) for i, policy in wanted.items()})  # type: ignore[misc]
    assert isinstance(replies["app_1"], PhotoReply)
    assert isinstance(replies["app_2"], Defect) and "ssc-national" in str(replies["app_2"])


def test_a_photo_that_failed_is_its_own_rows_error_and_its_neighbour_is_kept() -> None:
    objects = ObjectMemory(key=bytes(32))
    line = stage({"app_1": Defect("broken"), "app_2": made()}, objects)
    replies = line.act(
        {i: PhotoRequest(data=b"x", profile="ssc-national", replace_background=False) for i in ("app_1", "app_2")}
    )
    assert isinstance(replies["app_1"], Defect)
    assert isinstance(replies["app_2"], PhotoReply)
    assert objects.get(replies["app_2"].object_name or "") == b"jpeg"


def test_the_picture_of_a_refused_photo_is_not_kept() -> None:
    objects = ObjectMemory(key=bytes(32))
    name = ObjectMemory(key=bytes(32)).put(b"jpeg")
    refused = replace(made(find("TILTED", measured=12.0)), picture=b"jpeg")
    line = stage({"app_1": refused}, objects)
    reply = line.act({"app_1": PhotoRequest(data=b"x", profile="ssc-national", replace_background=False)})["app_1"]
    assert isinstance(reply, PhotoReply) and reply.object_name is None
    with pytest.raises(NotFound):
        objects.get(name)


def test_a_failed_try_tells_nothing() -> None:
    request = PhotoRequest(data=b"x", profile="ssc-national", replace_background=False)
    assert stage().failed(case(), request, TransientError()) == ()


def test_bytes_of_a_face_stand_in_no_repr() -> None:
    assert "jpeg" not in repr(settled(made()))
    assert "secret" not in repr(stage().prepare(case(photo=b"secret"), POLICY, NOW))


# ------------------------------------------------------------------------------------------------------------ findings


@given(st.sampled_from(BY_CODE))
def test_a_finding_that_was_written_down_reads_as_it_did(finding: Finding) -> None:
    raised = find(finding.code, level=finding.level, measured=finding.measured, limit=finding.limit)
    assert restored(raised.code, raised.level, raised.measured, raised.limit) == raised == finding


@pytest.mark.parametrize(("by", "code"), [("code", "HEAD_COVERED"), ("person", "BLURRED")])
def test_people_and_programs_find_only_what_is_theirs(by: Any, code: str) -> None:
    with pytest.raises(ValueError, match=f"{code} is not raised by {by}"):
        find(code, by=by)


def test_what_a_person_finds_or_confirms_is_a_refusal() -> None:
    refusal: Level = "reject"
    assert find("HEAD_COVERED", by="person").level == refusal
    warning = find("FACE_OCCLUDED", measured=0.7, limit="<= 0.6")
    assert confirmed(warning) == replace(warning, level=refusal)
