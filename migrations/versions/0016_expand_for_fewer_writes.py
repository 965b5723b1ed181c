"""Expand: a job is written into fewer indexes, each of which is a page more to each commit.

Revision ID: 0016
Revises: 0015

What has no deadline, no second repository or no end yet is no longer in the indexes of those that
have. A list of the jobs in a state is put together from the lists of each kind in it. Instances of
the version before find all they need, if sometimes by a longer way.

Repositories get the version of their secrets, by which a process knows whether what it remembers of
them is old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_IS_ACTIVE = "state IN ('queued', 'accepted', 'running')"

# Name, columns, condition before, condition from here on, and statistics: see revision 0014.
_INDEXES = (
    (
        "ix_jobs_queued_start_deadline_at",
        ["start_deadline_at"],
        "state = 'queued'",
        "state = 'queued' AND start_deadline_at IS NOT NULL",
        "100 1",
    ),
    (
        "ix_jobs_active_destination",
        ["destination_id"],
        _IS_ACTIVE,
        f"{_IS_ACTIVE} AND destination_id IS NOT NULL",
        "500 10",
    ),
    (
        "ix_jobs_ends",
        ["repository_id", "kind", "finished_at"],
        None,
        "finished_at IS NOT NULL",
        "1000000 20000 3000 1",
    ),
)


def upgrade() -> None:
    op.add_column(
        "repositories",
        sa.Column("secrets_version", sa.BigInteger, nullable=False, server_default="0"),
    )
    _replace({name: (columns, now) for name, columns, _, now, _ in _INDEXES})
    op.drop_index("ix_jobs_state_id", "jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    _describe("ix_jobs_state_id", "1000000 200000 1")
    _replace({name: (columns, before) for name, columns, before, _, _ in _INDEXES})
    op.drop_column("repositories", "secrets_version")


def _replace(wanted: Mapping[str, tuple[Sequence[str], str | None]]) -> None:
    """Replace the indexes by others of the same name."""
    if op.get_bind().dialect.name == "sqlite":
        for name, (columns, condition) in wanted.items():
            op.drop_index(name, "jobs")
            _create(name, columns, condition)
        for name, *_, statistics in _INDEXES:
            _describe(name, statistics)
        return
    # To drop one keeps everybody from the table until the end of the transaction: so at the end.
    for name, (columns, condition) in wanted.items():
        _create(f"{name}_new", columns, condition)
    for name in wanted:
        op.drop_index(name, "jobs")
        op.execute(f"ALTER INDEX {name}_new RENAME TO {name}")


def _create(name: str, columns: Sequence[str], condition: str | None) -> None:
    where = None if condition is None else sa.text(condition)
    op.create_index(name, "jobs", list(columns), sqlite_where=where, postgresql_where=where)


def _describe(name: str, statistics: str) -> None:
    """Tell SQLite again what it has forgotten with the index."""
    if op.get_bind().dialect.name == "sqlite":
        values = f"VALUES ('jobs', '{name}', '{statistics}')"
        op.execute(f"INSERT INTO sqlite_stat1 (tbl, idx, stat) {values}")
