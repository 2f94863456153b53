"""The schema that migrations make is the schema the code means, on both databases; personal data stands only where it is sealed."""

from __future__ import annotations

import re

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, LargeBinary, inspect, text

from pipeline.clock import SystemClock
from pipeline.errors import Defect
from pipeline.person import PERSON_FIELDS, Agent
from pipeline.states import LIVE, STAGES, STATUSES
from pipeline.store import tables as t
from pipeline.store.engine import Store
from pipeline.store.sealing import Sealer

WORDS = re.compile(r"'([a-z_]+)'")


def test_the_migrations_make_every_table_and_nothing_else(store: Store) -> None:
    with store.engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, t.metadata) == []
        assert set(inspect(conn).get_table_names()) == {*t.metadata.tables, "alembic_version"}


def words(sql: str) -> set[str]:
    return set(WORDS.findall(sql))


def meant() -> dict[tuple[str, str], set[str]]:
    """The words of every check and partial index, as the code has them: alembic does not compare these."""
    found = {}
    for table in t.metadata.tables.values():
        for constraint in table.constraints:
            if isinstance(constraint, CheckConstraint):
                found[table.name, f"ck_{table.name}_{str(constraint.name).removeprefix(f'ck_{table.name}_')}"] = words(
                    str(constraint.sqltext)
                )
        for index in table.indexes:
            where = index.dialect_options["sqlite"]["where"]
            if where is not None:
                found[table.name, str(index.name)] = words(str(where))
    return found


def kept(store: Store) -> dict[tuple[str, str], set[str]]:
    """The same, as the database has them."""
    found = {}
    with store.engine.connect() as conn:
        inspector = inspect(conn)
        for table in t.metadata.tables:
            for check in inspector.get_check_constraints(table):
                found[table, str(check["name"])] = words(check["sqltext"])
        if store.postgres:
            rows = conn.execute(
                text("SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
            )
        else:
            rows = conn.execute(
                text("SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
            )
        for table, name, sql in rows:
            if " WHERE " in sql:
                found[table, name] = words(sql.split(" WHERE ", 1)[1])
    return found


def test_checks_and_partial_indexes_hold_the_words_the_code_means(store: Store) -> None:
    assert kept(store) == meant()


def test_the_live_statuses_of_the_index_are_those_of_the_table_of_states(store: Store) -> None:
    assert kept(store)["applications", "uq_applications_live"] == {*LIVE, "abandoned"}
    assert kept(store)["applications", "ck_applications_status"] == set(STATUSES)
    assert kept(store)["stage_control", "ck_stage_control_stage"] == set(STAGES)


def test_migrating_twice_changes_nothing_and_makes_no_second_key(store: Store) -> None:
    with store.engine.connect() as conn:
        before = conn.execute(t.data_keys.select()).all()
    store.migrate(now=SystemClock().now())
    with store.engine.connect() as conn:
        assert conn.execute(t.data_keys.select()).all() == before
    assert len(before) == 1


def test_another_installations_key_does_not_open_the_database(store: Store) -> None:
    stranger = Store(store.url, Sealer(bytes(32)))
    with pytest.raises(Defect, match="another database"):
        stranger.open()
    stranger.close()


def test_a_database_that_was_never_made_is_named_as_that(sqlite_url: str) -> None:
    empty = Store(sqlite_url, Sealer(bytes(32)))
    with pytest.raises(Defect, match="zhika db migrate"):
        empty.open()
    empty.close()


PERSONAL = {*PERSON_FIELDS, *Agent.__dataclass_fields__, "account_ref", "document_number"} - {"relation", "document"}
# Columns of these names that hold something else: the names of roles and files are nobody's.
OTHERS = {("number_ranges", "name")}


def test_no_column_is_named_like_a_persons_data() -> None:
    columns = {(table.name, column.name) for table in t.metadata.tables.values() for column in table.columns}
    assert {item for item in columns if item[1] in PERSONAL} <= OTHERS


def test_bytes_are_sealed_data_digests_hashes_or_bodies_of_events() -> None:
    found = {
        (table.name, column.name)
        for table in t.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    assert found == {
        ("persons", "blind_index"), ("persons", "sealed"), ("submissions", "sealed"), ("submissions", "content_digest"),
        ("accounts", "sealed"), ("cards", "sealed"), ("hand_overs", "sealed"), ("data_keys", "wrapped"), ("outbox", "body"),
        ("audit", "prev_hash"), ("audit", "hash"), ("custody_events", "signature"), ("destructions", "signature"),
        ("bank_file_rows", "digest"), ("bank_file_rows", "sealed"), ("bank_file_rows", "blind_index"),
        ("webhook_endpoints", "sealed"), ("command_answers", "digest"),
    }  # fmt: skip
