"""The options that say how restic backs up, for a source and for a single job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class CompressionChoice(StrEnum):
    """What `--compression` takes; the contract's `Compression`."""

    AUTO = "auto"
    OFF = "off"
    MAX = "max"


class IoClassChoice(StrEnum):
    """What `--ionice` takes; the contract's `IoClass`."""

    BEST_EFFORT = "best-effort"
    IDLE = "idle"


ExcludeFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-file", metavar="FILE", help="Of the host, a pattern in each line. Repeatable."
    ),
]
LargerThan = Annotated[
    str | None, typer.Option("--exclude-larger-than", metavar="SIZE", help="Like 500M or 2G.")
]
LimitUpload = Annotated[
    int | None, typer.Option("--limit-upload", min=1, metavar="N", help="In KiB a second.")
]
LimitDownload = Annotated[
    int | None, typer.Option("--limit-download", min=1, metavar="N", help="In KiB a second.")
]
CompressionOption = Annotated[
    CompressionChoice | None,
    typer.Option("--compression", help="In a repository of format 2; default auto."),
]
Nice = Annotated[
    int | None,
    typer.Option("--nice", min=0, max=19, metavar="N", help="Priority: 19 is the least."),
]
IoNice = Annotated[
    IoClassChoice | None, typer.Option("--ionice", help="Which turn at the disk it takes.")
]
DumpName = Annotated[
    str | None,
    typer.Option(
        "--dump", metavar="NAME", help="A dump command in the agent's settings, instead of paths."
    ),
]
