"""What a return file means for what was sent: pure. Either every row has its place, or nothing in the file counts.

A row that speaks of another person than ours is the one exception: it alone is left out, for a person to look into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.gateways.bank_files.returned import FileRefused, ReturnFile, ReturnRow, some
from pipeline.ports import Declined, Done, Filed, Key

Answer = Done | Declined | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What changes by a file: answers by key (None: passed, the numbers are still to come), and what is wrong with single rows."""

    answers: Mapping[Key, Answer]
    problem: str | None = None


def judge_batch(returned: ReturnFile, ours: Sequence[Filed]) -> Judged:
    """A file that answers one of ours: it must answer each of its rows, once, under its number and key.

    Raises:
        FileRefused: it does not.
    """
    if not ours:
        raise _refused("unknown_batch", "没有发出过这个批次", "no such batch was ever sent")
    by_number = {filed.row_no: filed for filed in ours}
    numbers = [row.row_no for row in returned.rows]
    if missing := by_number.keys() - set(numbers):
        told = some(number for number in missing if number is not None)
        raise _refused("rows_missing", f"缺少第 {told} 行", f"rows {told} are missing")
    if len(numbers) != len(by_number):
        raise _refused("count", f"应有 {len(by_number)} 行，实有 {len(numbers)} 行", f"has {len(numbers)} rows instead of {len(by_number)}")  # fmt: skip
    pairs = [(row, by_number[row.row_no]) for row in returned.rows]
    if strange := [row.row_no for row, filed in pairs if row.key != filed.key]:
        told = some(strange)
        raise _refused(
            "unknown_id", f"第 {told} 行的申领编号与发出的不符", f"rows {told} carry another id than was sent"
        )
    return _judged(pairs)


def judge_people(returned: ReturnFile, ours: Mapping[str, Sequence[Filed]]) -> Judged:
    """A file that names people: each must be somebody whom the bank was told of. `ours`: rows by document number, oldest first.

    Who was asked for more than once is meant by the row that is open, else by the newest.

    Raises:
        FileRefused: a person is unknown, named twice, or answered before in another way.
    """
    pairs: list[tuple[ReturnRow, Filed]] = []
    unknown = [row.row_no for row in returned.rows if not ours.get(row.id_number)]
    if unknown:
        told = some(unknown)
        raise _refused(
            "unknown_person", f"第 {told} 行的人员不在发出的文件中", f"rows {told} name people who were never sent"
        )
    for row in returned.rows:
        candidates = ours[row.id_number]
        pairs.append((row, next((filed for filed in candidates if filed.reply is None), candidates[-1])))
    if len({filed.key for _, filed in pairs}) != len(pairs):
        raise _refused("doubled", "同一人出现多次", "names a person twice")
    return _judged(pairs)


def _judged(pairs: Sequence[tuple[ReturnRow, Filed]]) -> Judged:
    others = [row.row_no for row, filed in pairs if not _same_person(row, filed)]
    mine = [(row, filed) for row, filed in pairs if _same_person(row, filed)]
    if otherwise := [row.row_no for row, filed in mine if _contradicts(row, filed)]:
        told = some(otherwise)
        raise _refused(
            "other_answer",
            f"第 {told} 行与先前的答复不一致",
            f"rows {told} say otherwise than the bank's earlier answer",
        )
    told = some(others)
    return Judged(
        answers={
            filed.key: row.answer
            for row, filed in mine
            if filed.state == "sent" or (filed.state == "accepted" and row.answer is not None)
        },
        problem=f"bank_file.other_person: 第 {told} 行不是所申请的人，请向银行核实 / rows {told} are not the people asked for: ask the bank"
        if others
        else None,
    )


def _same_person(row: ReturnRow, filed: Filed) -> bool:
    return row.name == filed.told["name"] and row.id_number.upper() == filed.told["id_number"].upper()


def _contradicts(row: ReturnRow, filed: Filed) -> bool:
    match filed.reply, row.answer:
        case None, Declined():
            # Passed by one file of results and refused by another is a contradiction; failing later, at the bank, is not.
            return filed.state == "accepted" and row.key is not None
        case None, _:
            return False
        case Done(), None:
            return False
        case Done() as before, Done() as now:
            # A file of results knows the account by its card's number only.
            refs = {before.account_ref, now.account_ref} - {before.card_number}
            return before.card_number != now.card_number or len(refs) > 1
        case before, now:
            return before != now


def _refused(code: str, zh: str, en: str) -> FileRefused:
    return FileRefused(
        f"文件{zh}，请向银行核实并重发整个文件",
        f"the file: {en}; ask the bank and have the whole file sent again",
        code=f"bank_file.{code}",
    )
