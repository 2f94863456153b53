"""A cooperating bank that exchanges batch files: `ports.BankGateway` over a journal, an exchange and the dialects.

    submit     the instruction is in the journal, once                                   taken
    collect    taken rows become a file: name and bytes are fixed in the journal          sent
               fixed files are put where the bank looks; until that is written down, the same file again
               what has come and stands still is judged whole; answers and file commit together, then it is moved away
               passed, the card's number still to come                                    accepted
               the bank's answer                                                          answered
    find       the journal

The name of a file is the bank's idempotency key: whatever dies in between, the bank sees a name with the same bytes, once or twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import cast

from pipeline.clock import SHANGHAI, Clock
from pipeline.errors import Defect, TransientError, ZhikaError
from pipeline.gateways.bank_files import csv14, pipe, sh589
from pipeline.gateways.bank_files.judge import Judged, judge_batch, judge_people
from pipeline.gateways.bank_files.returned import FileRefused, ReturnFile
from pipeline.ports import (
    Arrived,
    BankFailure,
    BankGateway,
    BankReply,
    Declined,
    Filed,
    FileExchange,
    FileJournal,
    InFile,
    Instruction,
    Key,
    LateReplies,
    NotTried,
    ObjectStore,
    OpenAccount,
    Pending,
    ToFile,
)

log = logging.getLogger("zhika.bank_files")

_RETURN_NAME = re.compile(r"RH_([0-9A-Za-z]{1,32})(_.*)?")
_PIPE_ENDING, _CSV_ENDING = _ENDINGS = ("_bret.txt", ".csv")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,120}")
_OPENING = "oa-"
_IN_USE = timedelta(hours=1)
_MOST_BYTES_A_ROW, _LEAST_LIMIT = 1_000, 1_000_000
NOT_SUPPORTED = Declined(code="not_supported", text="批量文件不支持该业务")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was agreed on with one bank about its files.

    `sender` names the bank in file names, 15 characters. `passed` and `failed` are the result codes of `sh589`: nothing public fixes
    them, and `0` for passed is what `pipe` has. Card numbers have `card_digits`. `id_types` goes before `sh589.ID_TYPES`. A file goes
    out once its oldest row has waited for `every`, or with `max_rows`; a reply is expected `reply_within` later. A file is read once
    it has not changed for `quiet`.

    Raises:
        ValueError: one code for two results, or a name that cannot stand in a file's.
    """

    sender: str
    passed: str = "0"
    failed: str = "1"
    card_number_in_reserved: bool = False
    card_digits: int = 19
    id_types: Mapping[str, str] = field(default_factory=dict)
    every: timedelta = timedelta(minutes=30)
    max_rows: int = 10_000
    reply_within: timedelta = timedelta(days=2)
    quiet: timedelta = timedelta(seconds=10)

    @property
    def most_bytes(self) -> int:
        """No file with the answers to one of ours is longer (a record of `sh589` has 316 bytes)."""
        return max(self.max_rows * _MOST_BYTES_A_ROW, _LEAST_LIMIT)

    def __post_init__(self) -> None:
        if self.passed == self.failed or len(self.passed) != 1 or len(self.failed) != 1:
            raise ValueError("passed and failed are two different characters")
        if not re.fullmatch(r"[0-9A-Za-z]{1,15}", self.sender):
            raise ValueError("a bank's name in file names is at most 15 letters and digits")


class BankFiles:
    """One cooperating bank. `submit` and `find` may be called by any process, `collect` by one at a time.

    `others` takes what no file can say (everything but opening an account); without it that is declined.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        journal: FileJournal,
        exchange: FileExchange,
        objects: ObjectStore,
        clock: Clock,
        others: BankGateway | None = None,
    ) -> None:
        self._terms = terms
        self._journal = journal
        self._exchange = exchange
        self._objects = objects
        self._clock = clock
        self._others = others
        self._seen: dict[str, tuple[str, datetime]] = {}

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        """Write down what is to be told; nothing has left when this returns.

        Raises:
            ValueError: one key with two contents in the same call.
            TransientError: the journal cannot be reached.
        """
        by_key: dict[Key, Instruction] = {}
        for instruction in instructions:
            if by_key.setdefault(instruction.key, instruction) != instruction:
                raise ValueError("one key with two contents in one call")
        now = self._clock.now()
        if now >= deadline:
            return {key: NotTried("the deadline passed before anything was written down") for key in by_key}
        openings = [i for i in by_key.values() if isinstance(i, OpenAccount)]
        rest = [i for i in by_key.values() if not isinstance(i, OpenAccount)]
        return {**self._take(openings, now), **self._elsewhere(rest, deadline)}

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        """What the journal knows; of other instructions than openings, what `others` knows.

        Raises:
            TransientError: the journal cannot be reached.
        """
        now = self._clock.now()
        if now >= deadline:
            return {key: NotTried("the deadline passed before anything was looked up") for key in keys}
        filed = self._journal.find(keys)
        found: dict[Key, BankReply | BankFailure | None] = {
            key: _reply(filed[key]) if key in filed else None for key in keys
        }
        asked = [key for key in keys if key not in filed and not key.startswith(_OPENING)]
        if self._others is not None and asked:
            try:
                found |= self._others.find(asked, deadline=deadline)
            except TransientError as error:
                found |= dict.fromkeys(asked, error)
        return found

    def collect(self, *, after: str | None, limit: int) -> LateReplies:
        """Files out, files in, and the keys answered behind `after`. What cannot be done now is tried at the next call.

        Raises:
            TransientError: the journal cannot be reached.
        """
        for step in (self._assemble, self._deliver, self._forget, self._read):
            try:
                step()
            except TransientError as error:
                log.warning("%s: %s", self._terms.sender, error)
        mine, _, theirs = (after or "").partition("|")
        answered = self._journal.answered(after=int(mine or 0), limit=limit)
        keys = tuple(key for _, key in answered)
        cursor = str(answered[-1][0]) if answered else mine
        if self._others is not None:
            late = self._others.collect(after=theirs or None, limit=limit)
            keys, theirs = (*keys, *late.keys), late.cursor or ""
        return LateReplies(keys=keys, cursor=(f"{cursor}|{theirs}" if theirs else cursor) or None)

    def statement(self, day: date, *, deadline: datetime) -> Mapping[Key, BankReply]:
        """What became known by files on that day, and what `others` says of it."""
        told: dict[Key, BankReply] = {**self._journal.statement(day)}
        return told if self._others is None else {**told, **self._others.statement(day, deadline=deadline)}

    def close(self) -> None:
        """Let go of what stands behind `others`."""
        close: Callable[[], None] | None = getattr(self._others, "close", None)
        if close is not None:
            close()

    # ------------------------------------------------------------------------------------------------------- replies

    def _take(self, openings: Sequence[OpenAccount], now: datetime) -> dict[Key, BankReply | BankFailure]:
        replies: dict[Key, BankReply | BankFailure] = {}
        rows = []
        for opening in openings:
            told = sh589.told(opening, self._terms.id_types)
            if (refused := sh589.unwritable(opening.key, told)) is not None:
                replies[opening.key] = refused
            else:
                rows.append(ToFile(key=opening.key, told=told, content=_content(opening)))
        due = now + self._terms.every + self._terms.reply_within
        for key, filed in self._journal.take(rows, now=now, expected_by=due).items():
            # Not a failure of the bank: asking it again would bring back the answer to another request.
            conflict = cast("BankFailure", Defect("the key is in the journal with other content"))
            replies[key] = conflict if filed is None else _reply(filed)
        return replies

    def _elsewhere(
        self, instructions: Sequence[Instruction], deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        if not instructions:
            return {}
        if self._others is None:
            return {instruction.key: NOT_SUPPORTED for instruction in instructions}
        try:
            return self._others.submit(instructions, deadline=deadline)
        except ZhikaError as error:  # of this call's other half: the openings are written down
            return {instruction.key: cast("BankFailure", error) for instruction in instructions}

    # ------------------------------------------------------------------------------------------------------ files out

    def _assemble(self) -> None:
        while True:
            now = self._clock.now()
            count, oldest = self._journal.backlog()
            if oldest is None or (count < self._terms.max_rows and now < oldest + self._terms.every):
                return
            rows = self._journal.taken(self._terms.max_rows)
            if not rows:  # another process has put them into a file meanwhile
                return
            data = sh589.encode_batch(rows)
            written = self._journal.write(
                [row.key for row in rows],
                name=partial(self._name, at=now),
                sha256=hashlib.sha256(data).hexdigest(),
                object=self._objects.put(data),
                now=now,
            )
            if not written:
                return

    def _name(self, batch: str, *, at: datetime) -> str:
        return f"SH_{batch}_{self._terms.sender:0>15}_{at.astimezone(SHANGHAI):%Y%m%d%H%M%S}"

    def _deliver(self) -> None:
        for file in self._journal.unsent():
            self._exchange.put(file.name, self._objects.get(file.object))
            self._journal.sent(file.id, now=self._clock.now())

    def _forget(self) -> None:
        """The bytes of a file that is answered whole are of no use any more."""
        for file in self._journal.finished():
            if self._objects.erase(file.object, unused_for=_IN_USE) != "in_use":
                self._journal.let_go(file.id)

    # ------------------------------------------------------------------------------------------------------- files in

    def _read(self) -> None:
        for file in self._standing(self._exchange.arrived()):
            try:
                self._take_in(file)
            except TransientError as error:  # this file's alone; it lies where it lay
                log.warning("%s: %s", self._terms.sender, error)

    def _standing(self, arrived: Sequence[Arrived]) -> list[Arrived]:
        """Files that have not changed for a while; a file must have been seen before."""
        now, before = self._clock.now(), self._seen
        self._seen = {
            file.name: (file.mark, before[file.name][1] if before.get(file.name, ("",))[0] == file.mark else now)
            for file in arrived
        }
        return [
            file
            for file in arrived
            if file.name in before
            and before[file.name][0] == file.mark
            and now - before[file.name][1] >= self._terms.quiet
        ]

    def _take_in(self, file: Arrived) -> None:
        if file.size > self._terms.most_bytes:
            self._turn_away(file)
            return
        data = self._exchange.read(file)
        sha256 = hashlib.sha256(data).hexdigest()
        name = _known_as(file.name.removesuffix(f".{sha256[:12]}"))  # moved back from where it was moved to
        received = self._journal.received(name)
        outcome = received.get(sha256)
        if outcome != "read":  # one that was refused is looked at anew: what was wrong may have been our setting
            try:
                self._settle(InFile(name=name, sha256=sha256), data, again="read" in received.values())
                outcome = "read"
            except FileRefused as refused:
                self._journal.refuse(InFile(name=name, sha256=sha256), refused.problem, now=self._clock.now())
                log.error("%s: %s refused: %s", self._terms.sender, name, refused.problem)
                outcome = "refused"
        # Named by content too, so that nothing that was kept before is written over.
        self._exchange.move(file, "history" if outcome == "read" else "errors", name=f"{name}.{sha256[:12]}")

    def _turn_away(self, file: Arrived) -> None:
        """A file that is too long is not read, not even to name it by its content."""
        seen = hashlib.sha256(file.mark.encode()).hexdigest()
        name, most = _known_as(file.name.removesuffix(f".{seen[:12]}")), self._terms.most_bytes
        refused = FileRefused(
            f"文件超过 {most} 字节，未读取；请银行分批发送，或调大 FILE_MAX_ROWS",
            f"the file has more than {most} bytes and was not read: ask the bank for smaller ones, or raise FILE_MAX_ROWS",
            code="bank_file.too_long",
        )
        self._journal.refuse(InFile(name=name, sha256=seen), refused.problem, now=self._clock.now())
        log.error("%s: %s refused: %s", self._terms.sender, name, refused.problem)
        self._exchange.move(file, "errors", name=f"{name}.{seen[:12]}")

    def _settle(self, file: InFile, data: bytes, *, again: bool) -> None:
        if again:
            raise FileRefused(
                "同名文件已读过且内容不同，请银行更换文件名后重发",
                "a file of this name was read with other content; ask the bank to send it under a new name",
                code="bank_file.name_used",
            )
        returned = self._decode(file.name, data)
        judged = self._judge(returned)
        known = InFile(name=file.name, sha256=file.sha256, batch=returned.batch, rows=len(returned.rows))
        self._journal.settle(known, judged.answers, problem=judged.problem, now=self._clock.now())
        if judged.problem is not None:
            log.error("%s: %s: %s", self._terms.sender, file.name, judged.problem)

    def _decode(self, name: str, data: bytes) -> ReturnFile:
        if (found := _RETURN_NAME.fullmatch(name)) is not None:
            return sh589.decode_return(
                data,
                batch=found[1],
                passed_code=self._terms.passed,
                failed_code=self._terms.failed,
                card_number_in_reserved=self._terms.card_number_in_reserved,
                card_digits=self._terms.card_digits,
            )
        if name.lower().endswith(_PIPE_ENDING):
            return pipe.decode_return(data)
        if name.lower().endswith(_CSV_ENDING):
            return csv14.decode_return(data, card_digits=self._terms.card_digits)
        raise FileRefused(
            "文件名不属于任何约定的格式（RH_…、…_bret.txt、….csv）",
            "the name is of no agreed dialect (RH_…, …_bret.txt, ….csv)",
            code="bank_file.unknown_dialect",
        )

    def _judge(self, returned: ReturnFile) -> Judged:
        if returned.batch is not None:
            return judge_batch(returned, self._journal.batch(returned.batch))
        return judge_people(returned, self._journal.of_people([row.id_number for row in returned.rows]))


def _reply(filed: Filed) -> BankReply:
    # By when an answer was expected stays as it was, so that who waits knows when it is late.
    return filed.reply or Pending(expected_by=filed.expected_by)


def _known_as(name: str) -> str:
    """A file's name in journal, log and folders: its own, unless that may tell of a person."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return f"file-{digest[:12]}{next((ending for ending in _ENDINGS if name.lower().endswith(ending)), '')}"


def _content(opening: OpenAccount) -> bytes:
    """Everything of an instruction, to know it again by."""
    return json.dumps(asdict(opening), default=str, ensure_ascii=False, sort_keys=True).encode()
