"""Jobs for many hosts in one request."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec

from backhaul.wire.base import Request, Wire
from backhaul.wire.kinds import JobRequest

MAX_JOBS_AT_ONCE = 10_000


class CreateJobs(Request, frozen=True, kw_only=True):
    """Run jobs on many hosts: all of them are made, or none."""

    jobs: Annotated[tuple[JobRequest, ...], msgspec.Meta(min_length=1, max_length=MAX_JOBS_AT_ONCE)]


class CreatedJobs(Wire, frozen=True, kw_only=True):
    """The jobs that were made."""

    ids: tuple[UUID, ...]
    """In the order of the requests."""
