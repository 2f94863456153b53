"""Connections and transactions. One `Store` per process; a `Tx` is one transaction, handed to the store's functions."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    Engine,
    Integer,
    Subquery,
    Table,
    Text,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
    text,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError

from pipeline.errors import Conflict, Defect, TransientError
from pipeline.store import tables as t
from pipeline.store.sealing import Sealer
from pipeline.store.types import Instant, instant_text

__all__ = [
    "IntegrityError",
    "Store",
    "Tx",
    "given",
    "on_conflict_nothing",
    "params",
    "reached",
    "upserting",
]

_RELAXED = text("SET LOCAL synchronous_commit TO off")
_MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Tx:
    """One open transaction."""

    conn: Connection
    sealer: Sealer
    random: Callable[[int], bytes]
    nudged: threading.Event

    @property
    def postgres(self) -> bool:
        return self.conn.dialect.name == "postgresql"

    def nudge(self) -> None:
        """Tell the relay, at commit, that there is work. Losing it costs a poll, nothing else."""
        if self.postgres:
            self.conn.execute(text("NOTIFY zhika_ready"))
        self.nudged.set()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part that may fail alone."""
        with self.conn.begin_nested():
            yield


class Store:
    """The database of an installation."""

    def __init__(
        self, url: str, sealer: Sealer, *, pool_size: int = 8, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.url = url
        self.sealer = sealer
        self.random = random
        self.engine = _engine(url, pool_size)
        self._work = threading.Event()

    @property
    def postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self, *, hint: bool = False) -> Iterator[Tx]:
        """Run one transaction; it commits when the block ends well.

        `hint`: what it writes may be lost with a crash of the database server, since the work is then simply found again (a lease,
        a claim before anything was done). It is never torn or reordered, and any later commit makes it durable too.

        Raises:
            TransientError: the database is away or busy; nothing was done that is not asked about again.
        """
        nudged = threading.Event()
        with reached(), self.engine.begin() as conn:
            if hint and self.postgres:
                conn.execute(_RELAXED)
            yield Tx(conn, self.sealer, self.random, nudged)
        if nudged.is_set():
            self._work.set()

    @contextmanager
    def listening(self) -> Iterator[Callable[[float], None]]:
        """Hear of new work: the function given waits until there may be some, at most so many seconds.

        Raises:
            TransientError: the connection that listens is gone.
        """
        if not self.postgres:
            yield self._wait
            return
        with self.engine.connect() as conn:
            raw: Any = conn.execution_options(isolation_level="AUTOCOMMIT").connection.driver_connection
            raw.execute("LISTEN zhika_ready")
            try:
                yield lambda seconds: _hear(raw, seconds)
            except psycopg.OperationalError as error:
                raise TransientError(f"database: {type(error).__name__}") from error
            finally:
                conn.invalidate()

    def _wait(self, seconds: float) -> None:
        self._work.wait(seconds)
        self._work.clear()

    def migrate(self, *, now: datetime) -> None:
        """Bring the schema to this release and make sure there is a data key. Safe to run twice, also at once.

        Raises:
            Conflict: the database is of a newer release.
            TransientError: the database does not answer.
        """
        with reached(), self.engine.connect() as conn:
            if self.postgres:
                conn.execute(text("SELECT pg_advisory_lock(7283)"))
            try:
                if _revision_of(conn) != _revisions()[-1]:
                    _upgrade(conn)
                    conn.commit()
                self._ensure_data_key(conn, now)
                conn.commit()
            finally:
                if self.postgres:
                    conn.execute(text("SELECT pg_advisory_unlock(7283)"))
                    conn.commit()

    def _ensure_data_key(self, conn: Connection, now: datetime) -> None:
        if conn.execute(select(t.data_keys.c.id)).first() is None:
            conn.execute(t.data_keys.insert().values(id=1, wrapped=self.sealer.new_data_key(1), created_at=now))

    def open(self) -> Store:
        """Load the data keys.

        Raises:
            Defect: the schema was never made, or belongs to another key file.
            TransientError: the database does not answer.
        """
        with reached(), self.engine.connect() as conn:
            if not inspect(conn).has_table("data_keys"):
                raise Defect("the database is empty: run `zhika db migrate` (zhika up and zhika demo do it themselves)")
            self.sealer.load_data_keys({row.id: row.wrapped for row in conn.execute(select(t.data_keys))})
        return self

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def reached() -> Iterator[None]:
    """The database's own trouble as an error that is tried again."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        told = str(error.orig).strip().splitlines()[:1]
        raise TransientError(f"database: {type(error.orig).__name__}: {' '.join(told)}") from error


def _hear(raw: Any, seconds: float) -> None:
    for _ in raw.notifies(timeout=seconds, stop_after=1):
        return


def _engine(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=pool_size,
            hide_parameters=True,
            # Plans made while a table was empty would be kept for ever; the planner is cheap beside a wrong plan.
            connect_args={"options": "-c plan_cache_mode=force_custom_plan -c statement_timeout=60000"},
        )
    if parsed.get_backend_name() != "sqlite":
        raise Defect(f"{parsed.get_backend_name()}: use postgresql:// or sqlite:///")
    engine = create_engine(
        parsed, pool_size=pool_size, max_overflow=pool_size, connect_args={"timeout": 30}, hide_parameters=True
    )
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(dbapi: Any, _record: Any) -> None:
    dbapi.isolation_level = None
    cursor = dbapi.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(conn: Connection) -> None:
    # A writer that begins as a reader can fail half-way; every transaction here may write, so it says so at once.
    conn.exec_driver_sql("BEGIN IMMEDIATE")


def _revision_of(conn: Connection) -> str | None:
    if not inspect(conn).has_table("alembic_version"):
        return None
    revision: str | None = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision is not None and revision not in _revisions():
        raise Conflict(
            f"数据库已是更新的版本 {revision}；请使用建立它的 zhika 版本或更新的版本",
            f"the database is of a newer release, revision {revision}: use the zhika it was made with, or a newer one",
            code="database-newer",
        )
    return revision


def _revisions() -> list[str]:
    return sorted(file.name.split("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _upgrade(conn: Connection) -> None:
    # Imported here: a database that is up to date, which is nearly every one, has no use for it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


# ------------------------------------------------------------------------------------------- many rows in one parameter


def params(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the one JSON parameter that `given` reads."""
    return json.dumps(rows, default=_plain, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return instant_text(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot go through JSON")


def given(source: Tx | bool, *columns: Column[Any], name: str = "given") -> Subquery:
    """A table made of the JSON parameter of the same `name`: one statement for a whole chunk, on both databases.

    `source` is the transaction, or whether the database is PostgreSQL (for a statement that is built once and kept).
    """
    if source if isinstance(source, bool) else source.postgres:
        rows = (
            func.json_to_recordset(cast(bindparam(name, type_=Text), JSON))
            .table_valued(*(column(c.name, c.type) for c in columns), name=f"{name}_rows")
            .render_derived(with_types=True)
        )
        return select(*rows.c).subquery(name)
    each = func.json_each(bindparam(name)).table_valued("value", name=f"{name}_rows")
    picked = []
    for c in columns:
        raw = func.json_extract(each.c.value, f'$."{c.name}"')
        typed = cast(raw, c.type) if isinstance(c.type, Integer | Boolean) else raw
        picked.append(typed.label(c.name) if not isinstance(c.type, Instant | Date) else _typed(raw, c))
    return select(*picked).select_from(each).subquery(name)


def upserting(tx: Tx, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that has `on_conflict_do_update` and `on_conflict_do_nothing`, on both databases."""
    return postgresql.insert(table) if tx.postgres else sqlite.insert(table)


def on_conflict_nothing(tx: Tx, table: Table) -> Any:
    """An insert that leaves rows alone that are there already."""
    return upserting(tx, table).on_conflict_do_nothing()


def _typed(raw: Any, c: Column[Any]) -> Any:
    return type_coerce(raw, c.type).label(c.name)
