"""The clocks of a waiting card, region by region: told in time, reminded, overdue, called back, returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from config.policies import load_policies
from pipeline import deadlines
from pipeline.application import Submission
from pipeline.calendar import ChineseCalendar
from pipeline.clock import civil_date
from pipeline.errors import Conflict
from pipeline.policy import Policy
from pipeline.services import returns
from pipeline.services.accept import Accepted, accept
from pipeline.store import outbox
from pipeline.store import tables as t

Regional = Callable[..., Submission]
CITIES = load_policies().cities()
cities = pytest.mark.parametrize("policy", CITIES, ids=[policy.key for policy in CITIES])
MINUTE = timedelta(minutes=1)


def go_to(line: Any, instant: datetime) -> None:
    """Let time pass until an instant and let the clocks ring."""
    line.clock.advance(instant - line.clock.now())
    line.sweep()
    line.run()


def told(line: Any) -> Counter[str]:
    """Events about cards, by type."""
    with line.context.store.transaction() as tx:
        kinds = tx.conn.execute(select(t.outbox.c.type)).scalars().all()
    return Counter(kind for kind in kinds if kind.startswith("card."))


def due_of(line: Any, policy: Policy, i: str) -> datetime:
    row = line.row(i)
    due = deadlines.collect_by(
        policy, accepted_at=row.received_at, notified_at=row.notified_at, calendar=ChineseCalendar()
    )
    assert due is not None
    return due.at


@cities
def test_a_card_nobody_fetches_goes_back_by_its_regions_clock(line: Any, regional: Regional, policy: Policy) -> None:
    [i] = line.to_outlet(regional(policy))
    assert line.notify(i) == due_of(line, policy, i) == line.row(i).collect_by
    due = due_of(line, policy, i)
    go_to(line, due - MINUTE)
    assert line.status(i) == "notified"
    assert told(line)["card.uncollected_reminder"] == len(policy.collection.reminder_days.value)
    go_to(line, due + MINUTE)
    assert line.status(i) == "recalled"
    assert line.history(i)[-3:-1] == ["uncollected", "recalled"]
    line.later(days=400)
    bundle = line.call_back(i)
    returns.receive_back(line.context, bundle, seal_no="Back-1", actor="centre")
    assert (line.status(i), line.row(i).ending) == ("returned", policy.collection.ending.value)
    reminders = len(policy.collection.reminder_days.value)
    assert told(line) == {
        "card.ready": 1,
        "card.uncollected_reminder": reminders,
        "card.uncollected": 1,
        "card.recalled": 1,
        "card.returned": 1,
    }
    assert line.balanced() == {"centre": 1}


@cities
def test_the_clock_begins_where_the_region_says(line: Any, regional: Regional, policy: Policy) -> None:
    [i] = line.to_outlet(regional(policy))
    line.later(days=5)
    known_before = line.row(i).collect_by
    due = line.notify(i)
    assert due is not None
    days = (civil_date(due) - civil_date(line.row(i).received_at)).days
    if policy.collection.starts.value == "acceptance":
        assert policy.key == "shaoguan"
        assert known_before == due
        assert days == policy.collection.within.value.count == 90
    else:
        assert known_before is None
        assert days > 180


@cities
def test_an_applicant_who_is_not_told_in_time_is_reported_once(line: Any, regional: Regional, policy: Policy) -> None:
    [i] = line.to_outlet(regional(policy))
    by = deadlines.notify_by(policy, delivered_at=line.row(i).delivered_at, calendar=ChineseCalendar()).at
    go_to(line, by - MINUTE)
    assert told(line)["card.notice_overdue"] == 0
    go_to(line, by + MINUTE)
    assert told(line)["card.notice_overdue"] == 1
    line.later(days=10)
    assert told(line)["card.notice_overdue"] == 1
    line.notify(i)
    assert line.status(i) == "notified"


@cities
def test_each_reminder_comes_once_and_a_notice_again_sets_no_second_clock(
    line: Any, regional: Regional, policy: Policy
) -> None:
    [i] = line.to_outlet(regional(policy))
    first = line.notify(i)
    line.later(days=1)
    assert line.notify(i) == first
    row = line.row(i)
    for n, at in enumerate(
        deadlines.reminders(policy, accepted_at=row.received_at, notified_at=row.notified_at), start=1
    ):
        go_to(line, at - MINUTE)
        assert told(line)["card.uncollected_reminder"] == n - 1
        go_to(line, at + MINUTE)
        line.later(hours=1)
        assert told(line)["card.uncollected_reminder"] == n


@cities
def test_after_the_time_a_card_is_handed_over_where_the_region_lets_it(
    line: Any, regional: Regional, policy: Policy
) -> None:
    [i] = line.to_outlet(regional(policy))
    line.notify(i)
    go_to(line, due_of(line, policy, i) + MINUTE)
    if policy.collection.after_due.value:
        line.hand_over(i)
        assert (line.status(i), line.balanced()) == ("collected", {"holder": 1})
    else:
        with pytest.raises(Conflict):
            line.hand_over(i)
        assert (line.status(i), line.balanced()) == ("recalled", {"outlet": 1})


def test_who_gave_a_card_up_may_apply_again_and_whose_card_is_kept_may_not(line: Any, regional: Regional) -> None:
    for n, policy in enumerate(CITIES, start=1):
        [i] = line.to_outlet(regional(policy, n))
        line.notify(i)
        go_to(line, due_of(line, policy, i) + MINUTE)
        returns.receive_back(line.context, line.call_back(i), seal_no="Back-1", actor="centre")
        [again] = accept(line.context, [regional(policy, n, external_ref=f"again-{n}")], actor="test")
        assert isinstance(again, Accepted) == (policy.collection.ending.value == "abandoned")


def test_a_card_that_was_fetched_is_never_spoken_of_again(line: Any, regional: Regional) -> None:
    ids = line.to_outlet(*(regional(policy, n) for n, policy in enumerate(CITIES, start=1)))
    for i in ids:
        line.notify(i)
        line.hand_over(i)
    line.later(days=400)
    assert {line.status(i) for i in ids} == {"collected"}
    assert told(line) == {"card.ready": 5, "card.collected": 5}


def test_that_a_card_is_ready_is_told_once_to_its_outlet_with_its_dates(line: Any, regional: Regional) -> None:
    import json

    wuhan = next(policy for policy in CITIES if policy.key == "wuhan")
    [i] = line.to_outlet(regional(wuhan))
    for _ in range(3):
        line.later(hours=1)
    card = line.card(i)
    from pipeline.services import sweep

    sweep.place_events(line.context)
    with line.context.store.transaction() as tx:
        page = outbox.feed(tx, after=0, limit=100, outlet=card.place, types=["card.ready"])
    [event] = page.events
    body = json.loads(event.body)
    assert body["subject"] == card.id
    assert body["data"]["application_id"] == i
    assert body["data"]["collect_by"] is None
    by = deadlines.notify_by(wuhan, delivered_at=line.row(i).delivered_at, calendar=ChineseCalendar()).at
    assert body["data"]["notify_by"] == f"{by:%Y-%m-%dT%H:%M:%SZ}"
