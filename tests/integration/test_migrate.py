"""The schema of a database is this release's, whatever it was before."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from pipeline.clock import SystemClock
from pipeline.errors import Conflict
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer
from pipeline.store.tables import metadata
from tests.conftest import MASTER

MIGRATIONS = Path("pipeline/store/migrations")


def revision(store: Store) -> str | None:
    with store.engine.connect() as conn:
        return MigrationContext.configure(conn).get_current_revision()


def test_an_empty_database_gets_every_table_of_the_newest_revision(sqlite_url: str) -> None:
    store = Store(sqlite_url, Sealer(MASTER))
    store.migrate(now=SystemClock().now())
    try:
        assert revision(store) == ScriptDirectory(str(MIGRATIONS)).get_current_head()
        with store.engine.connect() as conn:
            assert compare_metadata(MigrationContext.configure(conn), metadata) == []
    finally:
        store.close()


def test_a_database_that_is_up_to_date_stays_as_it_is(store: Store) -> None:
    before = revision(store)
    with store.engine.connect() as conn:
        keys = conn.execute(text("SELECT count(*) FROM data_keys")).scalar()

    store.migrate(now=SystemClock().now())

    assert revision(store) == before
    with store.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM data_keys")).scalar() == keys


def test_a_database_of_a_newer_release_is_left_alone(store: Store) -> None:
    with store.engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(Conflict, match="9999"):
            store.migrate(now=SystemClock().now())
        assert revision(store) == "9999"
    finally:
        with store.engine.begin() as conn:
            conn.execute(
                text("UPDATE alembic_version SET version_num = :newest"),
                {"newest": ScriptDirectory(str(MIGRATIONS)).get_current_head()},
            )
