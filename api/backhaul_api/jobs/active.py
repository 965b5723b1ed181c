"""The condition that a job is not over, as the partial indices have it."""

from __future__ import annotations

import sqlalchemy as sa

from backhaul.wire.jobs import JobState
from backhaul_api.db.tables import jobs


def is_active(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Build the condition for the jobs of a table, or of an alias of it.

    The states stand in the statement itself, else no database can see that an index fits.
    """
    states = [JobState.QUEUED.value, JobState.ACCEPTED.value, JobState.RUNNING.value]
    return table.c.state.in_(
        sa.bindparam("active_states", states, expanding=True, literal_execute=True)
    )


IS_ACTIVE = is_active(jobs)
