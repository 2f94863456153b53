"""Commands of outlets' programs: done once, answered each time.

What a command does and its answer are one transaction. So a command that is delivered again, or sent again under the same key, is
answered as before and changes nothing, wherever the first delivery was cut off. Answers go out as events, through the feed, to the
outlet's own channels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from pipeline import outlet_commands
from pipeline.errors import Conflict, Refused, TransientError
from pipeline.events import Event, instant
from pipeline.outlet_commands import (
    BundleReceive,
    CardReturn,
    Command,
    CommandMessage,
    HandOver,
    NoticeGiven,
    Unreadable,
)
from pipeline.services import bundles, counter, returns
from pipeline.services.context import Context
from pipeline.store import answers, outbox, outlet_queues
from pipeline.store.engine import Tx, reached
from pipeline.store.joined import Joined

log = logging.getLogger("zhika.commands")
KEPT = timedelta(days=30)
"""How long an answer is kept, as for every idempotency key."""
GIVE_UP = 3
"""A command that was delivered so often without an answer is refused: all outlets' commands wait for it, and the broker would put it
aside unanswered in the end, with what it says of a person."""

Answer = Mapping[str, Any]


def handle(context: Context, message: CommandMessage) -> None:
    """Do what an outlet asks, if it may, and answer it; one that cannot be read is refused (`unreadable`) and kept nowhere.

    Raises:
        TransientError: the database is away; nothing was done.
        Exception: a fault of ours, before `GIVE_UP`; nothing was done.
    """
    document: Mapping[str, Any] = {}
    with context.store.transaction() as tx:
        try:
            outlet = outlet_commands.sender_of(message)
        except Refused as error:
            # Only the owner of the routing key can have been meant; hearing of a refusal does nobody harm.
            if outlet_commands.names_outlet(message.routing_key):
                _tell(context, tx, message.routing_key, None, "", _refusal(error))
            return
        key = None
        try:
            key = outlet_commands.key_of(message)
            document = outlet_commands.document_of(message)
            with reached(), tx.savepoint():
                answer = _answer(context, tx, outlet, key, document, deliveries=message.deliveries)
        except Unreadable:
            digest = tx.sealer.digest(message.body).hex()
            log.error("a command of %s is unreadable: %d bytes, digest %s", message.user, len(message.body), digest)
            answer = _refusal(_unreadable())
        except Refused as error:
            answer = _refusal(error)
        except TransientError:
            raise
        except Exception as error:
            if message.deliveries < GIVE_UP:
                raise
            log.error("a command was given up: %s", type(error).__name__)
            answer = _refusal(_given_up())
        _tell(context, tx, outlet, key, outlet_commands.kind_of(document), answer)
        tx.nudge()


def forget(context: Context) -> int:
    """Drop answers that are older than their keys live."""
    with context.store.transaction() as tx:
        return answers.forget(tx, before=context.now() - KEPT)


def _answer(context: Context, tx: Tx, outlet: str, key: str, document: Mapping[str, Any], *, deliveries: int) -> Answer:
    """The answer of before, or the new one with its effect beside it in the transaction."""
    meant = {name: document.get(name) for name in ("type", "subject", "data")}
    digest = tx.sealer.digest(json.dumps(meant, sort_keys=True).encode())
    known = answers.find(tx, outlet, key)
    if known is not None:
        if known[0] != digest:
            raise Conflict(
                "该 message_id 已用于另一条命令，请换用新的编号",
                "this message_id belongs to another command: take a new one",
                code="idempotency-key-reused",
            )
        return known[1]
    try:
        if deliveries >= GIVE_UP:
            raise _given_up()
        command = outlet_commands.command_of(document)
        answer: Answer = {"result": _do(replace(context, store=Joined(context.store, tx)), command, outlet)}
    except Refused as error:
        answer = _refusal(error)
    answers.keep(tx, outlet, key, digest=digest, answer=answer, now=context.now())
    return answer


def _do(context: Context, command: Command, outlet: str) -> dict[str, Any]:
    actor = f"{command.clerk}@{outlet}"
    match command:
        case BundleReceive():
            receipt = bundles.receive(
                context,
                command.bundle_id,
                outlet=outlet,
                seal_no=command.seal_no,
                received=command.received,
                missing=command.missing,
                extra=command.extra,
                damaged=command.damaged,
                seal_intact=command.seal_intact,
                actor=actor,
            )
            return {
                "bundle_id": command.bundle_id,
                "status": receipt.status,
                "received": list(receipt.received),
                "missing": list(receipt.missing),
                "damaged": list(receipt.damaged),
                "extra": list(receipt.extra),
            }
        case NoticeGiven():
            due = counter.give_notice(
                context,
                command.card_id,
                outlet=outlet,
                method=command.method,
                notified_at=command.notified_at,
                actor=actor,
            )
            return {"card_id": command.card_id, "collect_by": instant(due) if due else None}
        case HandOver():
            handed = counter.hand_over(
                context,
                command.card_id,
                outlet=outlet,
                serial=command.serial,
                taken_by=command.taken_by,
                document_type=command.document_type,
                document_number=command.document_number,
                agent=command.agent,
                papers=command.papers,
                fee_receipt=command.fee_receipt,
                actor=actor,
            )
            return {"card_id": command.card_id, "hand_over_id": handed}
        case CardReturn():
            returns.ask_back(context, command.card_id, outlet=outlet, reason=command.reason, actor=actor)
            return {"card_id": command.card_id}


def _unreadable() -> Refused:
    return Refused(
        "消息无法读取：消息体须为 UTF-8 的 JSON 对象，消息头（headers）请勿填写；请改正后以新的 message_id 重发",
        "the message cannot be read: send a JSON object in UTF-8 and no headers, under a new message_id",
        code="unreadable",
    )


def _given_up() -> Refused:
    return Refused(
        "多次处理失败，请人工办理并联系中心",
        "it failed again and again: do it by hand and call the centre",
        code="technical.exhausted",
    )


def _refusal(error: Refused) -> Answer:
    rule = {"rule": error.rule} if error.rule else {}
    return {"problem": {"code": error.reason_code, "zh": error.zh, "en": error.en, **rule}}


def _tell(context: Context, tx: Tx, outlet: str, key: str | None, kind: str, answer: Answer) -> None:
    """The answer as an event of its own subject, so that no event of a card or bundle is thought stale beside it."""
    now = context.now()
    event = Event(
        type="command.refused" if "problem" in answer else "command.accepted",
        subject=f"command/{key or 'unnamed'}",
        region=outlet_queues.region_of(tx, outlet) or "all",
        sequence=int(now.timestamp() * 1000),
        outlet=outlet,
        data={"message_id": key, "command": kind or None, "outlet_id": outlet, **answer},
    )
    outbox.append(tx, [event], now=now)
