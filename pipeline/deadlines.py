"""By when: every date a region's policy and the calendar lead to. Pure; the rules are the policy's.

A period is counted in civil days of China and ends with the last second of its last day. Its first day does not count.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from card_personalization.encoding import anniversary
from pipeline.application import Kind, Priority
from pipeline.calendar import WorkingCalendar
from pipeline.clock import SHANGHAI, civil_date, end_of_day
from pipeline.policy import Policy, Span

_REMIND_AT = time(9, tzinfo=SHANGHAI)
_ONE_DAY = timedelta(days=1)
_MONTHS_A_YEAR = 12


@dataclass(frozen=True, slots=True)
class Due:
    """The last instant of a period, in UTC.

    `provisional`: working days of a year were counted whose schedule is not published yet.
    """

    at: datetime
    provisional: bool = False


def add(span: Span, start: date, calendar: WorkingCalendar) -> tuple[date, bool]:
    """The last civil day of a period that starts on `start`, and whether it is provisional.

    Months end on the day of the same number, or on the month's last day where it has none.
    """
    match span.unit:
        case "same_day":
            return start, False
        case "days":
            return start + timedelta(days=span.count), False
        case "months":
            return _months_later(start, span.count), False
        case "end_of_next_month":
            return _month_end(_months_later(start, 1)), False
        case "working_days":
            return _working_days_later(start, span.count, calendar)


def due_at(policy: Policy, *, kind: Kind, priority: Priority, received_at: datetime, calendar: WorkingCalendar) -> Due:
    """By when the card is made and has reached its outlet (WH-8, SG-9, DL-16(3), DL-20)."""
    return _due(policy.deadline(kind=kind, priority=priority).value, received_at, calendar)


def notify_by(policy: Policy, *, delivered_at: datetime, calendar: WorkingCalendar) -> Due:
    """By when the outlet tells the applicant that the card is there (WH-10)."""
    span = Span(unit="working_days", count=policy.notice_within_working_days.value)
    return _due(span, delivered_at, calendar)


def collect_by(
    policy: Policy, *, accepted_at: datetime, notified_at: datetime | None, calendar: WorkingCalendar
) -> Due | None:
    """By when the card is collected (WH-11 from notice, SG-10 from acceptance); None before that clock has begun."""
    start = _collection_start(policy, accepted_at, notified_at)
    return None if start is None else _due(policy.collection.within.value, start, calendar)


def reminders(policy: Policy, *, accepted_at: datetime, notified_at: datetime | None) -> tuple[datetime, ...]:
    """When a card that waits is called to mind: nine in the morning in China, in UTC, earliest first.

    Empty while the clock of `collect_by` has not begun.
    """
    start = _collection_start(policy, accepted_at, notified_at)
    if start is None:
        return ()
    day = civil_date(start)
    return tuple(_morning(day + timedelta(days=days)) for days in sorted(policy.collection.reminder_days.value))


def storage_until(policy: Policy, returned_at: datetime, calendar: WorkingCalendar) -> Due:
    """Until when a card that came back is kept at the centre (WH-11, SG-10); then it may be destroyed (WH-12)."""
    return _due(policy.returned.storage.value, returned_at, calendar)


def correct_by(policy: Policy, *, asked_at: datetime) -> datetime:
    """By when a correction that was asked for must be there (DL-16(1))."""
    return end_of_day(civil_date(asked_at) + timedelta(days=policy.correct_within_days.value))


def reopen_until(policy: Policy, *, rejected_at: datetime) -> datetime:
    """By when a rejected application can still be corrected, unless a reason is final."""
    return end_of_day(civil_date(rejected_at) + timedelta(days=policy.reopen_within_days.value))


def expires_on(issued: date, years: int) -> date:
    """A card's last day, as the chip carries it: same month and day, `years` later (KL-5, DL-13, WH-18, SG-14).

    A card issued on 29 February ends on the 28th where the last year has no 29th (assumed: no text rules on it).
    """
    return anniversary(issued, years=years)


def _collection_start(policy: Policy, accepted_at: datetime, notified_at: datetime | None) -> datetime | None:
    return accepted_at if policy.collection.starts.value == "acceptance" else notified_at


def _due(span: Span, start: datetime, calendar: WorkingCalendar) -> Due:
    day, provisional = add(span, civil_date(start), calendar)
    return Due(end_of_day(day), provisional)


def _morning(day: date) -> datetime:
    return datetime.combine(day, _REMIND_AT).astimezone(UTC)


def _months_later(day: date, months: int) -> date:
    years, month = divmod(day.month - 1 + months, _MONTHS_A_YEAR)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))


def _month_end(day: date) -> date:
    return day.replace(day=monthrange(day.year, day.month)[1])


def _working_days_later(start: date, count: int, calendar: WorkingCalendar) -> tuple[date, bool]:
    day, left, provisional = start, count, False
    while left:
        day += _ONE_DAY
        left -= calendar.is_working(day)
        provisional = provisional or not calendar.is_known(day)
    return day, provisional
