"""Expand: hosts know their last good backup, schedules remember their repositories, the database
its keys, and jobs are found by the time at which they were made.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import Moment, json_column_type

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("past_repository_ids", json_column_type(), nullable=True))
    op.add_column("server_identity", sa.Column("key_ids", json_column_type(), nullable=True))
    op.add_column("hosts", sa.Column("last_backup_at", Moment(), nullable=True))
    op.execute(
        "UPDATE hosts SET last_backup_at = (SELECT max(jobs.finished_at) FROM jobs"
        " WHERE jobs.host_id = hosts.id AND jobs.kind = 'backup' AND jobs.state = 'succeeded')"
    )
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])


def downgrade() -> None:
    op.drop_index("ix_jobs_created_at", "jobs")
    op.drop_column("hosts", "last_backup_at")
    op.drop_column("server_identity", "key_ids")
    op.drop_column("schedules", "past_repository_ids")
