"""The second repository of a job that needs two, on a host that can be given both credentials."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.environment import find_conflicts
from backhaul_api.errors import InvalidError
from backhaul_api.jobs.targets import TargetRepository, fetch_present_repository
from backhaul_api.keys import KeyRing
from backhaul_api.names import named_in
from backhaul_api.repositories.secrets import load_credentials


async def find_second(
    connection: AsyncConnection,
    keys: KeyRing,
    repository_id: UUID,
    reference: str,
    *,
    field: str,
    itself: str,
) -> TargetRepository:
    """Find the second repository of a job on a first one.

    Raises:
        InvalidError: there is none, it is the first one (which `itself` says), or one restic cannot
            be given the environments of both.
    """
    with named_in(field):
        second = await fetch_present_repository(connection, reference)
    if second.id == repository_id:
        raise InvalidError.of(field, itself)
    ours = await load_credentials(connection, keys, repository_id)
    theirs = await load_credentials(connection, keys, second.id)
    if conflicts := find_conflicts(ours.environment, theirs.environment):
        raise InvalidError.of(
            field,
            f"sets {', '.join(conflicts)} to another value than the first repository, and one "
            "restic, which has one environment, works on both. Take a repository that has its "
            "access from elsewhere, like an sftp or rclone one, or give both one access",
        )
    return second
