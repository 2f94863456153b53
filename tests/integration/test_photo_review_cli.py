"""`zhika photo review` as an operator types it: what it prints, how it ends, and that nobody else can open what it writes."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from config.settings import load
from config.wiring import Installation
from pipeline.application import Submission
from pipeline.photo.findings import find
from pipeline.services import run_stage
from pipeline.services.accept import Accepted, accept
from pipeline.stages.photo import Photo
from pipeline.stages.validation import Validation
from pipeline.store import applications
from producers.cli import errors
from producers.cli.photo_review import app

from .conftest import StubNormaliser


@dataclass
class Desk:
    """An operator's desk: an installation on SQLite with two photos that wait."""

    installation: Installation
    ids: list[str]

    def run(self, *arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments)])

    def json(self, *arguments: str | Path) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.stdout)

    def fails(self, code: int, *arguments: str | Path) -> BaseException:
        """How a command fails, which ends with `code`."""
        error = self.run(*arguments).exception
        assert error is not None and errors.report(error) == code, error
        return error

    def status(self, i: str) -> str:
        with self.installation.store.transaction() as tx:
            return applications.load(tx, [i])[i].application.status


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submission: Callable[..., Submission]) -> Iterator[Desk]:
    monkeypatch.setenv("ZHIKA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ZHIKA_ENV", "test")
    monkeypatch.setenv("USER", "zhang")
    doubt = find("FACE_OCCLUDED", measured=0.7, limit="<= 0.6")
    normaliser = StubNormaliser(findings={b"photo 1": (doubt,), b"photo 2": (doubt,)})
    monkeypatch.setattr(Installation, "photo_normaliser", normaliser)
    installation = Installation(load())
    answers = accept(installation.context, [submission(1), submission(2)], actor="test")
    ids = [answer.id for answer in answers if isinstance(answer, Accepted)]
    photo = Photo(normaliser, objects=installation.objects, profiles=installation.photo_profiles)
    for stage in (Validation(), photo):
        run_stage.run(installation.context, stage, ids, worker="w1")
    yield Desk(installation, ids)
    installation.store.close()


def test_the_queue_is_listed(desk: Desk) -> None:
    listed = desk.json("list")
    assert [(row["application_id"], row["doubts"]) for row in listed] == [(i, ["FACE_OCCLUDED"]) for i in desk.ids]
    assert [row["application_id"] for row in desk.json("list", "--limit", "1")] == desk.ids[:1]
    assert [row["application_id"] for row in desk.json("list", "--after", desk.ids[0])] == desk.ids[1:]
    table = desk.run("list").stdout
    assert all(i in table for i in desk.ids) and "FACE_OCCLUDED" in table


def test_the_page_can_be_opened_by_its_owner_only_and_the_operator_is_told(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "look"
    done = desk.run("show", "T-1", "--out", out)
    assert done.exit_code == 0, done.output
    [report] = out.iterdir()
    assert report.name == f"{desk.ids[0]}.html"
    assert (stat.S_IMODE(out.stat().st_mode), stat.S_IMODE(report.stat().st_mode)) == (0o700, 0o600)
    text = report.read_text()
    waiting = desk.json("list")[0]
    assert waiting["acceptance_no"] in text and "眼部可能被墨镜" in text and "7–21" in text
    assert "remove it after use" in done.stderr and "请删除" in done.stderr
    assert str(report) in done.stdout.replace("\n", "")
    seen = desk.json("show", desk.ids[0], "--out", out)
    assert (seen["state"], seen["status"], seen["measures"]["face_width_px"]) == ("review", "held", 207)
    assert [finding["code"] for finding in seen["findings"]] == ["FACE_OCCLUDED"]
    assert seen["report"] == str(report)


def test_nothing_is_written_or_shown_where_others_can_open_it(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    out.mkdir(mode=0o755)
    assert "chmod 700" in str(desk.fails(errors.REFUSED, "show", "T-1", "--out", out))
    assert list(out.iterdir()) == []
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


def test_a_good_picture_is_approved_by_who_sits_there(desk: Desk) -> None:
    done = desk.run("approve", desk.ids[0], "--reason", "hair only")
    assert (done.exit_code, done.stdout) == (0, f"{desk.ids[0]}\n")
    assert desk.status(desk.ids[0]) == "account"
    assert [row["application_id"] for row in desk.json("list")] == desk.ids[1:]
    desk.fails(errors.REFUSED, "approve", desk.ids[0], "--reason", "again")
    assert desk.status(desk.ids[1]) == "held"


def test_a_picture_is_cut_again_and_only_that_one_is_approved(desk: Desk, tmp_path: Path) -> None:
    i = desk.ids[0]
    first = desk.json("list")[0]["picture"]
    cut = desk.json("recrop", i, "--right", "4", "--down", "-3", "--scale", "1.02", "--roll", "-1.5")
    assert cut["adjust"] == {"right_px": 4, "down_px": -3, "scale": 1.02, "roll_deg": -1.5}
    assert (cut["state"], cut["picture"] != first) == ("review", True)
    desk.fails(errors.REFUSED, "approve", i, "--reason", "good", "--picture", first)
    assert "face_width_px 290" in str(desk.fails(errors.REFUSED, "recrop", i, "--scale", "1.4"))
    assert desk.run("approve", i, "--reason", "good", "--picture", cut["picture"], "--by", "li").exit_code == 0
    seen = desk.json("show", i, "--out", tmp_path / "look")
    assert (seen["state"], seen["decided_by"], seen["note"]) == ("approved", "li", "good")


def test_a_photo_goes_back_for_several_reasons_at_once(desk: Desk) -> None:
    i = desk.ids[0]
    told = desk.json("refuse", i, "--code", "HEAD_COVERED", "--code", "FACE_OCCLUDED", "--reason", "a hat")
    assert [reason["code"] for reason in told["reasons"]] == ["photo.head_covered", "photo.face_occluded"]
    assert desk.status(i) == "awaiting_correction"
    done = desk.run("refuse", desk.ids[1], "--code", "UNIFORM", "--reason", "no")
    assert "photo.uniform: 穿制服。 / A uniform is worn." in done.stdout


def test_a_wrong_command_line_or_name_ends_as_everywhere(desk: Desk, tmp_path: Path) -> None:
    for wrong in (
        ("approve", desk.ids[0]),
        ("refuse", desk.ids[0], "--reason", "r"),
        ("show", desk.ids[0]),
        ("list", "-o", "xml"),
    ):
        assert desk.run(*wrong).exit_code == errors.USAGE
    error = desk.fails(errors.NOT_FOUND, "approve", "999001198001010015", "--reason", "r")
    assert "999001198001010015" not in str(error)
    desk.fails(errors.NOT_FOUND, "show", "app_none", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    desk.fails(errors.REFUSED, "refuse", desk.ids[0], "--code", "BLURRED", "--reason", "r")
    assert [desk.status(i) for i in desk.ids] == ["held", "held"]
