"""What makes a repository acceptable. Touches neither HTTP nor SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable

from backhaul.wire.environment import VARIABLES, location_refusal
from backhaul.wire.problems import FieldError
from backhaul_api.errors import InvalidError

# restic 0.18 manual, "Preparing a new repository"; `local:` is the explicit form of a plain path.
_BACKENDS = ("sftp", "rest", "s3", "b2", "azure", "gs", "swift", "rclone")

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")

_OURS = re.compile(
    r"RESTIC_(REPOSITORY|REPOSITORY_FILE|PASSWORD|PASSWORD_FILE|PASSWORD_COMMAND|CACHE_DIR"
    r"|PROGRESS_FPS|HOST|FROM_.*)",
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
