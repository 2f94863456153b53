"""`zhika photo` as it is installed: exit codes, the JSON of each, what lies in the folder afterwards, and files that are no photos."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from typer.testing import CliRunner

from config.wiring import HERE
from pipeline.photo.encode import is_clean
from pipeline.photo.profile import load_profile
from producers.cli.main import app
from tests.support.cli import together
from tests.support.needs import lacking

ZHIKA = Path(sys.executable).with_name("zhika")
PHOTOS = Path(__file__).parents[1] / "photos"
GOOD, BLURRED = PHOTOS / "derived" / "good_white.jpg", PHOTOS / "derived" / "blur_r3.jpg"
KEYS = [
    "ok", "in", "out", "width_px", "height_px", "dpi", "bytes", "quality", "sha256", "profile", "measures", "background",
    "findings", "timings_ms", "elapsed_ms", "error",
]  # fmt: skip

Finished = subprocess.CompletedProcess[str]


def zhika(
    directory: Path,
    *arguments: str | Path,
    under: Sequence[str] = (),
    umask: int = 0o022,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Finished:
    """The installed command in a directory; `under` is a command that runs it."""
    if not ZHIKA.exists():
        lacking("zhika is not installed beside this Python: pip install --editable .")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZHIKA_")}
    return subprocess.run(
        [*under, str(ZHIKA), "photo", *map(str, arguments)],
        cwd=directory,
        env={**inherited, "NO_COLOR": "1", **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        umask=umask,
    )


def without_privilege() -> list[str]:
    """How to run a command for which file modes hold, even as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        lacking("setpriv is missing: install util-linux")
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def objects(done: Finished) -> dict[str, Any]:
    """The lines of a folder by the photo's name, with the keys in their order."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(list(one)[: len(KEYS)] == KEYS for one in found)
    return {one["in"]: one for one in found}


def codes(one: Any) -> list[str]:
    return [finding["code"] for finding in one["findings"]]


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ one photo


def test_a_good_photo_becomes_a_picture_and_an_object_that_is_true(tmp_path: Path) -> None:
    written, checked = together([
        partial(zhika, tmp_path, "normalise", GOOD, "out.jpg", "--json", umask=0o027),
        partial(zhika, tmp_path, "check", GOOD, "--json"),
    ])  # fmt: skip
    assert (written.returncode, checked.returncode) == (0, 0), written.stderr + checked.stderr
    told, picture = json.loads(written.stdout), (tmp_path / "out.jpg").read_bytes()
    profile = load_profile(HERE / "photo" / "ssc-national.toml")

    assert names(tmp_path) == ["out.jpg"]  # no data directory, no key, nothing half written
    assert stat.S_IMODE((tmp_path / "out.jpg").stat().st_mode) == 0o640
    assert list(told) == KEYS
    assert (told["ok"], told["in"], told["out"], told["error"]) == (True, str(GOOD), "out.jpg", None)
    assert (told["width_px"], told["height_px"], told["dpi"], told["profile"]) == (358, 441, 350, "ssc-national")
    assert (told["bytes"], told["sha256"]) == (len(picture), hashlib.sha256(picture).hexdigest())
    assert is_clean(picture, output=profile.output)
    assert 179 <= told["measures"]["face_width_px"] <= 255
    assert told["measures"]["eye_to_bottom_px"] >= 207
    assert {"eye_mid_x_px", "top_px", "roll_deg", "yaw_deg"} <= set(told["measures"])
    assert told["background"] == "kept"
    phases = {name: ms for name, ms in told["timings_ms"].items() if name != "total"}
    assert sum(phases.values()) == pytest.approx(told["timings_ms"]["total"], abs=0.1)
    assert {"decode", "face", "encode"} <= set(phases)
    assert told["elapsed_ms"] >= told["timings_ms"]["total"]
    [mouth] = [finding for finding in told["findings"] if finding["code"] == "photo.mouth_open"]
    assert list(mouth) == ["code", "level", "measured", "limit", "zh", "en"]
    assert mouth["level"] == "warn"

    again = json.loads(checked.stdout)
    assert again["out"] is None
    assert again["sha256"] == told["sha256"]


def test_a_refused_photo_ends_with_4_and_leaves_the_older_picture_alone(tmp_path: Path) -> None:
    (tmp_path / "old.jpg").write_bytes(b"older")
    kept, none, killed = together([
        partial(zhika, tmp_path, "normalise", BLURRED, "old.jpg", "--json"),
        partial(zhika, tmp_path, "normalise", BLURRED, "new.jpg"),
        partial(zhika, tmp_path, "normalise", GOOD, "new.jpg", "--json", settings={"ZHIKA_PHOTO__WALL_S": "0.001"}),
    ])  # fmt: skip
    assert [done.returncode for done in (kept, none, killed)] == [4, 4, 4]
    assert "old.jpg 未改动，仍是较早的照片 is untouched: an older picture" in kept.stderr
    assert not any("untouched" in done.stderr for done in (none, killed))
    assert names(tmp_path) == ["old.jpg"]
    assert (tmp_path / "old.jpg").read_bytes() == b"older"
    told = json.loads(kept.stdout)
    assert (told["ok"], told["out"], told["bytes"], told["sha256"]) == (False, None, None, None)
    assert codes(told)[0] == "photo.blurred"
    assert told["measures"]["sharpness"] < 25
    assert "不合格 refused" in none.stdout
    assert "照片模糊,请重新对焦拍摄。" in none.stdout
    assert "The photo is blurred." in none.stdout
    assert ">= 25" in none.stdout
    assert codes(json.loads(killed.stdout)) == ["photo.processing_limit"]


def test_a_photo_is_measured_by_making_it_for_nowhere(tmp_path: Path) -> None:
    good, bad = together([
        partial(zhika, tmp_path, "normalise", GOOD, "/dev/null", "--json"),
        partial(zhika, tmp_path, "normalise", BLURRED, "/dev/null"),
    ])  # fmt: skip
    assert (good.returncode, bad.returncode) == (0, 4), good.stderr
    assert json.loads(good.stdout)["bytes"] > 14000
    assert bad.stderr == ""
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def says_why(code: str, exit_code: int, stdout: str, stderr: str) -> None:
    told = json.loads(stdout)
    assert exit_code == 1, stderr
    assert list(told) == KEYS
    assert (told["ok"], told["out"], told["sha256"], told["error"]["code"]) == (False, None, None, code)
    assert told["error"]["en"] in stderr
    assert told["error"]["zh"] in stderr
    assert "Traceback" not in stderr


def test_what_is_no_photo_file_or_has_no_place_to_go_ends_with_1_in_valid_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    asked = (
        ("in-unreadable", "check", "nowhere.jpg"),
        ("in-unreadable", "check", "loop.jpg"),
        ("in-no-file", "check", "/dev/zero"),
        ("in-empty", "normalise", "empty", "out"),
        ("out-no-folder", "normalise", str(GOOD), "nowhere/out.jpg"),
        ("out-no-folder", "normalise", str(PHOTOS), "nowhere/out"),
    )
    for code, *arguments in asked:
        done = CliRunner().invoke(app, ["photo", *arguments, "--json"])
        says_why(code, done.exit_code, done.stdout, done.stderr)
    assert names(tmp_path) == []


def test_what_may_not_be_read_or_written_ends_with_1_in_valid_json(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o555)
    (tmp_path / "dark").mkdir(mode=0o000)
    (tmp_path / "secret.jpg").touch(mode=0o000)
    (tmp_path / "old.jpg").write_bytes(b"older")
    if shutil.which("prlimit") is None:
        lacking("prlimit is missing: install util-linux")
    full, unprivileged = ["prlimit", "--fsize=4096"], without_privilege()
    asked: list[tuple[str, partial[Finished]]] = [
        ("in-unreadable", partial(zhika, tmp_path, "check", "dark", "--json", under=unprivileged)),
        ("in-unreadable", partial(zhika, tmp_path, "check", "secret.jpg", "--json", under=unprivileged)),
        ("out-unwritable", partial(zhika, tmp_path, "normalise", GOOD, "shut/out.jpg", "--json", under=unprivileged)),
        ("out-unwritable", partial(zhika, tmp_path, "normalise", GOOD, "old.jpg", "--json", under=full)),
    ]
    ends = together(ask for _, ask in asked)
    for (code, _), done in zip(asked, ends, strict=True):
        says_why(code, done.returncode, done.stdout, done.stderr)
    assert all("没有权限" in done.stderr for done in ends[:3])
    assert names(tmp_path) == ["old.jpg", "secret.jpg"]
    assert (tmp_path / "old.jpg").read_bytes() == b"older"


# ------------------------------------------------------------------------------------------------------------ a folder


@dataclass(frozen=True, slots=True)
class Normalised:
    """A folder after its run."""

    done: Finished
    out: Path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos good and bad, files that are none, and what is no file at all."""
    directory = tmp_path_factory.mktemp("mixed")
    (directory / "in" / "b").mkdir(parents=True)
    into = directory / "in"
    shutil.copy(GOOD, into / "b" / "good.png")  # a JPEG, whatever its name says
    shutil.copy(GOOD, into / "good.jpg")
    shutil.copy(BLURRED, into / "blurred.JPEG")
    (into / "empty.jpg").touch()
    (into / "text.jpg").write_text("no photo")
    (into / "cut.jpg").write_bytes(GOOD.read_bytes()[:50_000])
    (into / "long.jpg").touch()
    os.truncate(into / "long.jpg", 10**12)
    os.mkfifo(into / "pipe.jpg")
    (into / "gone.jpg").symlink_to("nowhere")
    shutil.copy(GOOD, into / "secret.jpg")
    (into / "secret.jpg").chmod(0)
    shutil.copy(GOOD, into / ".hidden.jpg")
    (into / "list.csv").write_text("a,b")
    Path(os.fsdecode(bytes(into) + b"/\x1b[31m\xff.jpg")).touch()
    return directory


@pytest.fixture(scope="module")
def normalised(mixed: Path) -> Normalised:
    done = zhika(mixed, "normalise", "in", "out", "--json", "--report", "report", under=without_privilege())
    return Normalised(done, mixed / "out")


def test_a_folder_gives_an_object_a_line_in_the_order_of_names(normalised: Normalised) -> None:
    told = objects(normalised.done)
    assert list(told) == sorted(told)
    assert {name: (codes(one)[:1] or [(one["error"] or {}).get("code")])[0] for name, one in told.items()} == {
        "\x1b[31m\\xff.jpg": "photo.file_empty",
        "b/good.png": "photo.mouth_open",
        "blurred.JPEG": "photo.blurred",
        "cut.jpg": "photo.file_truncated",
        "empty.jpg": "photo.file_empty",
        "gone.jpg": "in-unreadable",
        "good.jpg": "photo.mouth_open",
        "long.jpg": "photo.file_too_large",
        "pipe.jpg": "in-no-file",
        "secret.jpg": "in-unreadable",
        "text.jpg": "photo.format_unsupported",
    }
    assert normalised.done.returncode == 1  # some could not be opened
    assert "list.csv" in normalised.done.stderr
    assert "11/11" in normalised.done.stderr
    assert "没有权限" in normalised.done.stderr
    assert "\x1b" not in normalised.done.stderr


def test_the_pictures_of_a_folder_lie_as_their_photos_did(normalised: Normalised) -> None:
    told = objects(normalised.done)
    assert names(normalised.out) == ["b/good.png.jpg", "good.jpg"]
    assert told["b/good.png"]["out"] == "out/b/good.png.jpg"
    assert told["good.jpg"]["sha256"] == hashlib.sha256((normalised.out / "good.jpg").read_bytes()).hexdigest()
    assert {one["out"] for name, one in told.items() if "good" not in name} == {None}


def test_the_report_of_a_folder_has_every_photo_that_could_be_opened(normalised: Normalised) -> None:
    report = normalised.out.parent / "report"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (report, report / "report.html")] == [0o700, 0o600]
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 5
    assert page.count("<article") == 8
    assert page.count("<svg") == 5  # before and after of two, before of the refused one
    assert "report.html" in normalised.done.stderr


def test_a_folder_that_only_has_refusals_ends_with_4_and_a_table_for_people(mixed: Path) -> None:
    (mixed / "bad").mkdir()
    for name in ("empty.jpg", "text.jpg", "blurred.JPEG"):
        shutil.copy(mixed / "in" / name, mixed / "bad")
    done = zhika(mixed, "check", "bad")
    assert done.returncode == 4
    for told in ("empty.jpg", "photo.format_unsupported", "不合格 refused", "脸宽 face", "207.0"):
        assert told in done.stdout
    assert "0 合格 accepted, 3 不合格 refused" in done.stderr


# ------------------------------------------------------------------------------------------------------------ the list


def test_the_samples_are_as_their_list_says_and_a_wrong_list_is_told(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tsv"
    rows = [
        "file\toutcome\tany_of\tface_px",
        "obama.jpg\taccept",
        "derived/exif6.jpg\taccept\t\t300-310",
        "none.jpg\treject",
    ]
    wrong.write_text("\n".join(rows), encoding="utf-8")
    good, bad = together([
        partial(zhika, tmp_path, "check", PHOTOS, "--manifest", PHOTOS / "MANIFEST.tsv", "--json"),
        partial(zhika, tmp_path, "check", PHOTOS, "--manifest", wrong, "--json"),
    ])  # fmt: skip
    assert good.returncode == 0, good.stdout
    assert all(one["list"] == {"agrees": True, "differences": []} for one in objects(good).values())
    listed = (PHOTOS / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()
    assert len(objects(good)) == len(listed) - 1
    assert bad.returncode == 4
    differences = {name: one["list"]["differences"] for name, one in objects(bad).items()}
    assert differences["obama.jpg"] == ["reject, not accept"]
    assert differences["derived/exif6.jpg"][0].startswith("face_width_px 20")
    assert differences["none.jpg"] == ["not opened"]


# --------------------------------------------------------------------------------------------------------------- bench


def test_the_bench_prints_what_a_photo_costs(tmp_path: Path) -> None:
    scans = PHOTOS / "derived" / "scanbomb_16MP_1000.jpg"
    done = zhika(tmp_path, "bench", GOOD, scans, "nowhere.jpg", "--repeat", "2", "--json")
    told = json.loads(done.stdout)
    good, bomb, nowhere = told["photos"]
    assert done.returncode == 1
    assert (told["repeat"], told["warm_ups"], told["profile"]) == (2, 5, "ssc-national")
    assert good["ratio"] == pytest.approx(good["s_ms"] / (good["b_ms"] + good["v_ms"]), abs=0.01)
    assert good["s_ms"] > good["v_ms"] > 0
    assert (bomb["ok"], bomb["b_ms"], bomb["findings"]) == (False, None, ["photo.too_many_scans"])
    assert bomb["s_ms"] < good["s_ms"]
    assert (nowhere["error"]["code"], nowhere["s_ms"]) == ("in-unreadable", None)


# ------------------------------------------------------------------------------------------------------- the command line


def wrong_lines(tmp_path: Path) -> dict[tuple[str, ...], str]:
    (tmp_path / "in").mkdir()
    shutil.copy(GOOD, tmp_path / "in" / "a.jpg")
    photo, folder = str(tmp_path / "in" / "a.jpg"), str(tmp_path / "in")
    return {
        ("check", photo, "--profile", "passport"): "ga-461, ssc-2011, ssc-9-20, ssc-national",
        ("normalise", photo, str(tmp_path)): "name a file",
        ("normalise", photo, "/dev/zero"): "no ordinary file",
        ("normalise", photo, photo): "OUT is IN",
        ("normalise", folder, photo): "no folder",
        ("normalise", folder, str(tmp_path / "in" / "out")): "outside IN",
        ("normalise", folder, folder): "outside IN",
        ("check", photo, "--manifest", photo): "folder only",
        ("check", folder, "--manifest", photo): "UTF-8 text with tabs",
        ("check", folder, "--manifest", str(tmp_path / "none.tsv")): "No such file",
        ("check", photo, "--report", photo): "is no folder",
        ("bench", photo, "--repeat", "0"): "--repeat",
        ("normalise", photo): "OUT",
    }


def test_a_wrong_command_line_ends_with_2_and_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    for arguments, told in wrong_lines(tmp_path).items():
        done = CliRunner().invoke(app, ["photo", *arguments])
        assert done.exit_code == 2, (arguments, done.output)
        assert done.stdout == ""
        assert told in done.stderr, (arguments, done.stderr)
    assert names(tmp_path) == ["in/a.jpg"]
    assert stat.S_ISCHR(Path("/dev/zero").stat().st_mode)


def test_reviewing_stands_beside_making() -> None:
    help_ = CliRunner().invoke(app, ["photo", "--help"]).stdout
    assert all(name in help_ for name in ("normalise", "check", "bench", "review"))
