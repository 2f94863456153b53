"""Encoders: what a station says of its readers is what operators see, and what operators ask goes back with the next report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from pipeline.application import Submission
from pipeline.errors import NotFound, Refused
from pipeline.services import encoders
from pipeline.services.encoders import Encoder, ReaderReport
from pipeline.store import tables as t

from .conftest import START, Line

BUSY = ReaderReport(
    reader="Encoder 0 00 00",
    state="busy",
    application_id="app_1",
    cards=10,
    good=8,
    spoiled=1,
    unknown=1,
    cards_per_hour=240,
    last_error="6581",
)
IDLE = ReaderReport(reader="Encoder 0 00 01", state="idle")


def seen(line: Line) -> list[Encoder]:
    with line.context.store.transaction() as tx:
        return list(encoders.listing(tx, now=line.clock.now()))


def test_a_report_is_what_operators_see(line: Line) -> None:
    assert encoders.report(line.context, "enc_1", [BUSY, IDLE]) == {BUSY.reader: "run", IDLE.reader: "run"}
    busy, idle = seen(line)
    assert (busy.id, busy.state, busy.application_id) == ("enc_1/Encoder 0 00 00", "busy", "app_1")
    assert (busy.cards, busy.good_share, busy.cards_per_hour, busy.last_error) == (10, 0.8, 240, "6581")
    assert START <= busy.heartbeat_at <= line.clock.now()
    assert (idle.state, idle.good_share, idle.last_card_at) == ("idle", None, None)


def test_the_next_report_takes_the_place_of_the_last_and_a_lost_reader_is_not_forgotten(line: Line) -> None:
    encoders.report(line.context, "enc_1", [BUSY, IDLE])
    line.clock.advance(encoders.OFFLINE_AFTER * 2)
    before = seen(line)[0].last_card_at
    now = line.clock.now()
    told = ReaderReport(reader=BUSY.reader, state="idle", cards=11, good=9, spoiled=1, unknown=1)
    encoders.report(line.context, "enc_1", [told])
    busy, idle = seen(line)
    assert (busy.state, busy.application_id, busy.cards) == ("idle", None, 11)
    assert before is not None
    assert busy.last_card_at is not None
    assert before < now <= busy.last_card_at
    encoders.report(line.context, "enc_1", [told])
    assert seen(line)[0].last_card_at == busy.last_card_at
    encoders.report(line.context, "enc_1", [replace(told, cards=0)])  # the station's process began anew
    assert seen(line)[0].last_card_at == busy.last_card_at
    assert (busy.last_error, busy.cards_per_hour) == (None, 0)
    assert idle.state == "offline"


def test_a_silent_station_is_offline_and_what_it_had_in_hand_stays_known(line: Line) -> None:
    encoders.report(line.context, "enc_1", [BUSY])
    line.clock.advance(encoders.OFFLINE_AFTER / 2)
    assert [e.state for e in seen(line)] == ["busy"]
    line.clock.advance(encoders.OFFLINE_AFTER / 2)
    assert [(e.state, e.application_id, e.cards_per_hour) for e in seen(line)] == [("offline", "app_1", 0)]


def test_a_station_learns_what_is_wanted_with_its_next_report_and_remembers_it(line: Line) -> None:
    for station in ("enc_1", "enc_2"):
        encoders.report(line.context, station, [BUSY, IDLE])
    asked = encoders.want(line.context, "enc_1/Encoder 0 00 01", "drain", reason="noise", actor="op")
    assert asked == ("enc_1/Encoder 0 00 01",)
    assert encoders.report(line.context, "enc_1", [BUSY, IDLE]) == {BUSY.reader: "run", IDLE.reader: "drain"}
    assert encoders.want(line.context, "enc_1", "drain", reason="noise", actor="op") == (
        "enc_1/Encoder 0 00 00",
        "enc_1/Encoder 0 00 01",
    )
    assert set(encoders.report(line.context, "enc_1", [BUSY, IDLE]).values()) == {"drain"}
    assert set(encoders.report(line.context, "enc_2", [BUSY, IDLE]).values()) == {"run"}
    encoders.want(line.context, "enc_1", "run", reason="mended", actor="op")
    assert set(encoders.report(line.context, "enc_1", [BUSY, IDLE]).values()) == {"run"}
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(
            select(t.audit.c.action, func.count()).where(t.audit.c.action.like("encoder.%")).group_by(t.audit.c.action)
        )
        assert {tuple(row) for row in rows} == {("encoder.drain", 2), ("encoder.resume", 1)}


def test_an_encoder_nobody_knows_and_a_wish_without_reason_are_refused(line: Line) -> None:
    encoders.report(line.context, "enc_1", [BUSY])
    for name in ("enc_9", "Encoder 0 00 00", "enc_1/"):
        with pytest.raises(NotFound):
            encoders.want(line.context, name, "drain", reason="r", actor="op")
        with line.context.store.transaction() as tx, pytest.raises(NotFound):
            encoders.of(tx, name, now=line.clock.now())
    with pytest.raises(Refused):
        encoders.want(line.context, "enc_1", "drain", reason=" ", actor="op")
    assert [e.wanted for e in seen(line)] == ["run"]


def test_a_station_without_readers_says_nothing(line: Line) -> None:
    assert encoders.report(line.context, "enc_1", []) == {}
    assert seen(line) == []


def test_the_stations_cards_of_the_last_hour_are_those_of_the_ledger(
    line: Line, submission: Callable[..., Submission]
) -> None:
    line.accept(*(submission(n) for n in range(1, 4)))
    line.run()
    told: Any = [IDLE]
    encoders.report(line.context, "enc_1", told)
    encoders.report(line.context, "enc_2", told)
    assert {e.station: e.station_cards_last_hour for e in seen(line)} == {"enc_1": 3, "enc_2": 0}
    line.clock.advance(encoders.HOUR * 1.1)
    assert {e.station_cards_last_hour for e in seen(line)} == {0}
