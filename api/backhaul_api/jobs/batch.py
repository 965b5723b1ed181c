"""Jobs for many hosts in one request: planned one by one, read and written together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.kinds import BackupRequest, InitRequest, JobRequest, kind_of
from backhaul_api.db.references import build_key
from backhaul_api.errors import ConflictError, InvalidError, NotFoundError
from backhaul_api.identity import Actor
from backhaul_api.ids import new_id
from backhaul_api.jobs import store, targets
from backhaul_api.keys import KeyRing
from backhaul_api.kinds import plan
from backhaul_api.kinds.order import Order, Sources
from backhaul_api.names import named_in
from backhaul_api.repositories.rules import check_place, choose_access
from backhaul_api.schedules.store import share_turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Planned:
    """Jobs that are to be made, and what was read for them."""

    new: Sequence[store.NewJob]
    host_names: Mapping[UUID, str]
    public_keys: Mapping[UUID, bytes]
    """Of hosts."""
    updates: Mapping[UUID, datetime]
    """The last ones of repositories."""


async def plan_many(
    connection: AsyncConnection,
    requests: Sequence[JobRequest],
    *,
    actor: Actor,
    keys: KeyRing,
    now: datetime,
) -> Planned:
    """Plan the jobs, each as if it had been asked for alone; nothing is written yet.

    Raises:
        InvalidError: one of them is not acceptable; its field begins with `jobs[…]`.
        ConflictError: one of them cannot be done now.
    """
    await share_turn(connection)
    keys_of_hosts = [build_key(request.host) for request in requests]
    found = await targets.fetch_present_hosts(connection, keys_of_hosts)
    repositories = await _fetch_repositories(connection, requests)
    sources = Sources(connection)
    planned: dict[BackupRequest | None, store.NewJob] = {}
    new: list[store.NewJob] = []
    for number, (request, key) in enumerate(zip(requests, keys_of_hosts, strict=True)):
        if number % 100 == 0:
            await asyncio.sleep(0)  # SQLite answers without a pause, and others wait for the loop
        try:
            host = _find(found, key, "host")
            pattern = _build_pattern(request)
            if (like := planned.get(pattern)) is None:
                order = Order(
                    connection=connection,
                    now=now,
                    keys=keys,
                    host=host,
                    repository=_find(repositories, request.repository, "repository"),
                    sources=sources,
                )
                like = await _plan_one_of_many(order, request, actor=actor)
                if pattern is not None:
                    planned[pattern] = like
        except (InvalidError, ConflictError) as error:
            raise _blame(number, error) from error
        new.append(replace(like, host_id=host.id, id=new_id()))
    present = found.values()
    return Planned(
        new=new,
        host_names={host.id: host.name for host in present},
        public_keys={host.id: host.public_key for host in present},
        updates={one.id: one.updated_at for one in repositories.values()},
    )


def _build_pattern(request: JobRequest) -> BackupRequest | None:
    """Build what requests have in common whose jobs differ by nothing but their hosts."""
    if not isinstance(request, BackupRequest):
        return None
    return msgspec.structs.replace(request, host="")


async def _plan_one_of_many(order: Order, request: JobRequest, *, actor: Actor) -> store.NewJob:
    if isinstance(request, InitRequest):
        raise InvalidError.of("kind", "initialise repositories one at a time")
    return await plan_job(order, request, actor=actor)


async def plan_job(order: Order, request: JobRequest, *, actor: Actor) -> store.NewJob:
    """Plan a job that an operator wants.

    Raises:
        InvalidError: a field is not acceptable, alone or beside another.
        ConflictError: it cannot be done to this repository, or by this host.
    """
    arguments = await plan(order, request)
    check_place(
        choose_access(arguments),
        host=order.host.name,
        repository=order.repository.name,
        upkeep_host=order.repository.upkeep_host,
    )
    return store.NewJob(
        host_id=order.host.id,
        repository_id=order.repository.id,
        arguments=arguments,
        actor=actor,
    )


def describe(requests: Sequence[JobRequest]) -> str:
    """Describe the jobs for the audit log: `backup on 12 hosts, check on nas-1`."""
    hosts_of: dict[str, dict[str, None]] = {}
    for request in requests:
        hosts_of.setdefault(kind_of(request), {})[request.host] = None
    return ", ".join(
        f"{kind} on {next(iter(names)) if len(names) == 1 else f'{len(names)} hosts'}"
        for kind, names in hosts_of.items()
    )


async def _fetch_repositories(
    connection: AsyncConnection, requests: Sequence[JobRequest]
) -> dict[str, targets.TargetRepository]:
    """Fetch and lock those that there are, in one order for all who want several."""
    found: dict[str, targets.TargetRepository] = {}
    for reference in sorted({request.repository for request in requests}):
        with suppress(NotFoundError):
            found[reference] = await targets.fetch_present_repository(connection, reference)
    return found


def _find(found: Mapping[Any, T], key: UUID | str, what: str) -> T:
    try:
        return found[key]
    except KeyError as error:
        with named_in(what):
            raise NotFoundError(what, key) from error


def _blame(number: int, error: InvalidError | ConflictError) -> InvalidError | ConflictError:
    """Build the error that blames what was refused on one of the requests."""
    if isinstance(error, ConflictError):
        return ConflictError(f"jobs[{number}]: {error}")
    return InvalidError(
        *(
            msgspec.structs.replace(one, field=f"jobs[{number}].{one.field}".rstrip("."))
            for one in error.errors
        )
    )
