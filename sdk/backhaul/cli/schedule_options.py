"""The options of `backhaul schedules create` and `update` that only some kinds take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from backhaul.cli.failures import BadInputError
from backhaul.cli.values import parse_size
from backhaul.wire.kinds import CopyOptions, ScheduleOptions, find_options_type
from backhaul.wire.schedules import ScheduleKind

DataParts = Annotated[
    int | None,
    typer.Option(
        "--read-data-parts",
        metavar="N",
        min=1,
        max=256,
        help="check: read one of so many parts of the data too, each time the next.",
    ),
]

Destination = Annotated[
    str | None, typer.Option("--destination", help="copy: the repository to copy to.")
]
OfHost = Annotated[
    str | None,
    typer.Option(
        "--of-host",
        metavar="HOST",
        help="copy: only the snapshots of this host. drill: whose newest snapshot.",
    ),
]
SampleFiles = Annotated[
    int | None,
    typer.Option("--files", metavar="N", min=1, max=1000, help="drill: how many files it draws."),
]
SampleBytes = Annotated[
    str | None,
    typer.Option("--max-bytes", metavar="SIZE", help="drill: of all files together, like 2G."),
]


def build_options(
    kind: ScheduleKind, given: Mapping[str, Any], *, known: ScheduleOptions | None = None
) -> ScheduleOptions | None:
    """Build the options that the schedule's kind takes; those that are not given stay.

    Raises:
        BadInputError: one of them is none of the kind's.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if "max_bytes" in named:
        named["max_bytes"] = parse_size(named["max_bytes"], option="--max-bytes")
    if not named:
        return known
    type_ = find_options_type(kind)
    foreign = [name for name in named if type_ is None or name not in type_.__struct_fields__]
    if type_ is None or foreign:
        raise BadInputError(f"--{foreign[0].replace('_', '-')} is no option of a {kind}.")
    base = {} if known is None else msgspec.structs.asdict(known)
    if type_ is CopyOptions and "destination" not in base | named:
        raise BadInputError("Where to? Give --destination, the name of a repository.")
    return type_(**base | named)
