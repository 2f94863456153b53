"""What the simulated bank reads and writes, dialect `zhika-bank/1`: strict, and it never quotes what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import cast, get_args

from pipeline.person import Agent, IdType, Person, Sex
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
    OpenAccount,
    Pending,
    ReleaseFinancial,
    UpdateHolder,
)

_KEY = re.compile(r"[!-~]{1,64}")


class Problem(Exception):
    """The request cannot be served; `detail` names fields, never their values."""

    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


# ------------------------------------------------------------------------------------------------------------ reading


class _Fields:
    """A JSON object that is read field by field; whatever is left over is refused."""

    def __init__(self, value: object, pointer: str) -> None:
        if not isinstance(value, dict):
            raise bad_request("not_an_object", f"{pointer or 'the body'} is not an object")
        self._left: dict[str, object] = dict(value)
        self._pointer = pointer

    def take(self, name: str) -> object:
        return self._left.pop(name, None)

    def text(self, name: str, *, at_most: int, pattern: str = "", required: bool = False) -> str:
        value = self.take(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or len(value) > at_most or (required and not value):
            raise bad_request("invalid_field", f"{self._pointer}/{name} is not a text of at most {at_most} characters")
        if pattern and not re.fullmatch(pattern, value):
            raise bad_request("invalid_field", f"{self._pointer}/{name} is not in its format")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.take(name)
        if value not in allowed:
            raise bad_request("invalid_field", f"{self._pointer}/{name} is none of {', '.join(allowed)}")
        return str(value)

    def day(self, name: str) -> date | None:
        value = self.take(name)
        if value is None:
            return None
        try:
            return date.fromisoformat(cast("str", value))
        except (ValueError, TypeError):
            raise bad_request("invalid_field", f"{self._pointer}/{name} is not a date") from None

    def needed_day(self, name: str) -> date:
        day = self.day(name)
        if day is None:
            raise bad_request("invalid_field", f"{self._pointer}/{name} is missing")
        return day

    def end(self) -> None:
        if self._left:
            raise bad_request("unknown_field", f"{self._pointer or 'the body'} has a field that is not known")


def read_instruction(key: str, body: bytes) -> Instruction:
    """The instruction in a body.

    Raises:
        Problem: it is not JSON, or not an instruction of this dialect.
    """
    try:
        document = _Fields(json.loads(body), "")
    except (ValueError, RecursionError):
        raise bad_request("invalid_json", "the body is not JSON") from None
    kind = document.choice("instruction", tuple(_READERS))
    instruction = _READERS[kind](
        key, document.text("bank_code", at_most=20, pattern=r"[0-9A-Za-z]+", required=True), document
    )
    document.end()
    return instruction


def _open_account(key: str, bank_code: str, told: _Fields) -> OpenAccount:
    return OpenAccount(
        key=key, bank_code=bank_code, branch=told.text("branch", at_most=20), region=_region(told),
        holder=_person(_Fields(told.take("holder"), "/holder")), guardian=_guardian(told.take("guardian")),
    )  # fmt: skip


def _bind_card(key: str, bank_code: str, told: _Fields) -> BindCard:
    return BindCard(
        key=key, bank_code=bank_code, branch=told.text("branch", at_most=20), region=_region(told),
        account_ref=_account_ref(told), holder=_person(_Fields(told.take("holder"), "/holder")),
    )  # fmt: skip


def _card_produced(key: str, bank_code: str, told: _Fields) -> CardProduced:
    return CardProduced(
        key=key, bank_code=bank_code, account_ref=_account_ref(told), card_number=_card_number(told),
        chip_id=told.text("chip_id", at_most=64, required=True),
        card_serial=told.text("card_serial", at_most=64, required=True),
        issued=told.needed_day("issued"), expires=told.needed_day("expires"),
    )  # fmt: skip


def _activate_financial(key: str, bank_code: str, told: _Fields) -> ActivateFinancial:
    return ActivateFinancial(
        key=key, bank_code=bank_code, account_ref=_account_ref(told), card_number=_card_number(told)
    )


def _freeze_financial(key: str, bank_code: str, told: _Fields) -> FreezeFinancial:
    return FreezeFinancial(
        key=key,
        bank_code=bank_code,
        account_ref=_account_ref(told),
        card_number=_card_number(told),
        reason=_reason(told),
    )


def _release_financial(key: str, bank_code: str, told: _Fields) -> ReleaseFinancial:
    return ReleaseFinancial(
        key=key,
        bank_code=bank_code,
        account_ref=_account_ref(told),
        card_number=_card_number(told),
        reason=_reason(told),
    )


def _update_holder(key: str, bank_code: str, told: _Fields) -> UpdateHolder:
    return UpdateHolder(
        key=key, bank_code=bank_code, account_ref=_account_ref(told),
        holder=_person(_Fields(told.take("holder"), "/holder")),
    )  # fmt: skip


def _close_account(key: str, bank_code: str, told: _Fields) -> CloseAccount:
    return CloseAccount(key=key, bank_code=bank_code, account_ref=_account_ref(told), reason=_reason(told))


# Written out here and not taken from the client's side, so that a document both sides get wrong alike is not mistaken for right.
_READERS: Mapping[str, Callable[[str, str, _Fields], Instruction]] = {
    "open_account": _open_account,
    "bind_card": _bind_card,
    "card_produced": _card_produced,
    "activate_financial": _activate_financial,
    "freeze_financial": _freeze_financial,
    "release_financial": _release_financial,
    "update_holder": _update_holder,
    "close_account": _close_account,
}


def _region(told: _Fields) -> str:
    return told.text("region", at_most=6, pattern=r"\d{6}", required=True)


def _account_ref(told: _Fields) -> str:
    return told.text("account_ref", at_most=64, pattern=r"[!-~]+", required=True)


def _card_number(told: _Fields) -> str:
    return told.text("card_number", at_most=19, pattern=r"[0-9]{12,19}", required=True)


def _reason(told: _Fields) -> str:
    return told.text("reason", at_most=64, required=True)


def _person(holder: _Fields) -> Person:
    person = Person(
        name=holder.text("name", at_most=50, required=True),
        id_type=cast("IdType", holder.choice("id_type", get_args(IdType))),
        id_number=holder.text("id_number", at_most=32, required=True),
        social_security_number="",
        sex=cast("Sex", holder.choice("sex", get_args(Sex))),
        ethnic=holder.text("ethnic", at_most=2),
        birth_date=holder.needed_day("birth_date"),
        nationality=holder.text("nationality", at_most=3),
        phone=holder.text("phone", at_most=20),
        address=holder.text("address", at_most=200),
        occupation=holder.text("occupation", at_most=20),
        id_valid_from=holder.day("id_valid_from"),
        id_valid_to=holder.day("id_valid_to"),
    )
    holder.end()
    return person


def _guardian(value: object) -> Agent | None:
    if value is None:
        return None
    guardian = _Fields(value, "/guardian")
    agent = Agent(
        name=guardian.text("name", at_most=50, required=True),
        id_type=cast("IdType", guardian.choice("id_type", get_args(IdType))),
        id_number=guardian.text("id_number", at_most=32, required=True),
        relation=guardian.text("relation", at_most=20),
        phone=guardian.text("phone", at_most=20),
    )
    guardian.end()
    return agent


def bad_request(code: str, detail: str) -> Problem:
    """A request that is wrong."""
    return Problem(HTTPStatus.BAD_REQUEST, code, detail)


def read_key(text: str) -> str:
    """An instruction's key as it is given.

    Raises:
        Problem: it is none.
    """
    if not _KEY.fullmatch(text):
        raise bad_request("invalid_key", "a key is 1 to 64 printable ASCII characters")
    return text


# ------------------------------------------------------------------------------------------------------------ writing


def write_reply(key: str, reply: BankReply) -> Mapping[str, object]:
    """A reply as it goes over the wire."""
    match reply:
        case Done():
            return {
                "status": "done", "key": key, "account_ref": reply.account_ref, "card_number": reply.card_number,
                "account_class": reply.account_class, "frozen_until_activation": True,
            }  # fmt: skip
        case Declined():
            return {"status": "declined", "key": key, "code": reply.code, "text": reply.text}
        case Pending():
            return {"status": "pending", "key": key, "expected_by": _instant(reply.expected_by)}


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
