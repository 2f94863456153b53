"""Dialect `pipe` (`…_bret.txt`): lines of ten fields, each closed by `|`, in GBK. It says who passed, not with which card."""

from __future__ import annotations

from pipeline.gateways.bank_files.returned import ReturnFile, ReturnRow, declined, passed, row_number, unreadable

_FIELDS = 10


def decode_return(data: bytes) -> ReturnFile:
    """Read a return file.

    Raises:
        FileRefused: a line is not as agreed, or the lines are of several batches.
    """
    try:
        text = data.decode("gbk")  # before anything is split: 0x7C is also the second byte of characters
    except UnicodeDecodeError:
        raise unreadable(None, "不是 GBK 编码", "is not GBK") from None
    batches, rows = set(), []
    for at, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        fields = [field.rstrip(" ") for field in line.removesuffix("\r").split("|")]
        if len(fields) != _FIELDS + 1 or fields[_FIELDS]:
            raise unreadable(
                at, f"不是以竖线结尾的 {_FIELDS} 个字段", f"has not {_FIELDS} fields, each closed by a bar"
            )
        batch, _task, number, key, name, _sex, _type, id_number, flag, reason, _ = fields
        if flag == "0":
            passed(reason, at)
        elif flag != "1":
            raise unreadable(at, "的结果代码不正确", "has a wrong result code")
        batches.add(batch)
        rows.append(
            ReturnRow(
                row_no=row_number(number, at),
                key=key,
                name=name,
                id_number=id_number,
                answer=None if flag == "0" else declined(reason, at),
            )
        )
    if len(batches) != 1:
        raise unreadable(None, "含有多个批次", "has rows of several batches")
    return ReturnFile(batch=batches.pop(), rows=tuple(rows))
