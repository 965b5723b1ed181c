"""Expand: what is asked of a large fleet has an index to be looked up in.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_hosts_name", "hosts", ["name"])
    op.create_index("ix_jobs_repository_id_id", "jobs", ["repository_id", "id"])
    op.create_index("ix_jobs_kind_state_id", "jobs", ["kind", "state", "id"])
    _create_partial(
        "ix_jobs_destination_id_id", ["destination_id", "id"], "destination_id IS NOT NULL"
    )
    _create_partial("ix_jobs_queued_start_deadline_at", ["start_deadline_at"], "state = 'queued'")


def downgrade() -> None:
    for name in (
        "ix_jobs_queued_start_deadline_at",
        "ix_jobs_destination_id_id",
        "ix_jobs_kind_state_id",
        "ix_jobs_repository_id_id",
    ):
        op.drop_index(name, "jobs")
    op.drop_index("ix_hosts_name", "hosts")


def _create_partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
