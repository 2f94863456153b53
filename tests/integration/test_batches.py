"""Batch files: each row once, wherever it is taken up again."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from config.policies import load_policies
from pipeline.identifiers import gb11643_check
from pipeline.store import tables as t
from producers import file_intake
from producers.file_intake import Taken, Watcher, take_file

POLICIES = load_policies()
STRETCH = 3
Sheet = Callable[..., Path]


def cells(n: int, **changes: str) -> dict[str, str]:
    first17 = f"999001{date(1990, 3, 7):%Y%m%d}{n:03d}"
    good = {
        "外部编号": f"R{n}",
        "姓名": "张三",
        "证件类型": "居民身份证",
        "证件号码": first17 + gb11643_check(first17),
        "手机号码": f"1380000{n:04d}",
        "人员类别": "城镇职工",
        "参保地": "武汉市武昌区",
    }
    return good | changes


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    """Writes rows as a CSV file."""

    def write(*rows: Mapping[str, str], name: str = "batch.csv") -> Path:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(cells(1)))
        writer.writeheader()
        writer.writerows(rows)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.getvalue(), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_intake, "STRETCH", STRETCH)


def take(line: Any, path: Path, **told: Any) -> Taken:
    return take_file(line.context, POLICIES, path, source="unit", **told)


def applications(line: Any) -> int:
    with line.context.store.transaction() as tx:
        return int(tx.conn.execute(select(func.count()).select_from(t.applications)).scalar_one())


def batch_row(line: Any) -> Any:
    with line.context.store.transaction() as tx:
        return tx.conn.execute(select(t.batches)).one()


def test_every_good_row_is_an_application_that_knows_its_row(line: Any, sheet: Sheet) -> None:
    taken = take(line, sheet(*(cells(n) for n in range(1, 9))))
    assert (taken.new, taken.rows, taken.accepted, taken.rejected, taken.duplicate) == (True, 8, 8, 0, 0)
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(select(t.submissions.c.batch_row).order_by(t.submissions.c.batch_row)).scalars().all()
    assert rows == list(range(2, 10))
    assert batch_row(line).status == "completed"


def test_the_same_file_again_is_the_same_batch_and_doubles_nothing(line: Any, sheet: Sheet) -> None:
    path = sheet(*(cells(n) for n in range(1, 6)), cells(6, 证件号码="999001199003070011"))
    first = take(line, path)
    again = take(line, path)
    assert (first.new, again.new) == (True, False)
    assert again.as_dict() == first.as_dict() | {"new": False}
    assert applications(line) == 5


def test_another_file_with_the_same_rows_counts_them_as_duplicates(line: Any, sheet: Sheet) -> None:
    take(line, sheet(*(cells(n) for n in range(1, 5))))
    taken = take(line, sheet(*(cells(n) for n in range(1, 6)), name="other.csv"))
    assert (taken.accepted, taken.duplicate, taken.rejected) == (1, 4, 0)


class Crash(Exception):
    """The process ends here."""


@pytest.mark.parametrize("stretches", [1, 2])
def test_after_a_crash_the_file_goes_on_where_it_stopped(line: Any, sheet: Sheet, stretches: int) -> None:
    rows = [cells(n) for n in range(1, 9)]
    rows[1] = cells(2, 手机号码="12")
    rows[6] = cells(1, 外部编号="R7")
    path = sheet(*rows)
    heard: list[int] = []

    def crash(done: int, _: int) -> None:
        heard.append(done)
        if len(heard) == stretches + 1:
            raise Crash

    with pytest.raises(Crash):
        take(line, path, progress=crash)
    assert heard == [STRETCH * n for n in range(stretches + 1)]
    assert batch_row(line).status == "processing"
    taken = take(line, path)
    assert (taken.new, taken.rows, taken.accepted, taken.rejected, taken.duplicate) == (False, 8, 6, 1, 1)
    assert applications(line) == 6
    assert batch_row(line).status == "completed"


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_two_processes_with_one_file_take_every_row_once(line: Any, sheet: Sheet, ahead: int) -> None:
    path = sheet(*(cells(n) for n in range(1, 12)))
    begun = False

    def rival_runs_ahead(done: int, _: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            with suppress(Crash):
                take(line, path, progress=stops_after(ahead))

    def stops_after(stretches: int) -> Callable[[int, int], None]:
        def stop(done: int, _: int) -> None:
            if done == STRETCH * stretches:
                raise Crash

        return stop

    taken = take(line, path, progress=rival_runs_ahead)
    assert (taken.rows, taken.accepted, taken.rejected, taken.duplicate) == (11, 11, 0, 0)
    assert applications(line) == 11


def test_every_bad_row_says_where_what_and_how_in_both_languages(line: Any, sheet: Sheet) -> None:
    bad = [
        cells(1, 姓名=""),
        cells(2, 证件号码="999001199003070011"),
        cells(3, 手机号码="12"),
        cells(4, 参保地="天上"),
        cells(5),
        cells(5, 外部编号="R6"),
        cells(7, 外部编号="R5"),
    ]
    taken = take(line, sheet(*bad))
    assert (taken.accepted, taken.rejected, taken.duplicate) == (1, 5, 1)
    by_row = {fault.row: fault for fault in taken.faults}
    assert sorted(by_row) == [2, 3, 4, 5, 7, 8]
    assert [by_row[n].column for n in (2, 3, 4, 5, 7, 8)] == [
        "姓名",
        "证件号码",
        "手机号码",
        "参保地",
        "证件号码",
        "外部编号",
    ]
    assert by_row[7].code == "duplicate-active-application"
    assert by_row[8].code == "external-ref-conflict"
    given = {value for row in bad for value in row.values() if len(value) > 5}
    for fault in taken.faults:
        assert fault.code and fault.zh and fault.en
        assert not any(value in fault.zh + fault.en for value in given)


def watched(line: Any, tmp_path: Path) -> Watcher:
    return Watcher(context=line.context, policies=POLICIES, directory=tmp_path / "intake", still_s=0.0)


def test_a_file_that_was_taken_lies_in_done_with_its_result_and_its_errors(
    line: Any, sheet: Sheet, tmp_path: Path
) -> None:
    path = sheet(cells(1), cells(2, 姓名=""), name="intake/unit/in/people.csv")
    watcher = watched(line, tmp_path)
    assert watcher.ripe() == [path]
    told = watcher.take(path)
    result = json.loads(told.read_text(encoding="utf-8"))
    assert (result["rows"], result["accepted"], result["rejected"]) == (2, 1, 1)
    assert sorted(p.name for p in told.parent.iterdir()) == [
        "people.csv", "people.csv.errors.xlsx", "people.csv.result.json",
    ]  # fmt: skip
    assert watcher.ripe() == []


def test_a_file_that_cannot_be_taken_lies_in_errors_with_the_reason(line: Any, tmp_path: Path) -> None:
    path = tmp_path / "intake/unit/in/strange.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\x03\x04 not really")
    told = watched(line, tmp_path).take(path)
    assert told.parent.name == "errors"
    assert set(json.loads(told.read_text(encoding="utf-8"))) == {"code", "zh", "en"}
    assert applications(line) == 0


def test_a_file_still_being_written_is_left_alone(line: Any, sheet: Sheet, tmp_path: Path) -> None:
    path = sheet(cells(1), name="intake/unit/in/people.csv")
    hidden = sheet(cells(1), name="intake/unit/in/.people.csv.part")
    watcher = Watcher(context=line.context, policies=POLICIES, directory=tmp_path / "intake", still_s=60.0)
    assert watcher.ripe() == []
    for item in (path, hidden):
        old = item.stat().st_mtime - 120
        os.utime(item, (old, old))
    assert watcher.ripe() == [path]
