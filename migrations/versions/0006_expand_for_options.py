"""Expand: schedules have options of their kind.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import json_column_type

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("options", json_column_type(), nullable=True))


def downgrade() -> None:
    op.drop_column("schedules", "options")
