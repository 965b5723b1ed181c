"""backhaul schedules preview: when an expression fires, worked out here without a server.

croniter, which that takes, comes with the extra `agent`; only a schedule that exists is asked of
the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.failures import BadInputError, MissingExtraError
from backhaul.cli.output import AsJson, Column, Quiet, now, print_list
from backhaul.cli.values import parse_moment
from backhaul.wire.schedules import SchedulePreview, UpcomingFire

if TYPE_CHECKING:
    from backhaul.cron import Cron, CronError

MAX_FIRES = 1000

ANY_KEY = "any"
"""Draws some number for `H`, to see whether all else about an expression is right."""


def preview_schedule(
    cron: Annotated[
        str | None, typer.Argument(metavar="CRON", help="An expression; needs no server.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of CRON, like Europe/London. Default: UTC.")
    ] = None,
    schedule: Annotated[
        UUID | None,
        typer.Option(
            metavar="SCHEDULE_ID", help="A schedule of the server; or what H is drawn by."
        ),
    ] = None,
    host: Annotated[
        UUID | None,
        typer.Option(metavar="HOST_ID", help="With CRON and --schedule: what H is drawn by."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="MOMENT", help="With its offset. Default: now."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=MAX_FIRES, help="How many fires.")] = 10,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List when a cron expression, or a schedule, fires next. Jitter is not in it."""
    at = now()
    start = at if from_ is None else parse_moment(from_, option="--from")
    if cron is not None:
        _check_cron_is_there()
        hash_key = _build_hash_key(host, schedule)
        preview = _evaluate(cron, timezone or "UTC", hash_key, start=start, count=count)
    elif schedule is not None:
        _refuse_extras(timezone, host)
        with open_client() as client:
            preview = client.preview_schedule(schedule, start=start, count=count)
    else:
        raise BadInputError(
            'What fires? Give an expression like "30 1 * * *", or --schedule SCHEDULE_ID.'
        )
    print_list(
        preview.fires,
        _build_columns(preview, at),
        key=lambda fire: fire.at,
        empty="It does not fire.",
        as_json=as_json,
        quiet=quiet,
    )


def _refuse_extras(timezone: str | None, host: UUID | None) -> None:
    for option, value in (("--timezone", timezone), ("--host", host)):
        if value is not None:
            raise BadInputError(
                f"{option} goes with an expression: a schedule of the server has its own."
            )


def _evaluate(
    expression: str, timezone: str, hash_key: str | None, *, start: datetime, count: int
) -> SchedulePreview:
    """List the fires from a moment on; one at that very moment counts."""
    from backhaul.cron import CronError

    cron = _parse(expression, timezone, hash_key)
    try:
        slots = cron.iterate_after(start - timedelta(microseconds=1))
        fires = tuple(
            UpcomingFire(at=slot.astimezone(cron.zone).isoformat(timespec="seconds"))
            for slot in islice(slots, count)
        )
    except CronError as error:
        raise _refuse(error) from error
    except (OverflowError, ValueError) as error:
        raise BadInputError(
            f"{count} fires from {start.isoformat()} on leave the years 1 to 9999: "
            "choose another --from, or fewer with --count."
        ) from error
    return SchedulePreview(cron=expression, timezone=timezone, fires=fires)


def _parse(expression: str, timezone: str, hash_key: str | None) -> Cron:
    from backhaul.cron import CronError, parse_cron

    try:
        cron = parse_cron(expression, timezone, hash_key=hash_key or ANY_KEY)
        if hash_key is not None:
            return cron
    except CronError as error:
        raise _refuse(error) from error
    try:
        return parse_cron(expression, timezone)
    except CronError as error:  # nothing else was wrong with it
        raise BadInputError(
            "H needs a host and a schedule to be spread by: give --host HOST_ID and "
            "--schedule SCHEDULE_ID, or --schedule alone to ask the server."
        ) from error


def _refuse(error: CronError) -> BadInputError:
    name = "--timezone" if error.what == "timezone" else "CRON"
    return BadInputError(f"{name}: {error}.")


def _check_cron_is_there() -> None:
    try:
        import backhaul.cron  # noqa: F401 -- only whether it can be
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "backhaul":
            raise
        raise MissingExtraError(
            "'backhaul schedules preview' needs more packages: pip install 'backhaul[agent]'"
        ) from error


def _build_hash_key(host: UUID | None, schedule: UUID | None) -> str | None:
    from backhaul.cron import build_hash_key

    return None if host is None or schedule is None else build_hash_key(host, schedule)


def _build_columns(preview: SchedulePreview, at: datetime) -> list[Column[UpcomingFire]]:
    moments = {fire.at: datetime.fromisoformat(fire.at) for fire in preview.fires}
    changes = _find_changes(list(moments.values()))
    return [
        Column(
            f"TIME ({preview.timezone})",
            lambda fire: moments[fire.at].strftime("%Y-%m-%d %H:%M"),
            lambda _: "bold",
        ),
        Column("DAY", lambda fire: moments[fire.at].strftime("%a")),
        Column(
            "OFFSET",
            lambda fire: _render_offset(moments[fire.at]) + changes.get(moments[fire.at], ""),
            lambda fire: "yellow" if moments[fire.at] in changes else "",
        ),
        Column("WHEN", lambda fire: display.render_age(moments[fire.at], at)),
    ]


def _find_changes(moments: Sequence[datetime]) -> Mapping[datetime, str]:
    """Find the fires before which the clock was changed, and say what its offset was."""
    return {
        moment: f" (was {_render_offset(before)})"
        for before, moment in pairwise(moments)
        if before.utcoffset() != moment.utcoffset()
    }


def _render_offset(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")[19:]
