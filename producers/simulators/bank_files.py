"""A cooperating bank that exchanges batch files: takes our files, decides by its ledger, leaves result files for us.

It has its own reading of the dialects, byte by byte, and shares no code with our side of them. It keeps no state of its own beside
the ledger: a file that comes again is answered again in the same way under the same name.
"""

from __future__ import annotations

import csv
import io
import logging
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Self, cast

from pipeline.clock import SystemClock
from pipeline.gateways.bank_simulated import Faults, Ledger, SimulatedBank
from pipeline.person import Agent, IdType, Person, Sex
from pipeline.ports import Declined, Done, OpenAccount

log = logging.getLogger("zhika.simulate.bank_files")

EVERY_S = 1.0
_TYPES: Mapping[str, IdType] = {"01": "resident_id", "02": "military_id", "03": "passport", "10": "household_book"}
_LATE_ROUNDS = 3
_CSV_HEAD = "序号,社保卡号,社会保障号码,姓名,发卡日期,卡有效期,卡识别码,卡复位码,服务银行,银行卡号,个人帐户,装箱位置,失败环节,失败原因"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFaults:
    """How many of the first batches meet with what; each meets with one thing at most, in the order given here.

    What was wrong with a result file is put right in the next round, as a bank does when it is called.
    """

    missing_rows: int = 0
    wrong_count: int = 0
    wrong_person: int = 0
    duplicate_file: int = 0
    resend_other: int = 0
    half_written: int = 0
    late: int = 0

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read a spec such as `missing_rows=1,late=2`.

        Raises:
            ValueError: an unknown name, or something that is no number of batches.
        """
        known = [f.name for f in fields(cls)]
        values = {}
        for part in filter(None, (piece.strip() for piece in spec.split(","))):
            name, _, number = (piece.strip() for piece in part.partition("="))
            if name not in known:
                raise ValueError(f"fault {name!r} is not known; known are {', '.join(known)}")
            if not number.isdecimal():
                raise ValueError(f"fault {name} needs a number of batches, as in {name}=1")
            values[name] = int(number)
        return cls(**values)

    def in_turn(self) -> list[str]:
        """What befalls batch after batch."""
        return [name for name, times in asdict(self).items() for _ in range(times)]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Asked:
    """A record of our file as the bank reads it."""

    row_no: str
    key: str
    holder: Person
    guardian: Agent | None
    id_type: str
    branch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """A file that the bank leaves after so many more rounds, or of which it writes only half for now."""

    name: str
    data: bytes
    rounds: int = 0
    half: bool = False


def read_batch(data: bytes) -> list[Asked]:
    """The records of a file to the bank.

    Raises:
        ValueError: header, count or a record's length is not as agreed.
    """
    header, *lines = data.split(b"\r\n")
    if header != b"SH%08d00000589FFFFFFFFFF" % (len(lines) - 1) or lines.pop():
        raise ValueError("not a file of this dialect")
    return [_asked(line) for line in lines]


def _asked(line: bytes) -> Asked:
    if len(line) != 589 or line[539:] != b"F" * 50:
        raise ValueError("a record is not as agreed")

    def text(start: int, length: int) -> str:
        return line[start : start + length].decode("gbk").rstrip(" ")

    holder = Person(
        name=text(44, 30), sex=cast("Sex", text(74, 1)), id_type=_TYPES[text(75, 2)],
        id_number=text(77, 18), social_security_number=text(77, 18), ethnic=text(95, 2), nationality=text(97, 3),
        birth_place=text(100, 6), birth_date=date.fromisoformat(text(106, 8)), phone=text(114, 11), address=text(140, 60),
    )  # fmt: skip
    guardian = text(400, 60) and Agent(name=text(400, 60), id_type=_TYPES[text(461, 2)], id_number=text(463, 18))
    return Asked(
        row_no=text(0, 12), key=text(12, 32), holder=holder, guardian=guardian or None, id_type=text(75, 2), branch=text(481, 8)
    )  # fmt: skip


def result_file(rows: Sequence[Asked], replies: Mapping[str, Done | Declined], *, with_cards: bool) -> bytes:
    """A file `RH_…` over these rows; `with_cards` puts card numbers into the reserved field."""
    lines = [b"RH%08d00000316FFFFFFFFFF" % len(rows)]
    for row in rows:
        reply = replies[row.key]
        refused = isinstance(reply, Declined)
        parts = (
            ("1" if refused else "0", 1), (row.row_no, 12), (row.key, 32), (row.holder.name, 30), (row.holder.sex, 1),
            (row.id_type, 2), (row.holder.id_number, 18), (reply.text if isinstance(reply, Declined) else "", 200),
            (reply.card_number if isinstance(reply, Done) and with_cards else "", 20),
        )  # fmt: skip
        lines.append(b"".join(text.encode("gbk").ljust(length) for text, length in parts))
    return b"\n".join(lines) + b"\n"


def card_file(rows: Sequence[Asked], replies: Mapping[str, Done | Declined], *, encoding: str = "gbk") -> bytes:
    """A file of dialect `csv14` over the rows that have an account."""
    out = io.StringIO()
    out.write(_CSV_HEAD + "\r\n")
    table = csv.writer(out)
    opened = [(row, reply) for row in rows if isinstance(reply := replies[row.key], Done)]
    for number, (row, reply) in enumerate(opened, start=1):
        table.writerow(
            [number, "", row.holder.id_number, row.holder.name, "", "", "", "", "", reply.card_number, reply.account_ref,
             "", "", ""]
        )  # fmt: skip
    return out.getvalue().encode(encoding)


class FileBank:
    """The bank's side of the two directories, which are ours to name: it takes from `out_dir` and leaves in `in_dir`.

    What it has taken lies in `taken` below `out_dir`. With `with_cards` a result carries the card's number, else a second file does.
    """

    def __init__(
        self,
        out_dir: Path,
        in_dir: Path,
        *,
        bank: SimulatedBank,
        bank_code: str,
        with_cards: bool = False,
        faults: FileFaults | None = None,
    ) -> None:
        self._out = out_dir
        self._in = in_dir
        self._bank = bank
        self._code = bank_code
        self._with_cards = with_cards
        self._faults = (faults or FileFaults()).in_turn()
        self._due: list[_Delivery] = []
        for place in (out_dir / "taken", in_dir):
            place.mkdir(parents=True, exist_ok=True)

    def once(self) -> int:
        """One round: leave what is due, take what has come. Returns how many batches were taken.

        Raises:
            OSError: a directory cannot be used.
            sqlite3.Error: the ledger's disk fails.
        """
        due, self._due = self._due, []
        for delivery in due:
            self._leave(delivery)
        return sum(self._take(file) for file in sorted(self._out.glob("SH_*")) if not file.name.endswith(".tmp"))

    def _take(self, file: Path) -> bool:
        rows = read_batch(file.read_bytes())
        answers = self._bank.answer([self._instruction(row) for row in rows])
        replies = {key: a.reply for key, a in answers.items() if isinstance(a.reply, Done | Declined)}
        if len(replies) < len(rows):  # some are decided later; a file is answered whole
            return False
        self._answer(file.name, rows, replies)
        file.replace(self._out / "taken" / file.name)
        return True

    def _instruction(self, row: Asked) -> OpenAccount:
        return OpenAccount(
            key=row.key, bank_code=self._code, branch=row.branch, region="", holder=row.holder, guardian=row.guardian
        )

    def _answer(self, name: str, rows: Sequence[Asked], replies: Mapping[str, Done | Declined]) -> None:
        result = f"RH_{name.removeprefix('SH_')}"
        good = _Delivery(name=result, data=result_file(rows, replies, with_cards=self._with_cards))
        for delivery in self._struck(good, rows, replies):
            self._leave(delivery)
        if not self._with_cards and any(isinstance(reply, Done) for reply in replies.values()):
            self._leave(_Delivery(name=f"{result}.csv".replace("RH_", "CARDS_"), data=card_file(rows, replies)))

    def _struck(
        self, good: _Delivery, rows: Sequence[Asked], replies: Mapping[str, Done | Declined]
    ) -> list[_Delivery]:
        corrected, other_name = replace(good, rounds=1), replace(good, name=f"{good.name}_2", rounds=1)
        match self._faults.pop(0) if self._faults else "":
            case "missing_rows":
                return [replace(good, data=result_file(rows[:-1], replies, with_cards=self._with_cards)), corrected]
            case "wrong_count":
                return [replace(good, data=good.data.replace(b"RH0", b"RH9", 1)), corrected]
            case "wrong_person":
                somebody = replace(rows[0], holder=replace(rows[0].holder, name="别人"))
                wrong = result_file([somebody, *rows[1:]], replies, with_cards=self._with_cards)
                return [replace(good, data=wrong), other_name]
            case "duplicate_file":
                return [good, corrected]
            case "resend_other":
                all_refused = {row.key: Declined(code="listed", text="黑名单") for row in rows}
                other = result_file(rows, all_refused, with_cards=self._with_cards)
                return [good, replace(corrected, data=other)]
            case "half_written":
                return [replace(good, half=True), corrected]
            case "late":
                return [replace(good, rounds=_LATE_ROUNDS)]
        return [good]

    def _leave(self, delivery: _Delivery) -> None:
        if delivery.rounds:
            self._due.append(replace(delivery, rounds=delivery.rounds - 1))
            return
        draft = self._in / f"{delivery.name}.tmp"
        if delivery.half:
            draft.write_bytes(delivery.data[: len(delivery.data) // 2])
            return
        draft.write_bytes(delivery.data)
        draft.replace(self._in / delivery.name)


def serve(
    out_dir: Path,
    in_dir: Path,
    ledger_path: Path,
    *,
    bank_code: str,
    with_cards: bool,
    faults: str,
    stopping: threading.Event,
) -> None:
    """Be that bank until told to stop.

    Raises:
        ValueError: a fault spec that is none.
    """
    told = FileFaults.parse(faults)
    ledger = Ledger(ledger_path)
    bank = SimulatedBank(ledger, faults=Faults(), clock=SystemClock(), random=Random(1))
    try:
        files = FileBank(out_dir, in_dir, bank=bank, bank_code=bank_code, with_cards=with_cards, faults=told)
        while not stopping.wait(EVERY_S):
            try:
                files.once()
            except (OSError, ValueError, sqlite3.Error) as error:
                log.warning("bank files: %s", type(error).__name__)
    finally:
        ledger.close()
