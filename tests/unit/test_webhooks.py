"""When a webhook is tried again, and what an answer may ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.webhooks import Attempt, next_try, retry_after_s, slowed_until

NOW = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
HOURS = [0, 5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24]


def failed(status: int | None, **headers: str) -> Attempt:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Attempt(delivery_id="d", endpoint_id="w", at=NOW, result="answered", status=status, response_headers=named)


@given(tries=st.integers(1, 9), draw=st.floats(0, 1))
def test_each_try_follows_the_schedule_with_a_fifth_of_jitter(tries: int, draw: float) -> None:
    at = next_try(tries, now=NOW, draw=draw)
    assert at is not None
    assert 0.8 * HOURS[tries] - 1e-6 <= (at - NOW) / timedelta(hours=1) <= 1.2 * HOURS[tries] + 1e-6


def test_after_the_tenth_try_there_is_none() -> None:
    assert next_try(9, now=NOW, draw=0.5) is not None
    assert next_try(10, now=NOW, draw=0.5, retry_after_s=10) is None


def test_retry_after_postpones_a_try_and_never_hastens_it() -> None:
    assert next_try(1, now=NOW, draw=0.5, retry_after_s=90) == NOW + timedelta(seconds=90)
    assert next_try(2, now=NOW, draw=0.5, retry_after_s=90) == NOW + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("99999999999999999999", 86_400),
        ("Mon, 02 Mar 2026 01:01:40 GMT", 100),
        ("Mon, 02 Mar 2026 01:01:40 -0000", 100),
        ("Mon, 02 Mar 2026 00:00:00 GMT", 0),
        ("Mon, 02 Mar 2126 00:00:00 GMT", 86_400),
        ("-5", 0),
        ("soon", 0),
        ("٣", 0),
        ("", 0),
        ("Thu, 01 Jan 99999999999999 00:00:00 GMT", 0),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", 0),
        ("Thu, 01 Jan 2026 99999999999999999999:00:00 GMT", 0),
        (",-Jan-2026 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded_by_a_day(told: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": told}, now=NOW) == seconds


_PIECES = (
    "Thu,",
    "01",
    "Jan",
    "2026",
    "00:00:00",
    "GMT",
    "+0800",
    "-0000",
    ",",
    "-",
    ":",
    "+",
    ".",
    " ",
    "9" * 20,
    "31-Dec-9999",
)


@given(
    told=st.binary(max_size=60).map(lambda b: b.decode("latin-1")) | st.lists(st.sampled_from(_PIECES)).map(" ".join)
)
@example(told="Thu, 01 Jan 99999999999999 00:00:00 GMT")
def test_whatever_retry_after_holds_it_asks_for_no_more_than_a_day(told: str) -> None:
    assert 0 <= retry_after_s({"retry-after": told}, now=NOW) <= 86_400


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [
        (failed(500), None),
        (failed(429), 30),
        (failed(502), 30),
        (failed(504), 30),
        (failed(429, retry_after="5"), 30),
        (failed(429, retry_after="300"), 300),
        (failed(503, retry_after="60"), 60),
        (failed(None), None),
    ],
)
def test_an_endpoint_that_asks_for_less_is_left_alone_for_a_while(attempt: Attempt, seconds: int | None) -> None:
    until = slowed_until(attempt, now=NOW)
    assert until == (None if seconds is None else NOW + timedelta(seconds=seconds))
