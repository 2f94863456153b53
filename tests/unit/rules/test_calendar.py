"""Which days offices work: holidays, make-up days, and years nobody has published yet."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from pipeline.calendar import ChineseCalendar


@pytest.mark.parametrize(
    "day",
    [
        date(2026, 2, 14),  # Saturday before the Spring Festival of 2026, make-up
        date(2026, 2, 28),  # Saturday after it, make-up
        date(2026, 2, 24),  # first day back
        date(2026, 9, 20),  # Sunday, make-up for the National Day of 2026
        date(2026, 10, 10),  # Saturday, make-up
        date(2026, 1, 4),  # Sunday, make-up for New Year
        date(2025, 9, 28),  # Sunday, make-up for the National Day of 2025
        date(2026, 11, 23),  # an ordinary Monday
    ],
)
def test_make_up_days_and_ordinary_days_are_worked(calendar: ChineseCalendar, day: date) -> None:
    assert calendar.is_working(day)


@pytest.mark.parametrize(
    "day",
    [
        date(2026, 2, 16),  # Monday, eve of the Spring Festival
        date(2026, 2, 23),  # Monday, the last day of its nine
        date(2026, 10, 1),
        date(2026, 10, 7),  # Wednesday, the last of National Day
        date(2026, 4, 6),  # Monday, Qingming
        date(2026, 11, 22),  # an ordinary Sunday
    ],
)
def test_holidays_and_weekends_are_free(calendar: ChineseCalendar, day: date) -> None:
    assert not calendar.is_working(day)


def test_2026_has_248_working_days(calendar: ChineseCalendar) -> None:
    """261 weekdays, 19 of them holidays, 6 weekend days made up."""
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]
    weekday_holidays = [day for day in days if day.weekday() < 5 and not calendar.is_working(day)]
    make_up = [day for day in days if day.weekday() >= 5 and calendar.is_working(day)]
    assert (sum(map(calendar.is_working, days)), len(weekday_holidays), len(make_up)) == (248, 19, 6)


def test_a_year_without_a_schedule_is_unknown_and_has_only_weekends(calendar: ChineseCalendar) -> None:
    assert calendar.is_known(date(2026, 12, 31))
    assert not calendar.is_known(date(2090, 10, 2))
    assert calendar.is_working(date(2090, 10, 2))  # a Monday of what will be National Day
    assert not calendar.is_working(date(2090, 10, 1))  # a Sunday
