"""`restic forget`: removes the snapshots that no keep rule keeps. Their data stays until a prune.

One JSON array of groups, on one line; nothing at all when no snapshot matches (0.14.0). A rule that
matches nothing removes the whole group before 0.17, so a dry run comes first and is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from backhaul.wire.kinds import ForgetArguments, ForgetResult, Retention
from backhaul_agent.restic.output import clean_line, parse_array, read_text

MAX_NAMED = 1000
"""Removed snapshots that a result names."""
SHORT_ID_LENGTH = 8

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


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What a forget does to the snapshots of one host."""

    host: str
    kept: int
    removed: tuple[str, ...]
    """Their whole ids."""


def build_arguments(arguments: ForgetArguments, *, is_dry_run: bool) -> list[str]:
    """Build the command line, for every host of the repository: one host does it for all.

    Never with `--prune`: its text would follow the JSON.
    """
    line = ["forget", "--json", f"--tag={arguments.tag}", "--group-by=host"]
    line += _build_rules(arguments.keep)
    return [*line, "--dry-run"] if is_dry_run else line


def find_fault(arguments: ForgetArguments) -> str | None:
    """Say why restic must not even be asked, or None."""
    if not _build_rules(arguments.keep):
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
        if group.kept == 0:
            return (
                f"the keep rules match none of the {len(group.removed)} snapshots of "
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


def build_result(groups: Sequence[Group]) -> ForgetResult:
    removed = [snapshot for group in groups for snapshot in group.removed]
    return ForgetResult(
        kept=sum(group.kept for group in groups),
        removed=len(removed),
        removed_snapshots=tuple(one[:SHORT_ID_LENGTH] for one in removed[:MAX_NAMED]),
    )


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
    return Group(
        host=clean_line(read_text(item, "host")),
        kept=len(keep),
        removed=tuple(read_text(one, "id") for one in remove if isinstance(one, dict)),
    )
