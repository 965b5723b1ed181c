"""Expand: a host remembers the enrollment token with which it joined.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("enrollment_token_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("hosts", "enrollment_token_id")
