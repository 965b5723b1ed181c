"""/v1/repositories/{repository}/snapshots/{snapshot}/files and /find: looking into a snapshot.

A host looks: the server has no access to any repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from litestar import Router, get
from litestar.params import FromPath, PathParameter, QueryParameter
from litestar.types import Receive
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.commands import QueryAnswer
from backhaul.wire.fleet import Host
from backhaul.wire.snapshots import FileList, FindFiles, FoundFiles, ListFiles, Snapshot
from backhaul_api.auth import OperatorRequest
from backhaul_api.db.changes import touch
from backhaul_api.errors import InvalidError, NotFoundError
from backhaul_api.hosts import store as hosts
from backhaul_api.paging import Cursor, Limit, decode_cursor, encode_cursor
from backhaul_api.polling.parking import Wait, look_until
from backhaul_api.queries import rules, store
from backhaul_api.repositories import store as repositories
from backhaul_api.services import Needs, Services
from backhaul_api.snapshots import store as snapshots

MAX_WAIT_S = 25.0
"""Under the 30 s at which the more impatient proxies cut."""

RECHECK_S = 0.5
"""On PostgreSQL, where the answer may come to another instance, which rings no bell here: two reads
by primary key a second for each operator who waits, and never more than 16 of them for a host."""

DEFAULT_ENTRIES = 1000

_SnapshotId = Annotated[
    str, PathParameter(description="The snapshot's id, or enough of its first digits.")
]
_Host = Annotated[
    str | None,
    QueryParameter(
        description="The host that is to look, by name or id; else the one that made the snapshot."
    ),
]
_Wait = Annotated[
    float,
    QueryParameter(ge=0.1, le=MAX_WAIT_S, description="Give up after so many seconds."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What is looked into, and by whom."""

    snapshot: Snapshot
    host: Host


@get(
    "/files",
    operation_id="list_snapshot_files",
    summary="List a folder of a snapshot, by asking a host",
    description=(
        "A host runs `restic ls` while this request waits. Leaves no lock in the repository."
    ),
    opt={"asks_host": True, "is_rate_limited": True},
)
async def list_snapshot_files(  # noqa: PLR0913 (each is a parameter of the address)
    request: OperatorRequest,
    services: Needs,
    repository: FromPath[str],
    snapshot: _SnapshotId,
    *,
    path: Annotated[
        str, QueryParameter(description="The folder; what is no folder is listed itself.")
    ] = "/",
    recursive: Annotated[
        bool, QueryParameter(description="Also all that is below, to any depth.")
    ] = False,
    host: _Host = None,
    limit: Limit = DEFAULT_ENTRIES,
    cursor: Cursor = None,
    wait: _Wait = MAX_WAIT_S,
) -> FileList:
    skip = _read_cursor(cursor)
    path = rules.check_path(path)
    async with services.database.reading() as connection:
        target = await _find_target(connection, repository, snapshot, host)
    asked = ListFiles(
        snapshot=target.snapshot.id, path=path, is_recursive=recursive, skip=skip, limit=limit
    )
    return await _ask(services, request.receive, target, asked, wait_s=wait)


@get(
    "/find",
    operation_id="find_snapshot_files",
    summary="Search a snapshot, by asking a host",
    description="A host runs `restic find` while this request waits.",
    opt={"asks_host": True, "is_rate_limited": True},
)
async def find_snapshot_files(  # noqa: PLR0913 (each is a parameter of the address)
    request: OperatorRequest,
    services: Needs,
    repository: FromPath[str],
    snapshot: _SnapshotId,
    *,
    pattern: Annotated[
        str,
        QueryParameter(
            description="As `restic find` takes it: `*.conf`, or with folders, `/etc/nginx/*`."
        ),
    ],
    host: _Host = None,
    limit: Limit = DEFAULT_ENTRIES,
    cursor: Cursor = None,
    wait: _Wait = MAX_WAIT_S,
) -> FileList:
    skip = _read_cursor(cursor)
    pattern = rules.check_pattern(pattern)
    async with services.database.reading() as connection:
        target = await _find_target(connection, repository, snapshot, host)
    asked = FindFiles(snapshot=target.snapshot.id, pattern=pattern, skip=skip, limit=limit)
    return await _ask(services, request.receive, target, asked, wait_s=wait)


async def _find_target(
    connection: AsyncConnection, repository: str, snapshot: str, host: str | None
) -> _Target:
    found_in = await repositories.fetch(connection, repository)
    found = await snapshots.find(connection, found_in.id, snapshot)
    if host is not None:
        return _Target(snapshot=found, host=await hosts.fetch(connection, host))
    remedy = "name a host that uses the repository"
    if found.host_id is None:
        raise InvalidError.of("host", f"Backhaul did not make this snapshot: {remedy}")
    try:
        maker = await hosts.fetch(connection, str(found.host_id))
    except NotFoundError as error:
        raise InvalidError.of("host", f"the one that made it was removed: {remedy}") from error
    return _Target(snapshot=found, host=maker)


async def _ask(
    services: Services,
    receive: Receive,
    target: _Target,
    asked: ListFiles | FindFiles,
    *,
    wait_s: float,
) -> FileList:
    """Ask the host and wait. The query is gone afterwards, whatever came of it."""
    host, now = target.host, services.clock.now()
    wait_s = services.settings.cap_wait(wait_s)
    rules.refuse_absent(host, now)
    new = store.NewQuery(
        host_id=host.id, repository_id=target.snapshot.repository_id, arguments=asked
    )
    async with services.database.writing() as connection:
        query_id = await store.insert(
            connection, new, now=now, expires_at=now + timedelta(seconds=wait_s)
        )
        touch(connection, host.id)

    async def look() -> QueryAnswer | None:
        async with services.database.reading() as connection:
            return await store.fetch_answer(connection, query_id)

    wait = Wait(
        wakeups=services.wakeups,
        topic=query_id,
        seconds=wait_s,
        client=receive,
        recheck_s=services.choose_recheck(RECHECK_S),
    )
    try:
        answer = await look_until(look, lambda found: found is not None, wait)
    finally:
        async with services.database.writing() as connection:
            await store.delete(connection, query_id)
    return _build_list(target, asked, rules.read_answer(host, answer), answer)


def _build_list(
    target: _Target,
    asked: ListFiles | FindFiles,
    found: FoundFiles,
    answer: QueryAnswer | None,
) -> FileList:
    has_more = answer is not None and answer.is_cut and bool(found.entries)
    return FileList(
        snapshot_id=target.snapshot.id,
        host=target.host.name,
        entries=found.entries,
        next_cursor=encode_cursor(asked.skip + len(found.entries)) if has_more else None,
    )


def _read_cursor(cursor: str | None) -> int:
    skip = decode_cursor(cursor, tuple[int])[0] if cursor else 0
    if not 0 <= skip < 2**53:
        raise InvalidError.of("cursor", "is not a cursor of this list")
    return skip


router = Router(
    "/v1/repositories/{repository:str}/snapshots/{snapshot:str}",
    route_handlers=[list_snapshot_files, find_snapshot_files],
    tags=["snapshots"],
)
