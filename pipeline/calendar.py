"""Which days are working days: the State Council's holidays and make-up days (调休), year by year.

Knows no deadline and no policy. A year's schedule appears in the autumn before; until then only weekends are known
to be free, and whoever counts through such a year has to say that the result is provisional.
"""

from __future__ import annotations

from datetime import date
from typing import Protocol

import chinese_calendar

_HOLIDAYS: frozenset[date] = frozenset(chinese_calendar.holidays)
_MAKE_UP_DAYS: frozenset[date] = frozenset(chinese_calendar.workdays)
_KNOWN_YEARS: frozenset[int] = frozenset(day.year for day in _HOLIDAYS)
_SATURDAY = 5


class WorkingCalendar(Protocol):
    """Tells working days from free ones."""

    def is_working(self, day: date) -> bool:
        """Whether offices work on a civil day."""

    def is_known(self, day: date) -> bool:
        """Whether the schedule of that day's year is published; if not, `is_working` is a guess."""


class ChineseCalendar:
    """The mainland's calendar, from the `chinese_calendar` package; in years unknown to it only weekends are free."""

    def is_working(self, day: date) -> bool:
        return day in _MAKE_UP_DAYS or (day.weekday() < _SATURDAY and day not in _HOLIDAYS)

    def is_known(self, day: date) -> bool:
        return day.year in _KNOWN_YEARS
