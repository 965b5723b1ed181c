"""Backhaul as its next version might be: with one revision more, which expands the tables.

python -m tests.system.next_version FOLDER serve …     as `backhaul serve …`
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from backhaul.cli import main
from backhaul_api.db import revisions

REVISION = "9999"

_EXPANDING = '''"""Expand: whatever a release may add.

Revision ID: 9999
Revises: {head}
"""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("hosts", "jobs", "schedules", "users"):
        op.add_column(table, sa.Column("next_note", sa.Text(), nullable=True))
        op.add_column(
            table, sa.Column("next_rank", sa.Integer(), server_default="0", nullable=False)
        )
    op.create_index("ix_jobs_next_rank", "jobs", ["next_rank"])
    op.create_table(
        "next_things",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id"), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("next_things")
    op.drop_index("ix_jobs_next_rank", "jobs")
    for table in ("hosts", "jobs", "schedules", "users"):
        op.drop_column(table, "next_rank")
        op.drop_column(table, "next_note")
'''


def write_migrations(folder: Path) -> None:
    """Make a folder of migrations: those of this version, and one more."""
    shutil.copytree(revisions.find_migrations(), folder)
    file = folder / "versions" / "9999_expand.py"
    file.write_text(_EXPANDING.format(head=revisions.head_revision()))


if __name__ == "__main__":
    _folder = Path(sys.argv.pop(1))
    revisions.find_migrations = lambda: _folder
    main()
