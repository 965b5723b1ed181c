"""`restore`: of one snapshot, into a folder of its own, or back to where its files were."""

from __future__ import annotations

import posixpath

from backhaul.wire.kinds import RestoreArguments, RestoreRequest
from backhaul_api.errors import InvalidError
from backhaul_api.kinds import latest
from backhaul_api.kinds.order import Order

IN_PLACE = "/"

_PATTERN_SIGNS = frozenset("*?[\\")


async def plan(order: Order, request: RestoreRequest) -> RestoreArguments:
    target = check(request, host=order.host.name)
    choice = await latest.choose(
        order, request.snapshot, of_host=request.of_host, source=request.source
    )
    return RestoreArguments(
        snapshot=choice.snapshot,
        target=target,
        include=tuple(dict.fromkeys(request.include)),
        exclude=tuple(dict.fromkeys(request.exclude)),
        verify=request.verify,
        in_place=request.in_place,
        of_host=choice.of_host,
        tag=choice.tag,
    )


def check(request: RestoreRequest, *, host: str) -> str:
    """Give the target of the restore that is asked for of a host.

    Raises:
        InvalidError: the target is not a folder of its own, restic would not take it, or it is in
            place without the host's name and plain paths.
    """
    if request.include and request.exclude:
        raise InvalidError.of("exclude", "restic takes include or exclude patterns, not both")
    if request.in_place:
        _check_in_place(request, host)
        return IN_PLACE
    if request.confirm_host is not None:
        raise InvalidError.of("confirm_host", "belongs to in_place: leave it out")
    if request.target is None:
        raise InvalidError.of("target", "name a new or empty folder")
    check_target(request.target)
    return request.target


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


def _check_in_place(request: RestoreRequest, host: str) -> None:
    if request.confirm_host != host:
        raise InvalidError.of(
            "confirm_host", f"in place, files of {host} are overwritten: name that host here, too"
        )
    if request.target not in {None, IN_PLACE}:
        raise InvalidError.of("target", "leave it out: in place, files go to where they were")
    if not request.include:
        raise InvalidError.of("include", "name the paths that are to be put back")
    for number, path in enumerate(request.include):
        field = f"include[{number}]"
        if not path.startswith("/") or _PATTERN_SIGNS & set(path):
            raise InvalidError.of(field, "in place, this is an absolute path and no pattern")
        normal = posixpath.normpath(path)
        if normal in {"/", "//"}:
            raise InvalidError.of(field, "name folders or files, not all of /")
        if normal != path:
            raise InvalidError.of(field, f"write {normal} instead")
