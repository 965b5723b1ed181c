"""One row for every table of a database, made up from its own description.

The tables are reflected, not taken from the code: at an older revision they look otherwise.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

BOOKKEEPING = "alembic_version"

T = TypeVar("T")

_MOMENT = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # clocks change in this hour


async def fill_every_table(url: str) -> dict[str, int]:
    """Insert a row into every table. Gives how many rows each table then has."""
    return await _run(url, _fill)


async def count_rows(url: str) -> dict[str, int]:
    """Give the number of rows of every table but Alembic's own."""
    return await _run(url, _count)


async def find_broken_references(url: str) -> list[str]:
    """Name the foreign keys that lead nowhere. PostgreSQL never lets one be."""
    return await _run(url, _check_references)


async def _run(url: str, action: Callable[[sa.Connection], T]) -> T:
    engine = create_async_engine(url, poolclass=sa.NullPool)
    try:
        async with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                await connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            return await connection.run_sync(action)
    finally:
        await engine.dispose()


def _reflect(connection: sa.Connection) -> sa.MetaData:
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return metadata


def _fill(connection: sa.Connection) -> dict[str, int]:
    metadata = _reflect(connection)
    made: dict[str, dict[str, Any]] = {}
    for table in metadata.sorted_tables:
        if table.name != BOOKKEEPING:
            made[table.name] = {column.name: _make_value(column, made) for column in table.columns}
            connection.execute(table.insert().values(made[table.name]))
    return _count(connection)


def _make_value(column: sa.Column[Any], made: dict[str, dict[str, Any]]) -> Any:
    """Make a value for a column; a reference takes that of the row it refers to."""
    for reference in column.foreign_keys:
        return made[reference.column.table.name][reference.column.name]
    match column.type:
        case sa.Uuid():
            return uuid.uuid4()
        case sa.Boolean():
            return True
        case sa.Integer():
            return 1
        case sa.Float():
            return 1.5
        case sa.DateTime():
            is_aware = getattr(column.type, "timezone", False)
            return _MOMENT if is_aware else _MOMENT.replace(tzinfo=None)
        case sa.JSON():
            return ["a", {"b": 1}]
        case sa.LargeBinary():
            return uuid.uuid4().bytes * 2
        case sa.CHAR():  # what SQLite keeps ids as
            return uuid.uuid4().hex
        case _:
            return f"{column.table.name}.{column.name}"


def _count(connection: sa.Connection) -> dict[str, int]:
    return {
        table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in _reflect(connection).sorted_tables
        if table.name != BOOKKEEPING
    }


def _check_references(connection: sa.Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    return [str(row) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")]
