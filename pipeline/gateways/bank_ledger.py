"""The simulated bank's books: every instruction by its key, every account with its cards, and the rules of accounts.

They hold nobody's name or number in clear: people are keyed digests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from datetime import date, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pipeline.clock import civil_date
from pipeline.errors import Refused
from pipeline.gateways.bank_faults import ACCOUNT_EXISTS
from pipeline.ports import BankReply, Declined, Done, Key, Pending

NO_SUCH_ACCOUNT = Declined(code="no_such_account", text="账户不存在")
ACCOUNT_CLOSED = Declined(code="account_closed", text="账户已销户")
CARD_NOT_BOUND = Declined(code="card_not_bound", text="卡号与账户不符")
CUSTOMER_MISMATCH = Declined(code="customer_mismatch", text="客户与账户不符")

Status = Literal["open", "frozen", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An instruction as it goes into the ledger; `content`, `identity` and `holder` are digests.

    `refusal` is what the bank says instead, where its rules would let the instruction pass.
    """

    key: Key
    operation: str
    content: bytes
    bank_code: str
    identity: bytes | None = None
    holder: bytes | None = None
    account_ref: str | None = field(default=None, repr=False)
    card_number: str | None = field(default=None, repr=False)
    refusal: Declined | None = None
    number_seed: str
    at: datetime
    ready_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An instruction in the ledger, with the reply it got for good."""

    seq: int
    key: Key
    content: bytes
    ready_at: datetime
    reply: Done | Declined

    def reply_at(self, now: datetime) -> BankReply:
        """The reply as the bank gives it at that instant."""
        return self.reply if now >= self.ready_at else Pending(expected_by=self.ready_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account the bank keeps: the `key` that opened it, and the card that is bound to it now."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)
    status: Status
    produced: bool
    activated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """An account as an instruction finds it."""

    id: int
    account_ref: str
    identity: bytes
    holder: bytes
    card_number: str
    status: Status
    produced: bool
    activated: bool


_RELEASE = 2
_SCHEMA = f"""
PRAGMA user_version = {_RELEASE};
CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS instructions (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, operation TEXT NOT NULL, bank_code TEXT NOT NULL,
    content BLOB NOT NULL, day TEXT NOT NULL, ready_at TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'declined')), reply TEXT NOT NULL,
    account_ref TEXT, effective INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS instructions_by_day ON instructions (day, seq);
CREATE INDEX IF NOT EXISTS instructions_by_account ON instructions (account_ref, seq);
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, bank_code TEXT NOT NULL, identity BLOB NOT NULL, holder BLOB NOT NULL,
    account_ref TEXT NOT NULL UNIQUE, status TEXT NOT NULL CHECK (status IN ('open', 'frozen', 'closed')));
CREATE UNIQUE INDEX IF NOT EXISTS one_account_a_person ON accounts (bank_code, identity) WHERE status <> 'closed';
CREATE TABLE IF NOT EXISTS cards (
    number TEXT PRIMARY KEY, account INTEGER NOT NULL REFERENCES accounts (id), ended INTEGER NOT NULL DEFAULT 0,
    produced INTEGER NOT NULL DEFAULT 0, activated INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS one_card_an_account ON cards (account) WHERE NOT ended;
"""
_RECORD = "SELECT seq, key, content, ready_at, status, reply FROM instructions"
_BY_KEY = f"{_RECORD} WHERE key IN (SELECT value FROM json_each(?))"
_BY_DAY = f"{_RECORD} WHERE day = ? AND ? IN ('', bank_code) AND seq > ? ORDER BY seq LIMIT ?"
_ACCOUNTS = (
    "SELECT a.key, a.bank_code, a.account_ref, c.number, a.status, c.produced, c.activated"
    " FROM accounts a JOIN cards c ON c.account = a.id AND NOT c.ended ORDER BY a.id"
)
_ACCOUNT = (
    "SELECT a.id, a.account_ref, a.identity, a.holder, c.number, a.status, c.produced, c.activated"
    " FROM accounts a JOIN cards c ON c.account = a.id AND NOT c.ended WHERE a.bank_code = ? AND a.account_ref = ?"
)
_COUNTS = (
    "SELECT count(*) FILTER (WHERE status <> 'closed'), count(*) FILTER (WHERE status = 'frozen'),"
    " count(*) FILTER (WHERE status = 'closed'), (SELECT count(*) FROM instructions WHERE status = 'declined') FROM accounts"
)


class Ledger:
    """The bank's books in SQLite, durable when a call returns; in memory when `path` is None. Safe between threads.

    Raises:
        Refused: the file is a ledger of another release.
        sqlite3.Error: the file cannot be opened or is no database; also from every method when the disk fails.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30.0)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        self._secret: bytes = self._db.execute("SELECT value FROM secret").fetchone()[0]

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        ((release,),) = self._db.execute("PRAGMA user_version")
        if release != _RELEASE and self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise Refused(
                "模拟银行的账本属于另一版本，请移走该文件或另选一个",
                "the simulated bank's ledger is of another release: move the file away, or choose another",
                code="bank-ledger-of-another-release",
            )
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))

    def close(self) -> None:
        """Let go of the file once the transaction in hand has ended."""
        with self._lock:
            self._db.close()

    def digest(self, *parts: str) -> bytes:
        """A digest that only this ledger can make: what was digested cannot be guessed from it without the file."""
        return hmac.digest(self._secret, json.dumps(parts, ensure_ascii=True).encode(), hashlib.sha256)

    def record(self, entries: Sequence[Entry]) -> Mapping[Key, Record | None]:
        """Carry entries out in one transaction. A known key gets the record it has, or None when its content differs."""
        with self._transaction():
            return {entry.key: self._record(entry) for entry in entries}

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Record]:
        """The records of the keys that the bank knows."""
        return {record.key: record for record in self._records(_BY_KEY, json.dumps(list(keys)))}

    def statement(self, day: date, *, bank_code: str = "", after: int = 0, limit: int = 200) -> Sequence[Record]:
        """The records of a civil day in China, by `seq`, from behind `after`; of one bank, or of all that are simulated."""
        return self._records(_BY_DAY, day.isoformat(), bank_code, after, limit)

    def accounts(self) -> Sequence[Account]:
        """Every account, oldest first, closed ones too."""
        return [
            Account(
                key=key, bank_code=bank_code, account_ref=account_ref, card_number=number, status=status,
                produced=bool(produced), activated=bool(activated),
            )
            for key, bank_code, account_ref, number, status, produced, activated in self._rows(_ACCOUNTS)
        ]  # fmt: skip

    def history(self, account_ref: str) -> Sequence[str]:
        """The operations that changed anything about an account, oldest first: `open_account`, `freeze_financial` …"""
        query = "SELECT operation FROM instructions WHERE account_ref = ? AND effective ORDER BY seq"
        return [operation for (operation,) in self._rows(query, account_ref)]

    def counts(self) -> Mapping[str, int]:
        """How many `accounts` there are that are not closed, the `frozen` among them, the `closed`; instructions `declined`."""
        (row,) = self._rows(_COUNTS)
        return dict(zip(("accounts", "frozen", "closed", "declined"), row, strict=True))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _records(self, query: str, *values: object) -> list[Record]:
        return [_record(row) for row in self._rows(query, *values)]

    def _record(self, entry: Entry) -> Record | None:
        known = self.find([entry.key]).get(entry.key)
        if known is not None:
            return known if hmac.compare_digest(known.content, entry.content) else None
        reply, effective = self._open(entry) if entry.operation == "open_account" else self._change(entry)
        account_ref = reply.account_ref if isinstance(reply, Done) else entry.account_ref
        cursor = self._db.execute(
            "INSERT INTO instructions (key, operation, bank_code, content, day, ready_at, status, reply, account_ref, effective)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.key, entry.operation, entry.bank_code, entry.content, civil_date(entry.at).isoformat(),
             entry.ready_at.isoformat(), "done" if isinstance(reply, Done) else "declined",
             json.dumps(astuple(reply), ensure_ascii=False), account_ref, effective),
        )  # fmt: skip
        return Record(
            seq=cursor.lastrowid or 0, key=entry.key, content=entry.content, ready_at=entry.ready_at, reply=reply
        )

    # -------------------------------------------------------------------------------------------------- the bank's rules

    def _open(self, entry: Entry) -> tuple[Done | Declined, bool]:
        if entry.refusal is not None:
            return entry.refusal, False
        if self._has_account(entry, but=0):
            return ACCOUNT_EXISTS, False
        account_ref = next(ref for ref in _references(entry) if not self._taken("accounts", "account_ref", ref))
        account = self._db.execute(
            "INSERT INTO accounts (key, bank_code, identity, holder, account_ref, status) VALUES (?, ?, ?, ?, ?, 'open')",
            (entry.key, entry.bank_code, entry.identity, entry.holder, account_ref),
        )
        return Done(account_ref=account_ref, card_number=self._bind(account.lastrowid or 0, entry)), True

    def _change(self, entry: Entry) -> tuple[Done | Declined, bool]:
        row = next(iter(self._rows(_ACCOUNT, entry.bank_code, entry.account_ref)), None)
        if row is None:
            return NO_SUCH_ACCOUNT, False
        account = _Row(
            id=row[0], account_ref=row[1], identity=row[2], holder=row[3], card_number=row[4], status=row[5],
            produced=bool(row[6]), activated=bool(row[7]),
        )  # fmt: skip
        refusal = self._refused(entry, account)
        if refusal is not None:
            return refusal, False
        number = entry.card_number or account.card_number
        match entry.operation:
            case "bind_card":
                self._db.execute("UPDATE cards SET ended = 1 WHERE account = ?", (account.id,))
                number, effective = self._bind(account.id, entry), True
            case "card_produced":
                effective = not account.produced
                self._db.execute("UPDATE cards SET produced = 1 WHERE number = ?", (number,))
            case "activate_financial":
                effective = not account.activated
                self._db.execute("UPDATE cards SET activated = 1 WHERE number = ?", (number,))
            case "freeze_financial":
                effective = self._set(account, "frozen")
            case "release_financial":
                effective = self._set(account, "open")
            case "update_holder":
                effective = account.holder != entry.holder
                told = (entry.identity, entry.holder, account.id)
                self._db.execute("UPDATE accounts SET identity = ?, holder = ? WHERE id = ?", told)
            case "close_account":
                effective = self._set(account, "closed")
            case _:
                raise AssertionError("every operation has its rule")
        return Done(account_ref=account.account_ref, card_number=number), effective

    def _refused(self, entry: Entry, account: _Row) -> Declined | None:
        if account.status == "closed":
            return ACCOUNT_CLOSED
        if entry.operation == "bind_card" and entry.identity != account.identity:
            return CUSTOMER_MISMATCH
        if entry.operation == "update_holder" and self._has_account(entry, but=account.id):
            return ACCOUNT_EXISTS
        if entry.card_number is not None:
            # A loss may be reported of a card whose successor is bound already; only the card of today is made or used.
            ended = entry.operation in ("freeze_financial", "release_financial")
            theirs = "SELECT 1 FROM cards WHERE account = ? AND number = ? AND ended <= ?"
            if not self._rows(theirs, account.id, entry.card_number, ended):
                return CARD_NOT_BOUND
        return entry.refusal

    def _has_account(self, entry: Entry, *, but: int) -> bool:
        query = "SELECT 1 FROM accounts WHERE bank_code = ? AND identity = ? AND status <> 'closed' AND id <> ?"
        return bool(self._rows(query, entry.bank_code, entry.identity, but))

    def _taken(self, table: str, column: str, value: str) -> bool:
        return bool(self._rows(f"SELECT 1 FROM {table} WHERE {column} = ?", value))

    def _bind(self, account: int, entry: Entry) -> str:
        number = next(n for n in _card_numbers(entry) if not self._taken("cards", "number", n))
        self._db.execute("INSERT INTO cards (number, account) VALUES (?, ?)", (number, account))
        return number

    def _set(self, account: _Row, status: Status) -> bool:
        self._db.execute("UPDATE accounts SET status = ? WHERE id = ?", (status, account.id))
        return account.status != status


def _record(row: tuple[Any, ...]) -> Record:
    seq, key, content, ready_at, status, reply = row
    first, second, *rest = json.loads(reply)
    return Record(
        seq=seq, key=key, content=content, ready_at=datetime.fromisoformat(ready_at),
        reply=Done(account_ref=first, card_number=second, account_class=rest[0])
        if status == "done" else Declined(code=first, text=second),
    )  # fmt: skip


def _drawn(entry: Entry) -> Iterator[bytes]:
    for attempt in count():
        yield hashlib.sha256(f"{entry.bank_code}:{entry.number_seed}:{attempt}".encode()).digest()


def _references(entry: Entry) -> Iterator[str]:
    """Account references to try in turn."""
    return (f"{int.from_bytes(digest[8:16]) % 10**18:018d}" for digest in _drawn(entry))


def _card_numbers(entry: Entry) -> Iterator[str]:
    """19-digit card numbers to try in turn; 62 is UnionPay's issuer range."""
    issuer = f"62{int.from_bytes(hashlib.sha256(entry.bank_code.encode()).digest()[:8]) % 10_000:04d}"
    for digest in _drawn(entry):
        payload = f"{issuer}{int.from_bytes(digest[:8]) % 10**12:012d}"
        yield payload + luhn_digit(payload)


def luhn_digit(payload: str) -> str:
    """The check digit that goes behind `payload` (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(payload))):
        total += digit if place % 2 else sum(divmod(2 * digit, 10))
    return str(-total % 10)
