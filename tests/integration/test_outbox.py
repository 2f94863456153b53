"""Events leave in commit order, without a gap; the audit log shows what was changed in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from pipeline.application import Submission
from pipeline.events import Event
from pipeline.services import sweep
from pipeline.store import audit, outbox
from pipeline.store import tables as t
from pipeline.store.engine import Store, Tx

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def event(subject: str, *, outlet: str | None = None, kind: str = "card.ready") -> Event:
    return Event(type=kind, subject=subject, region="420100", sequence=1, outlet=outlet)


def tell(store: Store, *subjects: str, **told: Any) -> None:
    with store.transaction() as tx:
        outbox.append(tx, [event(subject, **told) for subject in subjects], now=NOW)


def place(store: Store, limit: int = 500) -> int:
    with store.transaction() as tx:
        return outbox.place(tx, limit=limit)


def feed(store: Store, after: int = 0, limit: int = 100, **chosen: Any) -> tuple[list[str], int]:
    with store.transaction() as tx:
        page = outbox.feed(tx, after=after, limit=limit, **chosen)
    return [item.subject for item in page.events], page.cursor


def positions(store: Store) -> list[int]:
    with store.transaction() as tx:
        return list(tx.conn.execute(select(t.outbox.c.position).order_by(t.outbox.c.position)).scalars())


def test_positions_have_no_gap_and_follow_the_order_of_writing(store: Store) -> None:
    for n in range(0, 12, 3):
        tell(store, *(f"s{n + k:02d}" for k in range(3)))
        place(store)
    assert positions(store) == list(range(1, 13))
    assert feed(store) == ([f"s{n:02d}" for n in range(12)], 12)


def test_an_event_has_no_place_before_the_leader_gave_it_one(store: Store) -> None:
    tell(store, "s1")
    assert feed(store) == ([], 0)
    with store.transaction() as tx:
        assert outbox.waiting(tx) == (1, NOW)
    place(store)
    with store.transaction() as tx:
        assert outbox.waiting(tx) == (0, None)


def test_places_are_given_in_portions_without_a_gap(store: Store) -> None:
    tell(store, *(f"s{n}" for n in range(5)))
    assert [place(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert feed(store) == ([f"s{n}" for n in range(5)], 5)


def test_a_reader_goes_on_from_its_cursor_and_sees_each_event_once(store: Store) -> None:
    tell(store, *(f"s{n}" for n in range(7)))
    place(store)
    seen, cursor = [], 0
    while True:
        page, cursor = feed(store, after=cursor, limit=3)
        if not page:
            break
        seen += page
    assert seen == [f"s{n}" for n in range(7)]


def test_an_outlet_reads_its_own_events_only(store: Store) -> None:
    tell(store, "a", outlet="o1")
    tell(store, "b", outlet="o2")
    tell(store, "c", outlet="o1", kind="card.recalled")
    place(store)
    assert feed(store, outlet="o1") == (["a", "c"], 3)
    assert feed(store, outlet="o1", types=["card.recalled"]) == (["c"], 3)


def test_a_change_that_is_taken_back_tells_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        outbox.append(tx, [event("s1")], now=NOW)
        raise ZeroDivisionError
    assert place(store) == 0


@contextmanager
def open_transaction(store: Store) -> Iterator[Tx]:
    with store.transaction() as tx:
        yield tx


def test_an_event_that_commits_late_comes_after_the_reader_and_is_not_skipped(postgres_url: str) -> None:
    from pipeline.store.sealing import Sealer

    store = Store(postgres_url, Sealer(bytes(range(32)))).open()
    try:
        with open_transaction(store) as late:
            outbox.append(late, [event("written first, committed last")], now=NOW)
            tell(store, "written last, committed first")
            assert place(store) == 1
            read, cursor = feed(store)
            assert read == ["written last, committed first"]
        assert place(store) == 1
        assert feed(store, after=cursor) == (["written first, committed last"], 2)
        assert positions(store) == [1, 2]
    finally:
        store.close()


def test_that_a_card_is_ready_is_told_once_for_each_delivery(line: Any, submission: Callable[..., Submission]) -> None:
    ids = line.to_outlet(*(submission(n) for n in range(1, 5)))
    for _ in range(3):
        line.later(hours=1)
    sweep.place_events(line.context)
    with line.context.store.transaction() as tx:
        page = outbox.feed(tx, after=0, limit=100, types=["card.ready"])
    cards = {line.card(i).id for i in ids}
    assert len(page.events) == 4
    assert {item.subject for item in page.events} == cards


# ---------------------------------------------------------------------------------------------------------------- audit


def write(store: Store, *actions: str) -> None:
    with store.transaction() as tx:
        for action in actions:
            audit.append(tx, actor="op", action=action, target="t", now=NOW, detail={"b": 1, "a": ["样例", None, True]})


def seal(store: Store, limit: int = 500) -> int:
    with store.transaction() as tx:
        return audit.seal(tx, limit=limit)


def verify(store: Store) -> audit.Verified:
    with store.transaction() as tx:
        return audit.verify(tx)


@pytest.fixture
def chained(store: Store) -> Store:
    write(store, *(f"a{n}" for n in range(6)))
    assert [seal(store, limit=4) for _ in range(3)] == [4, 2, 0]
    return store


def test_an_untouched_log_holds_and_unsealed_rows_are_counted(chained: Store) -> None:
    write(chained, "later")
    assert verify(chained) == audit.Verified(rows=6, unsealed=1, broken_at=None)
    seal(chained)
    assert verify(chained) == audit.Verified(rows=7, unsealed=0, broken_at=None)


class Undone(Exception):
    """What was changed is taken back."""


def broken_by(store: Store, change: Any) -> int | None:
    """Where the chain breaks when a change is made, which is taken back then."""
    found = None
    with suppress(Undone), store.transaction() as tx:
        tx.conn.execute(change)
        found = audit.verify(tx).broken_at
        raise Undone
    return found


def test_a_row_that_was_altered_breaks_the_chain_there(chained: Store) -> None:
    changes: list[dict[str, Any]] = [
        {"actor": "another"},
        {"action": "another"},
        {"target": "another"},
        {"detail": {"b": 2}},
        {"at": datetime(2026, 3, 3, tzinfo=UTC)},
        {"hash": bytes(32)},
        {"prev_hash": bytes([1] * 32)},
        {"id": "aud_another"},
    ]
    for change in changes:
        assert broken_by(chained, update(t.audit).where(t.audit.c.seq == 3).values(**change)) == 3, change
    assert verify(chained).broken_at is None


def test_a_row_that_was_removed_breaks_the_chain_there(chained: Store) -> None:
    for seq in (1, 3, 5):
        assert broken_by(chained, delete(t.audit).where(t.audit.c.seq == seq)) == seq


def test_rows_that_changed_places_break_the_chain(chained: Store) -> None:
    with chained.transaction() as tx:
        for old, new in ((3, 103), (4, 3), (103, 4)):
            tx.conn.execute(update(t.audit).where(t.audit.c.seq == old).values(seq=new))
    assert verify(chained).broken_at == 3


def test_what_operators_do_is_in_the_log_with_who_did_it(line: Any, submission: Callable[..., Submission]) -> None:
    from pipeline.services import operate

    [i] = line.accept(submission())
    operate.cancel(line.context, i, reason="asked for", actor="op-7")
    line.sweep()
    with line.context.store.transaction() as tx:
        rows = tx.conn.execute(
            select(t.audit.c.action, t.audit.c.actor, t.audit.c.target).order_by(t.audit.c.seq)
        ).all()
        assert audit.verify(tx) == audit.Verified(rows=3, unsealed=0, broken_at=None)
    supplied = [("blank.receive", "keeper"), ("blank.issue", "keeper")]
    assert [tuple(row)[:2] for row in rows[:2]] == supplied
    assert tuple(rows[2]) == ("application.cancel", "op-7", i)
