"""Expand: jobs have attempts, take turns on a repository, and show when they stall.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IS_ACTIVE = sa.text("state IN ('queued', 'accepted', 'running')")


def upgrade() -> None:
    op.add_column(
        "schedules", sa.Column("attempts", sa.Integer(), server_default="3", nullable=False)
    )
    op.add_column(
        "schedules", sa.Column("retry_delay", sa.Float(), server_default="60", nullable=False)
    )
    op.add_column("jobs", sa.Column("attempts", sa.Integer(), server_default="1", nullable=False))
    op.add_column("jobs", sa.Column("retry_delay", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("retry_at", Moment(), nullable=True))
    op.add_column("jobs", sa.Column("progressed_at", Moment(), nullable=True))
    op.add_column("jobs", sa.Column("missed_since", Moment(), nullable=True))
    op.create_index(
        "ix_jobs_active_repository",
        "jobs",
        ["repository_id", "kind"],
        sqlite_where=_IS_ACTIVE,
        postgresql_where=_IS_ACTIVE,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_active_repository", "jobs")
    for column in ("missed_since", "progressed_at", "retry_at", "retry_delay", "attempts"):
        op.drop_column("jobs", column)
    op.drop_column("schedules", "retry_delay")
    op.drop_column("schedules", "attempts")
