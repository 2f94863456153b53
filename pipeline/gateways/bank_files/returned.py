"""What every dialect of return file is read into, and the checks they share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.errors import Refused
from pipeline.identifiers import luhn_holds
from pipeline.ports import Declined, Done, Key
from pipeline.stages.bank_refusals import OTHER, refusal

UNNAMED = "other"
"""Code of a refusal whose wording nobody has mapped yet."""

_ACCOUNT = re.compile(r"[0-9A-Za-z-]{1,40}")
_SHOWN = 10
_ROW_DIGITS = 12


class FileRefused(Refused):
    """A whole file from the bank is refused; nothing in it counts. It says nothing of a person."""

    code: ClassVar[str] = "bank_file.refused"

    @property
    def problem(self) -> str:
        """What is written into the journal."""
        return f"{self.reason_code}: {self.zh} / {self.en}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnRow:
    """One line of a return file. `answer` None: the bank passed it and still owes the numbers. `key` None: it names a person only."""

    row_no: int
    key: Key | None
    name: str = field(repr=False)
    id_number: str = field(repr=False)
    answer: Done | Declined | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnFile:
    """A return file, read whole. `batch`: the file of ours that it answers; None when it answers people of any."""

    batch: str | None
    rows: tuple[ReturnRow, ...]


def unreadable(row_no: int | None, zh: str, en: str) -> FileRefused:
    """The file is not in the form agreed on; `row_no` counts from 1."""
    where_zh, where_en = ("文件", "the file") if row_no is None else (f"第 {row_no} 行", f"row {row_no}")
    return FileRefused(
        f"{where_zh}{zh}，请银行检查后重发整个文件",
        f"{where_en} {en}; ask the bank to check and send the whole file again",
        code="bank_file.unreadable",
    )


def row_number(text: str, at: int) -> int:
    """A row's number as the file has it; `at` is its place in the file.

    Raises:
        FileRefused: it is none.
    """
    if not (len(text) <= _ROW_DIGITS and text.isascii() and text.isdigit() and int(text)):
        raise unreadable(at, "的行号不是数字", "has no row number")
    return int(text)


def declined(text: str, at: int) -> Declined:
    """A refusal with the bank's wording.

    Raises:
        FileRefused: it has none: a refusal that nobody can act on is more likely a damaged line.
    """
    if not text:
        raise unreadable(at, "未通过但没有原因", "is refused without a reason")
    return Declined(code=refusal("", text).code or UNNAMED, text=text)


def passed(reason: str, at: int) -> None:
    """A row that passed may carry a remark, but not the wording of a refusal.

    Raises:
        FileRefused: it does: either the line is damaged, or the code for "passed" is configured the wrong way round.
    """
    if reason and refusal("", reason) is not OTHER:
        raise unreadable(at, "结果为通过却附有拒绝原因", "is passed and carries the reason of a refusal")


def done(card_number: str, account: str, *, card_digits: int, at: int) -> Done:
    """Account and card of a row.

    The length is agreed on, for a digit that was lost on the way leaves a good check digit in one case of ten.

    Raises:
        FileRefused: the card's number has a wrong length or check digit (ISO/IEC 7812-1, annex B), or the account is no number.
    """
    proper = len(card_number) == card_digits and card_number.isascii() and card_number.isdigit()
    if not (proper and luhn_holds(card_number)):
        raise unreadable(at, "的银行卡号不正确", "has a wrong card number")
    if not _ACCOUNT.fullmatch(account):
        raise unreadable(at, "的账户不正确", "has a wrong account")
    return Done(account_ref=account, card_number=card_number)


def some(row_numbers: Iterable[int]) -> str:
    """Row numbers for a message, not too many of them."""
    numbers = sorted(row_numbers)
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"{shown} … ({len(numbers)})" if len(numbers) > _SHOWN else shown
