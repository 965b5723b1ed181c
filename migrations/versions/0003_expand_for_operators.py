"""Expand: schedules remember their repositories, and the database its keys.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import json_column_type

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("past_repository_ids", json_column_type(), nullable=True))
    op.add_column("server_identity", sa.Column("key_ids", json_column_type(), nullable=True))


def downgrade() -> None:
    op.drop_column("server_identity", "key_ids")
    op.drop_column("schedules", "past_repository_ids")
