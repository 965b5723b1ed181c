"""What makes a repository acceptable. Touches neither HTTP nor SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from backhaul.wire.environment import VARIABLES, location_refusal
from backhaul.wire.fleet import AdminCredential
from backhaul.wire.kinds import (
    Arguments,
    ForgetArguments,
    JobKind,
    PasswdArguments,
    PasswdStep,
    PruneArguments,
    UnlockArguments,
)
from backhaul.wire.problems import FieldError
from backhaul_api.errors import InvalidError

# restic 0.18 manual, "Preparing a new repository"; `local:` is the explicit form of a plain path.
_BACKENDS = ("sftp", "rest", "s3", "b2", "azure", "gs", "swift", "rclone")

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")

_OURS = re.compile(
    r"RESTIC_(REPOSITORY|REPOSITORY_FILE|PASSWORD|PASSWORD_FILE|PASSWORD_COMMAND|CACHE_DIR"
    r"|PROGRESS_FPS|HOST|FROM_.*)",
)

UPKEEP_KINDS = frozenset({JobKind.FORGET, JobKind.PRUNE, JobKind.PASSWD})
"""They always need what may delete. Removing all locks does too, which only its arguments tell."""


class Access(Enum):
    """Which of a repository's secrets a job is given."""

    EVERYDAY = "everyday"
    ADMIN = "admin"
    ADD_PASSWORD = "add_password"
    """The admin credential, and the new password."""
    REMOVE_PASSWORD = "remove_password"
    """The admin credential, the new password and the old one."""


def choose_access(arguments: Arguments) -> Access:
    """Choose what a job is given. What is not listed here gets what appends and reads."""
    match arguments:
        case ForgetArguments() | PruneArguments() | UnlockArguments(remove_all=True):
            return Access.ADMIN
        case PasswdArguments(step=PasswdStep.ADD):
            return Access.ADD_PASSWORD
        case PasswdArguments(step=PasswdStep.REMOVE):
            return Access.REMOVE_PASSWORD
        case _:
            return Access.EVERYDAY


def check_place(access: Access, *, host: str, repository: str, upkeep_host: str | None) -> None:
    """Refuse a job that deletes, or a schedule of such jobs, for a host that must not.

    Raises:
        InvalidError: it is not the upkeep host.
    """
    if access is Access.EVERYDAY or upkeep_host in {None, host}:
        return
    raise InvalidError.of(
        "host",
        f"only its upkeep host {upkeep_host} may delete in repository {repository}, or change its "
        "keys; name that host",
    )


def check_admin(admin: AdminCredential | None, *, has_upkeep_host: bool) -> None:
    """Refuse an admin credential that holds nothing, or that no host could be given.

    Raises:
        InvalidError: see there; or the location or a variable is not acceptable.
    """
    if admin is None:
        return
    if admin == AdminCredential():
        raise InvalidError.of(
            "admin", "name its location, password or environment, or leave it out"
        )
    if admin.location is not None:
        check_location(admin.location, field="admin.location")
    if admin.environment is not None:
        check_environment(admin.environment, field="admin.environment")
    if not has_upkeep_host:
        raise InvalidError.of(
            "upkeep_host", "name the host that is to use the admin credential; no other gets it"
        )


def check_location(location: str, *, field: str = "location") -> None:
    """Refuse a location whose meaning would depend on where the agent runs, or that runs something.

    Raises:
        InvalidError: a relative path, a backend that restic does not have, or a location with which
            a program could be started on the host.
    """
    if location != location.strip():
        raise InvalidError.of(field, "begins or ends with a space; remove it")
    refusal = location_refusal(location)
    if refusal is not None:
        raise InvalidError.of(field, refusal)
    backend, colon, rest = location.partition(":")
    if colon and backend in _BACKENDS and rest:
        return
    path = rest if colon and backend == "local" else location
    if path.startswith("/") or _WINDOWS_PATH.match(path):
        return
    raise InvalidError.of(
        field,
        "is neither an absolute path, like /srv/restic, nor one of restic's backends "
        f"({', '.join(f'{name}:' for name in _BACKENDS)}). A relative path would depend on the "
        "folder in which the agent runs",
    )


def check_environment(names: Iterable[str], *, field: str = "environment") -> None:
    """Refuse variables that fight with what Backhaul sets, and all that restic need not be told.

    No agent would pass them to restic: it checks the same list.

    Raises:
        InvalidError: names each of them with its reason.
    """
    errors = [
        FieldError(field=f"{field}.{name}", message=reason)
        for name in names
        if (reason := _refusal(name)) is not None
    ]
    if errors:
        raise InvalidError(*errors)


def _refusal(name: str) -> str | None:
    if _OURS.fullmatch(name):
        return (
            "is set by Backhaul for each job. Use the fields location and password, or the "
            "agent's own configuration, instead"
        )
    if name not in VARIABLES:
        return (
            "is not among the variables that a repository may set: it could make the host run "
            "another program or open its files. If restic needs it, set it for the agent itself, "
            "and list it in `environment` under [policy] in the agent's settings"
        )
    return None
