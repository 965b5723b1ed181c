"""Expand: admin credentials, upkeep hosts, changes of passwords, and sizes of repositories.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import Moment, json_column_type

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_IS_LOCKED = sa.text("failure_class = 'locked'")


def upgrade() -> None:
    for column in _build_columns():
        op.add_column("repositories", column)
    op.create_table(
        "repository_sizes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("repository_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("measured_at", Moment(), nullable=False),
        sa.Column("total_size", sa.BigInteger(), nullable=False),
        sa.Column("snapshots_count", sa.BigInteger(), nullable=False),
        sa.Column("blobs_count", sa.BigInteger(), nullable=False),
        sa.Column("uncompressed_size", sa.BigInteger(), nullable=True),
        sa.Column("restore_size", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("fk_repository_sizes_repository_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_repository_sizes_job_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repository_sizes")),
    )
    op.create_index("ix_repository_sizes_job_id", "repository_sizes", ["job_id"])
    op.create_index(
        "ix_repository_sizes_repository_id_measured_at",
        "repository_sizes",
        ["repository_id", "measured_at"],
    )
    op.create_index("ix_jobs_ends", "jobs", ["repository_id", "kind", "finished_at"])
    op.create_index(
        "ix_jobs_locked",
        "jobs",
        ["repository_id", "finished_at"],
        sqlite_where=_IS_LOCKED,
        postgresql_where=_IS_LOCKED,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_locked", "jobs")
    op.drop_index("ix_jobs_ends", "jobs")
    op.drop_table("repository_sizes")
    for column in reversed(_build_columns()):
        op.drop_column("repositories", column.name)


def _build_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("has_admin", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("admin_location", sa.Text(), nullable=True),
        sa.Column("admin_environment_names", json_column_type(), nullable=True),
        sa.Column("upkeep_host_id", sa.Uuid(), nullable=True),
        sa.Column("password_step", sa.Text(), nullable=True),
        sa.Column("password_since", Moment(), nullable=True),
        sa.Column("password_job_id", sa.Uuid(), nullable=True),
        sa.Column("password_waits_for", json_column_type(), nullable=True),
    ]
