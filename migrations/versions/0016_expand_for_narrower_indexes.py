"""Expand: indexes of the jobs that somebody asks for, in place of indexes of all.

Revision ID: 0016
Revises: 0015

Each index that a job is in is a page more to write. Those that these replace are dropped by the
next revision, in a transaction of its own: PostgreSQL builds an index beside readers, and drops one
only when nobody has the table; whoever did both at once could wait for a writer that waits for him.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_IS_ACTIVE = "state IN ('queued', 'accepted', 'running')"

# Name, columns and condition; and for SQLite the statistics of revision 0014.
_INDEXES = (
    (
        "ix_jobs_deadlines",
        ["start_deadline_at"],
        "state = 'queued' AND start_deadline_at IS NOT NULL",
        "100 1",
    ),
    (
        "ix_jobs_active_copies",
        ["destination_id"],
        f"{_IS_ACTIVE} AND destination_id IS NOT NULL",
        "500 10",
    ),
    (
        "ix_jobs_ended",
        ["repository_id", "kind", "finished_at"],
        "finished_at IS NOT NULL",
        "1000000 20000 3000 1",
    ),
)


def upgrade() -> None:
    for name, columns, condition, statistics in _INDEXES:
        where = sa.text(condition)
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
        if op.get_bind().dialect.name == "sqlite":
            values = f"VALUES ('jobs', '{name}', '{statistics}')"
            op.execute(f"INSERT INTO sqlite_stat1 (tbl, idx, stat) {values}")


def downgrade() -> None:
    for name, *_ in _INDEXES:
        op.drop_index(name, "jobs")
