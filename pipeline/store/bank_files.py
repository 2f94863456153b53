"""The journal of a bank's batch files: which instruction went out in which file, which file came back and what it said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Integer, Select, Text, bindparam, exists, func, select, update

from pipeline.clock import end_of_day
from pipeline.errors import TransientError
from pipeline.identifiers import new_id
from pipeline.ports import Declined, Done, Filed, InFile, Key, OutFile, ToFile
from pipeline.store import tables as t
from pipeline.store.engine import Store, Tx, given, on_conflict_nothing, params, upserting
from pipeline.store.stock import next_numbers
from pipeline.store.types import Instant, Record

f = t.bank_files.c
r = t.bank_file_rows.c
_KEY = Column("key", Text)
_BATCH_DIGITS = 8


class BankFileJournal:
    """`ports.FileJournal` of one bank."""

    def __init__(self, store: Store, bank_code: str) -> None:
        self._store = store
        self._bank = bank_code

    def take(
        self, instructions: Sequence[ToFile], *, now: datetime, expected_by: datetime
    ) -> Mapping[Key, Filed | None]:
        if not instructions:
            return {}
        with self._store.transaction() as tx:
            digests = {i.key: tx.sealer.digest(i.content) for i in instructions}
            rows = [
                {
                    "key": i.key,
                    "bank_code": self._bank,
                    "state": "taken",
                    "digest": digests[i.key],
                    "blind_index": _index(tx, i.told["id_number"]),
                    "sealed": _sealed(tx, i.key, i.told, None),
                    "taken_at": now,
                    "expected_by": expected_by,
                }
                # In one order everywhere: two processes that take the same keys wait for each other, they never lock up.
                for i in sorted(instructions, key=lambda i: i.key)
            ]
            tx.conn.execute(on_conflict_nothing(tx, t.bank_file_rows), rows)
            kept = self._rows(tx, _of_keys(tx), {"given": _keys(list(digests))})
            same = {row.key: bytes(row.digest) == digests[row.key] and row.bank_code == self._bank for row in kept}
            return {row.key: _filed(tx, row) if same[row.key] else None for row in kept}

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Filed]:
        with self._store.transaction() as tx:
            found = self._rows(tx, _of_keys(tx).where(r.bank_code == self._bank), {"given": _keys(keys)})
            return {row.key: _filed(tx, row) for row in found}

    # ------------------------------------------------------------------------------------------------------ files out

    def backlog(self) -> tuple[int, datetime | None]:
        """How many instructions wait for a file, and since when the oldest does."""
        with self._store.transaction() as tx:
            row = tx.conn.execute(
                select(func.count(), func.min(r.taken_at)).where(r.bank_code == self._bank, r.state == "taken")
            ).one()
            return int(row[0]), row[1]

    def taken(self, limit: int) -> Sequence[Filed]:
        """Instructions that wait for a file, oldest first."""
        query = (
            select(t.bank_file_rows)
            .where(r.bank_code == self._bank, r.state == "taken")
            .order_by(r.taken_at, r.key)
            .limit(limit)
        )
        with self._store.transaction() as tx:
            return [_filed(tx, row) for row in self._rows(tx, query)]

    def write(
        self, keys: Sequence[Key], *, name: Callable[[str], str], sha256: str, object: str, now: datetime
    ) -> bool:
        numbers = [{"key": key, "row_no": n} for n, key in enumerate(keys, start=1)]
        with self._store.transaction() as tx:
            waiting = tx.conn.execute(
                _of_keys(tx, r.key).where(r.state == "taken").order_by(r.key).with_for_update(of=t.bank_file_rows),
                {"given": _keys(keys)},
            ).all()
            if len(waiting) != len(keys):
                return False
            [number] = next_numbers(tx, f"bank_files/{self._bank}", 1)
            file_id = new_id("bf_", now=now, random=tx.random)
            batch = f"{number:0{_BATCH_DIGITS}d}"
            tx.conn.execute(
                t.bank_files.insert().values(
                    id=file_id, bank_code=self._bank, direction="out", batch=batch, file=name(batch), sha256=sha256,
                    rows=len(keys), state="written", object=object, created_at=now,
                )
            )  # fmt: skip
            rows = given(tx, _KEY, Column("row_no", Integer))
            tx.conn.execute(
                update(t.bank_file_rows)
                .where(r.key == rows.c.key)
                .values(state="sent", file_id=bindparam("file", type_=Text), row_no=rows.c.row_no),
                {"given": params(numbers), "file": file_id},
            )
            return True

    def unsent(self) -> Sequence[OutFile]:
        """Files that are fixed and perhaps not with the bank, oldest first."""
        return self._out(select(f.id, f.file, f.object).where(f.state == "written"))

    def sent(self, file_id: str, *, now: datetime) -> None:
        """The file lies with the bank."""
        with self._store.transaction() as tx:
            tx.conn.execute(
                update(t.bank_files).where(f.id == file_id, f.state == "written").values(state="sent", settled_at=now)
            )

    def finished(self) -> Sequence[OutFile]:
        open_row = exists().where(r.file_id == f.id, r.state != "answered")
        return self._out(
            select(f.id, f.file, f.object).where(f.state == "sent", f.object.is_not(None), ~open_row).limit(20)
        )

    def let_go(self, file_id: str) -> None:
        """The bytes of a file are erased."""
        with self._store.transaction() as tx:
            tx.conn.execute(update(t.bank_files).where(f.id == file_id).values(object=None))

    def _out(self, query: Select[Any]) -> list[OutFile]:
        query = query.where(f.bank_code == self._bank, f.direction == "out").order_by(f.batch)
        with self._store.transaction() as tx:
            return [OutFile(id=row.id, name=row.file, object=row.object) for row in tx.conn.execute(query)]

    # ------------------------------------------------------------------------------------------------------- files in

    def received(self, name: str) -> Mapping[str, Literal["read", "refused"]]:
        query = select(f.sha256, f.state).where(f.bank_code == self._bank, f.direction == "in", f.file == name)
        with self._store.transaction() as tx:
            return {row.sha256: row.state for row in tx.conn.execute(query)}

    def batch(self, number: str) -> Sequence[Filed]:
        """The rows of a file of ours, in order; none when the bank was never sent this batch."""
        query = (
            select(t.bank_file_rows)
            .join(t.bank_files, f.id == r.file_id)
            .where(f.bank_code == self._bank, f.direction == "out", f.batch == number)
            .order_by(r.row_no)
        )
        with self._store.transaction() as tx:
            return [_filed(tx, row) for row in self._rows(tx, query)]

    def of_people(self, numbers: Sequence[str]) -> Mapping[str, Sequence[Filed]]:
        """Rows that are in a file of ours, by the document number that the bank was told, oldest first."""
        with self._store.transaction() as tx:
            indexes = {_index(tx, number): number for number in numbers}
            wanted = list(indexes)
            found: dict[str, list[Filed]] = {number: [] for number in numbers}
            for at in range(0, len(wanted), 1000):  # a statement takes so many values, not any number
                query = (
                    select(t.bank_file_rows)
                    .where(r.bank_code == self._bank, r.state != "taken", r.blind_index.in_(wanted[at : at + 1000]))
                    .order_by(r.taken_at, r.key)
                )
                for row in self._rows(tx, query):
                    found[indexes[bytes(row.blind_index)]].append(_filed(tx, row))
            return found

    def settle(
        self, file: InFile, answers: Mapping[Key, Done | Declined | None], *, problem: str | None, now: datetime
    ) -> bool:
        with self._store.transaction() as tx:
            if not self._note(tx, file, "read", problem, now):
                return False
            rows = self._rows(
                tx,
                _of_keys(tx).where(r.state != "answered").order_by(r.key).with_for_update(of=t.bank_file_rows),
                {"given": _keys(list(answers))},
            )
            if len(rows) != len(answers):
                raise TransientError("another file has answered a row of this one meanwhile")
            _accept(tx, [row.key for row in rows if answers[row.key] is None])
            replies = {row.key: reply for row in rows if (reply := answers[row.key]) is not None}
            # The range's row stays locked until the commit: numbers become visible in their order, so no cursor overtakes one.
            numbers = next_numbers(tx, "bank_file_answers", len(replies)) if replies else range(0)
            seqs = dict(zip(replies, numbers, strict=True))
            values = [
                {
                    "b_key": row.key,
                    "b_sealed": _sealed(tx, row.key, _opened(tx, row)["told"], replies[row.key]),
                    "b_seq": seqs[row.key],
                    "b_now": now,
                }
                for row in rows
                if row.key in replies
            ]
            if values:
                tx.conn.execute(
                    update(t.bank_file_rows)
                    .where(r.key == bindparam("b_key"))
                    .values(
                        state="answered",
                        sealed=bindparam("b_sealed"),
                        answered_seq=bindparam("b_seq", type_=BigInteger),
                        answered_at=bindparam("b_now", type_=Instant),
                    ),
                    values,
                )
            return True

    def refuse(self, file: InFile, problem: str, *, now: datetime) -> bool:
        with self._store.transaction() as tx:
            return self._note(tx, file, "refused", problem, now)

    def _note(self, tx: Tx, file: InFile, state: str, problem: str | None, now: datetime) -> bool:
        values = {
            "id": new_id("bf_", now=now, random=tx.random), "bank_code": self._bank, "direction": "in", "batch": file.batch,
            "file": file.name, "sha256": file.sha256, "rows": file.rows, "state": state, "problem": problem,
            "created_at": now, "settled_at": now,
        }  # fmt: skip
        insertion = upserting(tx, t.bank_files).values(values)
        same = [f.bank_code, f.direction, f.file, f.sha256]
        if state == "read":  # also one that was refused before
            renewed = {name: insertion.excluded[name] for name in ("batch", "rows", "state", "problem", "settled_at")}
            written = insertion.on_conflict_do_update(index_elements=same, set_=renewed, where=f.state == "refused")
        else:
            written = insertion.on_conflict_do_nothing(index_elements=same)
        return tx.conn.execute(written.returning(f.id)).first() is not None

    # -------------------------------------------------------------------------------------------------------- answers

    def answered(self, *, after: int, limit: int) -> Sequence[tuple[int, Key]]:
        query = (
            select(r.answered_seq, r.key)
            .where(r.bank_code == self._bank, r.answered_seq > after)
            .order_by(r.answered_seq)
            .limit(limit)
        )
        with self._store.transaction() as tx:
            return [(row.answered_seq, row.key) for row in tx.conn.execute(query)]

    def statement(self, day: date) -> Mapping[Key, Done | Declined]:
        """What became known on a civil day in China, by key."""
        query = (
            select(t.bank_file_rows)
            .where(
                r.bank_code == self._bank,
                r.answered_at >= end_of_day(day - timedelta(days=1)) + timedelta(seconds=1),
                r.answered_at < end_of_day(day) + timedelta(seconds=1),
            )
            .order_by(r.answered_seq)
        )
        with self._store.transaction() as tx:
            filed = (_filed(tx, row) for row in self._rows(tx, query))
            return {row.key: row.reply for row in filed if row.reply is not None}

    @staticmethod
    def _rows(tx: Tx, query: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Record]:
        return tx.conn.execute(query, values or {}).all()


def _keys(keys: Sequence[Key]) -> str:
    return params([{"key": key} for key in keys])


def _of_keys(tx: Tx, *columns: Column[Any]) -> Select[Any]:
    asked = given(tx, _KEY)
    return select(*(columns or t.bank_file_rows.c)).join_from(t.bank_file_rows, asked, r.key == asked.c.key)


def _accept(tx: Tx, keys: Sequence[Key]) -> None:
    if keys:
        asked = given(tx, _KEY)
        tx.conn.execute(
            update(t.bank_file_rows).where(r.key == asked.c.key).values(state="accepted"), {"given": _keys(keys)}
        )


def _index(tx: Tx, number: str) -> bytes:
    return tx.sealer.blind_index("bank_file", number.upper())


def _sealed(tx: Tx, key: Key, told: Mapping[str, str], reply: Done | Declined | None) -> bytes:
    value: dict[str, Any] = {"told": dict(told)}
    if reply is not None:
        value["done" if isinstance(reply, Done) else "declined"] = asdict(reply)
    return tx.sealer.seal(value, bound_to=f"bank_file_rows/{key}")


def _opened(tx: Tx, row: Record) -> dict[str, Any]:
    return tx.sealer.open(row.sealed, bound_to=f"bank_file_rows/{row.key}")


def _filed(tx: Tx, row: Record) -> Filed:
    clear = _opened(tx, row)
    reply: Done | Declined | None = None
    if "done" in clear:
        reply = Done(**clear["done"])
    elif "declined" in clear:
        reply = Declined(**clear["declined"])
    return Filed(
        key=row.key, state=row.state, told=clear["told"], taken_at=row.taken_at, expected_by=row.expected_by,
        row_no=row.row_no, reply=reply,
    )  # fmt: skip
