"""A command of an outlet is done once and answered each time, wherever it is cut off; nobody's data is in the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, inspect, select

from pipeline.application import Submission
from pipeline.errors import Conflict
from pipeline.outlet_commands import CommandMessage
from pipeline.services import commands, counter, sweep
from pipeline.store import answers as store_answers
from pipeline.store import audit, outbox
from pipeline.store import tables as t
from tests.integration.conftest import Killed

OUTLET = "out_42010601"


def message(
    kind: str, subject: str, key: str, *, outlet: str = OUTLET, deliveries: int = 0, **data: Any
) -> CommandMessage:
    document = {"specversion": "1.0", "id": key, "type": kind, "subject": subject, "data": data}
    return CommandMessage(
        key=key,
        user=f"outlet.{outlet}",
        routing_key=outlet,
        body=json.dumps(document, ensure_ascii=False).encode(),
        deliveries=deliveries,
    )


def hand_over(line: Any, application: str, key: str, **changes: Any) -> CommandMessage:
    card = line.card(application)
    number = line.application(application).person.id_number
    told = {
        "clerk": "c1",
        "card_serial": card.blank_serial,
        "by": "holder",
        "fee_receipt": "R1",
        "identity": {"type": "resident_id", "number": number, "seen": True, "compared": True},
    }
    return message("card.hand_over", card.id, key, **(told | changes))


def answers(line: Any, outlet: str = OUTLET) -> list[dict[str, Any]]:
    """What the outlet was answered, oldest first."""
    sweep.place_events(line.context)
    kinds = ["command.accepted", "command.refused"]
    with line.context.store.transaction() as tx:
        page = outbox.feed(tx, after=0, limit=100, outlet=outlet, types=kinds)
    return [json.loads(event.body)["data"] for event in page.events]


def count(line: Any, table: Any) -> int:
    with line.context.store.transaction() as tx:
        return int(tx.conn.execute(select(func.count()).select_from(table)).scalar_one())


def everything(line: Any) -> str:
    """Every row of the database as text; what is sealed is not readable in it."""
    with line.context.store.transaction() as tx:
        names = inspect(tx.conn).get_table_names()
        rows = [tuple(row) for name in names for row in tx.conn.exec_driver_sql(f'SELECT * FROM "{name}"')]
    return "\n".join(
        bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)
        for row in rows
        for value in row
    )


@pytest.fixture
def delivered(line: Any, submission: Callable[..., Submission]) -> str:
    """An application whose card lies at the outlet."""
    [application] = line.to_outlet(submission())
    return str(application)


def test_an_outlet_receives_notifies_hands_over_and_sends_back(
    line: Any, submission: Callable[..., Submission]
) -> None:
    ids = line.accept(*(submission(n) for n in range(1, 4)))
    line.run()
    [bundle] = line.ship()
    told = {"bundle_id": bundle.id, "seal_no": bundle.seal_no, "received_by": "c1"}
    commands.handle(line.context, message("bundle.receive", bundle.id, "k1", **told))
    line.later(seconds=1)
    first, _, third = (line.card(i) for i in ids)
    commands.handle(line.context, message("card.notice_given", first.id, "k2", method="phone", by="c1"))
    commands.handle(line.context, hand_over(line, ids[0], "k3"))
    commands.handle(line.context, message("card.return", third.id, "k4", reason="misrouted"))

    told_back = answers(line)
    assert [item.get("problem") for item in told_back] == [None] * 4
    assert [item["message_id"] for item in told_back] == ["k1", "k2", "k3", "k4"]
    assert sorted(told_back[0]["result"]["received"]) == sorted(line.card(i).id for i in ids)
    assert told_back[1]["result"]["collect_by"] is not None
    assert [line.status(i) for i in ids][:2] == ["collected", "delivered"]
    assert line.card(ids[2]).return_reason == "misrouted"


def test_the_same_message_again_is_answered_alike_and_done_once(line: Any, delivered: str) -> None:
    asked = hand_over(line, delivered, "k1")
    for _ in range(3):
        commands.handle(line.context, asked)
    told = answers(line)
    assert told[0]["result"]["hand_over_id"].startswith("hov_")
    assert told == [told[0]] * 3
    assert count(line, t.hand_overs) == 1


def test_a_command_cut_off_before_its_answer_was_written_has_done_nothing(
    line: Any, delivered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hand_over(line, delivered, "k1")

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(outbox, "append", dies)
        with pytest.raises(Killed):
            commands.handle(line.context, asked)
    with monkeypatch.context() as broken:
        broken.setattr(commands, "_tell", dies)
        with pytest.raises(Killed):
            commands.handle(line.context, asked)
    assert (count(line, t.hand_overs), count(line, t.command_answers), line.status(delivered)) == (0, 0, "delivered")
    commands.handle(line.context, asked)
    assert line.status(delivered) == "collected"


def test_a_key_serves_one_command(line: Any, delivered: str) -> None:
    commands.handle(line.context, hand_over(line, delivered, "k1", card_serial="BL9999"))
    commands.handle(line.context, hand_over(line, delivered, "k1"))
    assert [item["problem"]["code"] for item in answers(line)] == ["serial-mismatch", "idempotency-key-reused"]
    assert line.status(delivered) == "delivered"


def test_another_outlets_key_is_another_key(line: Any, delivered: str) -> None:
    other = "out_42010602"
    card = line.card(delivered)
    commands.handle(line.context, message("card.notice_given", card.id, "k1", outlet=other, method="sms", by="c1"))
    commands.handle(line.context, message("card.notice_given", card.id, "k1", method="sms", by="c1"))
    assert [item["problem"]["code"] for item in answers(line, other)] == ["not-found"]
    assert "result" in answers(line)[0]


def test_a_refused_command_changes_nothing_and_is_refused_alike_again(line: Any, delivered: str) -> None:
    before = (line.row(delivered), line.card(delivered), line.history(delivered))
    wrong = hand_over(line, delivered, "k1", card_serial="BL9999")
    for _ in range(2):
        commands.handle(line.context, wrong)
    told = answers(line)
    assert told[0]["problem"]["code"] == "serial-mismatch"
    assert set(told[0]["problem"]) >= {"code", "zh", "en"}
    assert told[1] == told[0]
    assert (line.row(delivered), line.card(delivered), line.history(delivered)) == before


def test_what_a_refusing_service_had_written_is_undone_and_the_answer_is_kept(
    line: Any, delivered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(context: Any, card_id: str, **_: object) -> None:
        with context.store.transaction() as tx:
            audit.append(tx, actor="c1", action="half.done", target=card_id, now=context.now())
            raise Conflict("不行", "no")

    monkeypatch.setattr(counter, "give_notice", half)
    asked = message("card.notice_given", line.card(delivered).id, "k1", method="sms", by="c1")
    commands.handle(line.context, asked)
    assert answers(line)[0]["problem"]["code"] == "wrong-state"
    assert "half.done" not in everything(line)


def test_nobodys_number_is_in_the_database_but_sealed(line: Any, delivered: str) -> None:
    number = line.application(delivered).person.id_number
    stranger = "999001198001011234"
    wrong = {"type": "resident_id", "number": stranger, "seen": True, "compared": True}
    commands.handle(line.context, hand_over(line, delivered, "k1", identity=wrong))
    commands.handle(line.context, hand_over(line, delivered, "k2", clerk=number))
    commands.handle(line.context, hand_over(line, delivered, "k3"))
    assert line.status(delivered) == "collected"
    kept = everything(line)
    assert delivered in kept
    assert number not in kept
    assert stranger not in kept


def test_who_is_not_the_outlets_user_is_refused_and_does_nothing(line: Any, delivered: str) -> None:
    good = hand_over(line, delivered, "k1")
    for user in (None, "zhika", "outlet.out_42010602"):
        forged = CommandMessage(key="k1", user=user, routing_key=OUTLET, body=good.body)
        commands.handle(line.context, forged)
    assert [item["problem"]["code"] for item in answers(line)] == ["unauthenticated"] * 3
    assert line.status(delivered) == "delivered"


def test_half_a_character_is_refused_once_and_stops_nobody(line: Any, delivered: str) -> None:
    document = json.loads(hand_over(line, delivered, "k1").body)
    document["data"]["note"] = "\ud800"
    broken = CommandMessage(
        key="k1", user=f"outlet.{OUTLET}", routing_key=OUTLET, body=json.dumps(document).encode(), deliveries=0
    )
    commands.handle(line.context, broken)
    assert answers(line)[0]["problem"]["code"] == "validation-failed"


def test_whatever_fails_before_the_answer_is_given_up_in_the_end(
    line: Any, delivered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hand_over(line, delivered, "k1")

    def breaks(tx: Any, *_: object) -> None:
        tx.conn.execute(t.data_keys.insert().values(id=1, wrapped=b"", created_at=line.clock.now()))

    monkeypatch.setattr(store_answers, "find", breaks)
    for deliveries in (0, commands.GIVE_UP - 1):
        with pytest.raises(Exception, match="data_keys"):
            commands.handle(line.context, replace(asked, deliveries=deliveries))
    assert answers(line) == []
    commands.handle(line.context, replace(asked, deliveries=commands.GIVE_UP))
    assert answers(line)[0]["problem"]["code"] == "technical.exhausted"
    assert line.status(delivered) == "delivered"


def test_a_routing_key_that_is_no_outlets_is_told_nothing(line: Any) -> None:
    stray = CommandMessage(key="k1", user=None, routing_key="13800001234\x00", body=b"{}")
    commands.handle(line.context, stray)
    assert "13800001234" not in everything(line)


def test_a_number_told_as_a_serial_or_a_receipt_is_refused_and_kept_nowhere(
    line: Any, delivered: str, submission: Callable[..., Submission]
) -> None:
    line.accept(submission(2))
    line.run()
    [bundle] = line.ship()
    number = line.application(delivered).person.id_number
    told = {"bundle_id": bundle.id, "seal_no": bundle.seal_no, "received_by": "c1"}
    commands.handle(line.context, message("bundle.receive", bundle.id, "k1", extra=[number], **told))
    commands.handle(line.context, message("bundle.receive", bundle.id, "k2", missing=[number], **told))
    commands.handle(line.context, message("bundle.receive", bundle.id, "k3", **(told | {"bundle_id": f"bun_{number}"})))
    commands.handle(line.context, hand_over(line, delivered, "k4", fee_receipt=number))
    codes = [item["problem"]["code"] for item in answers(line)]
    assert codes == ["looks-personal", "card-not-in-bundle", "validation-failed", "validation-failed"]
    assert number not in everything(line)
    assert line.status(delivered) == "delivered"


@pytest.mark.parametrize("intact", [True, False])
def test_what_cannot_be_read_is_answered_and_kept_nowhere(
    line: Any, delivered: str, caplog: pytest.LogCaptureFixture, intact: bool
) -> None:
    good = hand_over(line, delivered, "k1")
    number = line.application(delivered).person.id_number
    body = good.body if not intact else f"张三 {number}".encode()
    commands.handle(line.context, replace(good, body=body, intact=intact))
    assert [(item["message_id"], item["problem"]["code"]) for item in answers(line)] == [("k1", "unreadable")]
    assert line.status(delivered) == "delivered"
    assert number not in everything(line)
    [told] = [record.getMessage() for record in caplog.records if record.name == "zhika.commands"]
    assert f"outlet.{OUTLET}" in told
    assert f"{len(body)} bytes" in told
    assert number not in told


def test_a_command_that_kills_whoever_takes_it_is_refused_before_the_broker_puts_it_aside(
    line: Any, delivered: str
) -> None:
    asked = hand_over(line, delivered, "k1")
    again = CommandMessage(
        key=asked.key, user=asked.user, routing_key=asked.routing_key, body=asked.body, deliveries=commands.GIVE_UP
    )
    commands.handle(line.context, again)
    assert answers(line)[0]["problem"]["code"] == "technical.exhausted"
    assert line.status(delivered) == "delivered"


def test_a_command_that_was_done_is_answered_so_however_often_it_was_delivered(line: Any, delivered: str) -> None:
    asked = hand_over(line, delivered, "k1")
    commands.handle(line.context, asked)
    again = CommandMessage(
        key=asked.key, user=asked.user, routing_key=asked.routing_key, body=asked.body, deliveries=commands.GIVE_UP
    )
    commands.handle(line.context, again)
    assert answers(line)[0] == answers(line)[1]


def test_answers_are_forgotten_after_thirty_days(line: Any, delivered: str) -> None:
    commands.handle(line.context, hand_over(line, delivered, "k1"))
    line.clock.advance(timedelta(days=29))
    assert commands.forget(line.context) == 0
    line.clock.advance(timedelta(days=2))
    assert commands.forget(line.context) == 1
    commands.handle(line.context, hand_over(line, delivered, "k1"))
    assert answers(line)[1]["problem"]["code"] == "already-collected"
