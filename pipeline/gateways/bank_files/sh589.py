"""Dialect `sh589`: records of 589 bytes to the bank, of 316 bytes back. Lengths count bytes of GBK; text stands left, spaces fill up.

To the bank every line ends in CRLF; back, CRLF or LF. A value is never cut: what does not fit is refused before it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from pipeline.gateways.bank_files.returned import (
    ReturnFile,
    ReturnRow,
    declined,
    done,
    passed,
    row_number,
    unreadable,
)
from pipeline.identifiers import resident_facts, resident_id_problem
from pipeline.ports import Declined, Done, Filed, OpenAccount
from pipeline.stages.bank_refusals import not_in_gbk, too_long

RECORD_BYTES = 589
RETURN_BYTES = 316

_OUT: tuple[tuple[str, int], ...] = (
    ("row_no", 12), ("key", 32), ("name", 30), ("sex", 1), ("id_type", 2), ("id_number", 18), ("ethnic", 2),
    ("nationality", 3), ("birth_place", 6), ("birth_date", 8), ("mobile", 11), ("phone", 15), ("address", 60),
    ("unit_code", 20), ("unit_name", 80), ("township", 50), ("village", 50), ("guardian_name", 60), ("guardian_sex", 1),
    ("guardian_id_type", 2), ("guardian_id_number", 18), ("outlet", 8), ("outlet_name", 50), ("reserved", 50),
)  # fmt: skip
_BACK: tuple[tuple[str, int], ...] = (
    ("result", 1), ("row_no", 12), ("key", 32), ("name", 30), ("sex", 1), ("id_type", 2), ("id_number", 18),
    ("reason", 200), ("reserved", 20),
)  # fmt: skip
_BOUNDS = tuple(zip((name for name, _ in _BACK), accumulate((n for _, n in _BACK), initial=0), strict=False))
_RESERVED = "F" * 50
# Not from the applicant: nobody can put these right by correcting an application.
_OURS = frozenset({"key", "sex", "id_type", "ethnic", "nationality", "birth_place", "birth_date", "outlet"})

ID_TYPES: Mapping[str, str] = {"resident_id": "01", "military_id": "02", "passport": "03"}
"""Types of document to the bank; any other is `OTHER_DOCUMENT` unless the bank's own table says more."""
OTHER_DOCUMENT = "10"


def told(instruction: OpenAccount, id_types: Mapping[str, str]) -> dict[str, str]:
    """What the bank is told, by field; fields that are not named stay empty. `id_types` goes before `ID_TYPES`."""
    holder, guardian = instruction.holder, instruction.guardian
    types = {**ID_TYPES, **id_types}
    fields = {
        "name": holder.name, "sex": holder.sex, "id_type": types.get(holder.id_type, OTHER_DOCUMENT),
        "id_number": holder.id_number, "ethnic": holder.ethnic, "nationality": holder.nationality,
        "birth_place": holder.birth_place, "birth_date": holder.birth_date.strftime("%Y%m%d"), "mobile": holder.phone,
        "address": holder.address, "outlet": instruction.branch,
    }  # fmt: skip
    if guardian is not None:
        fields |= {
            "guardian_name": guardian.name,
            "guardian_sex": _sex(guardian.id_type, guardian.id_number),
            "guardian_id_type": types.get(guardian.id_type, OTHER_DOCUMENT),
            "guardian_id_number": guardian.id_number,
        }
    return {name: value.strip(" ") for name, value in fields.items()}


def unwritable(key: str, fields: Mapping[str, str]) -> Declined | None:
    """Why an instruction cannot be written in this dialect, or None. The text names a field, never its content."""
    for name, length in _OUT:
        value = {"key": key, **fields}.get(name, "")
        try:
            coded = _coded(value)
        except ValueError:
            return Declined(code="rare_character", text=not_in_gbk(name))
        if len(coded) > length:
            code = "not_supported" if name in _OURS else "field_too_long"
            return Declined(code=code, text=too_long(name, length))
    return None


def encode_batch(rows: Sequence[Filed]) -> bytes:
    """The file of these rows, numbered from 1 in their order.

    Raises:
        ValueError: a row is `unwritable`, or there are too many for the header.
    """
    if len(rows) > 99_999_999:
        raise ValueError("a file holds at most 99,999,999 rows")
    lines = [f"SH{len(rows):08d}{RECORD_BYTES:08d}FFFFFFFFFF".encode()]
    for number, row in enumerate(rows, start=1):
        values = {**row.told, "row_no": str(number), "key": row.key, "reserved": _RESERVED}
        lines.append(b"".join(_filled(values.get(name, ""), length) for name, length in _OUT))
    return b"".join(line + b"\r\n" for line in lines)


def decode_return(
    data: bytes, *, batch: str, passed_code: str, failed_code: str, card_number_in_reserved: bool, card_digits: int
) -> ReturnFile:
    """Read a return file; `batch` is from its name.

    With `card_number_in_reserved` a row that passed carries its card's number, and the account goes by that number.

    Raises:
        FileRefused: header, count, a length, a character or a result is not as agreed.
    """
    header, *records = _lines(data)
    if not (header[:2] == b"RH" and len(header) >= 10 and header[2:10].isdigit()):
        raise unreadable(None, "没有正确的首行", "has no proper header")
    if int(header[2:10]) != len(records):
        raise unreadable(
            None, f"首行为 {int(header[2:10])} 行，实有 {len(records)} 行", f"says {int(header[2:10])} rows and has {len(records)}"
        )  # fmt: skip
    rows = []
    for at, record in enumerate(records, start=1):
        if len(record) != RETURN_BYTES:
            raise unreadable(at, f"长度为 {len(record)} 字节，应为 {RETURN_BYTES}", f"has {len(record)} bytes instead of {RETURN_BYTES}")  # fmt: skip
        fields = _fields(record, at)
        card = fields["reserved"] if card_number_in_reserved else ""
        answer: Done | Declined | None
        if fields["result"] == failed_code and not card:
            answer = declined(fields["reason"], at)
        elif fields["result"] == passed_code:
            passed(fields["reason"], at)
            answer = done(card, card, card_digits=card_digits, at=at) if card_number_in_reserved else None
        else:
            raise unreadable(at, "的结果代码不正确", "has a wrong result code")
        rows.append(
            ReturnRow(
                row_no=row_number(fields["row_no"], at),
                key=fields["key"],
                name=fields["name"],
                id_number=fields["id_number"],
                answer=answer,
            )
        )
    return ReturnFile(batch=batch, rows=tuple(rows))


def _lines(data: bytes) -> list[bytes]:
    # No byte of a GBK character is below 0x40, so a line feed is always one. The last line may end with the file.
    return [line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]


def _fields(record: bytes, at: int) -> dict[str, str]:
    """Bytes are cut first and decoded then: a border never falls into a character that was written whole."""
    try:
        return {
            name: record[start : start + length].decode("gbk").rstrip(" ")
            for (name, start), (_, length) in zip(_BOUNDS, _BACK, strict=True)
        }
    except UnicodeDecodeError:
        raise unreadable(at, "有非 GBK 字符", "is not GBK") from None


def _coded(value: str) -> bytes:
    if not value.isprintable():  # a line end or tab in a value would be read as something else
        raise ValueError("a control character")
    return value.encode("gbk")


def _filled(value: str, length: int) -> bytes:
    coded = _coded(value)
    if len(coded) > length:
        raise ValueError(f"a value is longer than {length} bytes")
    return coded.ljust(length)


def _sex(id_type: str, number: str) -> str:
    return resident_facts(number).sex if id_type == "resident_id" and not resident_id_problem(number) else ""
