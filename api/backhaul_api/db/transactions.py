"""The numbers of PostgreSQL's transactions, by which its rows are told in the order of commits."""

from __future__ import annotations

import sqlalchemy as sa

# xid8 has no casts to numbers but by way of text.
CURRENT_TRANSACTION: sa.ColumnClause[int] = sa.literal_column("pg_current_xact_id()::text::bigint")
OLDEST_RUNNING: sa.ColumnClause[int] = sa.literal_column(
    "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
)
NEXT_TRANSACTION: sa.ColumnClause[int] = sa.literal_column(
    "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)
