"""From the feed to outlets' webhooks, on both databases: nothing is lost, nothing is sent under two ids, nobody waits for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from config.policies import load_policies
from pipeline.calendar import ChineseCalendar
from pipeline.clock import VirtualClock
from pipeline.errors import Conflict, NotFound, Refused
from pipeline.events import Event
from pipeline.gateways.addresses import AllowList
from pipeline.gateways.objects import ObjectMemory
from pipeline.gateways.webhook import WebhookPoster
from pipeline.services import endpoints, notify
from pipeline.services.context import Context
from pipeline.services.notify import Deliverer
from pipeline.store import audit, outbox, webhooks
from pipeline.store.engine import Store
from pipeline.store.types import Record
from pipeline.webhooks import Attempt, Post
from producers.simulators.receiver import Fault, Receiver

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LOOPBACK = (ip_network("127.0.0.0/8"),)
OUTLET = "out_42010601"
SCHEDULE_H = (5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24)


@dataclass
class Office:
    """An installation with webhooks, a receiver, and a clock that can be moved."""

    context: Context
    clock: VirtualClock
    sender: WebhookPoster
    receiver: Receiver
    deliverer: Deliverer

    def endpoint(self, path: str = "/hook", *, outlet: str = OUTLET, **told: Any) -> endpoints.Keyed:
        made = endpoints.create(
            self.context,
            self.sender,
            outlet=outlet,
            region="420100",
            url=self.receiver.url + path,
            actor="ada",
            **({"max_rps": endpoints.MAX_RPS} | told),
        )
        self.receiver.script({path: None}, {path: [made.key]})
        return made

    def tell(self, count: int, *, outlet: str = OUTLET, kind: str = "card.ready") -> list[str]:
        """Events in the feed; their ids."""
        now = self.clock.now()
        told = [Event(type=kind, subject=f"card_{n}", region="420100", sequence=n, outlet=outlet) for n in range(count)]
        with self.context.store.transaction() as tx:
            ids = outbox.append(tx, told, now=now)
        with self.context.store.transaction() as tx:
            outbox.place(tx, limit=1000)
        return ids

    def deliver(self) -> list[Attempt]:
        """Fan out and send until nothing is due; what was attempted."""
        while notify.fan_out(self.context).more:
            continue
        settled = list(self.deliverer.step())
        while not self.deliverer.idle:
            settled += self.deliverer.step(10)
        return settled

    def later(self, **by: float) -> list[Attempt]:
        self.clock.advance(timedelta(**by))
        return self.deliver()

    def row(self, endpoint_id: str) -> Record:
        with self.context.store.transaction() as tx:
            found = webhooks.endpoint(tx, endpoint_id)
        assert found is not None
        return found

    def deliveries(self, endpoint_id: str) -> list[Record]:
        """Oldest first."""
        with self.context.store.transaction() as tx:
            return webhooks.deliveries(tx, endpoint_id, limit=1000)[::-1]

    def states(self, endpoint_id: str) -> list[str]:
        return [row.state for row in self.deliveries(endpoint_id)]

    def attempts(self, endpoint_id: str) -> list[Record]:
        ids = [row.id for row in self.deliveries(endpoint_id)]
        with self.context.store.transaction() as tx:
            return webhooks.attempts(tx, ids)

    def received(self, path: str = "/hook") -> dict[str, int]:
        return dict(self.receiver.received[path])

    def fault(self, fault: Fault | None, path: str = "/hook") -> None:
        self.receiver.script({path: fault})

    def feed(self, kind: str) -> list[outbox.OutgoingEvent]:
        with self.context.store.transaction() as tx:
            outbox.place(tx, limit=100)
            return list(outbox.feed(tx, after=0, limit=100, types=[kind]).events)


@pytest.fixture
def office(store: Store) -> Iterator[Office]:
    clock = VirtualClock(START)
    context = Context(
        store=store,
        clock=clock,
        policies=load_policies(),
        calendar=ChineseCalendar(),
        objects=ObjectMemory(key=bytes(32)),
    )
    allowed = AllowList(allow=LOOPBACK, plain_http=LOOPBACK)
    with Receiver(clock=clock) as receiver, WebhookPoster(allowed, clock=clock, timeout_s=10) as sender:
        yield Office(context, clock, sender, receiver, Deliverer(context, sender, draw=lambda: 0.5))


# ------------------------------------------------------------------------------------------------------------ arriving


def test_an_outlet_hears_of_its_own_events_from_now_on_each_once_in_order_of_the_feed(office: Office) -> None:
    office.tell(2)
    made = office.endpoint()
    ids = office.tell(5)
    office.tell(3, outlet="out_other")
    assert len(office.deliver()) == 5
    assert list(office.received()) == ids
    assert office.states(made.id) == ["delivered"] * 5
    assert office.deliver() == []
    assert set(office.received().values()) == {1}


def test_the_bytes_that_arrive_are_those_of_the_feed(office: Office) -> None:
    office.endpoint()
    office.tell(1)
    sent: list[Post] = []
    submit = office.sender.submit
    office.sender.submit = lambda posts: (sent.extend(posts), submit(posts))[1]  # type: ignore[method-assign] # listens in
    office.deliver()
    assert [post.body for post in sent] == [event.body for event in office.feed("card.ready")]


def test_an_endpoint_that_named_types_hears_of_those_only(office: Office) -> None:
    some, every = office.endpoint("/some", types=["card.recalled"]), office.endpoint("/all")
    office.tell(2)
    wanted = office.tell(1, kind="card.recalled")
    office.deliver()
    assert list(office.received("/some")) == wanted
    assert len(office.received("/all")) == 3
    assert office.row(some.id).position == office.row(every.id).position


def test_fanning_out_twice_or_in_portions_makes_each_delivery_once(office: Office) -> None:
    made = office.endpoint()
    ids = office.tell(7)
    found = [notify.fan_out(office.context, each=3) for _ in range(4)]
    assert [(one.deliveries, one.more) for one in found] == [(3, True), (3, True), (1, False), (0, False)]
    with office.context.store.transaction() as tx:
        webhooks.change(tx, made.id, position=0)  # as if the second half of a fan-out had been lost
    assert notify.fan_out(office.context).deliveries == 0
    assert [row.event_id for row in office.deliveries(made.id)] == ids


def test_a_shared_secret_is_verified_by_the_standard_library(office: Office) -> None:
    made = office.endpoint(signature="hmac")
    assert made.key.startswith("whsec_")
    office.tell(1)
    [attempt] = office.deliver()
    assert attempt.delivered  # the receiver has verified it
    body = office.feed("card.ready")[0].body
    office.receiver.script({}, {"/hook": []})
    headers = dict(attempt.request_headers)
    stamped = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert headers["webhook-signature"] == Webhook(made.key).sign(headers["webhook-id"], stamped, body.decode())


# ------------------------------------------------------------------------------------------------------------- failing


def test_what_fails_is_tried_again_by_the_schedule_until_it_is_exhausted(office: Office) -> None:
    made = office.endpoint()
    office.tell(1)
    office.fault("fail")
    assert len(office.deliver()) == 1
    for wait_h in SCHEDULE_H:
        assert office.later(hours=wait_h * 0.9) == []
        assert len(office.later(hours=wait_h * 0.2)) == 1
    assert office.states(made.id) == ["exhausted"]
    assert office.later(days=2) == []
    log = office.attempts(made.id)
    assert [(row.result, row.status_code, row.problem) for row in log] == [("answered", 503, "HTTP 503")] * 10
    assert office.row(made.id).failing_since == log[0].at


def test_an_attempt_after_the_endpoint_is_well_again_has_the_same_id_and_bytes(office: Office) -> None:
    made = office.endpoint()
    ids = office.tell(3)
    office.fault("reset")
    office.deliver()
    office.fault(None)
    office.later(seconds=7)
    assert office.received() == dict.fromkeys(ids, 1)
    assert office.states(made.id) == ["delivered"] * 3
    assert office.row(made.id).failing_since is None


def test_an_answer_that_was_lost_brings_the_event_twice_under_one_id(office: Office) -> None:
    office.endpoint()
    [event_id] = office.tell(1)
    office.fault("lost")
    office.deliver()
    office.fault(None)
    office.later(seconds=7)
    assert office.received() == {event_id: 2}


def test_a_sender_killed_after_sending_leaves_nothing_behind_but_a_second_arrival(office: Office) -> None:
    made = office.endpoint()
    ids = office.tell(4)
    notify.fan_out(office.context)
    office.deliverer.step()
    arrived: list[Attempt] = []
    while len(arrived) < 4:
        arrived += office.sender.take(10)
    office.deliverer = Deliverer(office.context, office.sender)  # its memory is gone, the leases are not
    assert office.deliver() == []
    assert office.states(made.id) == ["sending"] * 4
    assert len(office.later(minutes=2, seconds=1)) == 4
    assert office.states(made.id) == ["delivered"] * 4
    assert office.received() == dict.fromkeys(ids, 2)


def test_what_an_earlier_sender_left_under_way_is_not_settled_by_the_next(office: Office) -> None:
    made = office.endpoint()
    office.tell(1)
    notify.fan_out(office.context)
    office.deliverer.step()
    office.deliverer = Deliverer(office.context, office.sender)
    office.endpoint("/other")
    office.tell(1)
    office.deliver()
    assert office.states(made.id) == ["sending", "delivered"]


def test_a_sender_that_lost_its_lease_settles_nothing(office: Office) -> None:
    made = office.endpoint()
    office.tell(1)
    notify.fan_out(office.context)
    office.deliverer.step()
    with office.context.store.transaction() as tx:
        webhooks.expire(tx, now=office.clock.now() + timedelta(minutes=3))
    office.deliverer.step(10, claiming=False)
    assert office.deliverer.idle
    assert office.states(made.id) == ["waiting"]


def test_closing_settles_what_ends_in_time_and_gives_the_rest_back(office: Office) -> None:
    made, silent = office.endpoint(), office.endpoint("/silent")
    office.fault("silent", "/silent")
    office.tell(1)
    notify.fan_out(office.context)
    office.deliverer.step()
    settled = office.deliverer.close(grace_s=1)
    assert [attempt.endpoint_id for attempt in settled] == [made.id]
    assert office.states(made.id) == ["delivered"]
    assert office.states(silent.id) == ["waiting"]


def test_one_that_never_answers_delays_nobody_and_has_one_place_once_it_is_known(office: Office) -> None:
    sick, well = office.endpoint("/sick"), office.endpoint("/well")
    office.fault("fail", "/sick")
    office.tell(30)
    office.deliver()
    office.fault("silent", "/sick")
    office.clock.advance(timedelta(seconds=7))
    ids = office.tell(30)
    notify.fan_out(office.context)
    office.deliverer.step()
    while len(office.received("/well")) < 60 or office.states(well.id) != ["delivered"] * 60:
        assert office.deliverer.step(10)
    assert set(ids) <= set(office.received("/well"))
    assert office.states(sick.id).count("sending") == 1


@dataclass
class Still:
    """A clock that stands until it is moved."""

    at: datetime

    def now(self) -> datetime:
        return self.at


def test_no_more_than_max_rps_go_out_in_a_second(office: Office) -> None:
    clock = Still(office.clock.now() + timedelta(hours=1))
    made = office.endpoint(max_rps=3)
    office.tell(8)
    notify.fan_out(office.context)
    office.deliverer = Deliverer(replace(office.context, clock=clock), office.sender)
    sent = []
    for wait_s in (0, 0.9, 0.2, 60):
        clock.at += timedelta(seconds=wait_s)
        sent.append(len(office.deliver()))
    assert sent == [3, 2, 1, 2]
    assert office.states(made.id) == ["delivered"] * 8


@pytest.mark.parametrize(("fault", "slowed"), [("busy", True), ("fail", False)])
def test_429_slows_the_whole_endpoint_and_503_only_the_delivery(office: Office, fault: Fault, slowed: bool) -> None:
    made = office.endpoint()
    office.tell(1)
    office.fault(fault)
    office.deliver()
    assert (office.row(made.id).not_before is not None) is slowed
    office.fault(None)
    office.tell(1)
    assert len(office.later(seconds=7)) == (0 if slowed else 2)
    office.later(seconds=30)
    assert office.states(made.id) == ["delivered"] * 2
    assert office.row(made.id).not_before is None


# ------------------------------------------------------------------------------------------------------------ giving up


def test_410_disables_the_endpoint_and_the_outlet_hears_of_it_on_its_other_one(office: Office) -> None:
    gone, other = office.endpoint("/gone"), office.endpoint("/other")
    office.tell(1)
    office.fault("gone", "/gone")
    office.deliver()
    assert (office.row(gone.id).state, office.row(gone.id).disabled_why) == ("disabled", "gone")
    [event] = office.feed("endpoint.disabled")
    assert (event.subject, event.outlet) == (gone.id, OUTLET)
    office.deliver()
    assert event.id in office.received("/other")
    assert event.id not in office.received("/gone")
    assert office.states(other.id) == ["delivered"] * 2


def test_five_days_without_a_success_disable_and_one_success_begins_anew(office: Office) -> None:
    made = office.endpoint()
    office.fault("fail")
    office.tell(1)
    office.deliver()
    office.later(days=4)
    office.fault(None)
    office.later(days=2)
    assert office.row(made.id).failing_since is None
    office.fault("fail")
    office.tell(1)
    office.deliver()
    for _ in range(5):
        assert office.row(made.id).state == "enabled"
        office.later(days=1)
    office.later(hours=1)
    assert (office.row(made.id).state, office.row(made.id).disabled_why) == ("disabled", "failing")
    assert len(office.feed("endpoint.disabled")) == 1


def test_a_first_failure_long_after_the_last_is_not_five_days_of_failure(office: Office) -> None:
    made = office.endpoint()
    office.fault("fail")
    office.tell(1)
    office.deliver()
    office.clock.advance(timedelta(days=4))
    with office.context.store.transaction() as tx:
        webhooks.give_up(tx, made.id, now=office.clock.now())
    office.clock.advance(timedelta(days=10))
    office.tell(1)
    office.deliver()
    assert office.row(made.id).state == "enabled"


def test_an_endpoint_that_was_down_for_days_gets_everything_it_missed(office: Office) -> None:
    made = office.endpoint()
    office.fault("gone")
    began = office.clock.now()
    early = office.tell(3)
    office.deliver()
    office.clock.advance(timedelta(days=6))
    missed = office.tell(4)
    assert office.deliver() == []
    office.fault(None)
    endpoints.enable(office.context, made.id, actor="ada")
    office.deliver()
    endpoints.recover(office.context, made.id, since=began, until=office.clock.now(), actor="ada")
    office.deliver()
    disabled = [event.id for event in office.feed("endpoint.disabled")]
    assert office.received() == dict.fromkeys([*early, *disabled, *missed], 1)


# ----------------------------------------------------------------------------------------------------------- by people


def test_recover_sends_what_failed_and_what_never_became_a_delivery_and_nothing_that_arrived(office: Office) -> None:
    office.tell(1)
    before = office.clock.now()
    office.clock.advance(timedelta(seconds=1))
    never = office.tell(2)
    made = office.endpoint()
    fine = office.tell(2)
    office.deliver()
    office.fault("fail")
    failed = office.tell(2)
    office.deliver()
    for wait_h in SCHEDULE_H:
        office.later(hours=wait_h * 1.1)
    assert office.states(made.id)[-2:] == ["exhausted"] * 2
    office.fault(None)
    found = endpoints.recover(office.context, made.id, since=before, until=office.clock.now(), actor="ada")
    assert (found.requeued, found.created) == (2, 2)
    office.deliver()
    assert office.received() == dict.fromkeys([*never, *fine, *failed], 1)
    again = endpoints.recover(office.context, made.id, since=before, until=office.clock.now(), actor="ada")
    assert (again.requeued, again.created) == (0, 0)


def test_resending_brings_the_same_event_again_though_it_had_arrived(office: Office) -> None:
    made = office.endpoint()
    [event_id] = office.tell(1)
    office.deliver()
    [row] = office.deliveries(made.id)
    endpoints.resend(office.context, row.id, actor="ada")
    [attempt] = office.deliver()
    assert attempt.delivered
    assert office.received() == {event_id: 2}
    first, second = office.attempts(made.id)
    assert first.request_headers["content-length"] == second.request_headers["content-length"]


def test_after_a_change_of_keys_both_are_signed_with_for_a_day_and_then_the_new_one_alone(office: Office) -> None:
    old = office.endpoint()
    office.tell(1)
    office.deliver()
    new = endpoints.rotate(office.context, old.id, actor="ada")
    assert new.key != old.key
    for key in (old.key, new.key):
        office.receiver.script({}, {"/hook": [key]})
        office.tell(1)
        assert all(attempt.delivered for attempt in office.deliver())
    office.clock.advance(timedelta(hours=24, seconds=1))
    office.tell(1)
    assert all(attempt.delivered for attempt in office.deliver())
    office.receiver.script({}, {"/hook": [old.key]})
    office.tell(1)
    [attempt] = office.deliver()
    assert attempt.status == 401


def test_a_disabled_endpoint_is_sent_nothing_and_a_deleted_one_is_owed_nothing(office: Office) -> None:
    made = office.endpoint()
    endpoints.disable(office.context, made.id, reason="moving", actor="ada")
    office.tell(1)
    assert office.deliver() == []
    endpoints.enable(office.context, made.id, actor="ada")
    notify.fan_out(office.context)
    endpoints.remove(office.context, made.id, actor="ada")
    assert office.deliver() == []
    assert office.states(made.id) == ["exhausted"]
    with office.context.store.transaction() as tx:
        assert webhooks.endpoints(tx) == []
        assert webhooks.owed(tx) == {}
    for act in (endpoints.enable, endpoints.remove, endpoints.rotate):
        with pytest.raises(NotFound):
            act(office.context, made.id, actor="ada")


def test_a_trial_tells_step_by_step_and_stays_out_of_the_feed(office: Office) -> None:
    made = office.endpoint()
    office.endpoint("/other")
    trial = endpoints.test(office.context, office.sender, made.id, actor="ada")
    reached = [("resolution", True, "127.0.0.1"), ("connection", True, "http")]
    assert [(step.step, step.ok, step.detail) for step in trial.steps] == [*reached, ("answer", True, "HTTP 204")]
    office.fault("fail")
    failed = endpoints.test(office.context, office.sender, made.id, actor="ada")
    assert [(step.step, step.ok, step.detail) for step in failed.steps] == [*reached, ("answer", False, "HTTP 503")]
    assert (trial.delivered, failed.delivered) == (True, False)
    assert office.received() == {trial.event_id: 1}
    assert office.deliver() == []


def test_a_trial_of_an_address_that_is_not_allowed_says_so_at_the_first_step(office: Office) -> None:
    made = office.endpoint()
    with WebhookPoster(AllowList(), clock=office.clock) as strict:
        trial = endpoints.test(office.context, strict, made.id, actor="ada")
    assert [step.ok for step in trial.steps] == [False, None, None]
    assert "ZHIKA_WEBHOOKS__ALLOW" in trial.steps[0].detail


def test_an_endpoint_that_could_not_work_is_refused(office: Office) -> None:
    told: dict[str, Any] = {"outlet": OUTLET, "region": "420100", "url": f"{office.receiver.url}/hook", "actor": "ada"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"url": "http://10.0.0.1/hook"}, "url-not-allowed"),
        ({"url": "http://user@127.0.0.1:8080/"}, "url-not-allowed"),
        ({"outlet": "42010601"}, "format"),
        ({"types": ["card ready"]}, "format"),
        ({"types": ["card.ready", "card.nonsense"]}, "format"),
        ({"url": "http://a..b/x"}, "url-not-allowed"),
        ({"max_rps": 0}, "format"),
        ({"region": "999999"}, "region.unknown"),
    ]
    for changes, code in wrong:
        with pytest.raises(Refused) as refused:
            endpoints.create(office.context, office.sender, **(told | changes))
        assert refused.value.reason_code == code
    with office.context.store.transaction() as tx:
        assert webhooks.endpoints(tx) == []


def test_an_eleventh_endpoint_of_an_outlet_is_refused(office: Office) -> None:
    for n in range(endpoints.MAX_PER_OUTLET):
        office.endpoint(f"/{n}")
    with pytest.raises(Conflict):
        office.endpoint("/one-more")


def test_what_people_and_the_notifier_did_is_in_the_audit_log_and_no_secret_in_the_clear(office: Office) -> None:
    made = office.endpoint(signature="hmac")
    office.fault("gone")
    office.tell(1)
    office.deliver()
    endpoints.enable(office.context, made.id, actor="ada")
    with office.context.store.transaction() as tx:
        rows = tx.conn.execute(audit.select(audit.t.audit).order_by(audit.u.id)).all()
        raw = webhooks.endpoint(tx, made.id)
    assert [(row.actor, row.action) for row in rows] == [
        ("ada", "webhook.create"),
        ("notify", "webhook.disable"),
        ("ada", "webhook.enable"),
    ]
    assert made.key not in str(rows) + str(raw)


def test_attempts_are_kept_for_90_days(office: Office) -> None:
    made = office.endpoint()
    office.tell(2)
    office.deliver()
    office.clock.advance(timedelta(days=89))
    notify.prune(office.context)
    assert len(office.attempts(made.id)) == 2
    office.clock.advance(timedelta(days=2))
    assert notify.prune(office.context) is False
    assert office.attempts(made.id) == []
    assert office.states(made.id) == ["delivered"] * 2


def answering(office: Office, endpoint_id: str, **said: Any) -> None:
    """One endpoint's receiver says what no receiver here says."""
    take = office.sender.take

    def odd(timeout_s: float) -> Sequence[Attempt]:
        return [replace(one, **said) if one.endpoint_id == endpoint_id else one for one in take(timeout_s)]

    office.sender.take = odd  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "Thu, 01 Jan 99999999999999 00:00:00 GMT"},
        {"retry-after": "Thu, 01 Jan 2026 00:00:00 +99999999999999999999"},
        {"x-nul": "a\0b"},
    ],
)
def test_a_hostile_answer_costs_its_own_endpoint_one_try_and_no_other_anything(
    office: Office, headers: dict[str, str]
) -> None:
    hostile, well = office.endpoint("/hostile"), office.endpoint("/well")
    office.fault("fail", "/hostile")
    answering(office, hostile.id, response_headers=headers)
    office.tell(2)
    office.deliver()
    assert office.states(hostile.id) == ["waiting"] * 2
    assert [row.tries for row in office.deliveries(hostile.id)] == [1, 1]
    assert office.states(well.id) == ["delivered"] * 2
    assert office.row(well.id).failing_since is None


def test_an_answer_that_nobody_foresaw_is_settled_without_it_and_beside_the_others(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, well = office.endpoint("/odd"), office.endpoint("/well")
    office.fault("gone", "/odd")
    answering(office, odd.id, response_headers={"x-odd": "1"}, response=b"odd")
    known = notify.slowed_until

    def unforeseen(attempt: Attempt, *, now: datetime) -> datetime | None:
        if "x-odd" in attempt.response_headers:
            raise ArithmeticError
        return known(attempt, now=now)

    monkeypatch.setattr(notify, "slowed_until", unforeseen)
    office.tell(3)
    office.deliver()
    assert office.states(well.id) == ["delivered"] * 3
    assert set(office.states(odd.id)) == {"waiting"}
    assert {(row.status_code, row.response) for row in office.attempts(odd.id)} == {(410, None)}
    assert office.row(odd.id).state == "disabled"
    assert len(office.feed("endpoint.disabled")) == 1


def test_closing_gives_back_what_is_leased_even_when_it_cannot_be_settled(office: Office) -> None:
    made = office.endpoint()
    office.tell(2)
    notify.fan_out(office.context)
    office.deliverer.step()
    assert office.states(made.id) == ["sending"] * 2

    def broken(_timeout_s: float) -> Sequence[Attempt]:
        raise ArithmeticError

    office.sender.take = broken  # type: ignore[method-assign]
    with pytest.raises(ArithmeticError):
        office.deliverer.close(grace_s=10)
    assert office.states(made.id) == ["waiting"] * 2


def test_an_answer_with_anything_in_it_can_be_kept(office: Office) -> None:
    made = office.endpoint()
    office.tell(1)
    notify.fan_out(office.context)
    office.deliverer.step()
    original = office.sender.take

    def odd(timeout_s: float) -> Sequence[Attempt]:
        return [replace(attempt, response=b"\0\xff\xe5\x8d" + "卡".encode()) for attempt in original(timeout_s)]

    office.sender.take = odd  # type: ignore[method-assign] # an answer no receiver here gives
    while not office.deliverer.idle:
        office.deliverer.step(10)
    [row] = office.attempts(made.id)
    assert row.response.endswith("卡")
