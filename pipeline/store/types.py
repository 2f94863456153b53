"""Column types that mean the same on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, Row, String, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

_SQLITE_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def instant_text(value: datetime) -> str:
    """The one text form of an instant: UTC, microseconds, sorts by time. Used inside JSON parameters and in SQLite.

    Raises:
        ValueError: the time is naive.
    """
    if value.tzinfo is None:
        raise ValueError("a naive time cannot be stored")
    return value.astimezone(UTC).strftime(_SQLITE_FORMAT)


class Instant(TypeDecorator[datetime]):
    """An aware instant in UTC: `timestamptz` on PostgreSQL, sortable text on SQLite."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(String(27))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return value if dialect.name == "postgresql" else instant_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return datetime.strptime(value, _SQLITE_FORMAT).replace(tzinfo=UTC)


Json = JSON().with_variant(JSONB(), "postgresql")

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""A row number the database counts up."""

Record = Row[*tuple[Any, ...]]
"""A row as a query gives it; its columns are attributes."""
