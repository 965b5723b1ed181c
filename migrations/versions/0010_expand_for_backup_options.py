"""Expand: sources say how restic backs them up, and can be a dump.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backhaul_api.db.types import json_column_type

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sources",
        sa.Column("exclude_files", json_column_type(), server_default="[]", nullable=False),
    )
    op.add_column(
        "sources",
        sa.Column("exclude_caches", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    for name in ("exclude_larger_than", "compression", "ionice", "dump"):
        op.add_column("sources", sa.Column(name, sa.Text(), nullable=True))
    for name in ("limit_upload", "limit_download", "nice"):
        op.add_column("sources", sa.Column(name, sa.Integer(), nullable=True))


def downgrade() -> None:
    for name in (
        "nice",
        "limit_download",
        "limit_upload",
        "dump",
        "ionice",
        "compression",
        "exclude_larger_than",
        "exclude_caches",
        "exclude_files",
    ):
        op.drop_column("sources", name)
