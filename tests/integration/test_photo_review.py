"""Photos that wait for a person: what is kept of each, who may decide when, and that nothing is lost or decided twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, update

from pipeline.application import Submission
from pipeline.errors import Conflict, Defect, NotFound, Refused, TransientError
from pipeline.photo import faces
from pipeline.photo.findings import Finding, find
from pipeline.photo.normalise import normalise
from pipeline.photo.result import Adjust, Normalised
from pipeline.policy import Sourced
from pipeline.services import erase, operate, review
from pipeline.services.review import approve, look, queue, recrop, refuse
from pipeline.store import audit, photos
from pipeline.store import tables as t
from pipeline.store.engine import IntegrityError
from pipeline.store.photos import KeptPhoto

from .conftest import PROFILES, Killed, Line, Stand, dies_after

Make = Callable[..., Submission]

DOUBT = find("FACE_OCCLUDED", measured=0.7, limit="<= 0.6")
REMARK = find("LEVELLED", measured=2.5)
REFUSAL = find("TILTED", measured=12.0, limit="<= 10")
NUDGE = Adjust(right_px=4, down_px=2)
PORTRAIT = Path(__file__).parents[1] / "photos" / "derived" / "good_white.jpg"


@pytest.fixture
def line(line: Line) -> Line:
    """The line with an object store that lives by its clock."""
    line.context.objects.clock = line.clock  # type: ignore[attr-defined]
    return line


def accepted(line: Line, make: Make, n: int = 1, *findings: Finding) -> str:
    """An application before the photo stage whose photo will be found to be so."""
    line.normaliser.findings[b"photo %d" % n] = findings
    [i] = line.accept(make(n))
    line.step("validation")
    return i


def held(line: Line, make: Make, n: int = 1, *findings: Finding) -> str:
    """An application whose photo waits for a person."""
    i = accepted(line, make, n, *(findings or (DOUBT, REMARK)))
    line.step("photo")
    assert line.status(i) == "held"
    return i


def kept(line: Line, i: str) -> KeptPhoto:
    with line.context.store.transaction() as tx:
        found = photos.of(tx, i)
    assert found is not None
    return found


def picture(line: Line, i: str) -> bytes:
    return line.context.objects.get(kept(line, i).picture or "")


def audited(line: Line, i: str) -> list[tuple[str, str, Any]]:
    """What the audit log has about an application: action, actor, detail."""
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(select(t.audit).where(t.audit.c.target == i).order_by(t.audit.c.id)).all()
    return [(row.action, row.actor, row.detail) for row in rows]


def moved(line: Line, i: str, adjust: Adjust = NUDGE, **told: Any) -> KeptPhoto:
    told = {"actor": "li", "profiles": PROFILES} | told
    return recrop(line.context, line.normaliser, i, adjust, **told)


def everything(line: Line, i: str) -> tuple[Any, ...]:
    """All that a decision could change."""
    row = line.row(i)
    return (row.status, row.version, row.photo_result, kept(line, i), line.history(i), len(audited(line, i)))


# ------------------------------------------------------------------------------------------------------ what is kept


def test_every_run_leaves_one_row_and_only_a_good_picture_is_read_later(line: Line, submission: Make) -> None:
    good, back, doubt = (
        accepted(line, submission, 1, REMARK),
        accepted(line, submission, 2, DOUBT, REFUSAL),
        accepted(line, submission, 3, DOUBT),
    )
    line.step("photo")
    assert [line.status(i) for i in (good, back, doubt)] == ["account", "awaiting_correction", "held"]
    assert [kept(line, i).state for i in (good, back, doubt)] == ["normalised", "rejected", "review"]
    assert line.row(good).photo_result == kept(line, good).picture is not None
    assert line.row(back).photo_result is None is kept(line, back).picture
    assert line.row(doubt).photo_result is None is not kept(line, doubt).picture
    with line.context.store.transaction() as tx:
        assert tx.conn.execute(select(func.count()).select_from(t.photos)).scalar_one() == 3


@pytest.mark.parametrize("findings", [(REMARK,), (REFUSAL, DOUBT)])
def test_what_was_made_reads_as_it_was_made(line: Line, submission: Make, findings: tuple[Finding, ...]) -> None:
    i = accepted(line, submission, 1, *findings)
    line.step("photo")
    seen = kept(line, i)
    made = line.normaliser.normalise({"1": b"photo 1"}, profile="ssc-national")["1"]
    assert isinstance(made, Normalised)
    assert seen.made == replace(made, picture=None)
    profile = PROFILES["ssc-national"]
    assert (seen.profile, seen.profile_version, seen.original) == (
        profile.name,
        profile.version,
        line.row(i).photo_original,
    )
    assert (seen.decided_by, seen.decided_at, seen.note, seen.adjust) == (None, None, None, None)
    assert seen.run_at == line.row(i).updated_at
    if made.picture is not None:
        assert line.context.objects.get(seen.picture or "") == made.picture


def test_a_photo_that_goes_back_tells_everything_at_once(line: Line, submission: Make) -> None:
    i = accepted(line, submission, 1, REMARK, DOUBT, REFUSAL)
    line.step("photo")
    assert [reason["code"] for reason in line.row(i).reasons] == [
        "photo.tilted",
        "photo.face_occluded",
        "photo.levelled",
    ]


def test_a_background_that_was_replaced_stands_in_the_audit_log(line: Line, submission: Make) -> None:
    line.normaliser.background = "replaced"
    good, back = accepted(line, submission, 1), accepted(line, submission, 2, REFUSAL)
    line.step("photo")
    [(action, _, detail)] = audited(line, good)
    assert (action, detail) == (
        "photo.background_replaced",
        {"profile": "ssc-national", "picture": kept(line, good).picture},
    )
    assert audited(line, back) == []


def test_a_worker_that_dies_after_keeping_the_picture_leaves_nothing_half(line: Line, submission: Make) -> None:
    i = accepted(line, submission, 1, DOUBT)
    photo = line.stages["photo"]
    line.stages["photo"] = dies_after(photo)
    with pytest.raises(Killed):
        line.step("photo")
    with line.context.store.transaction() as tx:
        assert photos.of(tx, i) is None
    line.stages["photo"] = photo
    line.clock.advance(photo.lease)
    line.sweep()
    line.step("photo")
    assert (line.status(i), kept(line, i).state) == ("held", "review")
    assert line.history(i).count("held") == 1


def test_the_stage_asks_for_what_the_policy_says(line: Line, submission: Make) -> None:
    accepted(line, submission)
    line.step("photo")
    assert line.normaliser.asked == [("ssc-national", False, None)]


def test_the_database_refuses_rows_that_cannot_be(line: Line, submission: Make) -> None:
    i = held(line, submission)
    wrong: list[dict[str, Any]] = [
        {"state": "pending"},
        {"background": "blue"},
        {"picture": None},
        {"bytes": None},
        {"bytes": 0},
        {"background": None},
        {"quality": None},
        {"state": "approved"},
        {"decided_by": "li"},
        {"state": "approved", "decided_by": "li", "decided_at": line.clock.now()},
        {"decided_by": "li", "decided_at": line.clock.now(), "note": "good"},
        {"application_id": "app_nobody"},
    ]
    for changes in wrong:
        with pytest.raises(IntegrityError), line.context.store.transaction() as tx:
            tx.conn.execute(update(t.photos).values(changes))
    with pytest.raises(IntegrityError), line.context.store.transaction() as tx:
        row = tx.conn.execute(select(t.photos)).one()
        tx.conn.execute(insert(t.photos), {**row._mapping, "state": "rejected"})
    for changes in (
        {"state": "approved", "decided_by": "li", "decided_at": line.clock.now(), "note": "good"},
        {"original": "", "picture": None},
    ):
        with line.context.store.transaction() as tx:
            tx.conn.execute(update(t.photos).values(changes))
    assert kept(line, i).picture is None


# ----------------------------------------------------------------------------------------------------------- looking


def test_the_queue_is_oldest_first_and_read_page_by_page(line: Line, submission: Make) -> None:
    ids = [held(line, submission, n) for n in (1, 2, 3)]
    accepted(line, submission, 4)
    line.step("photo")
    first = queue(line.context, limit=2)
    rest = queue(line.context, limit=2, after=first[-1].application_id)
    assert [waiting.application_id for waiting in (*first, *rest)] == ids
    assert first[0].doubts == ("FACE_OCCLUDED",)
    assert (first[0].picture, first[0].since, first[0].adjusted) == (
        kept(line, ids[0]).picture,
        kept(line, ids[0]).run_at,
        False,
    )


def test_what_is_decided_or_withdrawn_waits_no_longer(line: Line, submission: Make) -> None:
    ids = [held(line, submission, n) for n in (1, 2, 3, 4)]
    approve(line.context, ids[0], actor="li", note="good")
    refuse(line.context, ids[1], ["HEAD_COVERED"], actor="li", note="a hat")
    operate.cancel(line.context, ids[2], reason="asked for", actor="op")
    assert [waiting.application_id for waiting in queue(line.context)] == ids[3:]
    for i in ids[:3]:
        before = everything(line, i)
        for act in (
            lambda i: approve(line.context, i, actor="li", note="good"),
            lambda i: refuse(line.context, i, ["HEAD_COVERED"], actor="li", note="a hat"),
            lambda i: moved(line, i),
        ):
            with pytest.raises(Conflict) as refused:
                act(i)
            assert line.status(i) in refused.value.en
        assert everything(line, i) == before


def test_who_looks_sees_all_and_stands_in_the_audit_log(line: Line, submission: Make) -> None:
    i = held(line, submission)
    seen = look(line.context, i, actor="li")
    assert (seen.original, seen.kept.made.picture) == (b"photo 1", b"jpegphoto 1")
    assert [finding.code for finding in seen.kept.made.findings] == ["FACE_OCCLUDED", "LEVELLED"]
    assert seen.kept.made.geometry is not None and seen.kept.made.measures["face_width_px"] == 207
    assert seen.status == "held"
    assert audited(line, i) == [("photo.look", "li", {})]
    assert "photo 1" not in repr(seen)


def test_a_refused_photo_can_be_looked_at_without_a_picture(line: Line, submission: Make) -> None:
    i = accepted(line, submission, 1, REFUSAL)
    line.step("photo")
    assert look(line.context, i, actor="li").kept.made.picture is None


def test_a_photo_that_is_not_there_is_named_so(line: Line, submission: Make) -> None:
    with pytest.raises(NotFound, match="no such application"):
        look(line.context, "app_none", actor="li")
    i = accepted(line, submission, 1, DOUBT)
    with pytest.raises(NotFound, match="not processed yet"):
        look(line.context, i, actor="li")
    line.step("photo")
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.photos).values(original="", picture=None))
    with pytest.raises(NotFound, match="erased"):
        look(line.context, i, actor="li")
    for act in (
        lambda: approve(line.context, "app_none", actor="li", note="good"),
        lambda: refuse(line.context, "app_none", ["UNIFORM"], actor="li", note="no"),
        lambda: moved(line, "app_none"),
    ):
        with pytest.raises(NotFound, match="no such application"):
            act()


# ---------------------------------------------------------------------------------------------------------- approving


def test_an_approved_picture_goes_onto_the_card(line: Line, submission: Make) -> None:
    i = held(line, submission)
    approve(line.context, i, actor="li", note="  hair only  ")
    seen = kept(line, i)
    assert (seen.state, seen.decided_by, seen.decided_at, seen.note) == (
        "approved",
        "li",
        line.row(i).updated_at,
        "hair only",
    )
    row = line.row(i)
    assert (row.status, row.stage, row.work, row.photo_result) == ("account", "account", "ready", seen.picture)
    assert row.reasons == []
    line.run()
    assert line.status(i) == "dispatch"


def test_an_approval_says_who_what_and_why(line: Line, submission: Make) -> None:
    i = held(line, submission)
    approve(line.context, i, actor="li", note="hair only")
    assert audited(line, i) == [
        (
            "photo.approve",
            "li",
            {
                "reason": "hair only",
                "picture": kept(line, i).picture,
                "findings": ["FACE_OCCLUDED", "LEVELLED"],
                "codes": [],
                "adjust": None,
            },
        )
    ]
    with line.context.store.transaction() as tx:
        last = tx.conn.execute(select(t.transitions).order_by(t.transitions.c.seq.desc())).first()
    assert last is not None
    assert (last.frm, last.to, last.stage, last.outcome, last.actor) == ("held", "account", "photo", "advance", "li")


def test_nothing_is_decided_without_a_reason(line: Line, submission: Make) -> None:
    i = held(line, submission)
    before = everything(line, i)
    for note in ("", "  "):
        with pytest.raises(Refused, match="give the reason"):
            approve(line.context, i, actor="li", note=note)
        with pytest.raises(Refused, match="give the reason"):
            refuse(line.context, i, ["UNIFORM"], actor="li", note=note)
    assert everything(line, i) == before


def test_only_the_picture_that_was_looked_at_is_decided(line: Line, submission: Make) -> None:
    i = held(line, submission)
    looked_at = kept(line, i).picture
    moved(line, i, actor="wang")
    for act in (
        lambda: approve(line.context, i, actor="li", note="good", picture=looked_at),
        lambda: refuse(line.context, i, ["UNIFORM"], actor="li", note="no", picture=looked_at),
        lambda: moved(line, i, picture=looked_at),
    ):
        with pytest.raises(Conflict, match="changed meanwhile"):
            act()
    approve(line.context, i, actor="li", note="good", picture=kept(line, i).picture)
    assert picture(line, i) == b"jpegphoto 1" + repr(NUDGE).encode()


def send_through_photo_again(line: Line, i: str) -> None:
    """A correction of something else brings an application to the photo stage again."""
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.applications).values(status="photo", stage="photo", work="ready"))
    line.step("photo")


def test_what_was_approved_is_not_held_again(line: Line, submission: Make) -> None:
    i = held(line, submission)
    moved(line, i)
    approve(line.context, i, actor="li", note="good")
    before, asked = (kept(line, i), line.row(i).photo_result), len(line.normaliser.asked)
    send_through_photo_again(line, i)
    assert line.status(i) == "account"
    assert (kept(line, i), line.row(i).photo_result) == before
    assert len(line.normaliser.asked) == asked


def test_another_upload_is_looked_at_again(line: Line, submission: Make) -> None:
    i = held(line, submission)
    approve(line.context, i, actor="li", note="good")
    line.normaliser.findings[b"another photo"] = (DOUBT,)
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.submissions).values(photo_original=line.context.objects.put(b"another photo")))
    send_through_photo_again(line, i)
    seen = kept(line, i)
    assert (line.status(i), seen.state, seen.decided_by, line.row(i).photo_result) == ("held", "review", None, None)
    assert picture(line, i) == b"jpeganother photo"


def test_nobody_decides_about_an_earlier_upload_or_for_another_stage(line: Line, submission: Make) -> None:
    i = held(line, submission)
    upload = line.row(i).photo_original
    for submitted, held_from in ((line.context.objects.put(b"another photo"), "photo"), (upload, "validation")):
        with line.context.store.transaction() as tx:
            tx.conn.execute(update(t.submissions).values(photo_original=submitted))
            tx.conn.execute(update(t.applications).values(held_from=held_from))
        assert queue(line.context) == ()
        with pytest.raises(Conflict):
            approve(line.context, i, actor="li", note="good")


def test_a_release_does_not_go_round_the_review(line: Line, submission: Make) -> None:
    i = held(line, submission)
    operate.release(line.context, [i], reason="hurry", actor="op")
    with pytest.raises(Conflict):
        approve(line.context, i, actor="li", note="good")
    line.run()
    assert (line.status(i), kept(line, i).state) == ("held", "review")
    assert line.row(i).photo_result is None
    approve(line.context, i, actor="li", note="good")
    assert line.status(i) == "account"


# ----------------------------------------------------------------------------------------------------------- cropping


def test_a_moved_frame_makes_the_candidate_and_still_waits(line: Line, submission: Make) -> None:
    i = held(line, submission)
    before = kept(line, i)
    after = moved(line, i)
    assert after == kept(line, i)
    assert (after.state, after.adjust, line.status(i), line.row(i).photo_result) == ("review", NUDGE, "held", None)
    assert after.made.measures["eye_mid_x_px"] == 183
    assert picture(line, i) != line.context.objects.get(before.picture or "")
    assert [waiting.adjusted for waiting in queue(line.context)] == [True]
    assert audited(line, i) == [
        (
            "photo.recrop",
            "li",
            {
                "adjust": {"right_px": 4, "down_px": 2, "scale": 1.0, "roll_deg": 0.0},
                "picture": after.picture,
                "before": before.picture,
                "findings": ["FACE_OCCLUDED", "LEVELLED"],
            },
        )
    ]
    assert line.normaliser.asked[-1] == ("ssc-national", False, NUDGE)
    approve(line.context, i, actor="li", note="good")
    assert line.row(i).photo_result == after.picture
    assert audited(line, i)[-1][2]["adjust"] == {"right_px": 4, "down_px": 2, "scale": 1.0, "roll_deg": 0.0}


def replaced(line: Line) -> set[tuple[str, str]]:
    """Pictures that are to be erased unless a row names them: application and object."""
    with line.context.store.transaction() as tx:
        return {(row.application_id, row.object) for row in tx.conn.execute(select(t.objects_retired))}


def swept(line: Line) -> None:
    for _ in erase.erase(line.context, actor="sweeper"):
        pass


def objects(line: Line) -> set[str | None]:
    """The names of all objects that the store has."""
    return set(line.context.objects._objects)  # type: ignore[attr-defined]


def test_a_picture_that_was_replaced_is_remembered_to_be_erased(line: Line, submission: Make) -> None:
    i = held(line, submission)
    operate.release(line.context, [i], reason="once more", actor="op")
    line.step("photo")
    first = kept(line, i).picture
    assert replaced(line) == set()
    second = moved(line, i).picture
    third = moved(line, i, Adjust(scale=1.05)).picture
    line.clock.advance(2 * erase.GRACE)
    assert {(i, first), (i, second)} <= replaced(line)
    swept(line)
    assert replaced(line) == set()
    assert objects(line) & {first, second, third} == {third}


def test_a_frame_outside_the_limits_is_refused_with_what_was_measured(line: Line, submission: Make) -> None:
    i = held(line, submission)
    before = everything(line, i)
    for adjust, told in (
        (Adjust(scale=1.3), ("face_width_px 269 (179–255)",)),
        (Adjust(right_px=-18), ("eye_mid_x_px 161 (162–196)",)),
        (Adjust(down_px=40), ("eye_to_bottom_px 202 (207–441)", "top_px 54 (7–21)")),
        (Adjust(down_px=-8), ("top_px 6 (7–21)",)),
    ):
        with pytest.raises(Conflict) as refused:
            moved(line, i, adjust)
        assert refused.value.reason_code == "photo.recrop"
        for length in told:
            assert length in refused.value.en
            assert length.split(" ", 1)[1] in refused.value.zh
    assert everything(line, i) == before


def test_a_frame_that_brings_a_refusal_is_refused_with_it(line: Line, submission: Make) -> None:
    i = held(line, submission)
    before = everything(line, i)
    line.normaliser.findings[b"photo 1"] = (DOUBT, REFUSAL)
    with pytest.raises(Conflict) as refused:
        moved(line, i)
    assert REFUSAL.zh in refused.value.zh and REFUSAL.en in refused.value.en
    assert everything(line, i) == before


def test_a_head_that_a_person_leaves_tilted_is_refused(line: Line, submission: Make) -> None:
    """The real normaliser measures what is left in the picture."""
    portrait = PORTRAIT.read_bytes()
    line.normaliser.findings[portrait] = (DOUBT,)
    [i] = line.accept(submission(photo=portrait))
    line.step("validation")
    line.step("photo")
    models = faces.load()

    def normalise_all(ids: Mapping[str, bytes], *, profile: str, adjust: Adjust, **_: Any) -> Any:
        return {i: normalise(data, profile=PROFILES[profile], vision=models, adjust=adjust) for i, data in ids.items()}

    real = Stand(None, normalise=normalise_all)
    before = everything(line, i)
    for roll in (-12.0, 12.0, 45.0):
        with pytest.raises(Conflict) as refused:
            recrop(line.context, real, i, Adjust(roll_deg=roll), actor="li", profiles=PROFILES)
        assert "The head is tilted by" in refused.value.en
    assert everything(line, i) == before
    after = recrop(line.context, real, i, Adjust(roll_deg=2), actor="li", profiles=PROFILES)
    assert after.made.measures["roll_deg"] == pytest.approx(2, abs=1)


def test_a_frame_that_is_moved_beyond_reason_is_not_even_tried(line: Line, submission: Make) -> None:
    i = held(line, submission)
    asked = len(line.normaliser.asked)
    for adjust in (
        Adjust(scale=0),
        Adjust(scale=-1),
        Adjust(scale=float("nan")),
        Adjust(scale=9),
        Adjust(right_px=float("inf")),
        Adjust(right_px=400),
        Adjust(down_px=-500),
        Adjust(roll_deg=90),
    ):
        with pytest.raises(Refused) as refused:
            moved(line, i, adjust)
        assert refused.value.reason_code == "photo.adjust"
    assert len(line.normaliser.asked) == asked


def test_a_normaliser_that_fails_changes_nothing(line: Line, submission: Make) -> None:
    i = held(line, submission)
    before = everything(line, i)

    def away(*_: Any, **__: Any) -> Any:
        raise TransientError("no process")

    def broken(ids: Mapping[str, bytes], **_: Any) -> Any:
        return dict.fromkeys(ids, Defect("broken"))

    for fails, error in ((away, TransientError), (broken, Defect)):
        with pytest.raises(error):
            recrop(line.context, Stand(None, normalise=fails), i, NUDGE, actor="li", profiles=PROFILES)
    assert everything(line, i) == before


def test_who_dies_between_picture_and_commit_has_done_nothing_and_may_do_it_again(
    line: Line, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    i = held(line, submission)
    before, had = everything(line, i), objects(line)
    with monkeypatch.context() as patched:
        patched.setattr(photos, "write", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            moved(line, i)
    assert everything(line, i) == before
    line.clock.advance(2 * erase.GRACE)
    swept(line)
    assert objects(line) == had
    assert moved(line, i).adjust == NUDGE
    line.clock.advance(2 * erase.GRACE)
    swept(line)
    assert picture(line, i) == b"jpegphoto 1" + repr(NUDGE).encode()
    assert [action for action, _, _ in audited(line, i)] == ["photo.erased", "photo.recrop", "photo.erased"]


def test_a_recropped_background_that_is_replaced_stands_in_the_audit_log(line: Line, submission: Make) -> None:
    i = held(line, submission)
    line.normaliser.background = "replaced"
    moved(line, i)
    assert [action for action, _, _ in audited(line, i)] == ["photo.background_replaced", "photo.recrop"]


# ----------------------------------------------------------------------------------------------------------- refusing


def test_a_refused_photo_goes_back_with_all_reasons_like_one_that_the_stage_refuses(
    line: Line, submission: Make
) -> None:
    by_stage, i = accepted(line, submission, 1, REFUSAL), held(line, submission, 2)
    line.step("photo")
    reasons = refuse(line.context, i, ["HEAD_COVERED", "FACE_OCCLUDED", "HEAD_COVERED"], actor="li", note="a hat")
    assert [(reason.code, reason.level) for reason in reasons] == [
        ("photo.head_covered", "reject"),
        ("photo.face_occluded", "reject"),
    ]
    assert (reasons[1].measured, reasons[1].limit) == (0.7, "<= 0.6")
    assert [finding.code for finding in kept(line, i).made.findings] == ["HEAD_COVERED", "FACE_OCCLUDED", "LEVELLED"]
    row, other = line.row(i), line.row(by_stage)
    assert [reason["code"] for reason in row.reasons] == ["photo.head_covered", "photo.face_occluded"]
    alike = ("status", "stage", "work", "held_from", "next_try_at", "lease_token", "photo_result")
    assert [getattr(row, name) for name in alike] == [getattr(other, name) for name in alike]
    with line.context.store.transaction() as tx:
        mine, its = (
            tx.conn.execute(
                select(t.transitions).where(t.transitions.c.application_id == of).order_by(t.transitions.c.seq.desc())
            ).first()
            for of in (i, by_stage)
        )
    assert mine is not None and its is not None
    assert (mine.to, mine.stage, mine.outcome) == (its.to, its.stage, its.outcome)
    assert (mine.why, mine.actor) == ("photo.head_covered", "li")


def test_a_refusal_is_kept_beside_what_the_program_found(line: Line, submission: Make) -> None:
    i = held(line, submission)
    refuse(line.context, i, ["UNIFORM"], actor="li", note="a uniform")
    seen = kept(line, i)
    assert (seen.state, seen.decided_by, seen.note) == ("rejected", "li", "a uniform")
    assert [(finding.code, finding.level) for finding in seen.made.findings] == [
        ("UNIFORM", "reject"),
        ("FACE_OCCLUDED", "warn"),
        ("LEVELLED", "info"),
    ]
    assert seen.picture is not None and line.row(i).photo_result is None
    [(action, actor, detail)] = audited(line, i)
    assert (action, actor, detail["codes"]) == ("photo.refuse", "li", ["photo.uniform"])


def test_a_photo_is_refused_only_for_what_a_person_sees_or_it_was_found_with(line: Line, submission: Make) -> None:
    i = held(line, submission)
    before = everything(line, i)
    for codes in (["BLURRED"], ["HEAD_COVERED", "NO_SUCH"], ["head_covered"]):
        with pytest.raises(Refused) as refused:
            refuse(line.context, i, codes, actor="li", note="no")
        assert "HEAD_COVERED" in refused.value.en and "FACE_OCCLUDED" in refused.value.zh
    with pytest.raises(Refused, match="give the codes"):
        refuse(line.context, i, [], actor="li", note="no")
    assert everything(line, i) == before


def test_persons_codes_are_those_of_the_catalogue() -> None:
    assert set(review.PERSONS_CODES) == {
        "HEAD_COVERED", "GLARE_ON_GLASSES", "UNIFORM", "WRONG_PERSON", "OUT_OF_DATE", "RETOUCHED",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- several at once


def together(*acts: Callable[[], Any]) -> list[Any]:
    """Run all at once; what each came to."""
    gate = threading.Barrier(len(acts))

    def run(act: Callable[[], Any]) -> Any:
        gate.wait(30)
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - it is the outcome
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result(60) for future in [pool.submit(run, act) for act in acts]]


def test_of_people_who_decide_at_once_one_wins_and_the_others_are_told(line: Line, submission: Make) -> None:
    for n in range(1, 6):
        i = held(line, submission, n)
        told = together(
            lambda i=i: approve(line.context, i, actor="li", note="good"),
            lambda i=i: approve(line.context, i, actor="wang", note="good"),
            lambda i=i: refuse(line.context, i, ["UNIFORM"], actor="zhao", note="no"),
        )
        assert sum(isinstance(answer, Conflict) for answer in told) == 2
        [(action, actor, _)] = audited(line, i)
        assert kept(line, i).decided_by == actor
        assert line.status(i) == ("account" if action == "photo.approve" else "awaiting_correction")


def test_a_crop_that_comes_after_a_decision_changes_nothing(line: Line, submission: Make) -> None:
    i = held(line, submission)

    def meanwhile(ids: Mapping[str, bytes], **told: Any) -> Any:
        approve(line.context, i, actor="wang", note="good")
        return line.normaliser.normalise(ids, **told)

    with pytest.raises(Conflict):
        recrop(line.context, Stand(line.normaliser, normalise=meanwhile), i, NUDGE, actor="li", profiles=PROFILES)
    assert (kept(line, i).adjust, kept(line, i).decided_by, line.status(i)) == (None, "wang", "account")
    assert line.row(i).photo_result == kept(line, i).picture


def test_of_two_crops_at_once_the_first_stays_and_the_others_picture_is_erased(line: Line, submission: Make) -> None:
    i = held(line, submission)
    upload = line.row(i).photo_original

    def meanwhile(ids: Mapping[str, bytes], **told: Any) -> Any:
        moved(line, i, Adjust(scale=1.05), actor="wang")
        return line.normaliser.normalise(ids, **told)

    with pytest.raises(Conflict, match="changed meanwhile"):
        recrop(line.context, Stand(line.normaliser, normalise=meanwhile), i, NUDGE, actor="li", profiles=PROFILES)
    assert kept(line, i).adjust == Adjust(scale=1.05)
    swept(line)
    assert len(objects(line)) == 4, "what was just put may still be named"
    line.clock.advance(2 * erase.GRACE)
    swept(line)
    assert objects(line) == {upload, kept(line, i).picture}
    assert replaced(line) == set()


def test_the_chain_of_the_audit_log_holds(line: Line, submission: Make) -> None:
    first, second = held(line, submission, 1), held(line, submission, 2)
    look(line.context, first, actor="li")
    moved(line, first)
    approve(line.context, first, actor="li", note="好")
    refuse(line.context, second, ["WRONG_PERSON"], actor="li", note="非本人")
    with line.context.store.transaction() as tx:
        while audit.seal(tx, limit=2):
            pass
        found = audit.verify(tx)
    assert (found.broken_at, found.unsealed) == (None, 0)
    assert found.rows >= 4


def test_a_regions_wish_to_replace_backgrounds_reaches_the_crop(
    line: Line, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    i = held(line, submission)
    policy = line.context.policies.of("420100")
    wish = Sourced(value=True, default="a test")
    changed = policy.model_copy(update={"photo": policy.photo.model_copy(update={"replace_background": wish})})
    monkeypatch.setattr(type(line.context.policies), "of", lambda *_: changed)
    moved(line, i)
    assert line.normaliser.asked[-1] == ("ssc-national", True, NUDGE)


# ---------------------------------------------------------------------------------------------------- any order at all

ACTS = ("approve", "refuse", "nudge", "enlarge", "release", "run", "cancel")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.sampled_from(ACTS), min_size=1, max_size=8))
def test_in_any_order_a_picture_is_read_later_only_if_it_is_good_or_approved(
    line: Line, submission: Make, acts: list[str]
) -> None:
    n = len(line.normaliser.findings) + 1
    i = held(line, submission, n)
    does: dict[str, Callable[[], Any]] = {
        "approve": lambda: approve(line.context, i, actor="li", note="good"),
        "refuse": lambda: refuse(line.context, i, ["UNIFORM"], actor="li", note="no"),
        "nudge": lambda: moved(line, i),
        "enlarge": lambda: moved(line, i, Adjust(scale=1.4)),
        "release": lambda: operate.release(line.context, [i], reason="r", actor="op"),
        "run": lambda: line.step("photo"),
        "cancel": lambda: operate.cancel(line.context, i, reason="r", actor="op"),
    }
    decided = 0
    for act in acts:
        before, waits = (
            everything(line, i),
            i in {waiting.application_id for waiting in queue(line.context, limit=1000)},
        )
        try:
            does[act]()
        except Conflict:
            assert everything(line, i) == before
            assert act == "enlarge" or not waits or act == "release"
        else:
            decided += act in ("approve", "refuse")
            assert act not in ("approve", "refuse", "nudge") or waits
        row, seen = line.row(i), kept(line, i)
        assert row.photo_result == (seen.picture if seen.state == "approved" else None)
        assert line.context.objects.get(seen.picture or "")
        assert (seen.state == "approved") <= (row.status in ("account", "cancelled"))
        assert decided <= 1
