"""What a forget is to do once the snapshots that are not honest are set aside. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from backhaul.wire.honesty import ID_DIGITS, Doubt, judge
from backhaul.wire.kinds import ForgetGuard, ForgetResult, SnapshotSetAside, SnapshotToGo
from backhaul.wire.wording import render_count
from backhaul_agent.restic.forget import Group, Listed
from backhaul_agent.restic.keep_rules import Dated, choose

MAX_NAMED = 1000
"""Snapshots that a result names, of those that went or are to go."""
MAX_NAMED_ASIDE = 100
SHORT_ID_LENGTH = 8


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to stay and to go, host by host, and what is left out of it."""

    groups: tuple[Group, ...]
    aside: tuple[tuple[Listed, Doubt], ...] = ()

    @property
    def removals(self) -> list[Listed]:
        return [one for group in self.groups for one in group.removed]

    @property
    def kept(self) -> int:
        return sum(len(group.kept) for group in self.groups)


def build_plan(groups: Sequence[Group], guard: ForgetGuard | None, *, keeps_oldest: bool) -> Plan:
    """Build it from what restic would do. Without doubts, that is it: restic's rules are its own.

    An older server sends no guard, and nothing is known of any snapshot then.
    """
    if guard is None:
        return Plan(groups=tuple(groups))
    origins = {origin.id: origin for origin in guard.origins}
    aside: list[tuple[Listed, Doubt]] = []
    honest: list[Group] = []
    for group in groups:
        dated: list[Dated] = []
        for one in (*group.kept, *group.removed):
            doubt = judge(
                time=one.time,
                hostname=one.hostname,
                origin=origins.get(one.id[:ID_DIGITS]),
                now=guard.at,
            )
            if doubt is not None:
                aside.append((one, doubt))
            elif one.time is not None:
                dated.append(Dated(id=one.id, time=one.time, hostname=one.hostname))
        if dated:
            kept, removed = choose(dated, guard.keep, now=guard.at, keeps_oldest=keeps_oldest)
            honest.append(Group(host=group.host, kept=_list(kept), removed=_list(removed)))
    if not aside:
        return Plan(groups=tuple(groups))
    return Plan(groups=tuple(honest), aside=tuple(aside))


def build_result(plan: Plan, *, is_dry_run: bool) -> ForgetResult:
    removals = plan.removals
    named = removals[:MAX_NAMED]
    aside = [
        SnapshotSetAside(
            id=one.id[:SHORT_ID_LENGTH],
            time=_normalise(one.time),
            hostname=one.hostname,
            reason=doubt,
        )
        for one, doubt in plan.aside[:MAX_NAMED_ASIDE]
    ]
    gone = () if is_dry_run else tuple(one.id[:SHORT_ID_LENGTH] for one in named)
    return ForgetResult(
        kept=plan.kept,
        removed=0 if is_dry_run else len(removals),
        removed_snapshots=gone,
        dry_run=is_dry_run,
        to_go=len(removals) if is_dry_run else 0,
        snapshots_to_go=tuple(map(_name, named)) if is_dry_run else (),
        set_aside=len(plan.aside),
        snapshots_set_aside=tuple(aside),
    )


def describe_aside(plan: Plan) -> str | None:
    """Describe what was set aside in one line; None when nothing was."""
    if not plan.aside:
        return None
    counts = Counter(doubt for _, doubt in plan.aside)
    reasons = "; ".join(f"{count}: {doubt}" for doubt, count in counts.most_common())
    aside = render_count(len(plan.aside), "snapshot")
    were = "was" if len(plan.aside) == 1 else "were"
    return f"{aside} {were} set aside, neither counted nor removed ({reasons})"


def describe(one: Listed) -> str:
    """Name a snapshot for the log."""
    time = "at an unreadable time" if one.time is None else f"of {one.time:%Y-%m-%d %H:%M:%S %z}"
    return f"{one.id[:SHORT_ID_LENGTH]} {time} on {one.hostname}"


def _list(dated: Sequence[Dated]) -> tuple[Listed, ...]:
    return tuple(Listed(id=one.id, hostname=one.hostname, time=one.time) for one in dated)


def _name(one: Listed) -> SnapshotToGo:
    return SnapshotToGo(
        id=one.id[:SHORT_ID_LENGTH], time=_normalise(one.time), hostname=one.hostname
    )


def _normalise(time: datetime | None) -> datetime | None:
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:
        return None  # the year 1 in Tokyo is before all time in UTC
