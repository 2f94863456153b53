"""Outlets on RabbitMQ: every event in their queue in order, whatever breaks; and no outlet sees or says what is another's."""

from __future__ import annotations

import base64
import json
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker
from typer.testing import CliRunner

from config import logs
from pipeline.application import Submission
from pipeline.errors import NotFound, Refused, TransientError
from pipeline.events import Event
from pipeline.gateways import command_amqp
from pipeline.gateways.amqp_topology import (
    COMMANDS,
    DEAD,
    EVENTS,
    OutletUser,
    definitions,
    password_hash,
    queue_of,
    topology,
)
from pipeline.gateways.notify_amqp import AmqpNotifier, check, declare
from pipeline.ports import OutgoingEvent, Publishing
from pipeline.services import commands, feed, queues, returns, sweep
from pipeline.store import control, outbox, outlet_queues
from pipeline.store.outlet_queues import Progress
from producers.cli.main import app
from producers.outlet_amqp import OutletAmqp
from tests.conftest import MASTER
from tests.integration.conftest import Killed
from tests.support.vhost import administered, ctl, virtual_host

PATIENCE_S = 20.0
_numbers = count(1)


@pytest.fixture(scope="module")
def broker(amqp_url: str) -> Iterator[str]:
    """A virtual host for this file; outlets have numbers of their own in each test."""
    with virtual_host(amqp_url) as url:
        yield url


@pytest.fixture
def outlet(broker: str) -> Iterator[Callable[[], str]]:
    """Makes an outlet that no other test uses; its queue goes with the test."""
    made: list[str] = []

    def make() -> str:
        made.append(f"out_{next(_numbers):08d}")
        return made[-1]

    yield make
    with closing(pika.BlockingConnection(pika.URLParameters(broker))) as connection:
        channel = connection.channel()
        for name in (*(queue_of(o) for o in made), COMMANDS, DEAD):
            channel.queue_delete(name)


def tell(line: Any, outlet: str | None, *subjects: str) -> None:
    events = [Event(type="card.ready", subject=s, region="420100", sequence=1, outlet=outlet) for s in subjects]
    with line.context.store.transaction() as tx:
        outbox.append(tx, events, now=line.clock.now())
    while sweep.place_events(line.context):
        pass


def enable(line: Any, *outlets: str) -> None:
    for name in outlets:
        queues.enable(line.context, name, actor="op")


def state(line: Any, outlet: str) -> Any:
    with line.context.store.transaction() as tx:
        return next(row for row in outlet_queues.listing(tx) if row.outlet == outlet)


def stored(line: Any, outlet: str) -> list[OutgoingEvent]:
    with line.context.store.transaction() as tx:
        return list(outbox.feed(tx, after=0, limit=100_000, outlet=outlet).events)


@contextmanager
def channel_of(url: str) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        with suppress(AMQPError):
            connection.close()


def taken(url: str, queue: str, *, at_most: int | None = None) -> list[tuple[Any, Any, bytes]]:
    """What lies in a queue; it is taken out."""
    with channel_of(url) as channel:
        lying = channel.queue_declare(queue, passive=True).method.message_count
        if at_most is not None:
            return [channel.basic_get(queue, auto_ack=True) for _ in range(min(lying, at_most))]
        messages = channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE_S)
        return [next(messages) for _ in range(lying)]


def first_seen(messages: list[tuple[Any, Any, bytes]]) -> list[str]:
    """Ids as a receiver sees them that drops what it had before."""
    return list(dict.fromkeys(properties.message_id for _, properties, _ in messages))


def publish_all(line: Any, notifier: AmqpNotifier, **sizes: int) -> int:
    total = 0
    while (done := queues.publish(line.context, notifier, **sizes)).taken:
        total += done.taken
    return total


# ------------------------------------------------------------------------------------------------------------- publishing


def test_an_outlets_events_reach_its_own_queue_in_order_as_they_are_stored(
    line: Any, broker: str, outlet: Callable[[], str]
) -> None:
    a, b = outlet(), outlet()
    enable(line, a, b)
    for n in range(4):
        tell(line, a, *(f"card_a{n}-{k}" for k in range(30)))
        tell(line, b, *(f"card_b{n}-{k}" for k in range(10)))
    tell(line, None, "card_nobody")
    with closing(AmqpNotifier(broker)) as notifier:
        assert publish_all(line, notifier) == 160
    for name in (a, b):
        messages = taken(broker, queue_of(name))
        assert [(p.message_id, body) for _, p, body in messages] == [(e.id, e.body) for e in stored(line, name)]
        assert {(p.content_type, p.delivery_mode) for _, p, _ in messages} == {("application/cloudevents+json", 2)}
        assert {m.routing_key for m, _, _ in messages} == {f"outlet.{name}.card.ready"}
        assert state(line, name).behind == 0


def test_an_outlet_whose_queue_was_off_for_days_gets_all_it_missed_in_order(
    line: Any, broker: str, outlet: Callable[[], str]
) -> None:
    a = outlet()
    tell(line, a, "before it was ever on")
    enable(line, a)
    queues.disable(line.context, a, actor="op")
    for day in range(5):
        line.clock.advance(timedelta(days=1))
        tell(line, a, f"{day} a", f"{day} b")
    with closing(AmqpNotifier(broker)) as notifier:
        assert publish_all(line, notifier) == 0
        enable(line, a)
        assert publish_all(line, notifier, batch=3) == 10
    assert first_seen(taken(broker, queue_of(a))) == [event.id for event in stored(line, a)[1:]]


def test_a_queue_may_begin_at_a_cursor_of_the_feed(line: Any, broker: str, outlet: Callable[[], str]) -> None:
    a = outlet()
    tell(line, a, "read elsewhere")
    cursor = feed.read(line.context, outlet=a).cursor
    tell(line, a, "not read")
    queues.enable(line.context, a, after=cursor, actor="op")
    with closing(AmqpNotifier(broker)) as notifier:
        assert publish_all(line, notifier) == 1


def test_what_is_no_outlet_has_no_queue(line: Any) -> None:
    with pytest.raises(Refused):
        queues.enable(line.context, "out_1.#", actor="op")
    with pytest.raises(NotFound):
        queues.disable(line.context, "out_never", actor="op")


def test_a_full_queue_loses_nothing_keeps_its_order_and_holds_up_no_other(
    line: Any, broker: str, outlet: Callable[[], str]
) -> None:
    full, other = outlet(), outlet()
    enable(line, full, other)
    tell(line, full, *(f"f{n}" for n in range(60)))
    tell(line, other, "o1", "o2")
    ids = [event.id for event in stored(line, full)]
    with closing(AmqpNotifier(broker, max_length=5)) as notifier:
        publish_all(line, notifier, batch=3)
        assert state(line, other).behind == 0
        refusing = state(line, full)
        assert refusing.problem == "queue-full"
        assert refusing.refused_since is not None
        assert refusing.delivered >= 5
        assert publish_all(line, notifier) == 0  # it backs off
        assert refusing.next_try_at > line.clock.now()

        seen: list[tuple[Any, Any, bytes]] = []
        for _ in range(100):
            seen += taken(broker, queue_of(full), at_most=7)
            line.clock.advance(timedelta(minutes=5))
            publish_all(line, notifier, batch=3)
            if state(line, full).behind == 0:
                break
        seen += taken(broker, queue_of(full))
    assert first_seen(seen) == ids
    assert state(line, full).refused_since is None
    assert state(line, full).problem is None


class SlowReader:
    """An outlet's program that reads more slowly than events come; what it has read, in order."""

    def __init__(self, url: str, outlet: str, *, wanted: int) -> None:
        self.read: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(url, queue_of(outlet), wanted), daemon=True)
        self._thread.start()

    def _run(self, url: str, queue: str, wanted: int) -> None:
        with channel_of(url) as channel:
            channel.basic_qos(prefetch_count=5)
            for method, properties, _ in channel.consume(queue, inactivity_timeout=PATIENCE_S):
                if method is None:
                    return
                self.read.append(properties.message_id)
                channel.basic_ack(method.delivery_tag)
                if len(set(self.read)) == wanted:
                    return
                if len(self.read) % 10 == 0:
                    time.sleep(0.03)

    def finished(self) -> list[str]:
        self._thread.join(2 * PATIENCE_S)
        return list(dict.fromkeys(self.read))


def test_no_event_overtakes_one_that_a_filling_queue_refused(line: Any, broker: str, outlet: Callable[[], str]) -> None:
    a = outlet()
    enable(line, a)
    declare(broker, topology([a], max_length=40))
    tell(line, a, *(f"s{n}" for n in range(500)))
    with closing(AmqpNotifier(broker, max_length=40)) as notifier:
        while not queues.publish(line.context, notifier, batch=20).refused:
            pass
        reader = SlowReader(broker, a, wanted=500)
        while state(line, a).behind:
            line.clock.advance(timedelta(minutes=5))
            queues.publish(line.context, notifier, batch=20)
    assert reader.finished() == [event.id for event in stored(line, a)]


def test_a_queue_that_somebody_deleted_is_named_and_made_again(
    line: Any, broker: str, outlet: Callable[[], str]
) -> None:
    a = outlet()
    enable(line, a)
    tell(line, a, "s1")
    with closing(AmqpNotifier(broker)) as notifier:
        publish_all(line, notifier)
        with channel_of(broker) as channel:
            channel.queue_delete(queue_of(a))
        tell(line, a, "s2", "s3")
        assert queues.publish(line.context, notifier).refused == 1
        assert state(line, a).problem == "no-queue"
        line.clock.advance(timedelta(minutes=5))
        assert publish_all(line, notifier) == 2
    assert first_seen(taken(broker, queue_of(a))) == [event.id for event in stored(line, a)[1:]]


def test_a_broker_that_is_away_moves_nothing(line: Any, outlet: Callable[[], str]) -> None:
    a = outlet()
    enable(line, a)
    tell(line, a, "s1")
    with closing(AmqpNotifier("amqp://guest:guest@127.0.0.1:1/none")) as notifier, pytest.raises(TransientError):
        queues.publish(line.context, notifier)
    assert (state(line, a).behind, state(line, a).problem) == (1, None)


class DiesAfterwards(AmqpNotifier):
    """The process is killed when the broker has confirmed, before that is written down."""

    def publish(self, events: Any) -> dict[str, Publishing]:
        super().publish(events)
        raise Killed


def test_what_was_confirmed_to_a_process_that_died_comes_again_with_the_same_ids(
    line: Any, broker: str, outlet: Callable[[], str]
) -> None:
    a = outlet()
    enable(line, a)
    tell(line, a, *(f"s{n}" for n in range(10)))
    with closing(DiesAfterwards(broker)) as dying, pytest.raises(Killed):
        queues.publish(line.context, dying, batch=4)
    with closing(AmqpNotifier(broker)) as notifier:
        assert publish_all(line, notifier) == 10
    ids = [event.id for event in stored(line, a)]
    messages = taken(broker, queue_of(a))
    assert [p.message_id for _, p, _ in messages] == ids[:4] + ids
    assert first_seen(messages) == ids


def test_a_former_leader_does_not_move_a_queue_back(line: Any, outlet: Callable[[], str]) -> None:
    a = outlet()
    enable(line, a)
    with line.context.store.transaction() as tx:
        outlet_queues.settle(tx, [Progress(outlet=a, was=0, position=9, delivered=9)])
        outlet_queues.settle(tx, [Progress(outlet=a, was=0, position=4, delivered=4)])
    assert (state(line, a).position, state(line, a).delivered) == (9, 9)


class Cutting:
    """A way to the broker that breaks after so many bytes towards it, again and again; nothing comes back any more then."""

    def __init__(self, url: str, *, after: list[int]) -> None:
        parts = urlsplit(url)
        self._broker = (parts.hostname or "", parts.port or 5672)
        self._after = after
        self.cut = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._broker)
                left = self._after.pop(0) if self._after else None
                threading.Thread(target=self._forward, args=(near, far, left), daemon=True).start()
                threading.Thread(target=self._forward, args=(far, near, None), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
                if left is not None and (left := left - len(data)) <= 0:
                    self.cut += 1
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_connections_that_break_in_the_middle_lose_nothing_and_change_no_order(
    line: Any, broker: str, outlet: Callable[[], str]
) -> None:
    a, b = outlet(), outlet()
    enable(line, a, b)
    declare(broker, topology([a, b]))
    tell(line, a, *(f"a{n}" for n in range(400)))
    tell(line, b, *(f"b{n}" for n in range(400)))
    # Declaring takes every other connection, so it is the publishing ones that break.
    way = Cutting(broker, after=[20_000, 10**9, 30_000, 10**9, 45_000, 10**9, 60_000])
    with closing(way), closing(AmqpNotifier(way.url, patience_s=PATIENCE_S)) as notifier:
        for _ in range(200):
            with suppress(TransientError):
                queues.publish(line.context, notifier)
            if state(line, a).behind == state(line, b).behind == 0:
                break
    assert way.cut == 4
    for name in (a, b):
        ids = [event.id for event in stored(line, name)]
        messages = taken(broker, queue_of(name))
        assert set(first_seen(messages)) == set(ids)
        assert first_seen(messages) == ids


# ------------------------------------------------------------------------------------------------------------ permissions


class OutletProgram:
    """An outlet's own program, with the user that the definitions gave it."""

    def __init__(self, url: str, outlet: str, password: str) -> None:
        self.outlet = outlet
        self.url = urlsplit(url)._replace(netloc=f"{queue_of(outlet)}:{password}@{_host(url)}").geturl()

    def admitted(self) -> None:
        """Wait until the broker knows user and queue: it imports in its own time."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                with channel_of(self.url) as channel:
                    channel.basic_get(queue_of(self.outlet))
                    return
            except AMQPError:
                assert time.monotonic() < until, "the definitions never arrived"
                time.sleep(0.05)

    def command(self, kind: str, subject: str, key: str, **data: Any) -> None:
        document = {"specversion": "1.0", "id": key, "source": f"/outlets/{self.outlet}", "type": kind}
        self.send(json.dumps({**document, "subject": subject, "data": data}).encode(), key=key)

    def send(self, body: bytes, *, key: str, to: str = COMMANDS, routing_key: str = "", user: str = "") -> None:
        properties = pika.BasicProperties(message_id=key, user_id=user or queue_of(self.outlet), delivery_mode=2)
        with channel_of(self.url) as channel:
            channel.confirm_delivery()
            channel.basic_publish(to, routing_key or self.outlet, body, properties, mandatory=True)

    def heard(self, until: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Read the outlet's queue until something holds of all it has got; each event once."""
        seen: dict[str, dict[str, Any]] = {}
        with channel_of(self.url) as channel:
            for method, properties, body in channel.consume(queue_of(self.outlet), inactivity_timeout=PATIENCE_S):
                assert method is not None, f"nothing came after {list(seen.values())}"
                channel.basic_ack(method.delivery_tag)
                seen.setdefault(properties.message_id, json.loads(body))
                if until(list(seen.values())):
                    break
            channel.cancel()
        return list(seen.values())


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 5672}"


def _vhost(url: str) -> str:
    return urlsplit(url).path[1:]


@contextmanager
def programs(broker: str, *outlets: str) -> Iterator[list[OutletProgram]]:
    """Users of outlets, imported as an operator would."""
    administered()
    users = [OutletUser(outlet=name, password=f"secret of {name}".replace(" ", "-")) for name in outlets]
    wanted = definitions(users, vhost=_vhost(broker), salt=bytes(range(4 * len(users))))
    ctl("import_definitions", told=json.dumps(wanted).encode())
    made = [OutletProgram(broker, user.outlet, user.password) for user in users]
    try:
        for program in made:
            program.admitted()
        yield made
    finally:
        for name in outlets:
            ctl("delete_user", queue_of(name))


def refused(url: str, act: Callable[[Any], object]) -> int:
    """The code the broker refuses an act with."""
    with channel_of(url) as channel:
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as error:
            act(channel)
    return int(error.value.reply_code)


def test_an_outlets_user_reads_its_own_queue_and_writes_its_own_commands_and_no_more(
    broker: str, outlet: Callable[[], str]
) -> None:
    a, b = outlet(), outlet()
    with programs(broker, a, b) as (ours, theirs):
        with closing(AmqpNotifier(broker)) as notifier:
            event = OutgoingEvent(id="evt_1", type="card.ready", subject="card_1", outlet=a, body=b'{"id":"evt_1"}')
            assert notifier.publish([event]) == {"evt_1": "taken"}
        assert ours.heard(lambda seen: bool(seen)) == [{"id": "evt_1"}]
        ours.send(b"{}", key="k1")
        assert len(taken(broker, COMMANDS)) == 1

        as_user = pika.BasicProperties(user_id=queue_of(b))
        acts: Mapping[str, Callable[[Any], object]] = {
            "read another's queue": lambda ch: ch.basic_get(queue_of(b)),
            "read the commands": lambda ch: ch.basic_get(COMMANDS),
            "declare a queue": lambda ch: ch.queue_declare("mine"),
            "declare an exchange": lambda ch: ch.exchange_declare("mine"),
            "delete its queue": lambda ch: ch.queue_delete(queue_of(a)),
            "bind its queue to another's events": lambda ch: ch.queue_bind(queue_of(a), EVENTS, f"outlet.{b}.#"),
            "publish events": lambda ch: ch.basic_publish(EVENTS, f"outlet.{a}.card.ready", b"{}"),
            "publish past the exchanges": lambda ch: ch.basic_publish("", queue_of(b), b"{}"),
            "command under another's key": lambda ch: ch.basic_publish(COMMANDS, b, b"{}"),
        }
        assert {name: refused(ours.url, act) for name, act in acts.items()} == dict.fromkeys(acts, 403)
        # Another user's name in the message is refused as a fault of the message.
        assert refused(ours.url, lambda ch: ch.basic_publish(COMMANDS, a, b"{}", as_user)) == 406
        theirs.send(b"{}", key="k2")
        assert [p.user_id for _, p, _ in taken(broker, COMMANDS)] == [queue_of(b)]


@pytest.fixture
def zhika(broker: str, emptied_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command on an installation with a broker."""
    monkeypatch.setenv("ZHIKA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ZHIKA_DATABASE__URL", emptied_postgres)
    monkeypatch.setenv("ZHIKA_BROKER__URL", broker)
    key = tmp_path / "installation.key"
    key.write_bytes(MASTER)
    monkeypatch.setenv("ZHIKA_KEY_FILE", str(key))
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)  # the log of the tests stays as it is
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_definitions_and_keeps_passwords_in_files_of_their_owner(
    zhika: Callable[..., Any], broker: str, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    asked = ("broker", "definitions", "--outlet", "out_1", "--outlet", "out_2", "--passwords", secrets)
    done = zhika(*asked)
    files = sorted(secrets.iterdir())
    assert [file.name for file in files] == ["out_1.password", "out_2.password"]
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().strip() not in done.output
    told = json.loads(done.stdout)
    assert [user["name"] for user in told["users"]] == ["outlet.out_1", "outlet.out_2"]
    assert {permission["vhost"] for permission in told["permissions"]} == {_vhost(broker)}
    passwords = [file.read_text() for file in files]
    salt = base64.b64decode(told["users"][0]["password_hash"])[:4]
    assert told["users"][0]["password_hash"] == password_hash(passwords[0].strip(), salt)
    zhika(*asked)
    assert [file.read_text() for file in files] == passwords


def test_the_command_switches_queues_on_and_makes_what_is_missing(
    zhika: Callable[..., Any], outlet: Callable[[], str]
) -> None:
    a = outlet()
    assert zhika("broker", "queue", "enable", a).exit_code == 0
    before = zhika("broker", "check")
    assert (before.exit_code, json.loads(before.stdout)[queue_of(a)]) == (1, "missing")
    assert zhika("broker", "declare").exit_code == 0
    after = zhika("broker", "check")
    assert (after.exit_code, set(json.loads(after.stdout).values())) == (0, {"ok"})
    [row] = [json.loads(text) for text in zhika("broker", "queue", "list").stdout.splitlines()]
    assert (row["outlet"], row["state"], row["behind"]) == (a, "enabled", 0)


def test_without_a_broker_the_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZHIKA_DATA_DIR", str(tmp_path))
    assert CliRunner().invoke(app, ["db", "migrate"]).exit_code == 0
    done = CliRunner().invoke(app, ["broker", "queue", "enable", "out_1"])
    assert isinstance(done.exception, Refused)
    assert done.exception.reason_code == "amqp-not-configured"


def test_what_is_missing_or_different_on_the_broker_is_named(broker: str, outlet: Callable[[], str]) -> None:
    a, b = outlet(), outlet()
    declare(broker, topology([a], max_length=7))
    assert check(broker, topology([a], max_length=7)) == {
        EVENTS: "ok", COMMANDS: "ok", DEAD: "ok", queue_of(a): "ok",
    }  # fmt: skip
    found = check(broker, topology([a, b]))
    assert {name: how for name, how in found.items() if how != "ok"} == {
        queue_of(a): "different",
        queue_of(b): "missing",
    }
    assert check(broker, topology([b]))[queue_of(b)] == "missing"  # asking made nothing


# ----------------------------------------------------------------------------------------------------- the whole of it


@contextmanager
def serving(line: Any, url: str) -> Iterator[None]:
    """The outlets' process, and the relay's placing of events, for the length of the block."""
    stopping = threading.Event()

    def place() -> None:
        while not stopping.wait(0.05):
            sweep.place_events(line.context)

    threads = [
        threading.Thread(target=OutletAmqp(context=line.context, url=url).run, args=(stopping,)),
        threading.Thread(target=place),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def answered(*keys: str) -> Callable[[list[dict[str, Any]]], bool]:
    def all_there(seen: list[dict[str, Any]]) -> bool:
        return set(keys) <= {event["data"].get("message_id") for event in seen}

    return all_there


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # a broker goes with PostgreSQL only
def test_an_outlet_works_over_the_broker_though_its_connections_are_cut(
    line: Any, broker: str, outlet: Callable[[], str], submission: Callable[..., Submission]
) -> None:
    a = outlet()
    enable(line, a)
    ids = line.accept(*(submission(n, outlet=a) for n in (1, 2)))
    line.run()
    [bundle] = line.ship()
    number = line.application(ids[0]).person.id_number
    with programs(broker, a) as [clerk], serving(line, broker):
        clerk.command(
            "bundle.receive", bundle.id, "k-receive", bundle_id=bundle.id, seal_no=bundle.seal_no, received_by="c1"
        )
        seen = clerk.heard(answered("k-receive"))
        assert "bundle.shipped" in [event["type"] for event in seen]
        line.later(seconds=1)
        [card, other] = [line.card(i) for i in ids]
        told = {"method": "sms", "by": "c1"}
        clerk.command("card.notice_given", card.id, "k-notice", **told)
        ctl("close_all_connections", "--vhost", _vhost(broker), "a test cuts them")
        clerk.command("card.notice_given", other.id, "k-other", **told)
        clerk.send(b"\xff no JSON", key="k-broken")
        clerk.command(
            "card.hand_over",
            card.id,
            "k-hand",
            clerk="c1",
            fee_receipt="R1",
            card_serial=card.blank_serial,
            by="holder",
            identity={"type": "resident_id", "number": number, "seen": True, "compared": True},
        )
        seen += clerk.heard(answered("k-notice", "k-other", "k-broken", "k-hand"))
        clerk.command("card.notice_given", other.id, "k-other", **told)
        again = clerk.heard(answered("k-other"))
    problems = {e["data"]["message_id"]: e["data"].get("problem") for e in seen if e["type"].startswith("command.")}
    assert problems.pop("k-broken")["code"] == "unreadable"
    assert problems == dict.fromkeys(("k-receive", "k-notice", "k-other", "k-hand"))
    assert [line.status(i) for i in ids] == ["collected", "notified"]
    assert [e["data"] for e in again if e["data"].get("message_id")] == [
        e["data"] for e in seen if e["data"].get("message_id") == "k-other"
    ]
    assert taken(broker, DEAD) == taken(broker, COMMANDS) == []
    assert number not in json.dumps(seen)


class Beyond(pika.BasicProperties):  # type: ignore[misc] # the library has no types
    """Properties with a time in their headers that the library can neither write nor read."""

    def __init__(self, **named: Any) -> None:
        super().__init__(headers={"a": datetime.fromtimestamp(0, UTC)}, content_type="application/json", **named)

    def encode(self) -> list[bytes]:
        written = b"".join(super().encode())
        epoch = b"T" + bytes(8)
        assert epoch in written
        return [written.replace(epoch, b"T" + b"\xff" * 8)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # a broker goes with PostgreSQL only
def test_a_message_that_nobody_can_read_is_answered_and_no_other_outlet_waits_for_it(
    line: Any, broker: str, outlet: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_amqp, "AGAIN_S", 3600.0)  # nothing here is worth a second
    broken, well = outlet(), outlet()
    enable(line, broken, well)
    number = "99900119800101001X"
    body = json.dumps(
        {"type": "card.return", "subject": "card_1", "data": {"reason": "damaged", "name": number}}
    ).encode()
    user = {"user_id": queue_of(broken)}
    messages = {
        "year": (Beyond(message_id="year", **user), body),
        "empty": (Beyond(message_id="empty", **user), b""),
        "key": (pika.BasicProperties(message_id=b"\xff\xfe", **user), body),
        "count": (pika.BasicProperties(message_id="count", headers={"x-delivery-count": "abc"}, **user), body),
        "table": (pika.BasicProperties(message_id="table", headers={"x-delivery-count": {"a": 1}}, **user), body),
        "text": (pika.BasicProperties(message_id="text", **user), f"张三 {number}".encode()),
        "half": (
            pika.BasicProperties(message_id="half", **user),
            b'{"type":"card.return","data":{"\\ud800":"\\udfff"}}',
        ),
    }
    with programs(broker, broken, well) as [theirs, clerk], serving(line, broker):
        with channel_of(theirs.url) as channel:
            channel.confirm_delivery()
            for properties, content in messages.values():
                channel.basic_publish(COMMANDS, broken, content, properties, mandatory=True)
        clerk.command("card.return", "card_1", "k-well", reason="damaged", by="c1")
        assert clerk.heard(answered("k-well"))
        seen = theirs.heard(lambda seen: len(seen) == len(messages))
    codes = {event["data"]["message_id"]: event["data"]["problem"]["code"] for event in seen}
    assert codes == {
        **dict.fromkeys(("year", "empty", "text"), "unreadable"),
        None: "idempotency-key-missing",
        **dict.fromkeys(("count", "table", "half"), "validation-failed"),
    }
    assert number not in json.dumps(seen)
    assert taken(broker, DEAD) == taken(broker, COMMANDS) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # a broker goes with PostgreSQL only
def test_a_command_that_fails_in_us_is_given_up_after_three_deliveries_at_once(
    line: Any, broker: str, outlet: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_amqp, "AGAIN_S", 3600.0)
    a = outlet()
    enable(line, a)
    tried: list[object] = []

    def fails(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise ArithmeticError

    monkeypatch.setattr(returns, "ask_back", fails)
    with programs(broker, a) as [clerk], serving(line, broker):
        clerk.command("card.return", "card_1", "k-fails", reason="damaged", by="c1")
        clerk.command("card.nonsense", "card_1", "k-next")
        seen = clerk.heard(answered("k-fails", "k-next"))
    codes = {event["data"]["message_id"]: event["data"]["problem"]["code"] for event in seen}
    assert codes == {"k-fails": "technical.exhausted", "k-next": "validation-failed"}
    assert len(tried) == commands.GIVE_UP
    assert taken(broker, DEAD) == taken(broker, COMMANDS) == []


def test_what_the_broker_gave_up_is_kept_for_a_week() -> None:
    [dead] = [queue for queue in topology([]).queues if queue.name == DEAD]
    assert dead.arguments["x-message-ttl"] == timedelta(days=7) / timedelta(milliseconds=1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite is one process
def test_a_second_process_stands_by_and_takes_over(line: Any, broker: str, outlet: Callable[[], str]) -> None:
    a = outlet()
    enable(line, a)
    tell(line, a, "s1")
    stopping = threading.Event()
    second = threading.Thread(target=OutletAmqp(context=line.context, url=broker).run, args=(stopping,))
    with control.leadership(line.context.store, "outlet-amqp") as leads:
        assert leads is not None
        second.start()
        second.join(1.0)
        assert state(line, a).behind == 1
    until = time.monotonic() + PATIENCE_S
    while state(line, a).behind:
        assert time.monotonic() < until, "nobody took over"
        time.sleep(0.05)
    stopping.set()
    second.join(PATIENCE_S)
    assert not second.is_alive()
    assert len(taken(broker, queue_of(a))) == 1
