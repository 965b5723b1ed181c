"""Expand: a host that joins is looked up among those that have, and not searched for.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_hosts_public_key", "hosts", ["public_key"])


def downgrade() -> None:
    op.drop_index("ix_hosts_public_key", "hosts")
