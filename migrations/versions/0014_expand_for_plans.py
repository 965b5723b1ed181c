"""Expand: SQLite is told what the jobs of a database look like that has been used for a while.

Revision ID: 0014
Revises: 0013

SQLite would look what is not over up in the index of all that ever was: without statistics, one
that fits as well is as good to it. ANALYZE measures a database as it is at that moment, so the
statistics of a typical one are written instead, as its manual describes for "stable plans". See
https://sqlite.org/optoverview.html#manual_control_of_query_plans_using_sqlite_stat_tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# A million jobs of five hundred hosts on fifty repositories; five hundred of them are not over.
# First the rows of the index, then how many of them are alike in the first columns.
_STATISTICS = (
    ("sqlite_autoindex_jobs_1", "1000000 1"),
    ("sqlite_autoindex_jobs_2", "1000000 1000 1"),
    ("ix_jobs_host_id_id", "1000000 2000 1"),
    ("ix_jobs_repository_id_id", "1000000 20000 1"),
    ("ix_jobs_destination_id_id", "100000 10000 1"),
    ("ix_jobs_state_id", "1000000 200000 1"),
    ("ix_jobs_kind_state_id", "1000000 150000 30000 1"),
    ("ix_jobs_created_at", "1000000 1"),
    ("ix_jobs_active", "500 2"),
    ("ix_jobs_queued_start_deadline_at", "100 1"),
    ("ix_jobs_active_repository", "500 10 5"),
    ("ix_jobs_active_destination", "500 10"),
    ("ix_jobs_ends", "1000000 20000 3000 1"),
    ("ix_jobs_locked", "1000 20 1"),
)


def upgrade() -> None:
    # The index by repository and id begins with the same column.
    op.drop_index("ix_jobs_repository_id", "jobs")
    if op.get_bind().dialect.name != "sqlite":
        return
    # Of a small table: only this makes SQLite create its own table for statistics.
    op.execute("ANALYZE needed_revisions")
    op.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'jobs'")
    columns = ("tbl", "idx", "stat")
    table = sa.table("sqlite_stat1", *(sa.column(name, sa.Text()) for name in columns))
    op.bulk_insert(table, [dict(zip(columns, ("jobs", *row), strict=True)) for row in _STATISTICS])


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'jobs'")
    op.create_index("ix_jobs_repository_id", "jobs", ["repository_id"])
