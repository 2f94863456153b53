"""Work orders: what goes in comes out, and anything else is stale, never an accident."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.application import LANES
from pipeline.errors import StaleMessage
from pipeline.messages import WorkOrder, queue_name
from pipeline.states import STAGES

ORDERS = st.builds(
    WorkOrder,
    stage=st.sampled_from(STAGES),
    lane=st.sampled_from(LANES),
    ids=st.lists(st.text(max_size=40), max_size=10).map(tuple),
    trace=st.text(max_size=8),
)
GOOD: dict[str, Any] = {"stage": "photo", "lane": "normal", "ids": ["app_1"], "trace": "t"}


@given(ORDERS)
def test_an_order_survives_the_way_through_the_broker(order: WorkOrder) -> None:
    assert WorkOrder.parse(order.as_dict()) == order


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "printing"}, {"stage": None}, {"stage": ["photo"]}, {"lane": "fast"}, {"lane": None}, {"ids": None}, {"ids": "app_1"},
        {"ids": [1]}, {"ids": [None]}, {"ids": b"app_1"}, {"ids": {"app_1": 1}}, {"ids": 7},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_order_is_stale(change: dict[str, Any]) -> None:
    with pytest.raises(StaleMessage):
        WorkOrder.parse(GOOD | change)


@pytest.mark.parametrize("missing", ["stage", "lane", "ids"])
def test_an_order_without_a_part_is_stale(missing: str) -> None:
    with pytest.raises(StaleMessage):
        WorkOrder.parse({key: value for key, value in GOOD.items() if key != missing})


@given(
    st.dictionaries(
        st.sampled_from(["stage", "lane", "ids", "trace", "other"]),
        st.none() | st.integers() | st.text() | st.lists(st.text()),
    )
)
def test_no_body_whatever_raises_anything_else(body: dict[str, Any]) -> None:
    with suppress(StaleMessage):
        assert WorkOrder.parse(body).stage in STAGES


def test_what_a_later_release_adds_is_ignored() -> None:
    assert WorkOrder.parse(GOOD | {"added": 1}) == WorkOrder.parse(GOOD)


def test_every_stage_and_lane_has_a_queue_of_its_own() -> None:
    names = [queue_name(stage, lane) for stage, lane in product(STAGES, LANES)]
    assert len(set(names)) == len(STAGES) * len(LANES)
    assert (queue_name("photo", "normal"), queue_name("photo", "urgent")) == ("photo", "photo.urgent")
