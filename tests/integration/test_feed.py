"""The pull feed: in order, without a gap, from where a reader stopped, however long it was away."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from config import logs
from pipeline.errors import Refused
from pipeline.events import Event
from pipeline.services import feed, sweep
from pipeline.store import outbox
from producers.cli.main import app
from tests.conftest import MASTER

OURS, OTHERS = "out_42010601", "out_42010602"


def tell(line: Any, *subjects: str, outlet: str | None = OURS, kind: str = "card.ready", placed: bool = True) -> None:
    events = [Event(type=kind, subject=s, region="420100", sequence=1, outlet=outlet) for s in subjects]
    with line.context.store.transaction() as tx:
        outbox.append(tx, events, now=line.clock.now())
    if placed:
        sweep.place_events(line.context)


def read(line: Any, after: str | int | None = None, **asked: Any) -> tuple[list[str], str]:
    page = feed.read(line.context, **{"outlet": OURS, "after": after, **asked})
    return [event.subject for event in page.events], page.cursor


def test_an_outlet_that_was_down_for_days_reads_all_it_missed_in_order(line: Any) -> None:
    tell(line, "before")
    seen, cursor = read(line)
    assert seen == ["before"]
    for day in range(7):
        line.clock.advance(timedelta(days=1))
        tell(line, f"{day} a", f"{day} b")
        tell(line, "another's", outlet=OTHERS)
        tell(line, "nobody's", outlet=None)
    missed: list[str] = []
    while True:
        page, cursor = read(line, cursor, limit=3)
        if not page:
            break
        missed += page
    assert missed == [f"{day} {part}" for day in range(7) for part in "ab"]


def test_a_reader_may_ask_for_some_types(line: Any) -> None:
    tell(line, "a")
    tell(line, "b", kind="card.recalled")
    tell(line, "c", kind="bundle.shipped")
    assert read(line, types=["card.recalled", "bundle.shipped"])[0] == ["b", "c"]


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_cursor_comes_back_as_its_place(position: int) -> None:
    assert feed.position_of(feed.cursor_of(position)) == position


@given(st.integers(min_value=0, max_value=2**40), st.data())
def test_a_mistyped_cursor_is_noticed(position: int, data: st.DataObject) -> None:
    good = feed.cursor_of(position)
    at = data.draw(st.integers(min_value=0, max_value=len(good) - 1))
    wrong = data.draw(st.characters(codec="ascii").filter(lambda c: c != good[at]))
    with pytest.raises(Refused) as refused:
        feed.position_of(good[:at] + wrong + good[at + 1 :])
    assert refused.value.reason_code == "bad-cursor"


@given(st.text(max_size=40))
def test_what_is_no_cursor_is_refused_as_one(text: str) -> None:
    with pytest.raises(Refused) as refused:
        feed.position_of(text)
    assert refused.value.reason_code == "bad-cursor"


@pytest.mark.parametrize("after", [2**63, -1, feed.cursor_of(2**63)])
def test_a_place_that_no_feed_has_is_refused_as_no_cursor(line: Any, after: str | int) -> None:
    with pytest.raises(Refused) as refused:
        read(line, after=after)
    assert refused.value.reason_code == "bad-cursor"


def test_a_cursor_that_missed_events_of_long_ago_is_told_the_oldest_one(line: Any) -> None:
    tell(line, "read in time")
    _, cursor = read(line)
    tell(line, "missed")
    line.clock.advance(timedelta(days=31))
    tell(line, "new")
    with pytest.raises(Refused) as refused:
        read(line, cursor)
    assert refused.value.reason_code == "cursor-too-old"
    oldest = refused.value.en.split()[-1]
    assert refused.value.zh.endswith(oldest)
    assert read(line, oldest)[0] == ["new"]
    assert read(line)[0] == ["new"]
    assert read(line, 0)[0] == ["read in time", "missed", "new"]


def test_an_old_cursor_that_missed_nothing_goes_on(line: Any) -> None:
    tell(line, "only")
    _, cursor = read(line)
    line.clock.advance(timedelta(days=31))
    tell(line, "another's", outlet=OTHERS)
    line.clock.advance(timedelta(days=31))
    tell(line, "new")
    assert read(line, cursor)[0] == ["new"]


def test_a_waiting_reader_hears_of_the_next_event(line: Any) -> None:
    _, cursor = read(line)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(read(line, cursor, wait_s=30)[0]))
    reader.start()
    tell(line, "another's", outlet=OTHERS)
    tell(line, "ours")
    reader.join(25)
    assert not reader.is_alive()
    assert found == ["ours"]


def test_waiting_ends_without_an_event_and_keeps_the_cursor(line: Any) -> None:
    tell(line, "a")
    _, cursor = read(line)
    assert read(line, cursor, wait_s=0.05) == ([], cursor)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_an_event_that_commits_late_is_not_skipped(line: Any) -> None:
    event = Event(type="card.ready", subject="written first", region="420100", sequence=1, outlet=OURS)
    with line.context.store.transaction() as late:
        outbox.append(late, [event], now=line.clock.now())
        tell(line, "committed first")
        seen, cursor = read(line)
        assert seen == ["committed first"]
    sweep.place_events(line.context)
    assert read(line, cursor)[0] == ["written first"]


def test_the_command_reads_on_from_a_cursor_of_an_outlet_and_types(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.clock.advance(datetime.now(UTC) - line.clock.now())  # the command has the real clock
    tell(line, "a")
    tell(line, "b", kind="card.recalled")
    tell(line, "another's", outlet=OTHERS)
    monkeypatch.setenv("ZHIKA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ZHIKA_DATABASE__URL", line.context.store.url)
    key = tmp_path / "installation.key"
    key.write_bytes(MASTER)
    monkeypatch.setenv("ZHIKA_KEY_FILE", str(key))
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)  # the log of the tests stays as it is

    def tail(*options: str) -> tuple[list[str], str]:
        done = CliRunner().invoke(app, ["event", "tail", *options])
        assert done.exit_code == 0, done.output
        return [json.loads(row)["subject"] for row in done.stdout.splitlines()], done.stderr.split()[-1]

    assert tail("--after", "0")[0] == ["a", "b", "another's"]
    first, cursor = tail("--outlet", OURS, "--limit", "1")
    assert first == ["a"]
    assert tail("--outlet", OURS, "--after", cursor)[0] == ["b"]
    assert tail("--types", "card.recalled, card.ready", "--outlet", OTHERS)[0] == ["another's"]
