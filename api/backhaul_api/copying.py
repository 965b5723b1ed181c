"""`backhaul db copy`: a control plane on SQLite becomes one on PostgreSQL.

1. keep the SQLite database for this process: no server runs on it, and nobody writes;
2. require that it is at this version's revision, and that the target holds nothing;
3. bring the target to the same revision;
4. in one transaction there: copy each table after those it refers to, set the numbers that
   PostgreSQL counts by, and compare each row with the one it came from.

Whatever ends this early leaves a target without rows, and it can be run again. The source is never
changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.engine import build_single_engine
from backhaul_api.db.revisions import head_revision
from backhaul_api.db.tables import metadata
from backhaul_api.db.urls import sqlite_file
from backhaul_api.errors import NotReadyError
from backhaul_api.preparation import (
    StartError,
    hide_password,
    hold_database,
    name_cause,
    read_revision,
    upgrade_database,
)
from backhaul_api.settings import Settings

BATCH_ROWS = 500
"""A line of a log takes up to 8 KiB, and what a job found much more."""

Tell = Callable[[str, str, int, int], None]
"""Told what is done with which table (`copy` or `compare`), to how many of how many rows."""


class CopyFailedError(Exception):
    """The copy was begun and could not be ended; the target holds nothing of it."""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied, and what the server needs to go on with it."""

    target: str
    """Without its password."""
    key_file: str | None
    """None where the keys are a setting."""
    tables: dict[str, int]
    """How many rows each table has."""
    rows: int


async def copy_database(source: Settings, target: Settings, tell: Tell) -> Copied:
    """Copy what `source` names into what `target` names; both URLs were checked.

    Raises:
        StartError: it cannot be done like this, and nothing was changed but the target's tables.
        CopyFailedError: it was begun and undone.
    """
    file = sqlite_file(source.effective_database_url)
    if file is None or sqlite_file(target.effective_database_url) is not None:
        raise StartError(
            "db copy goes from SQLite to PostgreSQL, and no other way: write "
            "--from sqlite:////path/to/backhaul.sqlite3 --to postgresql://user@host/database"
        )
    if not file.exists():
        raise StartError(f"there is no database {file}; name it with --from or --data-dir")
    with hold_database(source):
        await _require_head(source)
        await _require_nothing(target)
        await upgrade_database(target)
        with _explaining(target):
            tables = await _copy(source, target, tell)
    return Copied(
        target=hide_password(target),
        key_file=None if target.key is not None else str(target.effective_key_file.resolve()),
        tables=tables,
        rows=sum(tables.values()),
    )


async def _require_head(source: Settings) -> None:
    revision = await read_revision(source)
    if revision != head_revision():
        raise StartError(
            f"the database {hide_password(source)} is at revision {revision or 'none'}, and this "
            f"version of Backhaul at {head_revision()}; run backhaul db upgrade on it first"
        )


async def _require_nothing(target: Settings) -> None:
    with _explaining(target, StartError):
        engine = build_single_engine(target.effective_database_url)
        try:
            async with engine.connect() as connection:
                await _refuse_rows(connection, target)
        finally:
            await engine.dispose()


async def _refuse_rows(connection: AsyncConnection, target: Settings) -> None:
    present = await connection.run_sync(lambda sync: set(sa.inspect(sync).get_table_names()))
    filled = [
        table.name
        for table in metadata.sorted_tables
        if table.name in present
        and await connection.scalar(sa.select(sa.literal(1)).select_from(table).limit(1))
    ]
    if filled:
        raise StartError(
            f"the database {hide_password(target)} is not empty: {', '.join(filled)} "
            f"{'has' if len(filled) == 1 else 'have'} rows. Name a new database, before any "
            "server has started on it"
        )


async def _copy(source: Settings, target: Settings, tell: Tell) -> dict[str, int]:
    source_engine = build_single_engine(source.effective_database_url)
    engine = build_single_engine(target.effective_database_url)
    try:
        async with source_engine.connect() as old, engine.begin() as new:
            # As whoever writes: nobody else does while this lasts.
            await old.exec_driver_sql("BEGIN IMMEDIATE")
            await _take_over(new, target)
            counts = {table.name: await _count(old, table) for table in metadata.sorted_tables}
            for table in metadata.sorted_tables:
                await _copy_table(old, new, table, counts[table.name], tell)
                await _set_next_number(old, new, table)
            for table in metadata.sorted_tables:
                await _compare_table(old, new, table, counts[table.name], tell)
            # The first plans need to know how much there is.
            await new.execute(sa.text("ANALYZE"))
            return counts
    finally:
        await engine.dispose()
        await source_engine.dispose()


async def _take_over(new: AsyncConnection, target: Settings) -> None:
    """Keep servers from writing, and the limits of a role from ending what takes long."""
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await new.execute(sa.text(f"SET LOCAL {limit} = 0"))
    names = ", ".join(table.name for table in metadata.sorted_tables)
    await new.execute(sa.text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))
    await _refuse_rows(new, target)


async def _count(connection: AsyncConnection, table: sa.Table) -> int:
    found = await connection.scalar(sa.select(sa.func.count()).select_from(table))
    return int(found or 0)


async def _copy_table(
    old: AsyncConnection, new: AsyncConnection, table: sa.Table, count: int, tell: Tell
) -> None:
    done = 0
    async for rows in _read(old, table):
        try:
            await new.execute(sa.insert(table), [dict(row._mapping) for row in rows])
        except sa.exc.StatementError as error:
            raise CopyFailedError(f"table {table.name}: {name_cause(error)}") from error
        done += len(rows)
        tell("copy", table.name, done, count)


async def _set_next_number(old: AsyncConnection, new: AsyncConnection, table: sa.Table) -> None:
    """Have PostgreSQL count on where SQLite was; a number of a row that is gone is not given twice,
    for somebody may have read up to it."""
    column = table.autoincrement_column
    if column is None:
        return
    query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :table")
    last = await old.scalar(query, {"table": table.name})
    if last:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        await new.execute(sa.select(sa.func.setval(sequence, last)))


async def _compare_table(
    old: AsyncConnection, new: AsyncConnection, table: sa.Table, count: int, tell: Tell
) -> None:
    """Read both tables side by side; values come as Python has them, from whatever column.

    Raises:
        CopyFailedError: a row is missing, or is not the same.
    """
    if await _count(new, table) != count:
        raise CopyFailedError(f"table {table.name} has not as many rows as before")
    done = 0
    theirs = _read(new, table)
    async for rows in _read(old, table):
        copies = await anext(theirs)
        for row, copy in zip(rows, copies, strict=True):
            if tuple(row) != tuple(copy):
                raise CopyFailedError(f"table {table.name}: {_tell_apart(table, row, copy)}")
        done += len(rows)
        tell("compare", table.name, done, count)


async def _read(connection: AsyncConnection, table: sa.Table) -> AsyncIterator[list[sa.Row[Any]]]:
    """Read a table in batches, in the same order from either database."""
    keys = [
        # By its bytes, as SQLite does it, and not as a language sorts.
        sa.collate(column, "C")
        if isinstance(column.type, sa.Text) and connection.dialect.name == "postgresql"
        else column
        for column in table.primary_key
    ]
    query = sa.select(table).order_by(*keys).execution_options(yield_per=BATCH_ROWS)
    async with connection.stream(query) as result:
        async for rows in result.partitions():
            yield list(rows)


def _tell_apart(table: sa.Table, row: sa.Row[Any], copy: sa.Row[Any]) -> str:
    """Name the row and its columns that differ, but not what is in them."""
    columns = [
        column.name
        for column, one, other in zip(table.columns, row, copy, strict=True)
        if one != other
    ]
    key = ", ".join(str(getattr(row, column.name)) for column in table.primary_key)
    return f"row ({key}) is not the same in {', '.join(columns)}"


@contextmanager
def _explaining(target: Settings, error_type: type[Exception] = CopyFailedError) -> Iterator[None]:
    try:
        yield
    except (CopyFailedError, sa.exc.SQLAlchemyError, NotReadyError, OSError) as error:
        raise error_type(
            f"nothing was copied to {hide_password(target)}: {name_cause(error)}"
        ) from error
