"""Encoders (写卡机): a station's process says how its readers do; operators look, and ask them to drain or to go on.

What is asked travels back with the next report, so an operator needs no way to the station's machine. So does the word that lets
a station go on which has stopped by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from pipeline.errors import NotFound, Refused
from pipeline.services.context import Context
from pipeline.store import audit, encoders, stock
from pipeline.store.engine import Tx
from pipeline.store.types import Record

ReaderState = Literal["idle", "busy", "paused", "draining", "faulted", "maintenance", "awaiting_authorisation"]
Wanted = Literal["run", "drain"]
STOPPED: ReaderState = "awaiting_authorisation"
STATES = (*get_args(ReaderState), "offline")
"""Every state an operator can see."""

OFFLINE_AFTER = timedelta(seconds=10)
"""A reader whose station said nothing for so long is offline: several reports, which come every second or two, were lost."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderReport:
    """One reader, as its station's process sees it; the counts are those since that process began."""

    reader: str
    state: ReaderState
    application_id: str | None = None
    cards: int = 0
    good: int = 0
    spoiled: int = 0
    unknown: int = 0
    cards_per_hour: int = 0
    last_error: str | None = None
    detail: str | None = None
    """What the reader waits for, in the station's own words: `empty`, `loaded`, `waiting-removal`, …"""


def report(context: Context, station: str, readers: Sequence[ReaderReport]) -> Mapping[str, Wanted]:
    """Say how a station's readers do; returns what is wanted of each reader.

    A station that has stopped says so by readers that await authorisation: the first time it is wanted of all its readers that
    they drain, until an operator wants them to run.

    Raises:
        TransientError: the database is away; the next report says it again.
    """
    if not readers:
        return {}
    now = context.now()
    stopped = {reader.reader: reader.last_error for reader in readers if reader.state == STOPPED}
    with context.store.transaction(hint=not stopped) as tx:
        new = stopped.keys() - encoders.in_state(tx, station, STOPPED) if stopped else set()
        told = encoders.tell(tx, station, [asdict(reader) for reader in readers], now=now)
        if new:
            encoders.want(tx, station, "drain")
            told = dict.fromkeys(told, "drain")
            detail = {"reason": stopped[min(new)], "readers": sorted(new)}
            audit.append(tx, actor=station, action="encoder.stop", target=station, now=now, detail=detail)
    return {reader: "drain" if wanted == "drain" else "run" for reader, wanted in told.items()}


def want(context: Context, name: str, wanted: Wanted, *, reason: str, actor: str) -> tuple[str, ...]:
    """Let a reader, or all readers of a station, end after the card in hand (`drain`), or go on (`run`). Returns their ids.

    `run` authorises a station that has stopped by itself.

    Raises:
        NotFound: no such reader or station.
        Refused: no reason.
    """
    if not reason.strip():
        raise Refused("须写明原因", "give the reason", code="required")
    now = context.now()
    with context.store.transaction() as tx:
        asked = [f"{station}/{reader}" for station, reader in encoders.want(tx, name, wanted)]
        if not asked:
            raise NotFound(f"没有写卡机 {name}", f"no such encoder: {name}")
        action = "encoder.drain" if wanted == "drain" else "encoder.resume"
        detail = {"reason": reason.strip(), "readers": asked}
        audit.append(tx, actor=actor, action=action, target=name, now=now, detail=detail)
    return tuple(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """One reader, as an operator sees it; of one that is offline `application_id` is what it had in hand when it was last heard of.

    `station_cards_last_hour`: cards of the whole station, from the ledger of blanks.
    """

    id: str
    station: str
    reader: str
    state: str
    wanted: str
    application_id: str | None
    cards: int
    good: int
    spoiled: int
    unknown: int
    cards_per_hour: int
    station_cards_last_hour: int
    last_error: str | None
    detail: str | None
    last_card_at: datetime | None
    heartbeat_at: datetime

    @property
    def good_share(self) -> float | None:
        """Good cards of all that were ended, 0 to 1; None before the first."""
        ended = self.good + self.spoiled + self.unknown
        return round(self.good / ended, 4) if ended else None


def listing(tx: Tx, *, now: datetime) -> tuple[Encoder, ...]:
    """Every reader; one whose station is silent is `offline`, whatever it said last."""
    made = stock.cards_since(tx, now - HOUR)
    return tuple(_seen(row, made.get(row.station, 0), now) for row in encoders.listing(tx))


def of(tx: Tx, name: str, *, now: datetime) -> tuple[Encoder, ...]:
    """A reader by its id, or the readers of a station.

    Raises:
        NotFound: there is none.
    """
    found = tuple(encoder for encoder in listing(tx, now=now) if name in (encoder.id, encoder.station))
    if not found:
        raise NotFound(f"没有写卡机 {name}", f"no such encoder: {name}")
    return found


def _seen(row: Record, made: int, now: datetime) -> Encoder:
    silent = now - row.heartbeat_at > OFFLINE_AFTER
    return Encoder(
        id=f"{row.station}/{row.reader}",
        station=row.station,
        reader=row.reader,
        state="offline" if silent else row.state,
        wanted=row.wanted,
        application_id=row.application_id,
        cards=row.cards,
        good=row.good,
        spoiled=row.spoiled,
        unknown=row.unknown,
        cards_per_hour=0 if silent else row.cards_per_hour,
        station_cards_last_hour=made,
        last_error=row.last_error,
        detail=None if silent else row.detail,
        last_card_at=row.last_card_at,
        heartbeat_at=row.heartbeat_at,
    )
