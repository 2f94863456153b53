"""Openings of accounts for fictitious people, and the journal's rows of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from pipeline.gateways.bank_files import sh589
from pipeline.identifiers import gb11643_check
from pipeline.person import Agent, Person
from pipeline.ports import Filed, OpenAccount

BANK = "95533"


def opening(number: int, *, guardian: Agent | None = None, bank_code: str = BANK, **changed: Any) -> OpenAccount:
    """The opening of an account for person `number`; `changed` replaces what is said of them."""
    first17 = f"99900119900101{number:03d}"
    id_number = first17 + gb11643_check(first17)
    said: dict[str, Any] = {
        "name": "测试" + chr(ord("甲") + number % 20),
        "id_type": "resident_id",
        "id_number": id_number,
        "social_security_number": id_number,
        "sex": "1" if int(first17[-1]) % 2 else "2",
        "ethnic": "01",
        "birth_date": date(1990, 1, 1),
        "phone": f"1380000{number:04d}",
        "address": "武汉市江岸区样例路1号",
        **changed,
    }
    return OpenAccount(
        key=f"oa-{'a' * 22}{number:04d}-1", bank_code=bank_code, branch="42010601", region="420100", holder=Person(**said),
        guardian=guardian,
    )  # fmt: skip


def filed(instruction: OpenAccount, row_no: int, *, told: Mapping[str, str] | None = None, **changed: Any) -> Filed:
    """The journal's row of an opening that lies in a file."""
    at = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
    values: dict[str, Any] = {
        "key": instruction.key, "state": "sent", "told": told or sh589.told(instruction, {}), "taken_at": at,
        "expected_by": at, "row_no": row_no, **changed,
    }  # fmt: skip
    return Filed(**values)
