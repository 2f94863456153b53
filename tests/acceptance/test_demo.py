"""`zhika demo` as whoever tries it meets it: one command, real processes, files to look at."""

from __future__ import annotations

import json
import signal
import struct
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import ROOT, Cli, Finished, cli, given_away, personal_values, together, wait_until

CITIES = {"210100", "210200", "420100", "440200", "650200"}
_LINKS = ("href", "src", "srcset", "action", "poster", "data", "background")


@dataclass(frozen=True, slots=True)
class Run:
    """One finished demo and where it left its report."""

    done: Finished
    out: Path

    @property
    def summary(self) -> Any:
        return json.loads((self.out / "summary.json").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The demos of this file: `again` is `first` once more."""

    zhika: Cli
    first: Run
    again: Run
    other: Run
    wuhan: Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Two at a time; one was killed in the same place before."""
    directory = tmp_path_factory.mktemp("demo")
    with cli(directory) as zhika, ThreadPoolExecutor(2) as pool:

        def run(name: str, *arguments: str) -> Run:
            out = directory / name
            return Run(zhika.run("demo", "--json", "--out", out, *arguments), out)

        first = pool.submit(run, "first", "--applications", "20", "--keep", "kept")
        again = pool.submit(run, "again", "--applications", "20")
        other = pool.submit(run, "other", "--applications", "6", "--seed", "2")
        wuhan = pool.submit(run, "wuhan", "--applications", "6", "--region", "wuhan")
        yield Runs(zhika=zhika, first=first.result(), again=again.result(), other=other.result(), wuhan=wuhan.result())


def test_it_ends_well_and_prints_what_it_wrote(runs: Runs) -> None:
    for run in (runs.first, runs.again, runs.other, runs.wuhan):
        assert run.done.returncode == 0, run.done.stderr
        assert json.loads(run.done.stdout) == run.summary
        assert "Traceback" not in run.done.stderr
        assert all(run.summary["checks"].values())


def test_the_counts_agree(runs: Runs) -> None:
    told = runs.first.summary

    assert told["applications"] >= 20
    assert sum(told["by_status"].values()) == told["applications"]
    assert set(told["by_region"]) == CITIES
    assert sum(told["by_region"].values()) == told["applications"]
    assert all(told["by_region"].values())
    assert (
        told["accounts_opened"]
        == told["cards_personalised"]
        == told["cards_verified"]
        == told["bank_ledger"]["accounts"]
    )
    assert told["cards_personalised"] == 20
    blanks = told["blanks"]
    assert set(blanks) == {"taken", "issued", "spoiled"}
    assert blanks["issued"] == told["cards_personalised"]
    assert blanks["taken"] == blanks["issued"] + blanks["spoiled"]
    assert blanks["spoiled"] == 1
    assert told["rows"] == told["applications"] + told["rows_refused"] + told["duplicates_refused"]


def test_what_goes_wrong_on_purpose_is_seen(runs: Runs) -> None:
    told = runs.first.summary

    assert told["rows_refused"] > 0
    assert told["duplicates_refused"] > 0
    assert told["bank_ledger"]["declined"] > 0
    assert {"collected", "rejected", "awaiting_correction", "held"} <= set(told["by_status"])
    assert told["by_status"]["held"] == 1  # a photo that a person has to look at


def test_the_same_seed_tells_the_same_story(runs: Runs) -> None:
    first, again = runs.first.summary, runs.again.summary

    assert {**first, "elapsed_s": 0} == {**again, "elapsed_s": 0}


def test_another_seed_is_another_story_that_agrees_too(runs: Runs) -> None:
    assert runs.other.summary["ok"]
    assert set(runs.other.summary["by_region"]) == CITIES


def test_one_region_is_that_region_alone(runs: Runs) -> None:
    assert list(runs.wuhan.summary["by_region"]) == ["420100"]
    assert runs.wuhan.summary["by_region"]["420100"] == runs.wuhan.summary["applications"]


class _Page(HTMLParser):
    """Counts the applications' entries and collects whatever the page points at."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = 0
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.cases += tag == "details" and "case" in (given.get("class") or "").split()
        self.links += [value or "" for name, value in attrs if name.split(":")[-1] in _LINKS]
        if tag not in ("meta", "link", "img", "input", "br", "hr", "rect", "circle", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "circle", "line"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["first", "wuhan"])
def test_the_report_has_an_entry_for_every_application_and_asks_nothing_of_any_network(runs: Runs, name: str) -> None:
    run: Run = getattr(runs, name)
    text = (run.out / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    page.close()

    assert page.open == []
    assert page.cases == run.summary["applications"]
    assert all(link.startswith(("#", "data:image/", "faces/")) for link in page.links)
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [word for word in ("http:", "https:", "//cdn", "@import", "url(") if word in text]
    linked = {link.removeprefix("faces/") for link in page.links if link.startswith("faces/")}
    assert linked == {face.name for face in (run.out / "faces").iterdir()}


def test_every_card_has_a_face_of_the_profiles_size(runs: Runs) -> None:
    face = tomllib.loads((ROOT / "config/cards/ssc2.toml").read_text(encoding="utf-8"))["face"]
    faces = sorted((runs.first.out / "faces").iterdir())

    assert len(faces) == runs.first.summary["cards_personalised"]
    for path in faces:
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", data[16:24]) == (face["width_px"], face["height_px"]) == (1011, 638)
        assert len(data) > 20_000  # a printed card, not an empty sheet


def test_nobody_is_named_in_what_it_says_and_writes(runs: Runs) -> None:
    values = personal_values(sorted((runs.zhika.directory / "kept" / "intake").glob("*.zip")))
    told = runs.first.done.stdout + runs.first.done.stderr
    report, summary = ((runs.first.out / name).read_text(encoding="utf-8") for name in ("report.html", "summary.json"))

    assert len(values) > 60
    assert [given_away(values, text) for text in (told, report, summary)] == [0, 0, 0]


def test_killed_in_the_middle_it_leaves_nobody_behind_and_can_be_run_again(tmp_path: Path) -> None:
    with cli(tmp_path) as zhika:
        process = zhika.start("demo", "--applications", "40", "--keep", "kept", "--out", "out")
        cards = tmp_path / "kept" / "encoders" / "enc_1" / "cards"
        wait_until(lambda: cards.is_dir() and len(list(cards.iterdir())) >= 3, timeout_s=60, told=zhika.said)
        assert process.pid in zhika.living()
        process.send_signal(signal.SIGKILL)
        process.wait()

        assert zhika.living() == []
        assert not (tmp_path / "out" / "summary.json").exists()
        refused = zhika.run("demo", "--keep", "kept", "--out", "out")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "kept is not empty" in refused.stderr
        assert zhika.run("demo", "--applications", "5", "--region", "dalian", "--out", "out").returncode == 0


BAD_ARGUMENTS = {
    ("--region", "atlantis"): ("没有这个地区", "wuhan"),
    ("--faults", "earthquake=1"): ("earthquake", "decline"),
    ("--faults", "decline=much"): ("decline=0.02",),
    ("--applications", "0"): ("5",),
    ("--seed", "x"): ("integer",),
    ("--colour", "red"): ("No such option",),
}


def test_a_bad_argument_ends_with_2_and_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with cli(tmp_path) as zhika:
        runs = (partial(zhika.run, "demo", "--out", "out", "--keep", "kept", *pair) for pair in BAD_ARGUMENTS)
        for done, (pair, told) in zip(together(runs), BAD_ARGUMENTS.items(), strict=True):
            assert (done.returncode, done.stdout) == (2, "")
            assert all(word in done.stderr for word in (pair[0], *told)), done.stderr
            assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_neither_the_environment_nor_a_file_has_a_say_in_it(tmp_path: Path) -> None:
    (tmp_path / "zhika.toml").write_text('[encoders]\nvirtual = false\n[banks.95533]\nurl = "http://127.0.0.1:9"\n')
    hostile = {
        "ZHIKA_WORKERS__THREADS": "none",
        "ZHIKA_DATABASE__URL": "oracle:",
        "ZHIKA_BANKS__DEFAULT__URL": "http://127.0.0.1:9",
    }
    with cli(tmp_path, **hostile) as zhika:
        done = zhika.run("demo", "--applications", "5", "--region", "shaoguan", "--out", "out", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accounts_opened"] == 5
