"""Expand: schedules have a revision, hosts know since when their schedules differ and which of
their processes came before, and the database knows whose it is.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import Moment, json_column_type

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "schedules", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="1")
    )
    op.add_column("hosts", sa.Column("schedule_changed_at", Moment(), nullable=True))
    op.add_column("hosts", sa.Column("recent_boots", json_column_type(), nullable=True))
    op.create_table(
        "server_identity",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("verify_key", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_server_identity")),
    )


def downgrade() -> None:
    op.drop_table("server_identity")
    op.drop_column("hosts", "recent_boots")
    op.drop_column("hosts", "schedule_changed_at")
    op.drop_column("schedules", "revision")
