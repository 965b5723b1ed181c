"""What makes a schedule acceptable, and when it fires. Touches neither HTTP nor SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from uuid import UUID
from zoneinfo import ZoneInfo

from backhaul.cron import Cron, CronError, build_hash_key, draw_jitter, parse_cron
from backhaul.wire.fleet import Host, Repository, Source
from backhaul.wire.kinds import JobKind, ScheduleOptions, find_options_type, kind_of
from backhaul.wire.schedules import (
    CreateSchedule,
    Schedule,
    ScheduleKind,
    UpcomingFire,
    WhenUnreachable,
)
from backhaul_api.errors import InvalidError
from backhaul_api.repositories.rules import UPKEEP_KINDS, Access, check_place
from backhaul_api.sources.rules import require_keep_rule

KINDS_WITH_SOURCE = frozenset({ScheduleKind.BACKUP, ScheduleKind.FORGET})
KINDS_THAT_MAY_HAVE_SOURCE = frozenset({ScheduleKind.COPY})

_parse = lru_cache(maxsize=4)(parse_cron)
"""What a new schedule is checked with also tells when it fires."""

_ENTITY_TAG = re.compile(r'(?:W/)?"[^"]*"')


def build_schedule(
    data: CreateSchedule,
    *,
    id_: UUID,
    host: Host,
    repository: Repository,
    source: Source | None,
    now: datetime,
) -> Schedule:
    """Build a new schedule from what was asked for and from what that names."""
    return Schedule(
        id=id_,
        host_id=host.id,
        host=host.name,
        kind=data.kind,
        cron=data.cron,
        timezone=data.timezone,
        enabled=data.enabled,
        repository_id=repository.id,
        repository=repository.name,
        source_id=source.id if source else None,
        source=source.name if source else None,
        catch_up=data.catch_up,
        catch_up_window=data.catch_up_window,
        jitter=data.jitter,
        start_deadline=data.start_deadline,
        max_duration=data.max_duration,
        attempts=data.attempts,
        retry_delay=data.retry_delay,
        when_unreachable=choose_when_unreachable(data.kind, data.when_unreachable),
        options=data.options,
        next_fire_at=None,
        created_at=now,
        updated_at=now,
        revision=1,
        error=None,
    )


def choose_when_unreachable(kind: ScheduleKind, asked: WhenUnreachable | None) -> WhenUnreachable:
    """Give what a schedule does without the server: a backup runs unless told to wait."""
    return asked or ("run" if kind is ScheduleKind.BACKUP else "wait")


def check_schedule(schedule: Schedule, source: Source | None) -> None:
    """Refuse a schedule that could not fire, or whose fires could not become jobs.

    Raises:
        InvalidError: names the field and the remedy.
    """
    parse(schedule.cron, schedule.timezone, hash_key=key_of(schedule))
    check_source(schedule.kind, source)
    check_options(schedule.kind, schedule.options)
    if schedule.when_unreachable == "run" and schedule.kind is not ScheduleKind.BACKUP:
        raise InvalidError.of(
            "when_unreachable",
            f"only a backup may run without the server; for {schedule.kind} write wait",
        )


def refuse_zone_of_a_machine(timezone: str) -> None:
    """Refuse a time zone that server and host would read differently.

    Raises:
        InvalidError: it is one.
    """
    if _OF_A_MACHINE.match(timezone):
        raise InvalidError.of(
            "timezone",
            f"{timezone!r} is not an IANA time zone; write one like Europe/London or UTC",
        )


_OF_A_MACHINE = re.compile(r"(localtime|posixrules|Factory)$|(posix|right)/")
"""What stands beside the zones in /usr/share/zoneinfo: the machine's own one, and copies that not
every machine has."""


def check_upkeep(schedule: Schedule, repository: Repository) -> None:
    """Refuse a schedule that deletes on any but the repository's upkeep host.

    Raises:
        InvalidError: see there.
    """
    is_upkeep = JobKind(schedule.kind) in UPKEEP_KINDS
    check_place(
        Access.ADMIN if is_upkeep else Access.EVERYDAY,
        host=schedule.host,
        repository=repository.name,
        upkeep_host=repository.upkeep_host,
    )


def check_source(kind: ScheduleKind, source: Source | None) -> None:
    """Refuse a source where none belongs, and none where one does.

    Raises:
        InvalidError: see there.
    """
    if kind in KINDS_THAT_MAY_HAVE_SOURCE:
        return
    if kind not in KINDS_WITH_SOURCE:
        if source is not None:
            raise InvalidError.of("source", f"{kind} works on the whole repository: leave it out")
        return
    if source is None:
        raise InvalidError.of("source", f"name the source to {kind}")
    if kind is ScheduleKind.FORGET:
        require_keep_rule(source)


def check_options(kind: ScheduleKind, options: ScheduleOptions | None) -> None:
    """Refuse the options of another kind.

    Raises:
        InvalidError: see there.
    """
    if options is None or kind_of(options) == JobKind(kind):
        return
    remedy = f"write {kind}" if find_options_type(kind) else "leave the options out"
    raise InvalidError.of(
        "options.kind", f"are those of a {kind_of(options)}, and this fires a {kind}: {remedy}"
    )


def parse(cron: str, timezone: str, *, hash_key: str | None) -> Cron:
    """Read an expression.

    Raises:
        InvalidError: names `cron` or `timezone`.
    """
    try:
        return _parse(cron, timezone, hash_key=hash_key)
    except CronError as error:
        raise InvalidError.of(error.what, str(error)) from error


def key_of(schedule: Schedule) -> str:
    """Build what the schedule's `H` and jitter are drawn from."""
    return build_hash_key(schedule.host_id, schedule.id)


def find_next_fire(schedule: Schedule, now: datetime) -> datetime | None:
    """Find when the schedule fires next, jitter included.

    None while it is disabled, and when this machine does not know its time zone (any more).
    """
    if not schedule.enabled:
        return None
    key = key_of(schedule)
    jitter = timedelta(seconds=draw_jitter(key, schedule.jitter))
    try:
        cron = _parse(schedule.cron, schedule.timezone, hash_key=key)
        return cron.next_after(now - jitter) + jitter
    except CronError:
        return None


def preview(cron: Cron, *, start: datetime, count: int) -> tuple[UpcomingFire, ...]:
    """List the slots from a moment on, each with the offset of its time zone then.

    A slot at the very moment counts. The list is shorter than asked for where time itself ends,
    towards the year 9999.
    """
    return tuple(
        UpcomingFire(at=render(slot, cron.zone)) for slot in islice(_slots_from(cron, start), count)
    )


def render(moment: datetime, zone: ZoneInfo) -> str:
    """Write a moment as RFC 3339 in a time zone."""
    return moment.astimezone(zone).isoformat(timespec="seconds")


def build_etag(revision: int) -> str:
    """Build the entity tag of a revision."""
    return f'"{revision}"'


def matches_etag(if_match: str | None, revision: int) -> bool:
    """Tell whether an If-Match header, if there is one, holds for a revision (RFC 9110, 13.1.1).

    Raises:
        InvalidError: it is no list of entity tags.
    """
    if if_match is None:
        return True
    tags = [tag.strip() for tag in if_match.split(",")]
    if tags == ["*"]:
        return True
    if not all(_ENTITY_TAG.fullmatch(tag) for tag in tags):
        raise InvalidError.of("If-Match", 'write the ETag as it was given, quotes too, like "3"')
    return build_etag(revision) in tags


def _slots_from(cron: Cron, moment: datetime) -> Iterator[datetime]:
    try:
        yield from cron.iterate_after(moment - timedelta(microseconds=1))
    except (CronError, OverflowError):
        return
