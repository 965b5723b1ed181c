"""`restic forget`: removes the snapshots that no keep rule keeps. Their data stays until a prune.

A dry run comes first: one JSON array of groups, on one line; nothing at all when no snapshot
matches (0.14.0). It is judged, and what is to go then goes by its ids: whoever writes a snapshot
between the two changes nothing. By ids restic prints nothing (0.14.0), and what is gone already is
no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backhaul.wire.kinds import ForgetArguments, Retention
from backhaul.wire.wording import render_count
from backhaul_agent.restic.output import clean_line, parse_array, parse_own_time, read_text

IDS_AT_ONCE = 100
"""In one command line, which the log shows."""

_FLAGS = {
    "keep_last": "--keep-last",
    "keep_hourly": "--keep-hourly",
    "keep_daily": "--keep-daily",
    "keep_weekly": "--keep-weekly",
    "keep_monthly": "--keep-monthly",
    "keep_yearly": "--keep-yearly",
    "keep_within": "--keep-within",
}

_NOT_REMOVED = "unable to remove"
_REASON = re.compile(r"Remove\(<snapshot/\w+>\) failed: (.+)")


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that a forget would keep or remove."""

    id: str
    """Whole."""
    hostname: str = ""
    time: datetime | None = None
    """With the offset that was recorded; None when it cannot be read."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What a forget does to the snapshots of one host."""

    host: str
    kept: tuple[Listed, ...]
    removed: tuple[Listed, ...]


def build_dry_run(arguments: ForgetArguments) -> list[str]:
    """Build the command line that names every snapshot with the tag, of every host of the
    repository: one host does it for all."""
    line = ["forget", "--json", f"--tag={arguments.tag}", "--group-by=host"]
    return [*line, *_build_rules(arguments.rules), "--dry-run"]


def build_removals(ids: Sequence[str]) -> Iterator[list[str]]:
    """Build the command lines that remove snapshots.

    Never with `--prune`, which would lock the repository for hours.
    """
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ["forget", "--json", "--", *ids[start : start + IDS_AT_ONCE]]


def find_fault(arguments: ForgetArguments) -> str | None:
    """Say why restic must not even be asked, or None."""
    if not _build_rules(arguments.rules):
        return "the retention has no keep rule: nothing would be kept, so nothing was removed"
    if not arguments.tag or "," in arguments.tag:
        # To restic an empty tag means snapshots without any, and a comma means several tags.
        return f"{arguments.tag!r} is not the tag of a source, so nothing was removed"
    return None


def read_groups(stdout: Iterable[str]) -> list[Group] | None:
    """Read what restic printed; None when it is not what forget prints."""
    lines = [line for line in stdout if line.strip()]
    if not lines:
        return []
    for line in lines:
        found = parse_array(line)
        if found is not None:
            groups = [_read_group(item) for item in found]
            whole = [group for group in groups if group is not None]
            return whole if len(whole) == len(groups) else None
    return None


def find_danger(groups: Sequence[Group]) -> str | None:
    """Say which host would be left without a snapshot, or None."""
    for group in groups:
        if not group.kept and group.removed:
            return (
                f"the keep rules match none of {render_count(len(group.removed), 'snapshot')} of "
                f"{group.host}: all of them would go, so nothing was removed"
            )
    return None


def find_refusal(stderr: Iterable[str]) -> str | None:
    """Say why snapshots stayed that should go, or None.

    0.18.0 says so on stderr alone, and exits with 0; 0.19.1 exits with 3.
    """
    lines = list(stderr)
    if not any(_NOT_REMOVED in line for line in lines):
        return None
    reasons = [match[1] for line in lines if (match := _REASON.match(line))]
    return f"restic could not remove every snapshot: {reasons[-1] if reasons else 'see the log'}"


def _build_rules(keep: Retention) -> list[str]:
    values = msgspec.structs.asdict(keep)
    return [f"{flag}={values[name]}" for name, flag in _FLAGS.items() if values[name] is not None]


def _read_group(item: Any) -> Group | None:
    if not isinstance(item, dict):
        return None
    # restic writes null for an empty list.
    keep, remove = item.get("keep") or [], item.get("remove") or []
    if not isinstance(keep, list) or not isinstance(remove, list):
        return None
    kept, removed = _read_listed(keep), _read_listed(remove)
    if kept is None or removed is None:
        return None
    return Group(host=clean_line(read_text(item, "host")), kept=kept, removed=removed)


def _read_listed(items: Sequence[Any]) -> tuple[Listed, ...] | None:
    """Read snapshots; None when one has no id, by which it could be told from others."""
    read = [
        Listed(
            id=read_text(item, "id"),
            hostname=clean_line(read_text(item, "hostname")),
            time=parse_own_time(read_text(item, "time")),
        )
        for item in items
        if isinstance(item, dict)
    ]
    return tuple(read) if len(read) == len(items) and all(one.id for one in read) else None
