"""Dialect `csv14`: fourteen named columns; the cards of people, with account and card number. It names people, not our keys."""

from __future__ import annotations

import csv
import io

from pipeline.gateways.bank_files.returned import ReturnFile, ReturnRow, declined, done, row_number, unreadable
from pipeline.ports import Declined, Done

COLUMNS = (
    "序号", "社保卡号", "社会保障号码", "姓名", "发卡日期", "卡有效期", "卡识别码", "卡复位码", "服务银行", "银行卡号", "个人帐户",
    "装箱位置", "失败环节", "失败原因",
)  # fmt: skip
_ENCODINGS = ("utf-8-sig", "gb18030")


def decode_return(data: bytes, *, card_digits: int) -> ReturnFile:
    """Read a return file: UTF-8 (with or without a mark), GBK or GB 18030, told apart by its first line.

    The file has no count, so its numbers must run from 1 without a gap and its last line must be ended; cells are taken as they are.

    Raises:
        FileRefused: encoding, columns, numbering or a value is not as agreed.
    """
    lines = _table(_text(data))
    rows = []
    for at, cells in enumerate(lines[1:], start=1):
        if len(cells) != len(COLUMNS):
            raise unreadable(at, f"不是 {len(COLUMNS)} 列", f"has not {len(COLUMNS)} columns")
        values = dict(zip(COLUMNS, cells, strict=True))
        if row_number(values["序号"], at) != at:
            raise unreadable(at, "的序号不连续", "is out of number: rows are missing or doubled")
        rows.append(
            ReturnRow(
                row_no=at,
                key=None,
                name=values["姓名"],
                id_number=values["社会保障号码"],
                answer=_answer(values, card_digits, at),
            )
        )
    if not rows:
        raise unreadable(None, "没有数据行", "has no rows")
    return ReturnFile(batch=None, rows=tuple(rows))


def _answer(values: dict[str, str], card_digits: int, at: int) -> Done | Declined | None:
    card, account = values["银行卡号"], values["个人帐户"]
    match values["失败环节"]:
        case "":
            return done(card, account, card_digits=card_digits, at=at)
        case "银行" if not card:
            return declined(values["失败原因"], at)
        case "制卡":  # the bank's part may be done all the same
            return done(card, account, card_digits=card_digits, at=at) if card or account else None
    raise unreadable(at, "的失败环节不正确", "names a wrong step of failure")


def _text(data: bytes) -> str:
    first_line = ",".join(COLUMNS)
    for encoding in _ENCODINGS:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text.replace('"', "").startswith(first_line):
            return text
    raise unreadable(None, "的首行或编码不正确", "has wrong columns or a wrong encoding")


def _table(text: str) -> list[list[str]]:
    if not text.endswith("\n"):
        raise unreadable(None, "的最后一行不完整", "ends within a line")
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        raise unreadable(None, "不是正确的 CSV", "is no proper CSV") from None
    if tuple(lines[0]) != COLUMNS:
        raise unreadable(None, "的首行不正确", "has wrong columns")
    return lines
