"""Numbers to findings: each limit has two sides, and being on it is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.photo import judge
from pipeline.photo.findings import Finding
from pipeline.photo.profile import PhotoProfile

GOOD = {
    "face_source_px": 230.0, "presence": 0.99, "roll_deg": 0.0, "yaw_deg": 0.0, "pitch_ratio": 0.35,
    "sharpness": 400.0, "luma_mean": 0.55, "dark_share": 0.01, "bright_share": 0.01, "side_light": 5.0, "colour": 60.0,
    "skin_a": 15.0, "skin_b": 18.0, "eye_band_dark": 0.1, "eye_opening": 0.3, "mouth_opening": 0.02,
}  # fmt: skip
WHITE = {
    "background_px": 30000.0, "background_luma_mean": 252.0, "background_luma_sd": 1.0, "background_luma_p5": 250.0,
    "background_spread": 1.0, "background_edge": 1.0, "background_rim": 0.0, "background_print": 0.0,
}  # fmt: skip


def judged(profile: PhotoProfile, **changed: float) -> dict[str, str]:
    """Code and level of every finding on a good face with some numbers changed."""
    measures = GOOD | changed
    found = [
        *judge.face(measures, profile.limits),
        *judge.light(measures, profile.limits),
        *judge.features(measures, profile.limits),
    ]
    assert len({finding.code for finding in found}) == len(found)
    return {finding.code: finding.level for finding in found}


def test_a_good_face_has_no_findings(profile: PhotoProfile) -> None:
    assert judged(profile) == {}


CASES: list[tuple[str, float, dict[str, str]]] = [
    ("face_source_px", 166, {}),
    ("face_source_px", 165.9, {"FACE_UPSCALED": "warn"}),
    ("face_source_px", 110, {"FACE_UPSCALED": "warn"}),
    ("face_source_px", 109.9, {"FACE_TOO_SMALL": "reject"}),
    ("presence", 0.5, {}),
    ("presence", 0.49, {"FACE_NOT_CLEAR": "reject"}),
    ("roll_deg", 10, {}),
    ("roll_deg", -10.1, {"TILTED": "reject"}),
    ("roll_deg", 10.1, {"TILTED": "reject"}),
    ("yaw_deg", 12, {}),
    ("yaw_deg", -12.1, {"NOT_FRONTAL": "warn"}),
    ("yaw_deg", 20, {"NOT_FRONTAL": "warn"}),
    ("yaw_deg", 20.1, {"NOT_FRONTAL": "reject"}),
    ("yaw_deg", -20.1, {"NOT_FRONTAL": "reject"}),
    ("pitch_ratio", 0.22, {}),
    ("pitch_ratio", 0.21, {"HEAD_PITCHED": "info"}),
    ("pitch_ratio", 0.50, {}),
    ("pitch_ratio", 0.51, {"HEAD_PITCHED": "info"}),
    ("sharpness", 60, {}),
    ("sharpness", 59.9, {"BLURRED": "warn"}),
    ("sharpness", 25, {"BLURRED": "warn"}),
    ("sharpness", 24.9, {"BLURRED": "reject"}),
    ("luma_mean", 0.28, {}),
    ("luma_mean", 0.279, {"UNDER_EXPOSED": "warn"}),
    ("luma_mean", 0.18, {"UNDER_EXPOSED": "warn"}),
    ("luma_mean", 0.179, {"UNDER_EXPOSED": "reject"}),
    ("luma_mean", 0.80, {}),
    ("luma_mean", 0.801, {"OVER_EXPOSED": "warn"}),
    ("luma_mean", 0.88, {"OVER_EXPOSED": "warn"}),
    ("luma_mean", 0.881, {"OVER_EXPOSED": "reject"}),
    ("dark_share", 0.15, {}),
    ("dark_share", 0.151, {"UNDER_EXPOSED": "warn"}),
    ("dark_share", 0.30, {"UNDER_EXPOSED": "warn"}),
    ("dark_share", 0.301, {"UNDER_EXPOSED": "reject"}),
    ("bright_share", 0.10, {}),
    ("bright_share", 0.101, {"OVER_EXPOSED": "warn"}),
    ("bright_share", 0.30, {"OVER_EXPOSED": "warn"}),
    ("bright_share", 0.301, {"OVER_EXPOSED": "reject"}),
    ("side_light", 20, {}),
    ("side_light", 20.1, {"UNEVEN_LIGHT": "warn"}),
    ("side_light", 40, {"UNEVEN_LIGHT": "warn"}),
    ("side_light", 40.1, {"UNEVEN_LIGHT": "reject"}),
    ("colour", 8, {}),
    ("colour", 7.9, {"NOT_COLOUR": "reject"}),
    ("skin_a", 2, {}),
    ("skin_a", 1.9, {"SKIN_COLOUR_ODD": "warn"}),
    ("skin_a", 35, {}),
    ("skin_a", 35.1, {"SKIN_COLOUR_ODD": "warn"}),
    ("skin_b", -6, {}),
    ("skin_b", -6.1, {"SKIN_COLOUR_ODD": "warn"}),
    ("skin_b", 40, {}),
    ("skin_b", 40.1, {"SKIN_COLOUR_ODD": "warn"}),
    ("eye_opening", 0.16, {}),
    ("eye_opening", 0.159, {"EYES_CLOSED": "info"}),
    ("eye_opening", 0.10, {"EYES_CLOSED": "info"}),
    ("eye_opening", 0.099, {"EYES_CLOSED": "warn"}),
    ("mouth_opening", 0.10, {}),
    ("mouth_opening", 0.101, {"MOUTH_OPEN": "warn"}),
    ("eye_band_dark", 0.6, {}),
    ("eye_band_dark", 0.61, {"FACE_OCCLUDED": "warn"}),
]


@pytest.mark.parametrize(("name", "value", "expected"), CASES)
def test_a_limit_divides_where_it_lies(
    name: str, value: float, expected: dict[str, str], profile: PhotoProfile
) -> None:
    assert judged(profile, **{name: value}) == expected


def test_the_worse_of_two_reasons_for_one_code_counts(profile: PhotoProfile) -> None:
    assert judged(profile, luma_mean=0.25, dark_share=0.4) == {"UNDER_EXPOSED": "reject"}
    assert judged(profile, luma_mean=0.1, dark_share=0.2) == {"UNDER_EXPOSED": "reject"}
    assert judged(profile, luma_mean=0.85, bright_share=0.4) == {"OVER_EXPOSED": "reject"}


def test_a_photo_without_colour_has_no_odd_skin(profile: PhotoProfile) -> None:
    assert judged(profile, colour=1, skin_a=0, skin_b=0) == {"NOT_COLOUR": "reject"}


def test_a_finding_says_what_was_measured_and_what_is_allowed(profile: PhotoProfile) -> None:
    def said(part: Callable[..., Iterator[Finding]], **changed: float) -> tuple[float | None, str | None]:
        (finding,) = part(GOOD | changed, profile.limits)
        return finding.measured, finding.limit

    assert said(judge.face, face_source_px=92.4) == (92, ">= 110 px")
    assert said(judge.face, roll_deg=-11.26) == (11.3, "<= 10°")
    assert said(judge.face, yaw_deg=-15.0) == (15.0, "<= 12°")
    assert said(judge.face, yaw_deg=25.0) == (25.0, "<= 20°")
    assert said(judge.face, pitch_ratio=0.1) == (0.1, "0.22-0.5")
    assert said(judge.light, sharpness=30.0) == (30.0, ">= 60")
    assert said(judge.light, sharpness=3.0) == (3.0, ">= 25")
    assert said(judge.light, luma_mean=0.2) == (0.2, "mean >= 0.28")
    assert said(judge.light, dark_share=0.5) == (0.5, "dark share <= 0.3")
    assert said(judge.light, luma_mean=0.9) == (0.9, "mean <= 0.88")
    assert said(judge.light, side_light=50.0) == (50.0, "<= 40")
    assert said(judge.features, eye_opening=0.05) == (0.05, ">= 0.1")


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "white"),
        ({"background_px": 499}, "unseen"),
        ({"background_px": 500}, "white"),
        ({"background_luma_sd": 12}, "white"),
        ({"background_luma_sd": 12.1}, "busy"),
        ({"background_edge": 10}, "white"),
        ({"background_edge": 10.1}, "busy"),
        ({"background_rim": 0.6}, "white"),
        ({"background_rim": 0.61}, "busy"),
        ({"background_luma_p5": 235}, "white"),
        ({"background_luma_p5": 234}, "near_white"),
        ({"background_spread": 6}, "white"),
        ({"background_spread": 6.1}, "near_white"),
        ({"background_spread": 12}, "near_white"),
        ({"background_spread": 12.1}, "plain"),
        ({"background_luma_p5": 190, "background_luma_mean": 200}, "near_white"),
        ({"background_luma_p5": 190, "background_luma_mean": 199.9}, "plain"),
        ({"background_luma_p5": 30, "background_luma_mean": 40}, "plain"),
    ],
)
def test_what_a_background_is(changed: dict[str, float], kind: str, profile: PhotoProfile) -> None:
    assert judge.background_kind(WHITE | changed, profile.background) == kind


def test_an_unseen_background_has_no_other_numbers(profile: PhotoProfile) -> None:
    assert judge.background_kind({"background_px": 0.0}, profile.background) == "unseen"
    (finding,) = judge.background("unseen", {"background_px": 0.0}, profile.background)
    assert (finding.code, finding.level, finding.measured) == ("BACKGROUND_UNSEEN", "warn", 0.0)


@given(values=st.dictionaries(st.sampled_from(sorted(GOOD | WHITE)), st.floats(allow_nan=False, allow_infinity=False)))
def test_no_numbers_make_the_judge_raise(values: dict[str, Any], profile: PhotoProfile) -> None:
    measures = GOOD | WHITE | values
    kind = judge.background_kind(measures, profile.background)
    found = [
        *judge.face(measures, profile.limits), *judge.light(measures, profile.limits),
        *judge.features(measures, profile.limits), *judge.background(kind, measures, profile.background),
    ]  # fmt: skip
    assert all(finding.zh and finding.en for finding in found)
