"""Dialect `zhika-bank/1`: instructions as JSON documents, the bank's documents as replies. Pure.

What a bank says is believed only when it is whole, in its format, and about the thing that was asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pipeline.identifiers import luhn_holds
from pipeline.person import Agent, Person
from pipeline.ports import (
    ActivateFinancial,
    BankReply,
    BindCard,
    CardProduced,
    CloseAccount,
    Declined,
    Done,
    FreezeFinancial,
    Instruction,
    Key,
    OpenAccount,
    Pending,
    ReleaseFinancial,
    UpdateHolder,
)

OPERATIONS: Mapping[type[Instruction], str] = {
    OpenAccount: "open_account",
    BindCard: "bind_card",
    CardProduced: "card_produced",
    ActivateFinancial: "activate_financial",
    FreezeFinancial: "freeze_financial",
    ReleaseFinancial: "release_financial",
    UpdateHolder: "update_holder",
    CloseAccount: "close_account",
}
"""What an instruction is called, on the wire and in books."""

_MAX_TEXT = 200
_LATEST = timedelta(days=366)
"""How far ahead an answer may be promised; a promise beyond it is a slip, and would leave the application alone for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementPage:
    """A part of a day's list; `next_cursor` None: there is no more."""

    replies: Mapping[Key, BankReply]
    next_cursor: str | None


def sendable(key: Key) -> bool:
    """A key as this dialect takes it: 1 to 64 printable ASCII characters."""
    return re.fullmatch(r"[!-~]{1,64}", key) is not None


def document(instruction: Instruction) -> dict[str, object]:
    """The instruction as it is told to the bank, all but its key: that travels in a header."""
    told: dict[str, object] = {"instruction": OPERATIONS[type(instruction)]}
    for field in fields(instruction):
        if field.name != "key":
            told[field.name] = _plain(getattr(instruction, field.name))
    return told


def _plain(value: object) -> object:
    match value:
        case Person():
            return {
                "name": value.name,
                "id_type": value.id_type,
                "id_number": value.id_number,
                "id_valid_from": _plain(value.id_valid_from),
                "id_valid_to": _plain(value.id_valid_to),
                "sex": value.sex,
                "ethnic": value.ethnic,
                "birth_date": _plain(value.birth_date),
                "nationality": value.nationality,
                "phone": value.phone,
                "address": value.address,
                "occupation": value.occupation,
            }
        case Agent():
            return {
                "name": value.name,
                "id_type": value.id_type,
                "id_number": value.id_number,
                "relation": value.relation,
                "phone": value.phone,
            }
        case date():
            return value.isoformat()
    return value


def read_reply(body: bytes, key: Key, instruction: Instruction | None = None, *, now: datetime) -> BankReply | None:
    """The reply for `key`, and with `instruction` about the account and card it names; None when the body is none."""
    try:
        told = json.loads(body)
        reply = _reply(told, now)
        if told["key"] != key or (isinstance(reply, Done) and not _about(reply, instruction)):
            return None
        return reply
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def read_statement(body: bytes, day: date, *, now: datetime) -> StatementPage | None:
    """A page of the statement of `day`; None when the body is none, or names a key twice."""
    try:
        told = json.loads(body)
        items, cursor = told["items"], told["next_cursor"]
        replies = {_sent(item["key"]): _reply(item, now) for item in items}
        if told["date"] != day.isoformat() or len(replies) != len(items):
            return None
        return StatementPage(replies=replies, next_cursor=None if cursor is None else _text(cursor))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _about(reply: Done, instruction: Instruction | None) -> bool:
    account_ref = getattr(instruction, "account_ref", reply.account_ref)
    card_number = getattr(instruction, "card_number", reply.card_number)
    return (account_ref, card_number) == (reply.account_ref, reply.card_number)


def _reply(told: Mapping[str, Any], now: datetime) -> BankReply:
    return _pending(told, now) if told["status"] == "pending" else _ENDS[told["status"]](told)


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise ValueError
    value.encode()  # a lone surrogate is no text
    return value


def _sent(key: Key) -> Key:
    if not sendable(key):
        raise ValueError
    return key


def _done(told: Mapping[str, Any]) -> Done:
    reference, number, account_class = told["account_ref"], told["card_number"], told["account_class"]
    if not re.fullmatch(r"[!-~]{1,64}", reference):
        raise ValueError
    if not re.fullmatch(r"[0-9]{16,19}", number) or not luhn_holds(number):
        raise ValueError
    if account_class not in ("I", "II", "III"):
        raise ValueError
    return Done(account_ref=reference, card_number=number, account_class=account_class)


def _declined(told: Mapping[str, Any]) -> Declined:
    code, text = told["code"], told["text"]
    if not (isinstance(code, str) and code.isprintable() and code and isinstance(text, str)):
        raise ValueError
    return Declined(code=code[:_MAX_TEXT], text=text[:_MAX_TEXT])


def _pending(told: Mapping[str, Any], now: datetime) -> Pending:
    expected_by = datetime.fromisoformat(told["expected_by"])
    if expected_by.tzinfo is None:
        raise ValueError
    expected_by = expected_by.astimezone(UTC)
    if expected_by > now + _LATEST:
        raise ValueError
    return Pending(expected_by=expected_by)


_ENDS: Mapping[str, Callable[[Mapping[str, Any]], BankReply]] = {"done": _done, "declined": _declined}
