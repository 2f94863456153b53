"""`zhika blank` and `zhika encoder` as commands: what they print, how they end, and that two people are two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from config.settings import OnlyGiven, load
from config.wiring import Installation
from pipeline.services import encoders
from tests.support.cli import Cli, Finished, cli, together


@pytest.fixture(scope="module")
def zhika(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """An installation that nobody runs, with 20 blanks in stock."""
    directory = tmp_path_factory.mktemp("blank")
    with cli(directory, ZHIKA_ENV="test", ZHIKA_DATA_DIR=str(directory / "data")) as made:
        (directory / "delivery").write_text("".join(f"S{n:03d}\n" for n in range(20)) + "\n\n")
        done = made.run("blank", "receive", "delivery", "--lot", "L1", "--note", "D-1", "--by", "keeper")
        assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")
        yield made


def issued(zhika: Cli, count: int, station: str) -> str:
    told = zhika.json("blank", "issue", "--station", station, "--count", str(count), "--by", "li", "-o", "json")
    assert (told["station"], told["issued"], len(told["serials"])) == (station, count, count)
    return str(told["job"])


def job(zhika: Cli, job_id: str) -> Any:
    [found] = [row for row in zhika.json("blank", "job-list", "--json") if row["id"] == job_id]
    return found


def fails(done: Finished, code: int, *told: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in told:
        assert word in done.stderr


def test_a_wrong_command_line_ends_with_2(zhika: Cli) -> None:
    wrong = {
        ("blank", "receive", "delivery"): "--lot",
        ("blank", "issue", "--station", "e"): "--count",
        ("blank", "issue", "delivery", "--count", "2", "--station", "e"): "--count",
        ("blank", "settle", "S001", "--as", "eaten", "--reason", "r", "--witness", "w"): "--as",
        ("blank", "destroy", "S001", "--certificate", "C", "--reason", "r"): "--witness",
        ("blank", "job-list", "--state", "lost"): "--state",
        ("encoder", "drain", "enc_1"): "--reason",
        ("blank", "list", "-o", "xml"): "table or json",
    }
    for done, told in zip(together(partial(zhika.run, *line) for line in wrong), wrong.values(), strict=True):
        fails(done, 2, told, "Usage: zhika")


def test_a_delivery_with_a_wrong_line_ends_with_4_names_it_and_leaves_nothing(zhika: Cli) -> None:
    before = zhika.json("blank", "ledger", "-o", "json")
    for text, code, told in (
        ("T1\n\nT3\n", "blank.serial", "line 2:"),
        ("T1\nT2\nt1\n", "blank.duplicate", "line 3:"),
        ("T1\nS001\n", "blank.known", "line 2:"),
        ("", "required", "no serial"),
    ):
        fails(zhika.run("blank", "receive", "-", "--lot", "L", stdin=text), 4, code, told)
    assert zhika.json("blank", "ledger", "-o", "json") == before


def test_a_job_goes_from_the_issue_to_two_signatures(zhika: Cli) -> None:
    job_id = issued(zhika, 4, "enc_1")
    listed = zhika.json("blank", "list", "--job", job_id, "-o", "json")
    assert [(row["state"], row["location"]) for row in listed] == [("stocked", "enc_1")] * 4
    first, second, third, fourth = (row["serial"] for row in listed)
    fails(zhika.run("blank", "job-close", job_id, "--by", "wang"), 4, "blank.unbalanced", "4 unused")

    assert zhika.run("blank", "spoil", first, "--reason", "bent").stdout == "1\n"
    missing = ("blank", "adjust", second, "--as", "missing", "--reason", "short box", "--by", "li", "--witness")
    fails(zhika.run(*missing, "Li"), 4, "same-person", "两个人")
    assert zhika.run(*missing, "wang").stdout == "1\n"
    assert zhika.run("blank", "return", job_id, "-", stdin=f"{third}\n").stdout == "1\n"
    fails(zhika.run("blank", "return", job_id, "--count", "3"), 4, "blank.count-differs")
    assert zhika.json("blank", "return", job_id, "--count", "1", "--json") == {"job": job_id, "returned": 1}
    fails(zhika.run(*missing, "wang"), 4, "blank.wrong-state", f"{second} (missing")

    fails(zhika.run("blank", "job-close", job_id, "--by", "li"), 4, "same-person")
    closed = zhika.json("blank", "job-close", job_id, "--by", "wang", "-o", "json")
    figures = {"issued": 4, "good": 0, "spoiled": 1, "returned": 2, "missing": 1}
    assert {name: closed[name] for name in figures} == figures
    seen = job(zhika, job_id)
    assert (seen["state"], seen["opened_by"], seen["closed_by"], seen["balanced"]) == ("closed", "li", "wang", True)
    assert datetime.fromisoformat(seen["closed_at"]).utcoffset() is not None
    assert {name: seen[name] for name in figures} == figures
    told = zhika.json("blank", "ledger", fourth, "-o", "json")
    assert [row["event"] for row in told] == ["received", "issued", "returned"]
    assert told[0]["document"] == "D-1"


def test_destruction_takes_two_people_a_certificate_and_spoiled_blanks(zhika: Cli) -> None:
    zhika.run("blank", "spoil", "S018", "S019", "--reason", "scratched")
    destroy = ("blank", "destroy", "-", "--certificate", "C-9", "--reason", "shredded", "--by", "li", "--witness")
    both = "S018\nS019\n"
    fails(zhika.run(*destroy, "li", stdin=both), 4, "same-person")
    fails(zhika.run(*destroy, "wang", stdin=both + "S017\n"), 4, "blank.wrong-state", "S017 (stocked")
    fails(zhika.run(*destroy, "wang", stdin=both + "NOBODY\n"), 3, "blank.unknown")
    done = zhika.run(*destroy, "wang", "-o", "json", stdin=both)
    assert done.returncode == 0, done.stderr
    problems = [{"serial": serial, "problem": "scratched"} for serial in ("S018", "S019")]
    assert json.loads(done.stdout) == {
        "certificate": "C-9",
        "reason": "shredded",
        "by": "li",
        "witness": "wang",
        "destroyed": problems,
    }
    told = zhika.json("blank", "ledger", "--json")
    assert told["balanced"] is True
    assert told["states"] == told["by_ledger"]
    assert told["states"]["destroyed"] == 2
    assert zhika.json("audit", "verify")["ok"] is True


def test_what_is_not_there_ends_with_3(zhika: Cli) -> None:
    lines = (
        ("blank", "ledger", "NOBODY"),
        ("blank", "job-close", "job_none"),
        ("blank", "return", "job_none", "--count", "0"),
        ("blank", "settle", "NOBODY", "--as", "spoiled", "--reason", "r", "--witness", "w"),
        ("encoder", "status", "enc_9"),
        ("encoder", "drain", "enc_9", "--reason", "r"),
    )
    for done in together(partial(zhika.run, *line) for line in lines):
        fails(done, 3, " / ")


def test_encoders_are_listed_drained_and_resumed_and_stand_in_the_status(zhika: Cli) -> None:
    installation = Installation(load(OnlyGiven, env="test", data_dir=zhika.directory / "data"))
    told = encoders.ReaderReport(reader="r1", state="idle", cards=4, good=3, spoiled=1)
    try:
        encoders.report(installation.context, "enc_1", [told])
        [seen] = zhika.json("encoder", "list", "-o", "json")
        assert (seen["id"], seen["state"], seen["wanted"]) == ("enc_1/r1", "idle", "run")
        assert (seen["cards"], seen["yield"], seen["cards_per_hour"], seen["station_cards_last_hour"]) == (
            4,
            0.75,
            0,
            0,
        )
        drained = zhika.json("encoder", "drain", "enc_1", "--reason", "cleaning", "--json")
        assert drained == {"wanted": "drain", "encoders": ["enc_1/r1"]}
        assert encoders.report(installation.context, "enc_1", [told]) == {"r1": "drain"}
        assert zhika.run("encoder", "resume", "enc_1/r1", "--reason", "clean").stdout == "enc_1/r1\n"
        assert encoders.report(installation.context, "enc_1", [told]) == {"r1": "run"}
        [again] = zhika.json("encoder", "status", "enc_1", "--json")
        assert again["wanted"] == "run"
        status = zhika.json("status", "-o", "json", code=69)
        [row] = status["encoders"]
        assert (row["id"], row["state"], row["cards"]) == ("enc_1/r1", "idle", 4)
        places = {(blank["type"], blank["location"]): blank for blank in status["blanks"]}
        assert places["ssc2", "centre"]["stocked"] > 0
    finally:
        installation.close()


def test_a_station_that_has_stopped_says_so_to_operators_and_is_resumed_by_them(zhika: Cli) -> None:
    installation = Installation(load(OnlyGiven, env="test", data_dir=zhika.directory / "data"))
    told = encoders.ReaderReport(reader="r1", state="awaiting_authorisation", last_error="key refused")
    try:
        assert encoders.report(installation.context, "enc_3", [told]) == {"r1": "drain"}
        [seen] = zhika.json("encoder", "status", "enc_3", "--json")
        assert (seen["state"], seen["wanted"], seen["last_error"]) == ("awaiting_authorisation", "drain", "key refused")
        encoders.report(
            installation.context, "enc_3", [told]
        )  # again, as a station does: one that is silent is offline
        [row] = [row for row in zhika.json("status", "-o", "json", code=69)["encoders"] if row["station"] == "enc_3"]
        assert (row["state"], row["last_error"]) == ("awaiting_authorisation", "key refused")
        fails(zhika.run("encoder", "resume", "enc_3"), 2, "--reason")
        assert zhika.run("encoder", "resume", "enc_3", "--reason", "the right keys").stdout == "enc_3/r1\n"
        assert encoders.report(installation.context, "enc_3", [told]) == {"r1": "run"}
    finally:
        installation.close()
    assert zhika.json("audit", "verify")["ok"] is True


def test_real_readers_and_published_test_keys_are_a_bad_configuration(zhika: Cli) -> None:
    settings = {
        "ZHIKA_ENV": "development",
        "ZHIKA_DATA_DIR": str(zhika.directory / "real"),
        "ZHIKA_ENCODERS__VIRTUAL": "false",
        "ZHIKA_METRICS__BIND": "",
    }
    done = zhika.run("up", "--no-simulators", settings=settings)
    fails(done, 78, "ZHIKA_KEYS__STORE", "测试密钥", "test keys")


def test_tables_are_plain_text_with_whole_job_numbers(zhika: Cli) -> None:
    job_id = issued(zhika, 1, "enc_2")
    lines: tuple[tuple[str | Path, ...], ...] = (
        ("blank", "list"),
        ("blank", "job-list"),
        ("blank", "ledger"),
        ("blank", "ledger", "S000"),
        ("encoder", "list"),
    )
    for done in together(partial(zhika.run, *line) for line in lines):
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
    assert job_id in zhika.run("blank", "job-list").stdout
