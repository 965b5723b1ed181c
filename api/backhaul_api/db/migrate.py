"""Bringing a database to a revision, from a checkout or from an installed wheel."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backhaul_api.db.engine import build_single_engine
from backhaul_api.db.sqlite import configure_sqlite

BUSY_TIMEOUT_MS = 10_000

# Any fixed number does; this one spells "backhaul".
_ADVISORY_LOCK = int.from_bytes(b"backhaul") >> 1


class UnknownRevisionError(Exception):
    """There is no such revision, or it is newer than this code."""


def find_migrations() -> Path:
    """Find the migrations: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def build_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@lru_cache(maxsize=1)
def head_revision() -> str:
    """Give the newest revision that this code knows."""
    head = ScriptDirectory.from_config(build_config()).get_current_head()
    if head is None:
        raise RuntimeError(f"no migrations in {find_migrations()}")
    return head


async def upgrade(url: str, revision: str = "head") -> None:
    """Move a database forward to a revision. Several may do so at the same time.

    Raises:
        UnknownRevisionError: the database, or the argument, names a revision that is not known.
    """
    await _run(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> None:
    """Move a database back to a revision; `base` empties it.

    Raises:
        UnknownRevisionError: the database, or the argument, names a revision that is not known.
    """
    await _run(url, lambda config: command.downgrade(config, revision))


async def current_revision(url: str) -> str | None:
    """Tell the revision that a database is at; None for an empty one."""
    engine = _build_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )
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
