"""How ready rows become orders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producers.relay import split

ROWS = st.lists(st.booleans(), max_size=60).map(lambda alone: [(f"app_{n}", solo) for n, solo in enumerate(alone)])
CHUNKS = st.integers(1, 20)


@given(ROWS, CHUNKS)
def test_every_row_is_in_one_order(rows: list[tuple[str, bool]], chunk: int) -> None:
    assert sorted(i for order in split(rows, chunk=chunk) for i in order) == sorted(i for i, _ in rows)


@given(ROWS, CHUNKS)
def test_no_order_is_empty_or_larger_than_a_chunk(rows: list[tuple[str, bool]], chunk: int) -> None:
    assert all(1 <= len(order) <= chunk for order in split(rows, chunk=chunk))


@given(ROWS, CHUNKS)
def test_a_row_that_must_go_alone_does(rows: list[tuple[str, bool]], chunk: int) -> None:
    alone = {i for i, solo in rows if solo}
    assert all(len(order) == 1 for order in split(rows, chunk=chunk) if alone & set(order))


@given(ROWS, CHUNKS)
def test_there_are_as_few_orders_as_can_be(rows: list[tuple[str, bool]], chunk: int) -> None:
    alone = sum(solo for _, solo in rows)
    assert len(split(rows, chunk=chunk)) == alone + -(-(len(rows) - alone) // chunk)


@given(ROWS, CHUNKS)
def test_who_is_due_first_goes_first_among_those_that_go_together(rows: list[tuple[str, bool]], chunk: int) -> None:
    together = [i for i, solo in rows if not solo]
    alone = {i for i, solo in rows if solo}
    assert [i for order in split(rows, chunk=chunk) for i in order if i not in alone] == together
