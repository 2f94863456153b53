"""Every date that follows from the rules, against dates counted by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.policies import Policies
from pipeline import deadlines
from pipeline.application import Kind, Priority
from pipeline.calendar import ChineseCalendar
from pipeline.clock import civil_date
from pipeline.deadlines import Due
from pipeline.policy import Span
from tests.unit.rules.applicants import REGIONS


def noon(day: date) -> datetime:
    """Noon in China."""
    return datetime(day.year, day.month, day.day, 4, tzinfo=UTC)


def end(day: date) -> datetime:
    """23:59:59 in China."""
    return datetime(day.year, day.month, day.day, 15, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "count", "last"),
    [
        # No holiday between: 24 November is day 1, 21 December day 20.
        (date(2026, 11, 23), 20, date(2026, 12, 21)),
        # Friday 13 Feb: Saturday 14 is made up (1), nine days of Spring Festival, 24-28 Feb (2-6), Mon 2 March (7).
        (date(2026, 2, 13), 7, date(2026, 3, 2)),
        # Wednesday 30 September: free until 7 October; Thu 8, Fri 9, Sat 10 (make-up), Mon 12.
        (date(2026, 9, 30), 4, date(2026, 10, 12)),
        # A start on a holiday is as a start on its last day.
        (date(2026, 10, 3), 1, date(2026, 10, 8)),
        (date(2026, 10, 7), 1, date(2026, 10, 8)),
    ],
)
def test_working_days_skip_holidays_and_count_make_up_days(
    calendar: ChineseCalendar, start: date, count: int, last: date
) -> None:
    assert deadlines.add(Span(unit="working_days", count=count), start, calendar) == (last, False)


@pytest.mark.parametrize(
    ("span", "start", "last"),
    [
        (Span(unit="same_day"), date(2026, 2, 28), date(2026, 2, 28)),
        (Span(unit="days", count=30), date(2026, 2, 1), date(2026, 3, 3)),
        (Span(unit="days", count=30), date(2028, 2, 1), date(2028, 3, 2)),
        (Span(unit="months", count=1), date(2026, 1, 31), date(2026, 2, 28)),
        (Span(unit="months", count=1), date(2028, 1, 31), date(2028, 2, 29)),
        (Span(unit="months", count=6), date(2026, 8, 31), date(2027, 2, 28)),
        (Span(unit="months", count=12), date(2028, 2, 29), date(2029, 2, 28)),
        (Span(unit="months", count=6), date(2026, 5, 20), date(2026, 11, 20)),
        (Span(unit="end_of_next_month"), date(2026, 1, 31), date(2026, 2, 28)),
        (Span(unit="end_of_next_month"), date(2028, 1, 1), date(2028, 2, 29)),
        (Span(unit="end_of_next_month"), date(2026, 12, 1), date(2027, 1, 31)),
        (Span(unit="end_of_next_month"), date(2026, 3, 31), date(2026, 4, 30)),
    ],
)
def test_calendar_periods_end_on_their_day_or_the_month_end(
    calendar: ChineseCalendar, span: Span, start: date, last: date
) -> None:
    assert deadlines.add(span, start, calendar) == (last, False)


def test_working_days_into_an_unpublished_year_are_provisional(calendar: ChineseCalendar) -> None:
    # 31 December 2089 is a Saturday; Monday 2 January 2090 is the next weekday.
    assert deadlines.add(Span(unit="working_days", count=1), date(2089, 12, 31), calendar) == (date(2090, 1, 2), True)


def test_a_period_that_ends_before_the_unpublished_year_is_certain() -> None:
    class TwoYears:
        def is_working(self, day: date) -> bool:
            return day.weekday() < 5

        def is_known(self, day: date) -> bool:
            return day.year < 2027

    one, two = Span(unit="working_days", count=1), Span(unit="working_days", count=2)
    assert deadlines.add(one, date(2026, 12, 30), TwoYears()) == (date(2026, 12, 31), False)
    assert deadlines.add(two, date(2026, 12, 30), TwoYears()) == (date(2027, 1, 1), True)


@given(start=st.dates(date(2010, 1, 1), date(2026, 10, 1)), count=st.integers(1, 40))
def test_a_period_of_n_working_days_holds_exactly_n(start: date, count: int) -> None:
    calendar = ChineseCalendar()
    last, _ = deadlines.add(Span(unit="working_days", count=count), start, calendar)
    days = [start + timedelta(days=n) for n in range(1, (last - start).days + 1)]
    assert sum(map(calendar.is_working, days)) == count
    assert calendar.is_working(last)


@pytest.mark.parametrize(
    ("region", "kind", "priority", "last"),
    [
        pytest.param("wuhan", "first", "normal", date(2026, 10, 22), marks=pytest.mark.rule("WH-8")),
        pytest.param("wuhan", "replacement", "normal", date(2026, 9, 29), marks=pytest.mark.rule("WH-8")),
        pytest.param("wuhan", "exchange", "normal", date(2026, 9, 29), marks=pytest.mark.rule("WH-8")),
        pytest.param("wuhan", "first", "urgent", date(2026, 9, 18), marks=pytest.mark.rule("WH-8")),
        pytest.param("shaoguan", "first", "normal", date(2026, 10, 18), marks=pytest.mark.rule("SG-9")),
        pytest.param("shaoguan", "replacement", "normal", date(2026, 10, 18), marks=pytest.mark.rule("SG-9")),
        pytest.param("dalian", "first", "normal", date(2026, 10, 31), marks=pytest.mark.rule("DL-16(3)")),
        pytest.param("dalian", "replacement", "normal", date(2026, 9, 29), marks=pytest.mark.rule("DL-20")),
        pytest.param("dalian", "exchange", "normal", date(2026, 9, 29), marks=pytest.mark.rule("DL-20")),
        pytest.param("karamay", "first", "normal", date(2026, 10, 22)),
        pytest.param("karamay", "replacement", "normal", date(2026, 10, 22), marks=pytest.mark.rule("KL-14")),
        pytest.param("liaoning", "first", "normal", date(2026, 10, 22)),
        pytest.param("liaoning", "exchange", "normal", date(2026, 9, 29)),
        pytest.param("liaoning", "first", "urgent", date(2026, 9, 18), marks=pytest.mark.rule("LN-8.3")),
    ],
)
def test_cards_are_due_as_each_region_says(
    policies: Policies, calendar: ChineseCalendar, region: str, kind: Kind, priority: Priority, last: date
) -> None:
    """From Friday 18 September 2026; Sunday 20 is made up, free 25-27 and 1-7 October, Saturday 10 made up.

    Working days: 20-24 September (1-5), 28-30 (6-8), 8-10 October (9-11), 12-16 (12-16), 19-22 (17-20).
    """
    due = deadlines.due_at(
        policies.of(REGIONS[region]),
        kind=kind,
        priority=priority,
        received_at=noon(date(2026, 9, 18)),
        calendar=calendar,
    )
    assert due == Due(end(last), provisional=False)


def test_the_day_of_acceptance_is_the_one_in_china(policies: Policies, calendar: ChineseCalendar) -> None:
    """At 16:00 UTC the next day has begun in China."""
    late = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
    due = deadlines.due_at(policies.of("420100"), kind="first", priority="urgent", received_at=late, calendar=calendar)
    assert due.at == end(date(2026, 11, 23))


@pytest.mark.rule("WH-10")
def test_the_applicant_is_told_within_ten_working_days_of_delivery(
    policies: Policies, calendar: ChineseCalendar
) -> None:
    """From Thursday 24 September: 28-30 (1-3), 8-10 October (4-6), 12-15 (7-10)."""
    due = deadlines.notify_by(policies.of("420100"), delivered_at=noon(date(2026, 9, 24)), calendar=calendar)
    assert due == Due(end(date(2026, 10, 15)))


@pytest.mark.rule("WH-11")
def test_wuhan_cards_wait_six_months_from_the_notice(policies: Policies, calendar: ChineseCalendar) -> None:
    policy, accepted = policies.of("420100"), noon(date(2026, 7, 1))
    due = deadlines.collect_by(policy, accepted_at=accepted, notified_at=noon(date(2026, 8, 31)), calendar=calendar)
    assert due == Due(end(date(2027, 2, 28)))


@pytest.mark.rule("WH-11")
def test_without_a_notice_the_clock_has_not_begun(policies: Policies, calendar: ChineseCalendar) -> None:
    policy, accepted = policies.of("420100"), noon(date(2026, 7, 1))
    assert deadlines.collect_by(policy, accepted_at=accepted, notified_at=None, calendar=calendar) is None
    assert deadlines.reminders(policy, accepted_at=accepted, notified_at=None) == ()


@pytest.mark.rule("SG-10")
@pytest.mark.parametrize("notified", [None, date(2026, 9, 30)])
def test_shaoguan_cards_wait_from_acceptance_whatever_the_notice(
    policies: Policies, calendar: ChineseCalendar, notified: date | None
) -> None:
    due = deadlines.collect_by(
        policies.of("440200"),
        accepted_at=noon(date(2026, 7, 1)),
        notified_at=None if notified is None else noon(notified),
        calendar=calendar,
    )
    assert due == Due(end(date(2026, 9, 29)))


def test_reminders_come_in_the_morning_and_before_the_end(policies: Policies, calendar: ChineseCalendar) -> None:
    for code in REGIONS.values():
        policy, start = policies.of(code), noon(date(2026, 7, 1))
        due = deadlines.collect_by(policy, accepted_at=start, notified_at=start, calendar=calendar)
        times = deadlines.reminders(policy, accepted_at=start, notified_at=start)
        assert due is not None
        assert times
        assert list(times) == sorted(times)
        assert all(start < time < due.at and (time.hour, time.minute) == (1, 0) for time in times)
    assert [civil_date(time) for time in times] == [date(2026, 8, 10), date(2026, 8, 30), date(2026, 9, 19)]


@pytest.mark.rule("DL-16(1)")
def test_a_correction_and_a_reopening_have_their_last_day(policies: Policies) -> None:
    policy = policies.of("210200")
    assert deadlines.correct_by(policy, asked_at=noon(date(2026, 1, 30))) == end(date(2026, 3, 1))
    assert deadlines.reopen_until(policy, rejected_at=noon(date(2026, 1, 1))) == end(date(2026, 4, 1))


@pytest.mark.parametrize(
    ("region", "years"),
    [
        pytest.param("karamay", 10, marks=pytest.mark.rule("KL-5")),
        pytest.param("liaoning", 10, marks=pytest.mark.rule("LN-7.1")),
        pytest.param("dalian", 10, marks=pytest.mark.rule("DL-13")),
        pytest.param("wuhan", 10, marks=pytest.mark.rule("WH-18")),
        pytest.param("shaoguan", 10, marks=pytest.mark.rule("SG-14")),
    ],
)
def test_a_card_is_valid_as_long_as_its_region_says(policies: Policies, region: str, years: int) -> None:
    assert policies.of(REGIONS[region]).validity_years.value == years
    assert deadlines.expires_on(date(2026, 11, 23), years) == date(2036, 11, 23)


def test_a_card_issued_on_29_february_ends_on_the_28th() -> None:
    assert deadlines.expires_on(date(2028, 2, 29), 10) == date(2038, 2, 28)
    assert deadlines.expires_on(date(2028, 2, 28), 10) == date(2038, 2, 28)
