"""File intake: a batch file becomes applications, row by row, each once.

Rows commit in stretches together with the place in the file, so a crash goes on at the next row; the same file is the same batch.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from config import metrics
from config.policies import Policies
from pipeline.application import Submission
from pipeline.errors import Refused, TransientError
from pipeline.services.accept import Accepted, Answer, Declined, Replayed, keep_photos, take_in
from pipeline.services.context import Context
from pipeline.store import batches
from pipeline.store.batches import RowFault
from producers.batch_file import BatchFile, Row, RowError, open_batch, write_errors

log = logging.getLogger("zhika.file_intake")
STRETCH = 200
STILL_S = 5.0
_COLUMNS = {"#/person/id_number": "证件号码", "#/external_ref": "外部编号", "#/region": "参保地"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a file came to: `accepted + rejected + duplicate == rows`. `new` is False for a file that was known already."""

    batch_id: str
    new: bool
    rows: int
    accepted: int
    rejected: int
    duplicate: int
    faults: tuple[RowFault, ...]

    def as_dict(self) -> dict[str, object]:
        """As `<name>.result.json` has it."""
        return {**asdict(self), "faults": [asdict(fault) for fault in self.faults]}


def take_file(
    context: Context,
    policies: Policies,
    path: Path,
    *,
    source: str,
    actor: str = "file-intake",
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Taken:
    """Take in a file; `progress` hears of the rows done and of all rows.

    Raises:
        BatchFileError: the file as a whole cannot be taken; nothing was.
        OSError: it cannot be read.
        TransientError: the database is away; taking the file again goes on where it stopped.
    """
    with open_batch(path) as file:
        with context.store.transaction() as tx:
            batch, new = batches.begin(tx, source=source, file_sha256=file.sha256, rows=file.rows, now=context.now())
        done = batch.next_row
        progress(done, file.rows)
        if batch.status == "processing":
            while done < file.rows:
                for rows in _stretches(file, policies, source, start=done):
                    expected = done + len(rows)
                    done = _take_stretch(context, batch.id, rows, at=done, actor=actor)
                    progress(done, file.rows)
                    if done != expected:  # another process takes the same file: go on from where it has come to
                        break
            with context.store.transaction() as tx:
                batches.complete(tx, batch.id, now=context.now())
    with context.store.transaction() as tx:
        row = batches.lock(tx, batch.id)
        told = batches.faults(tx, batch.id)
    faults = tuple(RowFault(row=f.row, column=f.column, code=f.code, zh=f.zh, en=f.en) for f in told)
    return Taken(
        batch_id=batch.id,
        new=new,
        rows=row.rows,
        accepted=row.accepted,
        rejected=row.rejected,
        duplicate=row.duplicate,
        faults=faults,
    )


def _stretches(file: BatchFile, policies: Policies, source: str, *, start: int) -> Iterator[list[Row]]:
    rows = file.read(policies=policies, source=source, start=start)
    while stretch := list(islice(rows, STRETCH)):
        yield stretch


def _take_stretch(context: Context, batch_id: str, rows: Sequence[Row], *, at: int, actor: str) -> int:
    """Take in some rows and count them, in one transaction. Another process may have been here: then nothing is done."""
    good: list[tuple[int, Submission]] = [(row.number, row.submission) for row in rows if row.submission is not None]
    submissions = [submission for _, submission in good]
    photos = keep_photos(context, submissions)
    with context.store.transaction() as tx:
        batch = batches.lock(tx, batch_id)
        if batch.next_row != at:
            return int(batch.next_row)
        numbers = [number for number, _ in good]
        answers = take_in(context, tx, submissions, photos=photos, actor=actor, batch=(batch_id, numbers))
        faults = [
            RowFault(row=e.row, column=e.column, code=e.code, zh=e.zh, en=e.en) for row in rows for e in row.errors
        ]
        refused = {n: a for n, a in zip(numbers, answers, strict=True) if isinstance(a, Declined)}
        faults += [_fault(n, answer) for n, answer in refused.items()]
        accepted = sum(isinstance(answer, Accepted) for answer in answers)
        duplicate = sum(isinstance(a, Replayed) or (isinstance(a, Declined) and a.duplicate) for a in answers)
        batches.progress(
            tx,
            batch,
            read=len(rows),
            accepted=accepted,
            rejected=len(rows) - accepted - duplicate,
            duplicate=duplicate,
            faults=faults,
        )
    _count(submissions, answers)
    return at + len(rows)


def _fault(row: int, answer: Declined) -> RowFault:
    return RowFault(row=row, column=_COLUMNS.get(answer.pointer, ""), code=answer.code, zh=answer.zh, en=answer.en)


def _count(submissions: Sequence[Submission], answers: Sequence[Answer]) -> None:
    words = {Accepted: "accepted", Replayed: "replayed", Declined: "refused"}
    for submission, answer in zip(submissions, answers, strict=True):
        metrics.INTAKE.labels("file", submission.region, words[type(answer)]).inc()


def write_workbook(context: Context, policies: Policies, path: Path, out: Path, taken: Taken, *, source: str) -> None:
    """The error workbook of a file: its wrong rows as they came, with what is wrong with each."""
    wrong: Mapping[int, list[RowFault]] = _by_row(taken.faults)
    with open_batch(path) as file:
        rows = (
            _with_faults(row, wrong[row.number])
            for row in file.read(policies=policies, source=source)
            if row.number in wrong
        )
        write_errors(rows, out)


def _by_row(faults: Sequence[RowFault]) -> dict[int, list[RowFault]]:
    found: dict[int, list[RowFault]] = {}
    for fault in faults:
        found.setdefault(fault.row, []).append(fault)
    return found


def _with_faults(row: Row, faults: Sequence[RowFault]) -> Row:
    errors = tuple(RowError(row=f.row, column=f.column, code=f.code, zh=f.zh, en=f.en) for f in faults)
    return Row(number=row.number, external_ref=row.external_ref, submission=None, errors=errors, cells=row.cells)


# ----------------------------------------------------------------------------------------------------------- directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Takes files from `<directory>/<client>/in`: what was taken goes to `done`, what cannot be to `errors`, each with a result."""

    context: Context
    policies: Policies
    directory: Path
    still_s: float = STILL_S

    def run(self, stopping: threading.Event) -> None:
        """Look for files until told to stop."""
        self.directory.mkdir(parents=True, exist_ok=True)
        while not stopping.is_set():
            for path in self.ripe():
                if stopping.is_set():
                    return
                try:
                    self.take(path)
                except TransientError as error:
                    log.warning("a file waits: %s", error)
                except OSError as error:
                    log.error("a file cannot be moved or read: %s", type(error).__name__)
                except Exception as error:
                    log.error("a file waits for a fault to be mended: %s", type(error).__name__, exc_info=True)
            stopping.wait(1.0)

    def ripe(self) -> list[Path]:
        """Files that have stood still for a while."""
        limit = time.time() - self.still_s
        found = []
        for path in sorted(self.directory.glob("*/in/*")):
            try:
                if path.is_file() and not path.name.startswith(".") and path.stat().st_mtime <= limit:
                    found.append(path)
            except FileNotFoundError:
                continue
        return found

    def take(self, path: Path) -> Path:
        """Take one file and put it away; returns where its result lies."""
        client = path.parent.parent
        try:
            taken = take_file(self.context, self.policies, path, source=client.name)
        except Refused as error:
            result: dict[str, object] = {"code": error.reason_code, "zh": error.zh, "en": error.en}
            log.warning("file of %s refused: %s", client.name, error.reason_code)
            return _put_away(path, client / "errors", result)
        log.info("file of %s: %d rows, %d accepted", client.name, taken.rows, taken.accepted)
        if taken.faults:
            (client / "done").mkdir(exist_ok=True)
            book = client / "done" / f"{path.name}.errors.xlsx"
            write_workbook(self.context, self.policies, path, book, taken, source=client.name)
        return _put_away(path, client / "done", taken.as_dict())


def _put_away(path: Path, directory: Path, result: Mapping[str, object]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    told = directory / f"{path.name}.result.json"
    part = told.with_suffix(".part")
    part.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    part.replace(told)
    os.replace(path, directory / path.name)
    return told
