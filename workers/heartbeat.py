"""The heartbeat of a station: how its readers do goes to the database, and what operators want of them comes back.

A station that has stopped says why, and goes on when an operator wants a reader of it to run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from card_personalization.pool import ReaderState, ReaderStatus
from config.wiring import Installation
from pipeline.errors import ZhikaError
from pipeline.services import encoders
from pipeline.services.encoders import ReaderReport

log = logging.getLogger("zhika.encoder")
EVERY_S = 1.5

_STATES: Mapping[ReaderState, encoders.ReaderState] = {
    ReaderState.EMPTY: "idle",
    ReaderState.LOADED: "idle",
    ReaderState.WAITING_REMOVAL: "idle",
    ReaderState.WORKING: "busy",
    ReaderState.BUSY: "faulted",
    ReaderState.HUNG: "faulted",
    ReaderState.DOWN: "faulted",
    ReaderState.DRAINING: "draining",
    ReaderState.DRAINED: "paused",
}


def run(installation: Installation, stopping: threading.Event) -> None:
    """Beat until `stopping`, once more at the end; a database that is away costs beats only."""
    while not stopping.wait(EVERY_S):
        beat(installation)
    beat(installation)


def beat(installation: Installation) -> None:
    """One report, and the orders that came back with it."""
    encoder = installation.encoder
    readers = encoder.status()
    try:
        wanted = _told(installation, readers, stopped := encoder.stopped)
        if stopped is not None and "run" in wanted.values():
            # The database hears of it first: what it still calls stopped when the station stops anew would pass for authorised.
            wanted = _told(installation, readers, None)
            encoder.authorise()
            log.warning("station %s was authorised and goes on", encoder.station)
    except (ZhikaError, OSError) as error:
        log.warning("the state of the readers could not be told: %s", error)
        return
    for reader in readers:
        draining = reader.state in (ReaderState.DRAINING, ReaderState.DRAINED)
        if (wanted.get(reader.reader) == "drain") is not draining:
            encoder.drain(reader.reader, draining=not draining)


def _told(
    installation: Installation, readers: Sequence[ReaderStatus], stopped: str | None
) -> Mapping[str, encoders.Wanted]:
    encoder = installation.encoder
    reports = [_report(reader, encoder.in_hand(reader.serial), stopped) for reader in readers]
    return encoders.report(installation.context, encoder.station, reports)


def _report(status: ReaderStatus, application_id: str | None, stopped: str | None) -> ReaderReport:
    return ReaderReport(
        reader=status.reader,
        state=_STATES[status.state] if stopped is None else encoders.STOPPED,
        application_id=application_id,
        cards=status.cards,
        good=status.good,
        spoiled=status.spoiled,
        unknown=status.unknown,
        cards_per_hour=round(status.cards_per_hour or 0),
        last_error=stopped or status.last_error,
        detail=status.state.value,
    )
