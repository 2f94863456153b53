"""The command line against an installation that runs: exit codes, what goes to stdout and what to stderr, and the JSON of each command."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.identifiers import gb11643_check
from pipeline.states import STAGES, STATUSES
from pipeline.store import applications
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer
from tests.support.cli import (
    Cli,
    Finished,
    cli,
    given_away,
    personal_values,
    ready_line,
    start_up,
    together,
    wait_until,
)
from tests.support.ports import free_port

SEVENTEEN = "99900119800101001"
NUMBER = SEVENTEEN + gb11643_check(SEVENTEEN)
NAME = "欧阳虚构"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An installation that runs in one process, with one batch of Wuhan taken in and at rest."""

    zhika: Cli
    data: Path
    file: Path
    uploaded: Any

    def status(self) -> Any:
        return self.zhika.json("status", "--json")

    def number_of(self, application_id: str) -> str:
        """The number on the holder's document, as the holder would show it."""
        store = Store(
            f"sqlite:///{self.data / 'zhika.db'}", Sealer((self.data / "installation.key").read_bytes())
        ).open()
        try:
            with store.transaction() as tx:
                return applications.load(tx, [application_id])[application_id].application.person.id_number
        finally:
            store.close()

    def at_rest(self) -> bool:
        return not any(stage["ready"] or stage["running"] for stage in self.status()["stages"])

    def ids(self, *arguments: str) -> list[str]:
        return self.zhika.run("application", "list", *arguments).stdout.split()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    directory = tmp_path_factory.mktemp("cli")
    data = directory / "data"
    with cli(directory, ZHIKA_ENV="test", ZHIKA_DATA_DIR=str(data), ZHIKA_WORKERS__THREADS="2") as zhika:
        process = start_up(zhika, f"127.0.0.1:{free_port()}", "--no-outlets", "--blanks", "200")
        ready_line(zhika, process)
        made = zhika.run("simulate", "intake", "samples", "--applications", "12", "--region", "wuhan")
        [file] = [directory / name for name in made.stdout.split()]
        uploaded = zhika.json("batch", "upload", file, "--source", "wuhan", "--errors", "wrong.xlsx", "--json", code=5)
        running = Line(zhika=zhika, data=data, file=file, uploaded=uploaded)
        wait_until(running.at_rest, timeout_s=60, told=zhika.said)
        yield running


# ---------------------------------------------------------------------------------------------------------- exit codes


def _fails(done: Finished, code: int, *told: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in told:
        assert word in done.stderr


WRONG_LINES = {
    ("frobnicate",): "frobnicate",
    ("batch", "frobnicate"): "frobnicate",
    ("batch", "upload"): "file",
    ("application", "cancel", "app_x"): "--reason",
    ("status", "-o", "xml"): "table or json",
    ("run", "worker", "--stages", "validation,magic"): "magic",
    ("up", "--bank-faults", "earthquake=1"): "earthquake",
}


def test_a_wrong_command_line_ends_with_2_before_anything_is_written(tmp_path: Path) -> None:
    with cli(tmp_path) as zhika:
        ends = together(partial(zhika.run, *arguments) for arguments in WRONG_LINES)

    for done, told in zip(ends, WRONG_LINES.values(), strict=True):
        _fails(done, 2, told, "Usage: zhika")
    assert list(tmp_path.iterdir()) == []


NEED_AN_INSTALLATION = (
    ("status",),
    ("application", "release", "app_1", "--reason", "r"),
    ("bank", "freeze", "crd_1", "--reason", "lost"),
    ("bank", "reconcile"),
    ("blank", "list"),
    ("bundle", "list"),
    ("custody", "balance"),
    ("encoder", "list"),
    ("event", "tail"),
    ("fee", "list", "app_1"),
    ("outlet", "ready", "out_1"),
    ("stage", "pause", "account", "--reason", "r"),
    ("webhook", "list"),
)


def test_a_misspelt_data_directory_is_not_made_into_an_installation(tmp_path: Path) -> None:
    with cli(tmp_path) as zhika:
        ends = together(partial(zhika.run, *command, "--data", "misspelt") for command in NEED_AN_INSTALLATION)

    for done in ends:
        _fails(done, 78, "misspelt/zhika.db: 此处没有 zhika 数据库", "zhika db migrate")
    assert list(tmp_path.iterdir()) == []


AMQP = "amqp://zhika:secret@127.0.0.1/zhika"
BAD_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "SQLite goes with inprocess:// only": {"ZHIKA_DATABASE__URL": "sqlite:///z.db", "ZHIKA_BROKER__URL": AMQP},
    "ZHIKA_DATABASE__URL": {"ZHIKA_DATABASE__URL": "oracle://zhika:secret@127.0.0.1/zhika"},
    "ZHIKA_BROKER__URL": {"ZHIKA_BROKER__URL": "redis://zhika:secret@127.0.0.1"},
    "ZHIKA_WORKERS__THREADS": {"ZHIKA_WORKERS__THREADS": "many"},
    "ZHIKA_ENCODERS__COLOUR": {"ZHIKA_ENCODERS__COLOUR": "red"},
}


def test_a_bad_configuration_ends_with_78_names_the_key_and_tells_no_secret(tmp_path: Path) -> None:
    with cli(tmp_path) as zhika:
        ends = together(partial(zhika.run, "status", settings=settings) for settings in BAD_SETTINGS.values())

    for done, told in zip(ends, BAD_SETTINGS, strict=True):
        _fails(done, 78, told, "配置错误 bad configuration")
        assert "secret" not in done.stderr


def test_a_settings_file_that_is_not_toml_ends_with_78(tmp_path: Path) -> None:
    (tmp_path / "zhika.toml").write_text("[workers\n")
    with cli(tmp_path) as zhika:
        _fails(zhika.run("status"), 78, "zhika.toml")


def test_a_database_that_is_down_ends_with_69_and_tells_no_password(tmp_path: Path) -> None:
    with cli(tmp_path, ZHIKA_DATABASE__URL=f"postgresql://zhika:secret@127.0.0.1:{free_port()}/zhika") as zhika:
        done = zhika.run("application", "list")

    _fails(done, 69, "service unavailable")
    assert "secret" not in done.stderr


def test_what_does_not_exist_ends_with_3(line: Line) -> None:
    unknown = [
        ("application", "show", "app_00000000000000000000000000"),
        ("application", "cancel", "app_00000000000000000000000000", "--reason", "x"),
        ("batch", "show", "bat_00000000000000000000000000"),
        ("bundle", "ship", "bdl_00000000000000000000000000"),
        ("outlet", "notice", "crd_00000000000000000000000000", "--outlet", "out_42010601"),
        ("stage", "pause", "polishing", "--reason", "x"),
    ]
    for done in together(partial(line.zhika.run, *arguments) for arguments in unknown):
        _fails(done, 3, " / no such ")


def test_a_number_that_was_typed_is_not_repeated(line: Line) -> None:
    done = line.zhika.run("application", "show", NUMBER)

    _fails(done, 3, "not-found")
    assert NUMBER not in done.stderr


def test_a_missing_file_ends_with_1_and_is_named(line: Line) -> None:
    _fails(line.zhika.run("batch", "upload", "nowhere.zip"), 1, "nowhere.zip")


def test_a_second_engine_on_the_same_sqlite_file_ends_with_75_and_does_the_first_no_harm(line: Line) -> None:
    first = (line.zhika.directory / "ready").read_text()
    done = line.zhika.run("up", "--ready-file", "ready", "--bank-bind", f"127.0.0.1:{free_port()}")

    _fails(done, 75, "database-in-use", "zhika down")
    assert (line.zhika.directory / "ready").read_text() == first
    assert line.status()["ready"]


# ------------------------------------------------------------------------------------------------------------ bad files


def _zip(**entries: bytes) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "."), data)
    return kept.getvalue()


_SHEET = f"姓名,证件号码\n{NAME},{NUMBER}\n".encode()
BAD_FILES = {
    "empty.zip": b"",
    "text.zip": f"{NAME},{NUMBER}\n".encode() * 50,
    "cut.zip": _zip(applications__csv=_SHEET * 100)[:-40],
    "no-sheet.zip": _zip(**{f"photos/{NUMBER}.jpg": b"x"}),
    "columns.csv": _SHEET,
    "picture.xlsx": b"\x89PNG\r\n\x1a\n" + NUMBER.encode(),
    "bomb.zip": _zip(applications__csv=b"\0" * 40_000_000),
}


def test_a_file_that_cannot_be_taken_ends_with_4_says_why_twice_and_repeats_nothing(line: Line) -> None:
    for name, data in BAD_FILES.items():
        (line.zhika.directory / name).write_bytes(data)
    for done in together(partial(line.zhika.run, "batch", "upload", name) for name in BAD_FILES):
        _fails(done, 4, " / ")
        zh, _, en = done.stderr.partition(" / ")
        assert any("\u4e00" <= char <= "\u9fff" for char in zh)
        assert en.isascii()
        assert given_away((NAME, NUMBER), done.stderr) == 0


# ---------------------------------------------------------------------------------------------------------------- JSON


def test_a_batch_tells_what_became_of_each_row(line: Line) -> None:
    told = line.uploaded

    assert {"batch_id", "new", "rows", "accepted", "rejected", "duplicate", "faults"} <= set(told)
    assert told["batch_id"].startswith("bat_")
    assert told["new"] is True
    assert told["rows"] == told["accepted"] + told["rejected"] + told["duplicate"]
    assert told["rejected"] > 0
    assert told["duplicate"] == 1
    assert len({fault["row"] for fault in told["faults"]}) == told["rejected"] + told["duplicate"]
    for fault in told["faults"]:
        assert set(fault) == {"row", "column", "code", "zh", "en"}
        assert fault["code"]
        assert fault["zh"]
        assert fault["en"]
    assert zipfile.is_zipfile(line.zhika.directory / "wrong.xlsx")
    shown = line.zhika.json("batch", "show", told["batch_id"])
    assert [shown[key] for key in ("rows", "accepted", "rejected", "duplicate")] == [
        told[key] for key in ("rows", "accepted", "rejected", "duplicate")
    ]


def test_the_same_file_is_the_same_batch(line: Line) -> None:
    before = line.ids()
    batches = line.zhika.lines("batch", "list")
    again = line.zhika.json("batch", "upload", line.file, "--source", "wuhan", "--json", code=5)

    assert again == {**line.uploaded, "new": False}
    assert line.ids() == before
    assert line.zhika.lines("batch", "list") == batches
    assert [row["id"] for row in batches] == [again["batch_id"]]  # refused files left none


def test_status_tells_roles_stages_stock_and_bank(line: Line) -> None:
    told = line.status()

    assert {
        "mode",
        "version",
        "at",
        "ready",
        "roles",
        "stages",
        "applications",
        "deadlines",
        "encoders",
        "blanks",
        "bank",
        "outbox",
    } <= set(told)
    assert (told["mode"], told["ready"]) == ("embedded", True)
    assert told["roles"]
    assert all(set(role) >= {"role", "up", "since", "pid"} and role["up"] for role in told["roles"])
    assert {row["stage"] for row in told["stages"]} == set(STAGES)
    for row in told["stages"]:
        assert set(row) >= {"stage", "lane", "ready", "running", "waiting", "held", "oldest_s", "paused"}
    assert set(told["applications"]) <= set(STATUSES)
    assert sum(told["applications"].values()) == len(line.ids())
    assert set(told["deadlines"]) == {"in_time", "late"}
    assert all(set(row) == {"type", "location", "stocked", "days_left", "states"} for row in told["blanks"])
    assert sum(sum(row["states"].values()) for row in told["blanks"]) == 200
    assert set(told["bank"]) == {"pending", "unknown", "done"}
    assert told["bank"]["done"] >= 12
    assert set(told["outbox"]) == {"rows", "lag_s"}
    assert datetime.fromisoformat(told["at"]).utcoffset() is not None


def test_an_application_is_found_by_each_of_its_names_masked_and_with_its_way(line: Line) -> None:
    application_id = line.ids("--status", "dispatch", "--limit", "1")[0]
    told = line.zhika.json("application", "show", application_id, "-o", "json")

    for name in ("acceptance_no", "external_ref"):
        assert line.zhika.json("application", "show", told[name], "--json") == told
    keys = {
        "id",
        "external_ref",
        "acceptance_no",
        "kind",
        "priority",
        "lane",
        "region",
        "outlet",
        "person",
        "status",
        "stage",
    }
    keys |= {
        "public_status",
        "attempts",
        "received_at",
        "due_at",
        "collect_by",
        "reasons",
        "card",
        "timeline",
        "custody",
        "version",
    }
    assert keys <= set(told)
    assert (told["id"], told["status"]) == (application_id, "dispatch")
    assert set(told["public_status"]) == {"code", "zh", "en"}
    assert "*" in told["person"]["name"]
    assert "*" in told["person"]["id_number"]
    assert told["card"]["serial"].startswith("5A")
    way = [step["to"] for step in told["timeline"]]
    assert list(dict.fromkeys(way)) == ["received", "validation", "photo", "account", "personalisation", "dispatch"]
    assert set(told["timeline"][0]) >= {"at", "from", "to", "stage", "outcome", "why", "attempt", "actor"}


def test_an_application_sent_back_tells_its_reasons(line: Line) -> None:
    [application_id, *_] = line.ids("--status", "awaiting_correction")
    told = line.zhika.json("application", "show", application_id, "--json")

    assert told["reasons"]
    assert all(reason["code"] and reason["zh"] and reason["en"] for reason in told["reasons"])


def test_the_audit_chain_holds(line: Line) -> None:
    told = line.zhika.json("audit", "verify")

    assert set(told) == {"ok", "rows", "unsealed", "broken_at"}
    assert (told["ok"], told["broken_at"]) == (True, None)
    assert told["rows"] > 0


def test_tables_are_plain_text_off_a_terminal(line: Line) -> None:
    commands = (["status"], ["custody", "balance"], ["application", "show", *line.ids("--limit", "1")])
    for done in together(partial(line.zhika.run, *command) for command in commands):
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) > 3
        assert "\x1b" not in done.stdout


def test_help_is_data(line: Line) -> None:
    done = line.zhika.run("--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("demo", "up", "down", "status", "application", "batch"))


# -------------------------------------------------------------------------------------------------------------- custody


def test_a_card_goes_from_the_bundle_into_the_right_hand(line: Line) -> None:
    zhika = line.zhika
    bundle = zhika.lines("bundle", "list", "--status", "packing")[0]
    seal = zhika.run("bundle", "seal", bundle["id"]).stdout.strip()
    receive = ("bundle", "receive", bundle["id"], "--outlet", bundle["outlet"], "--seal")
    _fails(zhika.run(*receive, seal), 4, "wrong-state")
    cards = int(zhika.run("bundle", "ship", bundle["id"]).stdout)
    _fails(zhika.run(*receive, "X"), 4, "seal-mismatch")
    receipt = zhika.json(*receive, seal)
    assert (len(receipt["received"]), receipt["missing"], receipt["status"]) == (cards, [], "received")

    waiting = zhika.lines("outlet", "ready", bundle["outlet"])
    card = next(row for row in waiting if row["card"] in receipt["received"])
    told = zhika.json("outlet", "notice", card["card"], "--outlet", bundle["outlet"])
    assert set(told) == {"collect_by"}

    serial, proof = card["blank_serial"], ("--document-number-file", "-")
    hand_over = partial(zhika.run, "outlet", "hand-over", card["card"], "--outlet", bundle["outlet"], "--serial")
    strange, silent, blank, odd = together(
        (
            partial(hand_over, "WRONG", *proof, stdin=NUMBER),
            partial(hand_over, serial),
            partial(hand_over, serial, *proof, stdin=" \n"),
            partial(hand_over, serial, *proof, "--by", "neighbour", stdin=NUMBER),
        )
    )
    _fails(strange, 4, "serial-mismatch", "手中的卡")
    _fails(silent, 2, "--document-number-file")
    _fails(blank, 2, "--document-number-file")
    _fails(odd, 2, "--by")
    _fails(hand_over(serial, *proof, "--fee-receipt", "R-1", stdin=NUMBER), 4, "not-the-holder")
    own = line.number_of(card["application"])
    done = hand_over(serial, *proof, "--fee-receipt", "R-1", stdin=f"{own}\n")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert set(json.loads(done.stdout)) == {"id"}
    _fails(hand_over(serial, *proof, stdin=own), 4, "already-collected")

    assert zhika.json("application", "show", card["application"], "--json")["status"] == "collected"
    balance = zhika.json("custody", "balance", "-o", "json")
    assert set(balance) == {"balanced", "places", "by_events", "total", "produced"}
    assert balance["balanced"] is True
    assert balance["places"] == balance["by_events"]
    assert balance["places"]["holder"] == 1
    assert sum(balance["places"].values()) == balance["total"] == balance["produced"]


# ------------------------------------------------------------------------------------------------------------ operating


def test_a_paused_stage_begins_nothing_and_goes_on_when_it_is_resumed(line: Line) -> None:
    zhika = line.zhika
    assert zhika.run("stage", "pause", "account", "--reason", "the bank asked for it").returncode == 0
    made = zhika.run("simulate", "intake", "more", "--applications", "5", "--region", "dalian", "--seed", "3")
    uploaded = zhika.json("batch", "upload", made.stdout.strip(), "--json", code=5)
    ids = set(line.ids()[-uploaded["accepted"] :])

    wait_until(lambda: _wait_at(line.status(), "account") >= 5, timeout_s=30, told=zhika.said)
    before = line.status()
    time.sleep(2)  # four polls of the relay
    told = line.status()
    assert all(row["paused"] == (row["stage"] == "account") for row in told["stages"])
    assert _wait_at(told, "account") == told["applications"]["account"] >= 5
    assert told["bank"] == before["bank"]

    assert zhika.run("stage", "resume", "account").returncode == 0
    wait_until(line.at_rest, timeout_s=30, told=zhika.said)
    made_now = {i for status in ("dispatch", "personalisation") for i in line.ids("--status", status)} & ids
    assert len(made_now) == 5


def _wait_at(told: Any, stage: str) -> int:
    """How many stand ready before a stage; 0 as long as others are still on their way."""
    moving = any(row["running"] or (row["ready"] and row["stage"] != stage) for row in told["stages"])
    return 0 if moving else sum(row["ready"] for row in told["stages"] if row["stage"] == stage)


def test_events_are_cloud_events_in_order_without_anybodys_data(line: Line) -> None:
    boxes = [bundle["id"] for bundle in line.zhika.lines("bundle", "list", "--status", "packing")[:2]]
    for box in boxes:
        line.zhika.run("bundle", "seal", box)
        line.zhika.run("bundle", "ship", box)

    def told() -> set[str]:
        return {event["subject"] for event in line.zhika.lines("event", "tail", "--limit", "1000")}

    wait_until(lambda: told() >= set(boxes), timeout_s=30)  # an event has its place a moment after its commit
    done = line.zhika.run("event", "tail", "--limit", "1000")
    events = [json.loads(row) for row in done.stdout.splitlines()]

    assert done.returncode == 0
    assert len(events) >= 2
    for event in events:
        assert event["specversion"] == "1.0"
        assert {"id", "type", "source", "subject", "time", "datacontenttype", "data"} <= set(event)
    assert len({event["id"] for event in events}) == len(events)
    assert given_away(personal_values([line.file]), done.stdout) == 0
    cursor = done.stderr.removeprefix("next: ").strip()
    assert line.zhika.run("event", "tail", "--after", cursor).stdout == ""
    half = line.zhika.lines("event", "tail", "--limit", str(len(events) // 2))
    assert half == events[: len(events) // 2]


def test_nobodys_data_is_in_anything_that_was_said(line: Line) -> None:
    """Last of all: by now every command above has spoken."""
    files = sorted(line.zhika.directory.glob("*/*.zip"))
    values = personal_values(files)
    said = line.zhika.said()

    assert len(values) > 40
    assert "worker ready" in line.zhika.log.read_text()
    assert "app_" in said
    assert given_away(values | {NAME, NUMBER}, said) == 0
    for row in line.zhika.log.read_text().splitlines():
        assert json.loads(row)["level"] in ("info", "warning")
