"""Bringing a database to a revision, from a checkout or from an installed wheel.

Alembic is loaded when it is used: a function that only looks has no time for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backhaul_api.db.engine import build_single_engine
from backhaul_api.db.revisions import fetch_revision, find_migrations
from backhaul_api.db.sqlite import configure_sqlite

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_MS = 10_000

# Any fixed number does; this one spells "backhaul".
_ADVISORY_LOCK = int.from_bytes(b"backhaul") >> 1


class UnknownRevisionError(Exception):
    """There is no such revision, or it is newer than this code."""


def build_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def upgrade(url: str, revision: str = "head") -> None:
    """Move a database forward to a revision. Several may do so at the same time.

    Raises:
        UnknownRevisionError: the database, or the argument, names a revision that is not known.
    """
    from alembic import command

    await _run(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> None:
    """Move a database back to a revision; `base` empties it.

    Raises:
        UnknownRevisionError: the database, or the argument, names a revision that is not known.
    """
    from alembic import command

    await _run(url, lambda config: command.downgrade(config, revision))


async def current_revision(url: str) -> str | None:
    """Tell the revision that a database is at; None for an empty one."""
    engine = _build_engine(url)
    try:
        async with engine.connect() as connection:
            return await fetch_revision(connection)
    finally:
        await engine.dispose()


async def _run(url: str, action: Callable[[Config], None]) -> None:
    engine = _build_engine(url)
    try:
        async with engine.connect() as connection:
            await _take_turn(connection)
            await connection.run_sync(_run_with, action)
            await connection.commit()
    finally:
        await engine.dispose()


async def _take_turn(connection: AsyncConnection) -> None:
    """Keep other instances from migrating the same PostgreSQL database; SQLite has but one.

    The lock, and with it all that is migrated, belongs to one transaction: behind a pooler, what
    is locked for longer is locked by whoever uses the connection next.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _run_with(connection: sa.Connection, action: Callable[[Config], None]) -> None:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError

    config = build_config()
    current = MigrationContext.configure(connection).get_current_revision()
    if connection.dialect.name == "sqlite":
        connection.rollback()  # there Alembic begins a transaction of its own for each revision
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise UnknownRevisionError(
            f"the database is at revision {current}, which this version of Backhaul does not know: "
            "a newer version upgraded it. Install that version, or restore the database from "
            "before"
        )
    config.attributes["connection"] = connection
    try:
        action(config)
    except CommandError as error:
        raise UnknownRevisionError(str(error)) from error


def _build_engine(url: str) -> AsyncEngine:
    engine = build_single_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            configure_sqlite(connection, busy_timeout_ms=BUSY_TIMEOUT_MS)
            # Rebuilding a table that others refer to would wipe their rows otherwise.
            connection.execute("PRAGMA foreign_keys = OFF").close()

    return engine
