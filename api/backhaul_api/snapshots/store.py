"""The rows of snapshots: what repositories were last seen to hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.honesty import Doubt, Origin
from backhaul.wire.jobs import Job
from backhaul.wire.kinds import JobKind
from backhaul.wire.problems import FieldError
from backhaul.wire.snapshots import ReportedSnapshot, Snapshot
from backhaul_api.db.block import execute_soon
from backhaul_api.db.parts import in_parts
from backhaul_api.db.rows import build_struct
from backhaul_api.db.statements import constant
from backhaul_api.db.tables import hosts, jobs, repositories, snapshots
from backhaul_api.errors import InvalidError, NotFoundError
from backhaul_api.snapshots import rules

SHORT_ID_LENGTH = 8
FULL_ID_LENGTH = 64
"""How much of an id restic shows, and restic 0.14 tells after a backup."""

_ID_OR_BEGIN = re.compile(r"[0-9a-f]{4,64}")

_IDS_AT_ONCE = 1000  # SQLite allows 32766 parameters in a statement; each id makes two


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which snapshots a list shows. Empty means all."""

    repository_id: UUID | None = None
    host_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """The job that made a snapshot, and its host."""

    job_id: UUID
    host_id: UUID


async def fetch_page(
    connection: AsyncConnection,
    filters: Filters,
    *,
    limit: int,
    before: tuple[datetime, str, UUID] | None,
    now: datetime,
) -> list[Snapshot]:
    """Fetch snapshots, newest first; `before` is the time, id and repository of the last one."""
    key = (snapshots.c.time, snapshots.c.id, snapshots.c.repository_id)
    query = SELECT.order_by(*(column.desc() for column in key)).limit(limit)
    if filters.repository_id is not None:
        query = query.where(snapshots.c.repository_id == filters.repository_id)
    if filters.host_id is not None:
        query = query.where(snapshots.c.host_id == filters.host_id)
    if before is not None:
        last = [sa.literal(value, column.type) for value, column in zip(before, key, strict=True)]
        query = query.where(sa.tuple_(*key) < sa.tuple_(*last))
    return [_build(row, now) for row in await connection.execute(query)]


async def find(connection: AsyncConnection, repository_id: UUID, reference: str) -> Snapshot:
    """Find a snapshot of a repository by its id, or by the first digits of it; not its doubt.

    Raises:
        NotFoundError: there is none.
        InvalidError: it stands for several, or is no id at all.
    """
    if _ID_OR_BEGIN.fullmatch(reference) is None:
        raise InvalidError.of("snapshot", "is not the id of a snapshot: 4 to 64 hex digits")
    query = SELECT.where(
        snapshots.c.repository_id == repository_id, snapshots.c.id.startswith(reference)
    ).limit(2)
    found = [build_struct(row, Snapshot) for row in await connection.execute(query)]
    if not found:
        raise NotFoundError("snapshot", reference)
    if len(found) > 1:
        raise InvalidError.of("snapshot", "stands for several snapshots; write more of its digits")
    return found[0]


async def save(
    connection: AsyncConnection,
    job: Job,
    repository_id: UUID,
    reported: Sequence[ReportedSnapshot],
    *,
    reported_at: datetime,
) -> None:
    """Insert or refresh what a job has seen. Who made a snapshot stays, once it is known."""
    if not reported:
        return
    makers = await _find_makers(connection, job, repository_id, reported)
    # In one order everywhere, so that two reports at once cannot wait for each other.
    rows = [
        _build_row(repository_id, snapshot, makers.get(snapshot.id), reported_at)
        for snapshot in sorted(reported, key=lambda snapshot: snapshot.id)
    ]
    await connection.execute(_build_upsert(connection.dialect.name), rows)


async def fetch_origins(
    connection: AsyncConnection, repository_id: UUID, *, tag: str
) -> list[Origin]:
    """Fetch where the snapshots with a tag come from; those of unknown origin are left out."""
    query = SELECT.where(snapshots.c.repository_id == repository_id).order_by(snapshots.c.id)
    rows = [row for row in await connection.execute(query) if tag in row.tags]
    return [origin for row in rows if (origin := rules.build_origin(row)) is not None]


async def vouch(
    connection: AsyncConnection, repository_id: UUID, ids: Sequence[str] | None, *, now: datetime
) -> tuple[int, int]:
    """Vouch for snapshots of a repository: those named, or all whose time is not in the future.

    Gives how many were doubted before and are not any more, and how many still are. Idempotent.

    Raises:
        InvalidError: one that is named is not in the repository, or its time is in the future.
    """
    query = SELECT.where(snapshots.c.repository_id == repository_id)
    rows = (await connection.execute(query)).all()
    doubts = {row.id: doubt for row in rows if (doubt := rules.find_doubt(row, now)) is not None}
    if ids is not None:
        _check_named(ids, known={row.id for row in rows}, doubts=doubts)
    wanted = set(doubts if ids is None else ids)
    meant = sorted(
        id_ for id_, doubt in doubts.items() if id_ in wanted and doubt is not Doubt.FUTURE
    )
    await mark_vouched(connection, repository_id, meant, now=now)
    return len(meant), len(doubts) - len(meant)


async def mark_vouched(
    connection: AsyncConnection, repository_id: UUID, ids: Iterable[str], *, now: datetime
) -> None:
    """Note that these snapshots of a repository are vouched for, as they were seen."""
    for some in in_parts(ids, _IDS_AT_ONCE):
        await connection.execute(
            sa.update(snapshots)
            .where(snapshots.c.repository_id == repository_id, snapshots.c.id.in_(some))
            .values(vouched_at=now)
        )


def _check_named(ids: Sequence[str], *, known: set[str], doubts: dict[str, Doubt]) -> None:
    errors = []
    for index, id_ in enumerate(ids):
        if id_ not in known:
            message = "the repository was not seen to hold it"
        elif doubts.get(id_) is Doubt.FUTURE:
            message = str(Doubt.FUTURE)
        else:
            continue
        errors.append(FieldError(field=f"snapshots[{index}]", message=message))
    if errors:
        raise InvalidError(*errors)


async def note_maker(connection: AsyncConnection, job: Job, told: str | None) -> None:
    """Note that a backup names the snapshot that it made.

    Whoever said before that the snapshot is its own has to give way, unless it named it as well.
    """
    if not rules.is_told(told):
        return
    assert told is not None  # noqa: S101 (as it was told)
    which = {
        "repository": job.repository_id,
        "told": told,
        "job": job.id,
        "host": job.host_id,
    }
    statement = _NOTE_MAKER if len(told) == FULL_ID_LENGTH else _NOTE_MAKER_OF_SHORT
    await execute_soon(connection, statement, which)


async def delete_unseen(
    connection: AsyncConnection, repository_id: UUID, *, since: datetime
) -> None:
    """Delete the snapshots that nobody has reported since."""
    await connection.execute(
        sa.delete(snapshots).where(
            snapshots.c.repository_id == repository_id, snapshots.c.reported_at < since
        )
    )


async def _find_makers(
    connection: AsyncConnection,
    job: Job,
    repository_id: UUID,
    reported: Sequence[ReportedSnapshot],
) -> dict[str, Maker]:
    if job.kind is JobKind.BACKUP:
        return {snapshot.id: Maker(job.id, job.host_id) for snapshot in reported}
    makers: dict[str, Maker] = {}
    for some in in_parts((snapshot.id for snapshot in reported), _IDS_AT_ONCE):
        makers |= await _find_backups(connection, repository_id, some)
    return makers


async def _find_backups(
    connection: AsyncConnection, repository_id: UUID, ids: Iterable[str]
) -> dict[str, Maker]:
    """Find the backups that told these ids, whole or short, among those that lack a maker."""
    has_maker = sa.select(snapshots.c.id).where(
        snapshots.c.repository_id == repository_id,
        snapshots.c.id.in_(ids),
        snapshots.c.job_id.is_not(None),
    )
    unknown = set(ids) - set((await connection.scalars(has_maker)).all())
    if not unknown:
        return {}
    told = jobs.c.result["snapshot_id"].as_string()
    told_ids = unknown | {id_[:SHORT_ID_LENGTH] for id_ in unknown}
    query = sa.select(jobs.c.id, jobs.c.host_id, told.label("told")).where(
        jobs.c.repository_id == repository_id,
        jobs.c.kind == JobKind.BACKUP,
        jobs.c.finished_at.is_not(None),  # else the index of ends does not fit
        told.in_(told_ids),
    )
    by_told = {
        row.told: Maker(row.id, row.host_id) for row in (await connection.execute(query)).all()
    }
    found = {id_: by_told.get(id_) or by_told.get(id_[:SHORT_ID_LENGTH]) for id_ in unknown}
    return {id_: maker for id_, maker in found.items() if maker is not None}


def _build_row(
    repository_id: UUID, snapshot: ReportedSnapshot, maker: Maker | None, reported_at: datetime
) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(snapshot),
        "repository_id": repository_id,
        "host_id": maker.host_id if maker else None,
        "job_id": maker.job_id if maker else None,
        "reported_at": reported_at,
    }


def _build_upsert(dialect: str) -> Any:
    """Build the statement that inserts or refreshes; both databases have it, SQL has not."""
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(snapshots)
    new = insert.excluded
    kept = {"repository_id", "id", "host_id", "job_id", "vouched_at"}
    return insert.on_conflict_do_update(
        index_elements=[snapshots.c.repository_id, snapshots.c.id],
        set_={
            **{column.name: new[column.name] for column in snapshots.c if column.name not in kept},
            "host_id": sa.func.coalesce(snapshots.c.host_id, new.host_id),
            "job_id": sa.func.coalesce(snapshots.c.job_id, new.job_id),
        },
    )


_OTHERS = hosts.alias()

# What is asked of the job that made it is what `rules` doubts it by.
SELECT = sa.select(
    snapshots,
    sa.func.substr(snapshots.c.id, 1, SHORT_ID_LENGTH).label("short_id"),
    repositories.c.name.label("repository"),
    jobs.c.result["snapshot_id"].as_string().label("told"),
    jobs.c.created_at.label("job_created_at"),
    jobs.c.accepted_at.label("job_accepted_at"),
    jobs.c.finished_at.label("job_finished_at"),
    sa.exists()
    .where(
        _OTHERS.c.name == snapshots.c.hostname,
        _OTHERS.c.removed_at.is_(None),
        _OTHERS.c.id != jobs.c.host_id,
    )
    .label("is_anothers"),
).select_from(
    snapshots.join(repositories, snapshots.c.repository_id == repositories.c.id).outerjoin(
        jobs, snapshots.c.job_id == jobs.c.id
    )
)


def _build(row: Any, now: datetime) -> Snapshot:
    return msgspec.structs.replace(build_struct(row, Snapshot), doubt=rules.find_doubt(row, now))


_other_jobs = jobs.alias()
_named = _other_jobs.c.result["snapshot_id"].as_string()
_is_named = sa.exists().where(
    _other_jobs.c.id == snapshots.c.job_id,
    sa.func.length(_named) >= SHORT_ID_LENGTH,
    snapshots.c.id.startswith(_named),
)
_NOTE = (
    sa.update(snapshots)
    .where(snapshots.c.repository_id == sa.bindparam("repository"), sa.not_(_is_named))
    .values(job_id=sa.bindparam("job"), host_id=sa.bindparam("host"))
)
_NOTE_MAKER = constant(_NOTE.where(snapshots.c.id == sa.bindparam("told")))
_NOTE_MAKER_OF_SHORT = constant(_NOTE.where(snapshots.c.id.startswith(sa.bindparam("told"))))
