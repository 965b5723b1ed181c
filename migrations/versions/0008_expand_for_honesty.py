"""Expand: operators vouch for snapshots that no job made.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import Moment

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("vouched_at", Moment(), nullable=True))


def downgrade() -> None:
    op.drop_column("snapshots", "vouched_at")
