"""`check`: look for errors in the repository."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backhaul.wire.base import Request, Wire

ReadDataSubset = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\d{1,6}/\d{1,6}|\d{1,3}(\.\d{1,4})?%)$(?!\n)",
        examples=["1/7", "2.5%"],
        description="A part like 1/7, or a random percentage like 2.5%.",
    ),
]


ReadDataParts = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=256,
        description="Read this part of the data each time, one after the other: 7 reads 1/7, 2/7 …",
    ),
]
"""restic divides its packs by the first byte of their ids, so into 256 parts at most (0.14.0)."""


class CheckArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="check"):
    """Check the repository for errors."""

    read_data_subset: str | None = None
    """Which part of the data to read too, like `1/7` or `2.5%`; without it only the structure."""


class CheckRequest(Request, frozen=True, kw_only=True, tag_field="kind", tag="check"):
    """Check the repository for errors."""

    host: str
    repository: str
    read_data_subset: ReadDataSubset | None = None
    read_data_parts: ReadDataParts | None = None
    """Instead: the server chooses which part is next."""


class CheckResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="check"):
    """A check that found no error; one that found errors is a failed job, class `damaged`."""

    read_data_subset: str | None = None


class CheckOptions(Request, frozen=True, kw_only=True, tag_field="kind", tag="check"):
    """How a schedule checks."""

    read_data_parts: ReadDataParts | None = None
    """Without it only the structure is checked."""
