"""`copy`: to a second repository, on a host that can be given the credentials of both."""

from __future__ import annotations

from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import CopyArguments, CopyOptions, CopyRequest
from backhaul_api.errors import InvalidError
from backhaul_api.jobs.targets import refuse_ambiguous_snapshot
from backhaul_api.keys import KeyRing
from backhaul_api.kinds.order import Fired, Order
from backhaul_api.kinds.second import find_second


async def plan(order: Order, request: CopyRequest) -> CopyArguments:
    destination_id = await find_destination(
        order.connection, order.keys, order.repository.id, request.destination, field="destination"
    )
    if request.snapshots and (request.source or request.tags or request.of_host):
        raise InvalidError.of(
            "snapshots", "leave them out, or the source, the tags and the host: restic takes one"
        )
    for snapshot in request.snapshots:
        await refuse_ambiguous_snapshot(order.connection, order.repository, snapshot)
    tags = request.tags
    if request.source is not None:
        tags = ((await order.fetch_source(request.source)).name, *tags)
    return CopyArguments(
        destination_id=destination_id,
        snapshots=tuple(dict.fromkeys(request.snapshots)),
        tags=tuple(dict.fromkeys(tags)),
        of_host=request.of_host,
    )


async def plan_fired(fired: Fired) -> CopyArguments:
    options = require_options(fired.options)
    source = await fired.fetch_source()
    tags = options.tags if source is None else (source.name, *options.tags)
    return CopyArguments(
        destination_id=UUID(options.destination),
        tags=tuple(dict.fromkeys(tags)),
        of_host=options.of_host,
    )


async def settle_options(
    connection: AsyncConnection, keys: KeyRing, repository_id: UUID, options: object
) -> CopyOptions:
    """Give the options of a schedule with the destination's id, which no new name changes.

    Raises:
        InvalidError: they cannot be used.
    """
    chosen = require_options(options)
    destination_id = await find_destination(
        connection, keys, repository_id, chosen.destination, field="options.destination"
    )
    return msgspec.structs.replace(chosen, destination=str(destination_id))


def require_options(options: object) -> CopyOptions:
    """Give the options of a schedule.

    Raises:
        InvalidError: it has none of a copy.
    """
    if not isinstance(options, CopyOptions):
        raise InvalidError.of("options.destination", "name the repository to copy to")
    return options


async def find_destination(
    connection: AsyncConnection, keys: KeyRing, repository_id: UUID, reference: str, *, field: str
) -> UUID:
    """Find the repository to copy to.

    Raises:
        InvalidError: there is none, it is the one to copy from, or one restic cannot be given the
            environments of both.
    """
    second = await find_second(
        connection,
        keys,
        repository_id,
        reference,
        field=field,
        itself="is the repository to copy from; name another one",
    )
    return second.id
