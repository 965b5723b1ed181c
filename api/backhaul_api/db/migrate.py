"""Bringing a database to a revision, from a checkout or from an installed wheel.

Alembic is loaded when it is used: a function that only looks has no time for it.

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
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from backhaul_api.db import revisions
from backhaul_api.db.engine import build_single_engine
from backhaul_api.db.revisions import fetch_revision, head_revision, known_revisions
from backhaul_api.db.sqlite import configure_sqlite
from backhaul_api.logs import facts

if TYPE_CHECKING:
    from alembic.config import Config

BASE = "base"
"""The revision of a database without tables."""

BUSY_TIMEOUT_MS = 10_000

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


def build_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(revisions.find_migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def is_database_fit(url: str) -> bool:
    """Tell of the database with a URL what `revisions.is_fit` tells."""
    engine = _build_engine(url)
    try:
        async with engine.connect() as connection:
            return await revisions.is_fit(connection)
    finally:
        await engine.dispose()


async def upgrade(url: str, revision: str = "head") -> None:
    """Move a database forward to a revision. Several may do so at the same time. One that is at a
    newer revision than this code knows, but fit for it, is left there.

    Raises:
        UnknownRevisionError: the database, or the argument, names a revision that is not known.
    """
    from alembic import command

    await _run(url, lambda config: command.upgrade(config, revision), may_be_newer=True)


def check_downgrade(current: str | None, revision: str) -> None:
    """Refuse what a database at the current revision cannot be taken back to.

    Raises:
        UnknownRevisionError: there is no such revision, or it is a later one.
    """
    known = known_revisions()
    if revision == BASE:
        return
    if revision not in known:
        raise UnknownRevisionError(
            f"there is no revision {revision!r}; it can be base, or one of {min(known)} to "
            f"{max(known)}"
        )
    if current is None or (current in known and current < revision):
        raise UnknownRevisionError(
            f"the database is at revision {current or BASE}, which is before {revision}; "
            "`backhaul db upgrade` takes it forward"
        )


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
        current = await fetch_revision(connection)
        if current is not None and current not in known_revisions():
            if may_be_newer and await revisions.is_fit(connection):
                log.warning("database.newer", extra=facts(revision=current, known=head_revision()))
                return
            raise UnknownRevisionError(
                f"the database is at revision {current}, which this version of Backhaul does not "
                "know: a newer version upgraded it. Install that version, or restore the database "
                "from before"
            )
        await connection.rollback()  # Alembic begins a transaction of its own for each revision
        await connection.run_sync(_run_with, action)
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


def _run_with(connection: sa.Connection, action: Callable[[Config], None]) -> None:
    from alembic.util.exc import CommandError

    config = build_config()
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

    else:

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE_S}s'")

    return engine
