"""Encoders: what a station says of its readers is what operators see, and what operators ask goes back with the next report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import func, select

from card_personalization.errors import CardLost
from card_personalization.journal import Journal
from card_personalization.keys.software import SoftwareKeys
from card_personalization.pool import ReaderState
from card_personalization.readers import VirtualReader
from card_personalization.transport.base import CardConnection
from config.settings import OnlyGiven, load
from config.wiring import Installation
from pipeline.application import Submission
from pipeline.errors import NotFound, Refused, TransientError
from pipeline.gateways.encoder import LocalEncoder, open_simulated
from pipeline.services import encoders
from pipeline.services.context import Context
from pipeline.services.encoders import Encoder, ReaderReport
from pipeline.store import tables as t
from pipeline.store.engine import Store, Tx
from workers import heartbeat
from workers.app import worker
from workers.broker import InProcessBroker

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


STOPPED = replace(IDLE, state="awaiting_authorisation", last_error="key refused")


def test_a_station_that_stops_is_drained_until_an_operator_lets_it_run_again(line: Line) -> None:
    encoders.report(line.context, "enc_1", [BUSY, IDLE])
    encoders.report(line.context, "enc_2", [IDLE])
    stopped = [replace(STOPPED, reader=reader.reader) for reader in (BUSY, IDLE)]
    for _ in range(2):
        assert set(encoders.report(line.context, "enc_1", stopped).values()) == {"drain"}
    assert encoders.report(line.context, "enc_2", [IDLE]) == {IDLE.reader: "run"}
    assert [(e.state, e.wanted, e.last_error) for e in seen(line)][:2] == [
        ("awaiting_authorisation", "drain", "key refused")
    ] * 2
    encoders.want(line.context, "enc_1", "run", reason="the right keys", actor="op")
    assert set(encoders.report(line.context, "enc_1", stopped).values()) == {"run"}
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(
            select(t.audit.c.actor, t.audit.c.action, t.audit.c.detail).where(t.audit.c.action.like("encoder.%"))
        ).all()
    assert [(row.actor, row.action, row.detail["reason"]) for row in rows] == [
        ("enc_1", "encoder.stop", "key refused"),
        ("op", "encoder.resume", "the right keys"),
    ]


def test_a_station_that_stops_at_its_first_word_or_again_after_it_went_on_is_not_taken_for_authorised(
    line: Line,
) -> None:
    assert encoders.report(line.context, "enc_1", [STOPPED]) == {IDLE.reader: "drain"}
    encoders.want(line.context, "enc_1", "run", reason="mended", actor="op")
    assert encoders.report(line.context, "enc_1", [IDLE]) == {IDLE.reader: "run"}
    assert encoders.report(line.context, "enc_1", [STOPPED]) == {IDLE.reader: "drain"}


@dataclass
class Beating:
    """As much of an installation as a heartbeat needs."""

    context: Context
    encoder: LocalEncoder


def test_the_heartbeat_tells_of_a_stop_drains_the_readers_and_lets_an_authorised_station_go_on(
    line: Line, tmp_path: Path
) -> None:
    def dead(serial: str) -> CardConnection:
        raise CardLost("no answer")

    def station() -> LocalEncoder:
        return LocalEncoder(
            "enc_1",
            readers=[VirtualReader(f"r{n}", dead) for n in (1, 2)],
            keys=SoftwareKeys.demo(),
            journal_dir=tmp_path / "journal",
            halt_file=tmp_path / "stopped",
            profiles={},
        )

    def beat(encoder: LocalEncoder) -> set[tuple[str, str, bool]]:
        heartbeat.beat(cast(Installation, Beating(line.context, encoder)))
        return {(e.state, e.wanted, "zhika encoder resume enc_1" in str(e.last_error)) for e in seen(line)}

    (tmp_path / "stopped").write_text("keys → zhika encoder resume enc_1")
    with station() as encoder:
        for _ in range(2):
            assert beat(encoder) == {("awaiting_authorisation", "drain", True)}
        assert {reader.state for reader in encoder.status()} == {ReaderState.DRAINED}
        assert encoder.stopped
    encoders.want(line.context, "enc_1", "run", reason="the right keys", actor="op")
    with station() as encoder:  # nobody was there when the operator said so
        assert encoder.loaded() == ()
        beat(encoder)
        assert (encoder.stopped, encoder.loaded()) == (None, None)
        [(state, wanted, _)] = beat(encoder)
        assert (state, wanted) == ("idle", "run")
        assert not (tmp_path / "stopped").exists()


class Away:
    """A database that does not answer."""

    def transaction(self, *, hint: bool = False) -> AbstractContextManager[Tx]:
        raise TransientError


def test_a_heartbeat_that_finds_no_database_leaves_a_stopped_station_stopped(line: Line, tmp_path: Path) -> None:
    (tmp_path / "stopped").touch()
    away = replace(line.context, store=cast(Store, Away()))
    with open_simulated(tmp_path, "enc_1", profiles={}) as encoder:
        heartbeat.beat(cast(Installation, Beating(away, encoder)))
        assert (encoder.stopped, encoder.loaded()) == ("", ())


def test_a_worker_says_once_at_its_start_what_its_station_left_open_and_why_it_has_stopped(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "data" / "encoders" / "enc_1"
    journal = Journal(directory / "journal")
    begun = journal.begin(journal.history("B1"), order_id="app_1", chip="3B", plan_digest="d")
    begun.sending("UPDATE RECORD 1")
    begun.close()
    (directory / "stopped").write_text("keys refused")
    settings = load(OnlyGiven, env="test", data_dir=tmp_path / "data", database={"url": sqlite_url})
    installation = Installation(settings)
    try:
        with (
            caplog.at_level(logging.INFO, "zhika.worker"),
            worker(installation, ["personalisation"], broker=InProcessBroker()),
        ):
            pass
    finally:
        installation.close()
    said = [record.getMessage() for record in caplog.records if "enc_1" in record.getMessage()]
    assert said == [
        "station enc_1: 1 cards were begun and have no end in the journal",
        "station enc_1 has stopped: keys refused",
    ]


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
