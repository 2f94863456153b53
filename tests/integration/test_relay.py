"""The relay: what is ready becomes orders of bounded size and number, and what no broker takes is ready again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from dramatiq.errors import ConnectionClosed
from sqlalchemy import update

from pipeline.application import Submission
from pipeline.messages import WorkOrder, queue_name
from pipeline.services import operate
from pipeline.states import STAGES
from pipeline.store import tables as t
from producers.relay import Relay
from workers import actors
from workers.broker import InProcessBroker

Make = Callable[..., Submission]


class Recording(InProcessBroker):
    """A broker that keeps what it was given, and refuses from the `full`-th message on."""

    def __init__(self, *, full: int | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.orders: list[WorkOrder] = []
        self.queues_of: list[str] = []
        self._full = full
        self._error = error or ConnectionClosed("full")
        actors.declare(self, actors.nothing, STAGES)

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        if self._full is not None and len(self.orders) >= self._full:
            raise self._error
        self.orders.append(WorkOrder.parse(message.kwargs))
        self.queues_of.append(message.queue_name)
        return message


def relay(line: Any, broker: Recording, *, chunk: int = 2, window: int = 4) -> Relay:
    return Relay(
        context=line.context,
        broker=broker,
        chunks=dict.fromkeys(STAGES, chunk),
        window=window,
        lease=timedelta(minutes=10),
    )


def work(line: Any) -> Counter[str]:
    with line.context.store.transaction() as tx:
        return Counter(row.work for row in tx.conn.execute(t.applications.select()))


def test_orders_carry_at_most_a_chunk_and_every_row_once(line: Any, submission: Make) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 8)))
    broker = Recording()
    assert relay(line, broker, chunk=3).publish() == 3
    assert [len(order.ids) for order in broker.orders] == [3, 3, 1]
    assert sorted(i for order in broker.orders for i in order.ids) == sorted(ids)
    assert {order.stage for order in broker.orders} == {"validation"}
    assert work(line) == {"queued": 7}


@pytest.mark.parametrize(("lane", "orders"), [("urgent", 8), ("normal", 4), ("bulk", 1)])
def test_a_queue_holds_no_more_orders_than_its_lanes_share_of_the_window(
    line: Any, submission: Make, lane: str, orders: int
) -> None:
    line.accept(*(submission(n, lane=lane) for n in range(1, 21)))
    broker = Recording()
    publisher = relay(line, broker, chunk=2, window=4)
    assert publisher.publish() == orders
    assert publisher.publish() == 0
    assert work(line)["queued"] == 2 * orders
    assert set(broker.queues_of) == {queue_name("validation", lane)}  # type: ignore[arg-type]
    from pipeline.services import run_stage

    run_stage.run(line.context, line.stages["validation"], broker.orders[0].ids, worker="w1")
    publisher.publish()
    assert work(line)["queued"] <= 2 * orders + 2  # the photo queue has its own window


def test_late_stages_and_urgent_rows_are_published_first(line: Any, submission: Make) -> None:
    line.accept(submission(1))
    line.step("validation")
    line.accept(submission(2), submission(3, priority="urgent", window="information_centre"))
    broker = Recording()
    relay(line, broker).publish()
    assert broker.queues_of == ["validation.urgent", "photo", "validation"]


def test_a_row_that_killed_a_worker_goes_alone(line: Any, submission: Make) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 6)))
    with line.context.store.transaction() as tx:
        tx.conn.execute(update(t.applications).where(t.applications.c.id.in_(ids[1:3])).values(solo=True))
    broker = Recording()
    relay(line, broker, chunk=3).publish()
    assert sorted(order.ids for order in broker.orders) == sorted([(ids[0], ids[3], ids[4]), (ids[1],), (ids[2],)])


@pytest.mark.parametrize("error", [ConnectionClosed("away"), RuntimeError("anything")], ids=["connection", "anything"])
def test_what_the_broker_does_not_take_is_ready_again_at_once(line: Any, submission: Make, error: Exception) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 7)))
    refusing = Recording(full=1, error=error)
    with pytest.raises(type(error)):
        relay(line, refusing).publish()
    assert work(line) == {"queued": 2, "ready": 4}
    broker = Recording()
    line.clock.advance(timedelta(minutes=11))
    line.sweep()
    relay(line, broker).publish()
    assert sorted(i for order in broker.orders for i in order.ids) == sorted(ids)


def test_a_paused_stage_is_not_published(line: Any, submission: Make) -> None:
    line.accept(submission(1))
    operate.pause(line.context, "validation", reason="r", actor="op")
    broker = Recording()
    publisher = relay(line, broker)
    assert publisher.publish() == 0
    operate.resume(line.context, "validation", actor="op")
    assert publisher.publish() == 1


def test_a_relay_publishes_the_stages_of_its_installation_only(line: Any, submission: Make) -> None:
    line.accept(submission(1))
    line.step("validation")
    broker = Recording()
    only = Relay(context=line.context, broker=broker, chunks={"validation": 2}, window=4, lease=timedelta(minutes=10))
    assert only.publish() == 0
    assert work(line) == {"ready": 1}


def test_an_order_names_ids_and_nothing_personal(line: Any, submission: Make) -> None:
    made = submission()
    [i] = line.accept(made)
    broker = Recording()
    relay(line, broker).publish()
    [order] = broker.orders
    assert order.as_dict() == {"stage": "validation", "lane": "normal", "ids": [i], "trace": order.trace}
    assert made.person.name not in str(order)
