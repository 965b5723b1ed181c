"""Bringing a database to a revision, from a checkout or from an installed wheel.

Instances of two versions may serve one database while it is rolled to the newer one. The first new
one expands it; code that does not know the new revision goes on, and starts again, as long as it
knows every revision in `needed_revisions`, to which those that contract add.

On PostgreSQL, a change of a table waits for whoever reads it, and everybody else for the change. So
it waits for seconds only, lets them through, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backhaul_api.db.engine import configure_sqlite
from backhaul_api.db.tables import needed_revisions
from backhaul_api.logs import facts

LOCK_PATIENCE_S = 3
LOCK_TRIES = 20
LOCK_PAUSE_S = 1.0

# Any fixed number does; this one spells "backhaul".
_ADVISORY_LOCK = int.from_bytes(b"backhaul") >> 1

# PostgreSQL 18 manual, Appendix A: a lock that was not had in time, and a deadlock.
_IN_THE_WAY = ("55P03", "40P01")

log = logging.getLogger(__name__)


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


@lru_cache(maxsize=1)
def known_revisions() -> frozenset[str]:
    """Give every revision that this code knows."""
    scripts = ScriptDirectory.from_config(build_config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def is_fit(connection: sa.Connection) -> bool:
    """Tell whether this code can serve a database: it is at this code's revision, or at a newer one
    that has left what this code needs."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None or current in known_revisions():
        return current == head_revision()
    if not sa.inspect(connection).has_table(needed_revisions.name):
        return False
    needed = connection.scalars(sa.select(needed_revisions.c.revision))
    return known_revisions().issuperset(needed)


async def is_database_fit(url: str) -> bool:
    """Tell the same of the database with a URL."""
    engine = _build_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(is_fit)
    finally:
        await engine.dispose()


async def upgrade(url: str, revision: str = "head") -> None:
    """Move a database forward to a revision. Several may do so at the same time. One that is at a
    newer revision than this code knows, but fit for it, is left there.

    Raises:
        UnknownRevisionError: the database, or the argument, names a revision that is not known.
    """
    await _run(url, lambda config: command.upgrade(config, revision), may_be_newer=True)


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


async def _run(url: str, action: Callable[[Config], None], *, may_be_newer: bool = False) -> None:
    engine = _build_engine(url)
    try:
        async with _alone(engine):
            for tries_left in reversed(range(LOCK_TRIES)):
                try:
                    await _try(engine, action, may_be_newer=may_be_newer)
                except sa.exc.DBAPIError as error:
                    if not tries_left or _name_state(error) not in _IN_THE_WAY:
                        raise
                    log.warning("database.busy", extra=facts(tries_left=tries_left))
                    await asyncio.sleep(LOCK_PAUSE_S)
                else:
                    return
    finally:
        await engine.dispose()


async def _try(
    engine: AsyncEngine, action: Callable[[Config], None], *, may_be_newer: bool
) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(_run_with, action, may_be_newer=may_be_newer)
        await connection.commit()


def _name_state(error: sa.exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """Keep other instances from migrating the same PostgreSQL database; SQLite has but one.

    The lock is that of a transaction which does nothing else: one of a session would stay behind on
    a connection of a pooler that lends them for a transaction.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    async with engine.connect() as connection, connection.begin():
        await connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        yield


def _run_with(
    connection: sa.Connection, action: Callable[[Config], None], *, may_be_newer: bool
) -> None:
    config = build_config()
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known_revisions():
        if may_be_newer and is_fit(connection):
            log.warning("database.newer", extra=facts(revision=current, known=head_revision()))
            return
        raise UnknownRevisionError(
            f"the database is at revision {current}, which this version of Backhaul does not know: "
            "a newer version upgraded it. Install that version, or restore the database from "
            "before"
        )
    connection.rollback()  # Alembic begins a transaction of its own for each revision
    config.attributes["connection"] = connection
    try:
        action(config)
    except CommandError as error:
        raise UnknownRevisionError(str(error)) from error


def _build_engine(url: str) -> AsyncEngine:
    engine = create_async_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            configure_sqlite(connection)
            # Rebuilding a table that others refer to would wipe their rows otherwise.
            connection.execute("PRAGMA foreign_keys = OFF").close()

    else:

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE_S}s'")

    return engine
