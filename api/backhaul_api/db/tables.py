"""Every table. Columns carry the words of the JSON fields they become.

No CHECK lists states or kinds: those live in `backhaul.wire.jobs`, and widening a CHECK on SQLite
means rebuilding the table. What the database can refuse cheaply (a second fire of one slot, a
second host of one name) it refuses through unique indexes.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, Table, Text

from backhaul_api.db.types import Moment, json_column_type

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[object]:
    return Column("id", sa.Uuid(), primary_key=True)


users = Table(
    "users",
    metadata,
    _id(),
    Column("username", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("last_login_at", Moment),
    Column("disabled_at", Moment),
)

# The tokens that open an empty control plane, one for each start of an instance. Once there is an
# operator they open nothing more, but let the answer that got lost be given again.
setup_tokens = Table(
    "setup_tokens",
    metadata,
    Column("token_hash", sa.LargeBinary(32), primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    _id(),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("token_hash", sa.LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    _id(),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("token_hash", sa.LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("last_used_at", Moment),
    sa.UniqueConstraint("user_id", "name"),
)

enrollment_tokens = Table(
    "enrollment_tokens",
    metadata,
    _id(),
    Column("token_hash", sa.LargeBinary(32), nullable=False, unique=True),
    Column("created_by", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("host_name", Text),
    Column("labels", json_column_type(), nullable=False),
)

# Whose database this is: one row, with the public half of what the server signs with. A server with
# another key file could open none of its secrets, and its agents would not believe it.
server_identity = Table(
    "server_identity",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("verify_key", sa.LargeBinary(32), nullable=False),
    # Which keys the server that started last had; NULL when none has since this is asked.
    Column("key_ids", json_column_type()),
)

hosts = Table(
    "hosts",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("labels", json_column_type(), nullable=False),
    Column("facts", json_column_type(), nullable=False),
    Column("public_key", sa.LargeBinary(32), nullable=False),
    Column("token_hash", sa.LargeBinary(32), nullable=False, unique=True),
    # A second valid token while a rotation is under way.
    Column("next_token_hash", sa.LargeBinary(32), unique=True),
    Column("boot_id", sa.Uuid()),
    # The processes that had the host, newest last: one that comes again is no newer for that.
    Column("recent_boots", json_column_type()),
    Column("schedule_version", BigInteger, nullable=False, server_default="0"),
    Column("applied_schedule_version", BigInteger, nullable=False, server_default="0"),
    # When schedule_version last moved: since when a host that has not applied it differs.
    Column("schedule_changed_at", Moment),
    Column("schedule_errors", json_column_type()),
    Column("settings_version", BigInteger, nullable=False, server_default="0"),
    Column("applied_settings_version", BigInteger, nullable=False, server_default="0"),
    Column("enrolled_at", Moment, nullable=False),
    # With which enrollment token, which may be gone: an answer that got lost is given again.
    Column("enrollment_token_id", sa.Uuid()),
    Column("last_seen_at", Moment),
    # Of the newest backup that succeeded; written with its end, so that nobody has to search.
    Column("last_backup_at", Moment),
    # A removed host keeps its row: its jobs refer to it, and its agent must be told.
    Column("removed_at", Moment),
)
Index(
    "uq_hosts_name_present",
    hosts.c.name,
    unique=True,
    sqlite_where=hosts.c.removed_at.is_(None),
    postgresql_where=hosts.c.removed_at.is_(None),
)

# Jobs are asked for by the name of a host that may have been removed.
Index("ix_hosts_name", hosts.c.name)

# A host that joins may have done so before, and not have had the answer.
Index("ix_hosts_public_key", hosts.c.public_key)

repositories = Table(
    "repositories",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    # For people, with *** for a password; the whole location is a secret of its own.
    Column("location", Text, nullable=False),
    # For people too: the values are secret, their names are not. NULL when there are none.
    Column("environment_names", json_column_type()),
    Column("created_at", Moment, nullable=False),
    # Moves with each change of what everyday jobs are given.
    Column("updated_at", Moment, nullable=False),
    Column("initialized_at", Moment),
    Column("restic_id", Text),
    Column("has_admin", Boolean, nullable=False, server_default=sa.false()),
    # As above, of the admin credential; NULL where that is as for everyday use.
    Column("admin_location", Text),
    Column("admin_environment_names", json_column_type()),
    # The only host that may delete. No host's row ever goes, and none is removed while it is this.
    Column("upkeep_host_id", sa.Uuid()),
    # A change of the password that is under way: see `repositories.password_changes`.
    Column("password_step", Text),
    Column("password_since", Moment),
    Column("password_job_id", sa.Uuid()),
    # By host, the schedule version with which it was given the new password.
    Column("password_waits_for", json_column_type()),
    # A removed repository keeps its row, without secrets: its jobs refer to it.
    Column("removed_at", Moment),
)
Index(
    "uq_repositories_name_present",
    repositories.c.name,
    unique=True,
    sqlite_where=repositories.c.removed_at.is_(None),
    postgresql_where=repositories.c.removed_at.is_(None),
)

repository_secrets = Table(
    "repository_secrets",
    metadata,
    _id(),
    Column("repository_id", ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    # See `repositories.secrets`.
    Column("name", Text, nullable=False),
    Column("ciphertext", sa.LargeBinary, nullable=False),
    Column("updated_at", Moment, nullable=False),
    sa.UniqueConstraint("repository_id", "name"),
)

repository_sizes = Table(
    "repository_sizes",
    metadata,
    _id(),
    Column("repository_id", ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="SET NULL"), index=True),
    Column("measured_at", Moment, nullable=False),
    Column("total_size", BigInteger, nullable=False),
    Column("snapshots_count", BigInteger, nullable=False),
    Column("blobs_count", BigInteger, nullable=False),
    Column("uncompressed_size", BigInteger),
    Column("restore_size", BigInteger),
)
Index(
    "ix_repository_sizes_repository_id_measured_at",
    repository_sizes.c.repository_id,
    repository_sizes.c.measured_at,
)

sources = Table(
    "sources",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("paths", json_column_type(), nullable=False),
    Column("excludes", json_column_type(), nullable=False),
    Column("tags", json_column_type(), nullable=False),
    Column("one_file_system", Boolean, nullable=False),
    Column("retention", json_column_type()),
    Column("exclude_files", json_column_type(), nullable=False, server_default="[]"),
    Column("exclude_caches", Boolean, nullable=False, server_default=sa.false()),
    Column("exclude_larger_than", Text),
    Column("limit_upload", Integer),
    Column("limit_download", Integer),
    Column("compression", Text),
    Column("nice", Integer),
    Column("ionice", Text),
    Column("dump", Text),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    _id(),
    Column("host_id", ForeignKey("hosts.id"), nullable=False, index=True),
    Column("repository_id", ForeignKey("repositories.id"), nullable=False, index=True),
    # Those it had before: a host that was cut off may have run on one. NULL when there are none.
    Column("past_repository_ids", json_column_type()),
    Column("source_id", ForeignKey("sources.id"), index=True),
    Column("kind", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("catch_up", Text, nullable=False),
    Column("catch_up_window", Float),
    Column("jitter", Float, nullable=False),
    Column("start_deadline", Float),
    Column("max_duration", Float),
    Column("attempts", Integer, nullable=False, server_default="3"),
    Column("retry_delay", Float, nullable=False, server_default="60"),
    Column("when_unreachable", Text, nullable=False),
    # Those of its kind. NULL when there are none.
    Column("options", json_column_type()),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    # A deleted schedule keeps its row: its jobs, and late fires, still refer to it.
    Column("deleted_at", Moment),
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    Column("host_id", ForeignKey("hosts.id"), nullable=False),
    Column("repository_id", ForeignKey("repositories.id")),
    # Of a copy: a repository. No foreign key, for which SQLite would have to copy the whole table;
    # a removed repository keeps its row.
    Column("destination_id", sa.Uuid()),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("arguments", json_column_type(), nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", sa.Uuid()),
    Column("schedule_id", ForeignKey("schedules.id")),
    Column("scheduled_at", Moment),
    Column("missed", Integer, nullable=False, server_default="0"),
    # The earliest slot whose fire was replaced by this one's. NULL when there was none.
    Column("missed_since", Moment),
    Column("ran_offline", Boolean, nullable=False, server_default=sa.false()),
    Column("attempt", Integer, nullable=False, server_default="1"),
    # How many attempts there may be, and how long before the second one, in seconds.
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("retry_delay", Float),
    Column("retry_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("accepted_at", Moment),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("start_deadline_at", Moment),
    Column("max_duration", Float),
    Column("cancel_requested_at", Moment),
    Column("progress", json_column_type()),
    # When restic last got on; that it repeats itself is no progress.
    Column("progressed_at", Moment),
    Column("exit_code", Integer),
    Column("failure_class", Text),
    Column("message", Text),
    Column("result", json_column_type()),
    # How many lines of the current attempt's log are stored, so also the next seq.
    Column("log_lines", Integer, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    # A fire makes its job once.
    sa.UniqueConstraint("schedule_id", "scheduled_at"),
)
# Each index that a job is in is a page more to write when it is made, and when what is in the index
# changes: so most have only the jobs that somebody asks them for.

# What lists of jobs begin with: see `jobs.store.fetch_page`.
Index("ix_jobs_host_id_id", jobs.c.host_id, jobs.c.id)
Index("ix_jobs_repository_id_id", jobs.c.repository_id, jobs.c.id)
Index(
    "ix_jobs_destination_id_id",
    jobs.c.destination_id,
    jobs.c.id,
    sqlite_where=jobs.c.destination_id.is_not(None),
    postgresql_where=jobs.c.destination_id.is_not(None),
)
Index("ix_jobs_kind_state_id", jobs.c.kind, jobs.c.state, jobs.c.id)
Index("ix_jobs_created_at", jobs.c.created_at)
# What the poll asks for: the few jobs of a host that are not over. SQLite chooses this one and its
# like by the statistics of revision 0014, which a revision that rebuilds the table writes again.
_IS_ACTIVE = jobs.c.state.in_(["queued", "accepted", "running"])
Index("ix_jobs_active", jobs.c.host_id, sqlite_where=_IS_ACTIVE, postgresql_where=_IS_ACTIVE)

# Which jobs have to expire.
_HAS_DEADLINE = sa.and_(jobs.c.state == "queued", jobs.c.start_deadline_at.is_not(None))
Index(
    "ix_jobs_deadlines",
    jobs.c.start_deadline_at,
    sqlite_where=_HAS_DEADLINE,
    postgresql_where=_HAS_DEADLINE,
)

# What a job may have to wait for: see `jobs.turns`.
Index(
    "ix_jobs_active_repository",
    jobs.c.repository_id,
    jobs.c.kind,
    sqlite_where=_IS_ACTIVE,
    postgresql_where=_IS_ACTIVE,
)
Index(
    "ix_jobs_active_copies",
    jobs.c.destination_id,
    sqlite_where=sa.and_(_IS_ACTIVE, jobs.c.destination_id.is_not(None)),
    postgresql_where=sa.and_(_IS_ACTIVE, jobs.c.destination_id.is_not(None)),
)

# What a repository shows of its jobs: see `repositories.states` and `repositories.checks`.
Index(
    "ix_jobs_ended",
    jobs.c.repository_id,
    jobs.c.kind,
    jobs.c.finished_at,
    sqlite_where=jobs.c.finished_at.is_not(None),
    postgresql_where=jobs.c.finished_at.is_not(None),
)
Index(
    "ix_jobs_locked",
    jobs.c.repository_id,
    jobs.c.finished_at,
    sqlite_where=jobs.c.failure_class == "locked",
    postgresql_where=jobs.c.failure_class == "locked",
)

job_events = Table(
    "job_events",
    metadata,
    _id(),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("at", Moment, nullable=False),
    Column("event", Text, nullable=False),
    Column("from_state", Text, nullable=False),
    Column("to_state", Text, nullable=False),
)

job_log = Table(
    "job_log",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("stream", Text, nullable=False),
    Column("text", Text, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("repository_id", ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("time", Moment, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("username", Text, nullable=False),
    Column("paths", json_column_type(), nullable=False),
    Column("tags", json_column_type(), nullable=False),
    Column("tree", Text, nullable=False),
    Column("parent", Text),
    Column("original", Text),
    Column("program_version", Text),
    Column("host_id", ForeignKey("hosts.id")),
    Column("job_id", ForeignKey("jobs.id", ondelete="SET NULL"), index=True),
    Column("reported_at", Moment, nullable=False),
    # Since when an operator vouches for it, or an honest one that it is a copy of: it is honest,
    # though no backup job made it.
    Column("vouched_at", Moment),
)
Index("ix_snapshots_time", snapshots.c.time)

# What operators ask of hosts and wait for. A row lives for seconds: until its answer is handed out,
# or the wait is over.
queries = Table(
    "queries",
    metadata,
    _id(),
    Column("host_id", ForeignKey("hosts.id"), nullable=False, index=True),
    Column("repository_id", ForeignKey("repositories.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("arguments", json_column_type(), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False, index=True),
    Column("taken_at", Moment),
    Column("answered_at", Moment),
    # The envelope `query.answer`, as JSON; nobody searches in it.
    Column("answer", Text),
)

# What happened, for whoever follows it; kept for a month.
events = Table(
    "events",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    # Of PostgreSQL's transaction; 0 on SQLite, which has one writer. See `events.store`.
    Column("transaction_id", BigInteger, nullable=False, server_default="0"),
    Column("at", Moment, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("actor", Text),
    # No foreign keys: what happened stays when what it happened to is gone.
    Column("host_id", sa.Uuid()),
    Column("host", Text),
    Column("job_id", sa.Uuid()),
    Column("job_kind", Text),
    Column("target_id", sa.Uuid()),
    Column("target", Text),
    Column("message", Text),
    sqlite_autoincrement=True,
)
Index("ix_events_order", events.c.transaction_id, events.c.id)

# Whom the transactions of the last minutes have touched; empty on SQLite. See `db.changes`.
changes = Table(
    "changes",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("transaction_id", BigInteger, nullable=False, index=True),
    Column("topics", sa.LargeBinary, nullable=False),
    Column("at", Moment, nullable=False, index=True),
)

# What code must know to serve this database: a revision that contracts notes here the one from
# which on code does without what it takes away. See `db.migrate`.
needed_revisions = Table(
    "needed_revisions",
    metadata,
    Column("revision", Text, primary_key=True),
)

# Creating requests that came through within the last day. The id is made of the operator and the
# key.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    _id(),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Moment, nullable=False, index=True),
    # What was asked, as a hash, and the answer: both encrypted.
    Column("answer", sa.LargeBinary),
)

audit_log = Table(
    "audit_log",
    metadata,
    _id(),
    Column("at", Moment, nullable=False, index=True),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", sa.Uuid()),
    Column("actor", Text),
    Column("action", Text, nullable=False),
    Column("target_kind", Text),
    Column("target_id", sa.Uuid()),
    Column("target", Text),
)
