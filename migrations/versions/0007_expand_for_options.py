"""Expand: schedules have options of their kind, and jobs copy to a second repository.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import json_column_type

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


_IS_ACTIVE = sa.text("state IN ('queued', 'accepted', 'running')")


def upgrade() -> None:
    op.add_column("schedules", sa.Column("options", json_column_type(), nullable=True))
    op.add_column("jobs", sa.Column("destination_id", sa.Uuid(), nullable=True))
    op.create_index(
        "ix_jobs_active_destination",
        "jobs",
        ["destination_id"],
        sqlite_where=_IS_ACTIVE,
        postgresql_where=_IS_ACTIVE,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_active_destination", "jobs")
    op.drop_column("jobs", "destination_id")
    op.drop_column("schedules", "options")
