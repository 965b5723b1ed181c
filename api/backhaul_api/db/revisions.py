"""Which revision this code needs, and which one a database is at. Does without Alembic, which takes
longer to load than a whole cold start may."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.tables import needed_revisions

_FILES = "[0-9][0-9][0-9][0-9]_*.py"


def find_migrations() -> Path:
    """Find the migrations: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


@lru_cache(maxsize=1)
def head_revision() -> str:
    """Give the newest revision that this code knows. Each has its number in its file's name."""
    if not known_revisions():
        raise RuntimeError(f"no migrations in {find_migrations()}")
    return max(known_revisions())


@lru_cache(maxsize=1)
def known_revisions() -> frozenset[str]:
    """Give every revision that this code knows."""
    files = (find_migrations() / "versions").glob(_FILES)
    return frozenset(file.name[:4] for file in files)


async def fetch_revision(connection: AsyncConnection) -> str | None:
    """Fetch the revision that a database is at; None for an empty one."""
    if not await _has_table(connection, _REVISIONS.name):
        return None
    return await connection.scalar(sa.select(_REVISIONS.c.version_num))


async def is_fit(connection: AsyncConnection) -> bool:
    """Tell whether this code can serve a database: it is at this code's revision, or at a newer one
    that has left what this code needs."""
    current = await fetch_revision(connection)
    if current is None or current in known_revisions():
        return current == head_revision()
    if not await _has_table(connection, needed_revisions.name):
        return False
    needed = await connection.scalars(sa.select(needed_revisions.c.revision))
    return known_revisions().issuperset(needed)


async def _has_table(connection: AsyncConnection, name: str) -> bool:
    return await connection.run_sync(lambda sync: sa.inspect(sync).has_table(name))


# Alembic's own; no part of ours, or a new revision would want to drop it.
_REVISIONS = sa.table("alembic_version", sa.column("version_num", sa.Text))
