"""Time as a port: everything that needs the hour is given a clock, so a test or the demo can move it."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")


class Clock(Protocol):
    """Tells the time, always aware and in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class VirtualClock:
    """A clock that runs with the machine's, from a start of its own, and can be moved forward."""

    def __init__(self, start: datetime) -> None:
        self._lock = threading.Lock()
        self._offset = start.astimezone(UTC) - datetime.now(UTC)

    def now(self) -> datetime:
        with self._lock:
            return datetime.now(UTC) + self._offset

    def advance(self, by: timedelta) -> None:
        """Move forward.

        Raises:
            ValueError: time would run backwards.
        """
        if by < timedelta(0):
            raise ValueError(f"a clock runs forward only, not by {by}")
        with self._lock:
            self._offset += by


def civil_date(instant: datetime) -> date:
    """The calendar date in China at that instant."""
    return instant.astimezone(SHANGHAI).date()


def end_of_day(day: date) -> datetime:
    """The last second of a civil day in China, in UTC."""
    return datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=SHANGHAI).astimezone(UTC)
