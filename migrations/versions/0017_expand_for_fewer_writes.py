"""Expand: a job is written into fewer indexes.

Revision ID: 0017
Revises: 0016

Three have others in their place. A list of the jobs in a state is put together from the lists of
each kind in it. Instances of the version before find all that they need, if by a longer way.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_IS_ACTIVE = "state IN ('queued', 'accepted', 'running')"

# Name, columns and condition; and for SQLite the statistics of revision 0014.
_INDEXES = (
    ("ix_jobs_queued_start_deadline_at", ["start_deadline_at"], "state = 'queued'", "100 1"),
    ("ix_jobs_active_destination", ["destination_id"], _IS_ACTIVE, "500 10"),
    ("ix_jobs_ends", ["repository_id", "kind", "finished_at"], None, "1000000 20000 3000 1"),
    ("ix_jobs_state_id", ["state", "id"], None, "1000000 200000 1"),
)


def upgrade() -> None:
    for name, *_ in _INDEXES:
        op.drop_index(name, "jobs")


def downgrade() -> None:
    for name, columns, condition, statistics in _INDEXES:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
        if op.get_bind().dialect.name == "sqlite":
            values = f"VALUES ('jobs', '{name}', '{statistics}')"
            op.execute(f"INSERT INTO sqlite_stat1 (tbl, idx, stat) {values}")
