"""Expand: a job is written into fewer indexes, each of which is a page more to each commit.

Revision ID: 0016
Revises: 0015

What has no deadline, no second repository or no end yet is no longer in the indexes of those that
have. A list of the jobs in a state is put together from the lists of each kind in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_IS_ACTIVE = "state IN ('queued', 'accepted', 'running')"

# Name, columns, condition before, condition from here on; and for SQLite what revision 0014 says of
# them.
_INDEXES = (
    (
        "ix_jobs_queued_start_deadline_at",
        ["start_deadline_at"],
        "state = 'queued'",
        "state = 'queued' AND start_deadline_at IS NOT NULL",
        "100 1",
    ),
    (
        "ix_jobs_active_destination",
        ["destination_id"],
        _IS_ACTIVE,
        f"{_IS_ACTIVE} AND destination_id IS NOT NULL",
        "50 10",
    ),
    (
        "ix_jobs_ends",
        ["repository_id", "kind", "finished_at"],
        None,
        "finished_at IS NOT NULL",
        "1000000 20000 3000 1",
    ),
)


def upgrade() -> None:
    op.drop_index("ix_jobs_state_id", "jobs")
    for name, columns, _, condition, statistics in _INDEXES:
        _replace(name, columns, condition, statistics)


def downgrade() -> None:
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    _describe("ix_jobs_state_id", "1000000 200000 1")
    for name, columns, condition, _, statistics in _INDEXES:
        _replace(name, columns, condition, statistics)


def _replace(name: str, columns: Iterable[str], condition: str | None, statistics: str) -> None:
    where = None if condition is None else sa.text(condition)
    op.drop_index(name, "jobs")
    op.create_index(name, "jobs", list(columns), sqlite_where=where, postgresql_where=where)
    _describe(name, statistics)


def _describe(name: str, statistics: str) -> None:
    """Tell SQLite again what it has forgotten with the index."""
    if op.get_bind().dialect.name == "sqlite":
        values = f"VALUES ('jobs', '{name}', '{statistics}')"
        op.execute(f"INSERT INTO sqlite_stat1 (tbl, idx, stat) {values}")
