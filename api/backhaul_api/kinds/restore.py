"""`restore`: of one snapshot, into a folder of its own."""

from __future__ import annotations

import posixpath

from backhaul.wire.kinds import RestoreArguments, RestoreRequest
from backhaul_api.errors import InvalidError
from backhaul_api.jobs.targets import refuse_ambiguous_snapshot
from backhaul_api.kinds.order import Order


async def plan(order: Order, request: RestoreRequest) -> RestoreArguments:
    await refuse_ambiguous_snapshot(order.connection, order.repository, request.snapshot)
    return build(request)


def build(request: RestoreRequest) -> RestoreArguments:
    """Build the restore that is asked for.

    Raises:
        InvalidError: the target is not a folder of its own.
    """
    check_target(request.target)
    return RestoreArguments(
        snapshot=request.snapshot,
        target=request.target,
        include=tuple(dict.fromkeys(request.include)),
        verify=request.verify,
    )


def check_target(target: str) -> None:
    """Refuse a target that is not a folder of its own.

    Raises:
        InvalidError: the path is not normal, or is the root of the file system.
    """
    normal = posixpath.normpath(target)
    if normal in {"/", "//"}:
        raise InvalidError.of(
            "target", "must be a new or empty folder, not /; restore there and move the files"
        )
    if normal != target:
        raise InvalidError.of("target", f"write {normal} instead")
