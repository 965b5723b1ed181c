"""What may be asked of a host, who is asked, and what its silence or its no means. Touches neither
HTTP nor SQL."""

from __future__ import annotations

import posixpath
from datetime import datetime

import msgspec

from backhaul.wire.commands import QueryAnswer, QueryFailure
from backhaul.wire.fleet import Host, HostState
from backhaul.wire.snapshots import FoundFiles
from backhaul_api.errors import (
    DomainError,
    HostFailedError,
    HostRefusedError,
    HostSilentError,
    InvalidError,
    MissingThereError,
)
from backhaul_api.hosts.presence import find_state

MAX_LENGTH = 4096
"""Of a path or a pattern: as much as Linux takes."""


def check_path(path: str) -> str:
    """Give a path as restic writes it.

    Raises:
        InvalidError: it is not absolute, or longer than any path.
    """
    if not path.startswith("/"):
        raise InvalidError.of("path", "must be an absolute path, like /etc")
    _check_text("path", path)
    # Two slashes at the beginning have a meaning of their own to POSIX, and none here.
    return posixpath.normpath(f"/{path.lstrip('/')}")


def check_pattern(pattern: str) -> str:
    """Give a pattern as it is.

    Raises:
        InvalidError: it is empty, or longer than any path.
    """
    if not pattern:
        raise InvalidError.of("pattern", "is empty; write one like *.conf or /etc/nginx/*")
    _check_text("pattern", pattern)
    return pattern


def refuse_absent(host: Host, now: datetime) -> None:
    """Refuse at once to ask a host that is away, rather than let an operator wait for nothing.

    Raises:
        HostSilentError: the host was not seen lately.
    """
    if find_state(host.last_seen_at, now) is not HostState.ONLINE:
        raise HostSilentError(_describe_silence(host))


def read_answer(host: Host, answer: QueryAnswer | None) -> FoundFiles:
    """Read what a host found.

    Raises:
        HostSilentError: it did not answer in time.
        HostRefusedError: its policy forbids it.
        HostFailedError: restic failed there.
        MissingThereError: there is no such snapshot in the repository, or path in the snapshot.
    """
    if answer is None:
        raise HostSilentError(
            f"Host {host.name!r} did not answer in time. It may be busy, its agent of a version "
            "that cannot look into snapshots, or its repository slow. Try again, or ask another "
            "host that uses the repository."
        )
    if answer.error is not None:
        raise _build_error(host, answer.error, answer.failure)
    return msgspec.json.decode(answer.answer, type=FoundFiles)


def _build_error(host: Host, error: str, failure: str | None) -> DomainError:
    text = f"Host {host.name!r} says: {error}"
    match failure:
        case QueryFailure.REFUSED:
            return HostRefusedError(text)
        case QueryFailure.MISSING:
            return MissingThereError(text)
        case _:
            return HostFailedError(text)


def _describe_silence(host: Host) -> str:
    if host.last_seen_at is None:
        return f"Host {host.name!r} was never seen. Is its agent running?"
    return (
        f"Host {host.name!r} was last seen at {host.last_seen_at:%Y-%m-%d %H:%M} UTC. Is its agent "
        "running? Another host that uses the repository can be asked as well."
    )


def _check_text(field: str, text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise InvalidError.of(field, f"must have at most {MAX_LENGTH} characters")
