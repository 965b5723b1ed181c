"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


class Moment(sa.TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite has no time zones: there the UTC time is stored bare."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any] | None:
        # SQLAlchemy's own ways to and from SQLite's text take ten times as long.
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        if dialect.name == "sqlite":
            return _from_text
        return super().result_processor(dialect, coltype)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        utc = _to_utc(value)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _to_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"a naive datetime must not be stored: {value!r}")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


_OFFSET = "+00:00"
_OFFSET_LENGTH = len(_OFFSET)
_TEXTS_KEPT = 256
"""What one transaction writes has few moments, each in many rows."""


def _to_text(value: datetime | None) -> str | None:
    """Write a moment as SQLAlchemy stores it: `2026-11-26 01:30:00.000000`."""
    # In UTC first: elsewhere, two moments of the hour that comes twice are equal to Python.
    return None if value is None else _write(_to_utc(value))


@lru_cache(maxsize=_TEXTS_KEPT)
def _write(utc: datetime) -> str:
    return utc.isoformat(" ", "microseconds")[:-_OFFSET_LENGTH]


def _from_text(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text + _OFFSET)


def json_column_type() -> sa.types.TypeEngine[Any]:
    """Build the type of a JSON column; the engine encodes structs with msgspec."""
    return sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
