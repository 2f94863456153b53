"""The sample files: deterministic, fictitious, read without surprise, and right in what they promise, photo by photo."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from config.policies import Policies, load_policies
from pipeline.application import Application, Submission
from pipeline.errors import NotFound
from pipeline.gateways.bank_simulated import SCRIPT
from pipeline.outcomes import Advance, Correct, Reject
from pipeline.photo import faces
from pipeline.photo.normalise import normalise
from pipeline.photo.profile import PhotoProfile, load_profile
from pipeline.photo.result import Normalised
from pipeline.photo.vision import Vision
from pipeline.ports import Declined
from pipeline.stages.base import Case, RegisterFacts
from pipeline.stages.photo import doubtful
from pipeline.stages.validation import Validation
from producers.batch_file import Row, open_batch
from producers.simulators.intake import Sample, make_sample
from producers.simulators.portrait import SORTS, Flaw, upload

TODAY = date(2026, 11, 25)
NOW = datetime(2026, 11, 25, 4, tzinfo=UTC)
_LATE = ("duplicates", "missing_photo", "unreadable_photo", "unfit_photo", "doubtful_photo", "bank_refusal")
"""What goes wrong only after validation."""
CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def policies() -> Policies:
    return load_policies()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, policies: Policies) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample"), applications=60, policies=policies, today=TODAY)


@pytest.fixture(scope="module")
def rows(sample: Sample, policies: Policies) -> list[Row]:
    read = []
    for path in sample.files:
        with open_batch(path) as batch:
            read += list(batch.read(policies=policies, source="tests"))
    return read


@pytest.fixture(scope="module")
def submissions(rows: list[Row]) -> list[Submission]:
    return [row.submission for row in rows if row.submission is not None]


@pytest.fixture(scope="module")
def profile() -> PhotoProfile:
    return load_profile(CONFIG / "photo" / "ssc-national.toml")


@pytest.fixture(scope="module")
def vision() -> Vision:
    return faces.load()


@pytest.fixture(scope="module")
def photos(submissions: list[Submission], profile: PhotoProfile, vision: Vision) -> list[tuple[Submission, Normalised]]:
    return [(one, normalise(one.photo, profile=profile, vision=vision)) for one in submissions]


def validated(submission: Submission, policies: Policies) -> Advance | Correct | Reject:
    given = {
        name: getattr(submission, name)
        for name in (
            "region", "kind", "priority", "lane", "category", "district", "agency", "window", "outlet", "bank_code", "person",
            "guardian", "proxy", "documents", "confirmed", "collect_by", "unit_code",
        )
    }  # fmt: skip
    application = Application(
        id="app_1", version=1, status="validation", stage="validation", policy_version="", acceptance_no="", received_at=NOW,
        due_at=NOW, person_id="", photo_original="", photo_result=None, **given,
    )  # fmt: skip
    case = Case(application=application, facts={"register": RegisterFacts()})
    outcome = Validation().prepare(case, policies.of(submission.region), NOW).outcome
    assert isinstance(outcome, Advance | Correct | Reject)
    return outcome


def test_there_is_a_file_for_every_region_in_every_format(sample: Sample, policies: Policies) -> None:
    assert len(sample.files) == len(policies.cities()) == 5


def test_the_counts_are_those_that_reading_finds(sample: Sample, rows: list[Row]) -> None:
    numbers = [row.cells["证件号码"] for row in rows]

    assert len(rows) == sample.expected["rows"]
    assert sum(row.submission is None for row in rows) == sample.expected["rows_refused"] == 2
    assert {error.code for row in rows for error in row.errors} == {"id_number.checksum"}
    assert len(numbers) - len(set(numbers)) == sample.expected["duplicates"] == 1
    assert sample.people == len(set(numbers))


def test_a_duplicate_has_a_reference_of_its_own(rows: list[Row]) -> None:
    assert len({row.external_ref for row in rows}) == len(rows)


def test_validation_passes_all_but_those_made_to_fail(
    sample: Sample, submissions: list[Submission], policies: Policies
) -> None:
    outcomes = [validated(submission, policies) for submission in submissions]
    reasons = Counter(
        reason.code for outcome in outcomes if not isinstance(outcome, Advance) for reason in outcome.reasons
    )

    assert reasons == {"guardian.required": 1, "eligibility.not_covered": 1, "window.not_competent": 1}
    late = sum(sample.expected[kind] for kind in _LATE)
    assert sum(isinstance(outcome, Advance) for outcome in outcomes) == sample.expected["good"] + late
    assert sample.expected["good"] >= 60


def test_every_photo_is_accepted_but_those_made_to_be_refused_or_held(
    sample: Sample, photos: list[tuple[Submission, Normalised]], policies: Policies
) -> None:
    refused = [{found.code for found in made.rejections} for _, made in photos if made.rejections]
    held = [
        {found.code for found in doubts} for one, made in photos if (doubts := doubtful(made, policies.of(one.region)))
    ]

    unfit = [codes for codes in refused if len(codes) > 1]
    unread = [codes for codes in refused if codes not in unfit]
    assert len(unfit) == sample.expected["unfit_photo"] == 1
    assert unfit[0] >= {"TILTED", "BACKGROUND_NOT_WHITE"}
    assert unread.count({"FILE_EMPTY"}) == sample.expected["missing_photo"] == 1
    assert len(unread) - 1 == sample.expected["unreadable_photo"] == 1
    assert set().union(*unread) <= {"FILE_EMPTY", "FILE_TRUNCATED", "FILE_CORRUPT"}
    assert len(held) == sample.expected["doubtful_photo"] == 1
    assert held[0] == {"FACE_OCCLUDED"}


def test_different_people_have_different_photos_and_pictures(photos: list[tuple[Submission, Normalised]]) -> None:
    uploads = {one.person.id_number: one.photo for one, _ in photos if one.photo}
    pictures = {one.person.id_number: made.picture for one, made in photos if made.picture}

    assert len(set(uploads.values())) == len(uploads) > len(pictures)
    assert len(set(pictures.values())) == len(pictures)
    assert {made.background for _, made in photos if made.picture} == {"kept", "whitened"}


def test_photos_come_as_people_send_them(submissions: list[Submission]) -> None:
    photos = [submission.photo for submission in submissions if submission.photo]

    assert any(photo.startswith(b"\x89PNG") for photo in photos)
    assert any(b"Exif\x00\x00" in photo[:64] for photo in photos)
    assert any(b"\xff\xc2" in photo for photo in photos)
    assert any(len(photo) > 300_000 for photo in photos)


@pytest.mark.parametrize(
    ("flaw", "wanted"),
    [(None, set()), ("unfit", {"TILTED", "BACKGROUND_NOT_WHITE"}), ("doubtful", {"FACE_OCCLUDED"})],
)
def test_a_photo_is_what_it_is_made_to_be_whoever_it_is_of(
    flaw: Flaw | None, wanted: set[str], profile: PhotoProfile, vision: Vision, policies: Policies
) -> None:
    for number in range(48 if flaw is None else 16):
        _, data = upload(f"person {number}", sort=SORTS[number % len(SORTS)], flaw=flaw)
        made = normalise(data, profile=profile, vision=vision)
        counts = made.rejections or doubtful(made, policies.of("420100"))

        assert (made.picture is None) == (flaw == "unfit")
        assert {found.code for found in counts} >= wanted
        assert counts or not wanted


def test_the_same_person_has_the_same_photo_and_others_have_others() -> None:
    photos = [upload(person, sort=sort) for sort in SORTS for person in ("one", "other")]

    assert photos == [upload(person, sort=sort) for sort in SORTS for person in ("one", "other")]
    assert len(set(photos)) == 2 * len(set(SORTS))


def test_the_bank_refuses_one_of_them_and_meets_no_other_mishap(sample: Sample, submissions: list[Submission]) -> None:
    scripted = [fate for submission in submissions if (fate := SCRIPT.get(submission.person.phone[-4:])) is not None]

    assert len(scripted) == sample.expected["bank_refusal"] == 1
    assert isinstance(scripted[0], Declined)


def test_the_people_are_nobody(rows: list[Row]) -> None:
    for row in rows:
        assert row.cells["证件号码"].startswith("999")
        assert row.cells["手机号码"].startswith("1380000")


def test_the_sample_has_the_hard_cases(submissions: list[Submission]) -> None:
    names = [submission.person.name for submission in submissions]

    assert any("·" in name for name in names)
    assert any(len(char.encode("gb18030")) == 4 for name in names for char in name)
    assert any(submission.priority == "urgent" for submission in submissions)
    assert any(submission.guardian is not None for submission in submissions)
    assert any(submission.unit_code and submission.collect_by == "unit" for submission in submissions)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, policies: Policies) -> None:
    def made(name: str, seed: int) -> list[bytes]:
        directory = tmp_path / name
        files = make_sample(directory, applications=5, seed=seed, policies=policies, today=TODAY, only="wuhan").files
        return [path.read_bytes() for path in files]

    assert made("a", 1) == made("b", 1) != made("c", 2)


def test_one_region_alone_has_every_fault(tmp_path: Path, policies: Policies) -> None:
    sample = make_sample(tmp_path, applications=3, policies=policies, today=TODAY, only="440200")

    assert [path.name for path in sample.files] == ["shaoguan-20261125-1.zip"]
    assert (sample.expected["good"], sample.expected["rows"]) == (3, 14)


def test_a_region_nobody_knows_is_refused(tmp_path: Path, policies: Policies) -> None:
    with pytest.raises(NotFound):
        make_sample(tmp_path, policies=policies, today=TODAY, only="atlantis")
