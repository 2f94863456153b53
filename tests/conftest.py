"""Shared by every test: which services there are, and fresh databases on them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from pipeline.clock import SystemClock
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer
from pipeline.store.tables import metadata
from tests.support.needs import lacking

POSTGRES = os.environ.get("ZHIKA_TEST_POSTGRES", "postgresql://zhika:zhika@127.0.0.1:5432/zhika")
AMQP = os.environ.get("ZHIKA_TEST_AMQP", "amqp://zhika:zhika@127.0.0.1:5672/zhika")
MASTER = bytes(range(32))
_numbers = count(1)


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
        yield _named(name)
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def emptied_postgres(shared_postgres: str) -> str:
    """The shared database with nothing in its tables; connections that a test left open are ended."""
    tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
    with psycopg.connect(shared_postgres, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        conn.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
    return shared_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each test runs once on each database."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "emptied_postgres"))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An open store on a fresh database."""
    made = Store(database_url, Sealer(MASTER))
    made.migrate(now=SystemClock().now())
    made.open()
    yield made
    made.close()


def _named(name: str) -> str:
    return urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
