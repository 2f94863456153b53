"""Accept: a submission is one application, once, and nobody reads in the database whose."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.application import Submission
from pipeline.messages import WorkOrder
from pipeline.services import operate
from pipeline.services.accept import Accepted, Declined, Replayed, accept
from pipeline.store import applications
from pipeline.store import tables as t

Make = Callable[..., Submission]


def answers(line: Any, *submissions: Submission) -> list[Any]:
    return accept(line.context, submissions, actor="test")


def count(line: Any, table: Any) -> int:
    with line.context.store.transaction() as tx:
        return len(tx.conn.execute(select(table)).all())


def test_the_same_submission_again_is_the_same_application(line: Any, submission: Make) -> None:
    [first] = answers(line, submission())
    [again] = answers(line, submission())
    assert again == Replayed(id=first.id, acceptance_no=first.acceptance_no, due_at=first.due_at)
    assert count(line, t.applications) == 1


def test_a_replay_is_answered_after_the_application_has_ended_too(line: Any, submission: Make) -> None:
    [i] = line.to_outlet(submission())
    line.hand_over(i)
    [again] = answers(line, submission())
    assert isinstance(again, Replayed)
    assert again.id == i


@pytest.mark.parametrize("change", ["person", "photo", "outlet"])
def test_the_same_reference_with_other_content_is_a_conflict(line: Any, submission: Make, change: str) -> None:
    [first] = answers(line, submission())
    other = {
        "person": submission(person={"name": "李四"}),
        "photo": submission(photo=b"another"),
        "outlet": submission(outlet="out_42010602"),
    }
    [answer] = answers(line, other[change])
    assert isinstance(answer, Declined)
    assert (answer.code, answer.id, answer.pointer) == ("external-ref-conflict", first.id, "#/external_ref")


def test_two_rows_of_one_chunk_for_one_person_are_one_application(line: Any, submission: Make) -> None:
    first, second = answers(line, submission(), replace(submission(), external_ref="T-other"))
    assert isinstance(first, Accepted)
    assert isinstance(second, Declined)
    assert second.duplicate
    assert count(line, t.applications) == 1


def test_the_same_row_twice_in_one_chunk_is_one_application(line: Any, submission: Make) -> None:
    first, second = answers(line, submission(), submission())
    assert isinstance(first, Accepted)
    assert second == Replayed(id=first.id, acceptance_no=first.acceptance_no, due_at=first.due_at)


def test_a_reference_twice_in_one_chunk_with_other_content_is_a_conflict(line: Any, submission: Make) -> None:
    first, second = answers(line, submission(), replace(submission(2), external_ref="T-1"))
    assert isinstance(first, Accepted)
    assert isinstance(second, Declined)
    assert second.code == "external-ref-conflict"


def test_every_submission_is_answered_in_its_place(line: Any, submission: Make) -> None:
    told = answers(
        line, submission(1), submission(2, region="990000"), submission(3), replace(submission(1), external_ref="T-9")
    )
    assert [type(answer).__name__ for answer in told] == ["Accepted", "Declined", "Accepted", "Declined"]
    assert [answer.code for answer in told if isinstance(answer, Declined)] == [
        "region.unknown",
        "duplicate-active-application",
    ]


def test_a_region_nobody_knows_is_declined_in_both_languages_and_leaves_nothing(line: Any, submission: Make) -> None:
    [answer] = answers(line, submission(region="990000"))
    assert isinstance(answer, Declined)
    assert (answer.code, answer.pointer) == ("region.unknown", "#/region")
    assert "990000" in answer.zh
    assert "990000" in answer.en
    assert count(line, t.applications) == count(line, t.persons) == 0


def test_who_has_a_live_application_gets_no_second_one_and_after_its_end_does(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    again = replace(submission(), external_ref="T-2")
    [refused] = answers(line, again)
    assert isinstance(refused, Declined)
    operate.cancel(line.context, i, reason="asked for", actor="test")
    [taken] = answers(line, again)
    assert isinstance(taken, Accepted)


def test_the_newest_accepted_declaration_is_what_is_known_of_a_person(line: Any, submission: Make) -> None:
    [i] = line.accept(submission())
    answers(line, replace(submission(person={"name": "王五"}), external_ref="T-2"))
    assert person_name(line, i) == "张小明"
    operate.cancel(line.context, i, reason="asked for", actor="test")
    [j] = line.accept(replace(submission(person={"name": "李四"}), external_ref="T-3"))
    assert person_name(line, j) == "李四"


def person_name(line: Any, application_id: str) -> str:
    with line.context.store.transaction() as tx:
        return applications.load(tx, [application_id])[application_id].application.person.name


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same time."""
    gate = threading.Barrier(len(calls))

    def at_once(call: Callable[[], Any]) -> Any:
        gate.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(at_once, call) for call in calls]]


def test_of_many_who_accept_one_person_at_once_exactly_one_does(line: Any, submission: Make) -> None:
    rivals = [replace(submission(), external_ref=f"T-{n}") for n in range(4)]
    told = together(*(lambda s=s: answers(line, s)[0] for s in rivals))
    assert sorted(type(answer).__name__ for answer in told) == ["Accepted", "Declined", "Declined", "Declined"]
    assert count(line, t.applications) == count(line, t.persons) == 1


def test_callers_with_the_same_people_in_other_order_write_them_in_one_order(
    line: Any, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written as they came, two callers could each wait for the other."""
    known = [submission(n) for n in range(1, 7)]
    for i in line.accept(*known):
        operate.cancel(line.context, i, reason="again", actor="test")
    written: list[list[str]] = []
    insert_received = applications.insert_received

    def watched(tx: Any, rows: Any, **told: Any) -> Any:
        written.append([row["person_id"] for row in rows])
        return insert_received(tx, rows, **told)

    monkeypatch.setattr(applications, "insert_received", watched)
    one = [replace(s, external_ref=f"A-{s.external_ref}", district="420106") for s in known]
    other = [replace(s, external_ref=f"B-{s.external_ref}", district="420102") for s in reversed(known)]
    told = together(lambda: answers(line, *one), lambda: answers(line, *other))
    assert sum(isinstance(answer, Accepted) for part in told for answer in part) == 6
    assert written[0] == written[1] == sorted(written[0])
    assert [answer.code for part in told for answer in part if isinstance(answer, Declined)] == [
        "duplicate-active-application"
    ] * 6


def test_acceptance_numbers_are_given_once_by_district_and_day(line: Any, submission: Make) -> None:
    parts = [[submission(10 * k + n) for n in range(1, 6)] for k in range(4)]
    told = together(*(lambda part=part: answers(line, *part) for part in parts))
    numbers = sorted(answer.acceptance_no for part in told for answer in part)
    assert numbers == [f"SL-420106-20260302-{n:05d}" for n in range(1, 21)]


def test_nothing_personal_stands_in_clear_in_any_table_order_or_event(line: Any, submission: Make) -> None:
    made = submission(person={"address": "样例路99号", "occupation": "样例职业"})
    [i] = line.to_outlet(made)
    line.notify(i)
    line.hand_over(i, document_number=made.person.id_number)
    [account] = line.ledger.accounts()
    personal = {
        made.person.name, made.person.id_number, made.person.phone, made.person.address, made.person.occupation,
        made.person.name[1:], account.card_number, account.account_ref,
    }  # fmt: skip
    found = dump(line)
    assert b"card.ready" in found and b"card.hand_over" in found  # what is searched holds events and audit
    order = WorkOrder(stage="photo", lane="normal", ids=(i,), trace="t")
    found += repr(order.as_dict()).encode()
    for text in personal:
        for form in (text.encode(), text.encode("gb18030"), text.encode("unicode-escape")):
            assert form not in found


def dump(line: Any) -> bytes:
    """Every column of every row of every table."""
    parts = []
    with line.context.store.transaction() as tx:
        for table in t.metadata.sorted_tables:
            for row in tx.conn.execute(select(table)):
                parts += [
                    bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode() for value in row
                ]
    return b"\n".join(parts)
