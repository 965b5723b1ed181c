"""Expand: operators vouch for snapshots that no job made.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import Moment

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("vouched_at", Moment(), nullable=True))


def downgrade() -> None:
    op.drop_column("snapshots", "vouched_at")
