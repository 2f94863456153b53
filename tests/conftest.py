"""Shared by every test: which services there are, and fresh databases on them."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import Engine, event
from structlog.stdlib import ProcessorFormatter

from pipeline.clock import SystemClock
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer
from pipeline.store.tables import metadata
from tests.support.needs import lacking

POSTGRES = os.environ.get("ZHIKA_TEST_POSTGRES", "postgresql://zhika:zhika@127.0.0.1:5432/zhika")
AMQP = os.environ.get("ZHIKA_TEST_AMQP", "amqp://zhika:zhika@127.0.0.1:5672/zhika")
MASTER = bytes(range(32))
_numbers = count(1)
for _name in [name for name in os.environ if name.startswith("ZHIKA_") and not name.startswith("ZHIKA_TEST_")]:
    del os.environ[_name]  # a shell in which deploy/local.env was read has a say in no test
# Much faster than TRUNCATE, which makes new files for every table.
_EMPTY = "".join(
    [
        *(f'DELETE FROM "{table.name}";' for table in reversed(metadata.sorted_tables)),
        *(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'), 1, false);"
            for table in metadata.sorted_tables
            for column in table.primary_key
            if column.autoincrement is True
        ),
    ]
)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that runs within the process of the tests sets up logging for whole processes."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        if isinstance(handler.formatter, ProcessorFormatter):
            root.removeHandler(handler)


def need(url: str, name: str) -> None:
    """Skip where a service is missing; with CI=true that is a failure, so that a gap cannot hide."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=3).close()
    except OSError:
        lacking(f"{name} does not answer at {parts.hostname}:{parts.port}; start it with deploy/services.sh")


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """A RabbitMQ that answers."""
    need(AMQP, "RabbitMQ")
    return AMQP


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[str]:
    """A database with the schema in it, that fresh ones are copied from."""
    need(POSTGRES, "PostgreSQL")
    name = f"zhika_template_{os.getpid()}"
    with psycopg.connect(POSTGRES, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}"')
        admin.execute(f'CREATE DATABASE "{name}"')
        store = Store(_named(name), Sealer(MASTER))
        store.migrate(now=SystemClock().now())
        store.close()
        yield name
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def postgres_url(postgres_template: str) -> Iterator[str]:
    """A fresh PostgreSQL database with the schema."""
    name = f"zhika_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(POSTGRES, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{postgres_template}"')
        yield _named(name)
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'zhika.db'}"


@pytest.fixture(scope="session")
def shared_postgres(postgres_template: str) -> Iterator[str]:
    """A database that tests use one after the other."""
    name = f"zhika_shared_{os.getpid()}"
    with psycopg.connect(POSTGRES, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{postgres_template}"')
        admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit TO off')  # as `_quick_disk`
        yield _named(name)
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def emptied_postgres(shared_postgres: str) -> str:
    """The shared database with nothing in its tables; connections that a test left open are ended."""
    with psycopg.connect(shared_postgres, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        conn.execute(_EMPTY)
    return shared_postgres


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema in it, that fresh ones are copied from."""
    file = tmp_path_factory.mktemp("template") / "zhika.db"
    store = Store(f"sqlite:///{file}", Sealer(MASTER))
    store.migrate(now=SystemClock().now())
    store.close()
    return file


@pytest.fixture(scope="session")
def shared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the SQLite file is that tests use one after the other."""
    return tmp_path_factory.mktemp("shared") / "zhika.db"


@pytest.fixture
def copied_sqlite(sqlite_template: Path, shared_sqlite: Path) -> str:
    """A SQLite file with the schema and nothing in its tables; a new one, whatever an earlier test still holds open."""
    for left in shared_sqlite.parent.iterdir():
        left.unlink()
    shutil.copyfile(sqlite_template, shared_sqlite)
    return f"sqlite:///{shared_sqlite}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each test runs once on each database."""
    return str(request.getfixturevalue("copied_sqlite" if request.param == "sqlite" else "emptied_postgres"))


@pytest.fixture(scope="session")
def engines() -> dict[str, Engine]:
    """Engines by address. One keeps the statements that it has compiled, which is a fifth of what most tests cost."""
    return {}


@pytest.fixture
def store(database_url: str, engines: dict[str, Engine]) -> Iterator[Store]:
    """An open store on a fresh database."""
    made = Store(database_url, Sealer(MASTER))
    if database_url not in engines:
        event.listen(made.engine, "connect", _quick_disk)
    made.engine = engines.setdefault(database_url, made.engine)
    made.migrate(now=SystemClock().now())
    made.open()
    yield made
    made.close()


def _quick_disk(connection: Any, _record: Any) -> None:
    # What a power cut leaves is the subject of no test that has its database from here; killed processes lose nothing by this.
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


def _named(name: str) -> str:
    return urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
