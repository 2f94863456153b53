"""A cooperating bank as a model: a durable ledger, one account a person, and the ways a bank fails.

Tests and the demo use it in process, the stand-alone simulator puts HTTP in front of it. It knows neither HTTP nor our
database, and it keeps nobody's name or number: people are keyed digests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Self, cast

from pipeline.clock import Clock, civil_date
from pipeline.errors import Defect, OutcomeUnknown, TransientError
from pipeline.ports import BankFailure, BankReply, Declined, Done, Instruction, Key, Pending

# ------------------------------------------------------------------------------------------------------------- faults


class Mishap(StrEnum):
    """What goes wrong around an instruction, as the bank's own side sees it."""

    UNAVAILABLE = "error"
    """Turned away before anything was done."""
    SILENT = "timeout"
    """Taken and lost: nothing was done and no answer comes."""
    LATE = "late"
    """Done; the result can be asked for after `Faults.late_s`."""
    DROPPED = "drop_after_commit"
    """Done; the answer is lost on the way."""
    DUPLICATE = "duplicate"
    """Done; the answer is sent twice (on a wire; in process it changes nothing)."""
    CONFLICT = "conflict"
    """The key is known with other content. Never drawn: it is the caller's fault."""


ACCOUNT_EXISTS = Declined(code="account_exists", text="已有Ⅰ类户")

SCRIPT: Mapping[str, Declined | Mishap] = {
    # last four digits of the holder's phone → what the bank does; UNAVAILABLE and SILENT strike the first attempt only
    "0451": Declined(code="name_mismatch", text="姓名与证件号不符"),
    "0452": Declined(code="id_expired", text="证件过期"),
    "0453": Declined(code="phone_invalid", text="手机号无效"),
    "0454": Declined(code="nine_items_missing", text="九项信息不全"),
    "0455": ACCOUNT_EXISTS,
    "0456": Declined(code="rare_character", text="生僻字无法处理"),
    "0457": Declined(code="verification_unavailable", text="公安库网络异常"),
    "0458": Declined(code="listed", text="涉案名单"),
    "0459": Declined(code="unlisted_reason", text="请至网点核实"),
    "0461": Mishap.LATE,
    "0462": Mishap.DROPPED,
    "0463": Mishap.UNAVAILABLE,
    "0464": Mishap.SILENT,
    "0465": Mishap.DUPLICATE,
}
"""People of the sample files choose their fate by their phone number. `scripted=0` in a fault spec switches it off."""

RANDOM_REFUSALS = (SCRIPT["0451"], SCRIPT["0453"], SCRIPT["0454"])
"""What `decline=RATE` picks from, evenly."""

_DRAWN = (Mishap.UNAVAILABLE, Mishap.SILENT, Mishap.LATE, Mishap.DROPPED, Mishap.DUPLICATE)
_STRIKES_ONCE = (Mishap.UNAVAILABLE, Mishap.SILENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often the bank misbehaves. Rates are shares of first-time instructions; at most one fault strikes each.

    `slow_ms` is added to every answer, `late_s` is how long a late result takes, `scripted` turns `SCRIPT` on.
    `decline_names` refuses people by name; it has no place in a spec, so no name is ever typed on a command line.

    Raises:
        ValueError: a rate outside 0..1, rates that add up to more than 1, or a negative time.
    """

    decline: float = 0.0
    timeout: float = 0.0
    late: float = 0.0
    drop_after_commit: float = 0.0
    error: float = 0.0
    duplicate: float = 0.0
    slow_ms: float = 0.0
    late_s: float = 2.0
    scripted: float = 1.0
    decline_names: Mapping[str, Declined] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in (*_RATES, "scripted"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"fault {name}: a share is between 0 and 1")
        for name, day in (("slow_ms", 86_400_000.0), ("late_s", 86_400.0)):
            if not 0.0 <= getattr(self, name) <= day:
                raise ValueError(f"fault {name}: a time is between 0 and one day")
        if sum(getattr(self, name) for name in _RATES) > 1.0 + 1e-9:
            raise ValueError("faults: the shares add up to more than 1")

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read a spec such as `decline=0.02,late=0.05,slow_ms=20`; an empty one is a bank without faults.

        Raises:
            ValueError: an unknown or doubled name, something that is no number, or a value out of its range.
        """
        values: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in spec.split(","))):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if name not in _SPEC_NAMES:
                raise ValueError(f"fault {name!r} is not known; known are {', '.join(_SPEC_NAMES)}")
            if name in values:
                raise ValueError(f"fault {name} is given twice")
            values[name] = _number(name, number if equals else "")
        return cls(**values)

    def draw(self, random: Random) -> Declined | Mishap | None:
        """What strikes one instruction; one number decides, so the same source of chance gives the same bank."""
        point = random.random()
        for mishap in _DRAWN:
            point -= getattr(self, mishap.value)
            if point < 0:
                return mishap
        return cast("Declined", random.choice(RANDOM_REFUSALS)) if point < self.decline else None


_RATES = ("decline", *(mishap.value for mishap in _DRAWN))
_SPEC_NAMES = tuple(f.name for f in fields(Faults) if f.name != "decline_names")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"fault {name} needs a number, as in {name}=0.02") from None


# ------------------------------------------------------------------------------------------------------------- ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An instruction as it goes into the ledger. `refusal` None asks for an account; `content` and `identity` are digests."""

    key: Key
    content: bytes
    bank_code: str
    identity: bytes
    refusal: Declined | None
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
    """An account the bank keeps."""

    key: Key
    bank_code: str
    account_ref: str = field(repr=False)
    card_number: str = field(repr=False)


_SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS instructions (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, content BLOB NOT NULL, day TEXT NOT NULL, ready_at TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'declined')), reply TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS instructions_by_day ON instructions (day, seq);
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, bank_code TEXT NOT NULL, identity BLOB NOT NULL,
    account_ref TEXT NOT NULL UNIQUE, card_number TEXT NOT NULL UNIQUE, UNIQUE (bank_code, identity));
"""
_BY_KEY = (
    "SELECT seq, key, content, ready_at, status, reply FROM instructions WHERE key IN (SELECT value FROM json_each(?))"
)
_BY_DAY = (
    "SELECT seq, key, content, ready_at, status, reply FROM instructions WHERE day = ? AND seq > ? ORDER BY seq LIMIT ?"
)


class Ledger:
    """The bank's books in SQLite, durable when a call returns; in memory when `path` is None. Safe between threads.

    Raises:
        sqlite3.Error: the file cannot be opened or is no ledger; also from every method when the disk fails.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30.0)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
        self._secret: bytes = self._db.execute("SELECT value FROM secret").fetchone()[0]

    def close(self) -> None:
        """Let go of the file once the transaction in hand has ended."""
        with self._lock:
            self._db.close()

    def digest(self, *parts: str) -> bytes:
        """A digest that only this ledger can make: what was digested cannot be guessed from it without the file."""
        return hmac.digest(self._secret, json.dumps(parts, ensure_ascii=True).encode(), hashlib.sha256)

    def record(self, entries: Sequence[Entry]) -> Mapping[Key, Record | None]:
        """Write entries in one transaction. A known key gets the record it has, or None when its content differs."""
        with self._transaction():
            return {entry.key: self._record(entry) for entry in entries}

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Record]:
        """The records of the keys that the bank knows."""
        return {record.key: record for record in self._records(_BY_KEY, json.dumps(list(keys)))}

    def statement(self, day: date, *, after: int = 0, limit: int = 200) -> Sequence[Record]:
        """The records of a civil day in China, by `seq`, from behind `after`."""
        return self._records(_BY_DAY, day.isoformat(), after, limit)

    def accounts(self) -> Sequence[Account]:
        """Every account, oldest first."""
        rows = self._rows("SELECT key, bank_code, account_ref, card_number FROM accounts ORDER BY id")
        return [Account(key=k, bank_code=b, account_ref=ref, card_number=number) for k, b, ref, number in rows]

    def counts(self) -> Mapping[str, int]:
        """How many `accounts` there are and how many instructions were `declined`."""
        ((accounts, declined),) = self._rows(
            "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM instructions WHERE status = 'declined')"
        )
        return {"accounts": accounts, "declined": declined}

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

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query).fetchall()

    def _records(self, query: str, *values: object) -> list[Record]:
        with self._lock:
            return [_record(row) for row in self._db.execute(query, values)]

    def _record(self, entry: Entry) -> Record | None:
        known = self.find([entry.key]).get(entry.key)
        if known is not None:
            return known if hmac.compare_digest(known.content, entry.content) else None
        reply = entry.refusal or self._open(entry)
        cursor = self._db.execute(
            "INSERT INTO instructions (key, content, day, ready_at, status, reply) VALUES (?, ?, ?, ?, ?, ?)",
            (entry.key, entry.content, civil_date(entry.at).isoformat(), entry.ready_at.isoformat(),
             "done" if isinstance(reply, Done) else "declined", json.dumps(astuple(reply), ensure_ascii=False)),
        )  # fmt: skip
        return Record(
            seq=cursor.lastrowid or 0, key=entry.key, content=entry.content, ready_at=entry.ready_at, reply=reply
        )

    def _open(self, entry: Entry) -> Done | Declined:
        taken = "SELECT 1 FROM accounts WHERE bank_code = ? AND identity = ?"
        if self._db.execute(taken, (entry.bank_code, entry.identity)).fetchone():
            return ACCOUNT_EXISTS
        for account_ref, card_number in _numbers(entry.bank_code, entry.number_seed):
            inserted = self._db.execute(
                "INSERT OR IGNORE INTO accounts (key, bank_code, identity, account_ref, card_number) VALUES (?, ?, ?, ?, ?)",
                (entry.key, entry.bank_code, entry.identity, account_ref, card_number),
            )
            if inserted.rowcount == 1:
                return Done(account_ref=account_ref, card_number=card_number)
        raise AssertionError("numbers never run out")


def _record(row: tuple[int, str, bytes, str, str, str]) -> Record:
    seq, key, content, ready_at, status, reply = row
    first, second, *rest = json.loads(reply)
    return Record(
        seq=seq, key=key, content=content, ready_at=datetime.fromisoformat(ready_at),
        reply=Done(account_ref=first, card_number=second, account_class=rest[0])
        if status == "done" else Declined(code=first, text=second),
    )  # fmt: skip


def _numbers(bank_code: str, seed: str) -> Iterator[tuple[str, str]]:
    """Account references and 19-digit card numbers to try in turn; 62 is UnionPay's issuer range."""
    issuer = f"62{int.from_bytes(hashlib.sha256(bank_code.encode()).digest()[:8]) % 10_000:04d}"
    for attempt in count():
        digest = hashlib.sha256(f"{bank_code}:{seed}:{attempt}".encode()).digest()
        payload = f"{issuer}{int.from_bytes(digest[:8]) % 10**12:012d}"
        yield f"{int.from_bytes(digest[8:16]) % 10**18:018d}", payload + luhn_digit(payload)


def luhn_digit(payload: str) -> str:
    """The check digit that goes behind `payload` (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(payload))):
        total += digit if place % 2 else sum(divmod(2 * digit, 10))
    return str(-total % 10)


# --------------------------------------------------------------------------------------------------------------- bank


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the bank makes of one instruction: a reply unless a mishap forbids one."""

    reply: BankReply | None = None
    mishap: Mishap | None = None


class SimulatedBank:
    """Every cooperating bank at once, behind the `BankGateway` port or a front of its own (`answer`, `ledger`).

    What strikes an instruction depends on the seed of `random`, its key and its attempt, never on the order of arrival.
    A known key is answered from the ledger and nothing strikes it again.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        faults: Faults,
        clock: Clock,
        random: Random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ledger = ledger
        self.faults = faults
        self.clock = clock
        self._salt = f"{random.getrandbits(64):016x}"
        self._sleep = sleep
        self._attempts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"SimulatedBank({self.faults!r})"

    def submit(
        self, instructions: Sequence[Instruction], *, deadline: datetime
    ) -> Mapping[Key, BankReply | BankFailure]:
        """Answer every key; the whole call is one commit.

        Raises:
            ValueError: one key with two contents in the same call.
            sqlite3.Error: the ledger's disk fails.
        """
        by_key: dict[Key, Instruction] = {}
        for instruction in instructions:
            if by_key.setdefault(instruction.key, instruction) != instruction:
                raise ValueError("one key with two contents in one call")
        if self.clock.now() >= deadline:
            return {key: TransientError("the deadline passed before anything was sent") for key in by_key}
        answers = self.answer(list(by_key.values()))
        if not self._in_time(deadline):
            return {key: OutcomeUnknown("the bank did not answer in time") for key in by_key}
        return {key: _value(answer) for key, answer in answers.items()}

    def find(self, keys: Sequence[Key], *, deadline: datetime) -> Mapping[Key, BankReply | BankFailure | None]:
        """Answer every key.

        Raises:
            sqlite3.Error: the ledger's disk fails.
        """
        if self.clock.now() >= deadline or not self._in_time(deadline):
            return {key: TransientError("the bank could not be asked in time") for key in keys}
        known, now = self.ledger.find(keys), self.clock.now()
        return {key: known[key].reply_at(now) if key in known else None for key in keys}

    def answer(self, instructions: Sequence[Instruction]) -> Mapping[Key, Answer]:
        """What the bank does with instructions of distinct keys, committed when this returns.

        Raises:
            sqlite3.Error: the ledger's disk fails.
        """
        known, now = self.ledger.find([i.key for i in instructions]), self.clock.now()
        strikes = {i.key: None if i.key in known else self._strike(i) for i in instructions}
        entries = [self._entry(i, strikes[i.key], now) for i in instructions if strikes[i.key] not in _STRIKES_ONCE]
        records = self.ledger.record(entries)
        with self._lock:
            for key in records:
                self._attempts.pop(key, None)
        return {key: self._answer(strike, records, key, now) for key, strike in strikes.items()}

    def _in_time(self, deadline: datetime) -> bool:
        left_s = (deadline - self.clock.now()).total_seconds()
        self._sleep(max(0.0, min(self.faults.slow_ms / 1000, left_s)))
        return self.faults.slow_ms / 1000 < left_s

    def _strike(self, instruction: Instruction) -> Declined | Mishap | None:
        with self._lock:
            attempt = self._attempts[instruction.key]
            self._attempts[instruction.key] += 1
        named = self.faults.decline_names.get(instruction.holder.name)
        scripted = SCRIPT.get(instruction.holder.phone[-4:]) if self.faults.scripted else None
        if scripted in _STRIKES_ONCE and attempt:
            scripted = None
        # Not for secrets: the same seed has to give the same bank.
        return named or scripted or self.faults.draw(Random(f"{self._salt}:{instruction.key}:{attempt}"))

    def _entry(self, instruction: Instruction, strike: Declined | Mishap | None, now: datetime) -> Entry:
        holder = instruction.holder
        late = timedelta(seconds=self.faults.late_s if strike is Mishap.LATE else 0)
        return Entry(
            key=instruction.key, content=self.ledger.digest(*_content(instruction)), bank_code=instruction.bank_code,
            identity=self.ledger.digest(holder.id_type, holder.id_number),
            refusal=strike if isinstance(strike, Declined) else None,
            number_seed=f"{self._salt}:{instruction.key}", at=now, ready_at=now + late,
        )  # fmt: skip

    def _answer(
        self, strike: Declined | Mishap | None, records: Mapping[Key, Record | None], key: Key, now: datetime
    ) -> Answer:
        mishap = strike if isinstance(strike, Mishap) else None
        if key not in records:
            return Answer(mishap=mishap)
        record = records[key]
        if record is None:
            return Answer(mishap=Mishap.CONFLICT)
        return Answer(reply=record.reply_at(now), mishap=mishap)


def _content(instruction: Instruction) -> tuple[str, ...]:
    """Everything about an instruction that a bank is told, in a fixed order."""
    holder, guardian = instruction.holder, instruction.guardian
    told: tuple[object, ...] = (
        "open_account", instruction.bank_code, instruction.branch, instruction.region,
        holder.name, holder.id_type, holder.id_number, holder.id_valid_from, holder.id_valid_to, holder.sex, holder.ethnic,
        holder.birth_date, holder.nationality, holder.phone, holder.address, holder.occupation,
    )  # fmt: skip
    if guardian is not None:
        told += (guardian.name, guardian.id_type, guardian.id_number, guardian.relation, guardian.phone)
    return tuple("" if value is None else str(value) for value in told)


def _value(answer: Answer) -> BankReply | BankFailure:
    match answer.mishap:
        case Mishap.UNAVAILABLE:
            return TransientError("the bank takes nothing now")
        case Mishap.SILENT | Mishap.DROPPED:
            return OutcomeUnknown("the bank did not answer")
        case Mishap.CONFLICT:
            # Not a failure of the bank: asking it again would bring back the answer to another request.
            return cast("BankFailure", Defect("the bank knows this key with other content"))
    if answer.reply is None:
        raise AssertionError("an answer without a mishap carries a reply")
    return answer.reply
