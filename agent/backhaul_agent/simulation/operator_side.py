"""The operator of a simulated fleet: makes what it needs, changes it now and then, removes it.

Everything that it makes can be told from what is real: hosts by their label, the repositories by
their location, the source by its name.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import nacl.public

from backhaul.async_client import AsyncClient
from backhaul.errors import ApiError, BackhaulError, NotFoundError
from backhaul.wire.accounts import CreateEnrollmentToken
from backhaul.wire.agents import EnrollReply, EnrollRequest, HostFacts
from backhaul.wire.fleet import CreateRepository, CreateSource, Host
from backhaul.wire.jobs import ACTIVE_STATES, REVIVED_STATES, Job
from backhaul.wire.kinds import BackupRequest, Retention
from backhaul.wire.schedules import Schedule, UpdateSchedule
from backhaul_agent.backoff import Backoff
from backhaul_agent.clock import Clock
from backhaul_agent.errors import LinkLostError
from backhaul_agent.identity import Identity
from backhaul_agent.simulation.figures import Figures
from backhaul_agent.simulation.ledger import Ledger
from backhaul_agent.simulation.link import LightLink, Target
from backhaul_agent.simulation.schedules import HOSTS_PER_REPOSITORY, draw_schedules

T = TypeVar("T")

LABEL = "backhaul-simulated"
AT_ONCE = 16
"""Requests of the operator, and hosts that enrol."""
TOKENS = AT_ONCE
"""Hosts that join with the same token wait for each other."""
TOKEN_LIFETIME_S = 4 * 3600.0
ENROLMENT_ATTEMPTS = 8
LOGS_READ = 50
"""Jobs whose log is read again at the end, line by line."""
_UNFINISHED = ACTIVE_STATES - REVIVED_STATES


@dataclass(frozen=True)
class Plan:
    """What to make."""

    prefix: str
    agents: int
    per_day: float | None
    speed: float
    seed: int

    @property
    def source(self) -> str:
        return source_of(self.prefix)

    @property
    def probe_repository(self) -> str:
        """No upkeep makes the operator's own jobs wait there."""
        return f"{self.prefix}-probes"

    @property
    def repositories(self) -> list[str]:
        count = -(-self.agents // HOSTS_PER_REPOSITORY)
        return [f"{self.prefix}-{number:03}" for number in range(count)]

    def host(self, number: int) -> str:
        return f"{self.prefix}-{number:05}"


def source_of(prefix: str) -> str:
    """Name the source of all schedules."""
    return f"{prefix}-data"


def location_of(prefix: str, name: str) -> str:
    """Tell where a repository that does not exist is said to be."""
    return f"/nonexistent/backhaul-simulated/{prefix}/{name}"


class SimulationOperator:
    """Uses the API as every operator does."""

    def __init__(self, client: AsyncClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    # What is there ---------------------------------------------------------------------------

    async def count_hosts(self) -> tuple[int, int]:
        """Count the hosts that simulations with this prefix made, and those that none made."""
        counts: Counter[str | None] = Counter()
        async for host in self._client.list_hosts():
            counts[host.labels.get(LABEL)] += 1
        return counts[self._prefix], counts[None]

    async def has_leftovers(self) -> bool:
        """Tell whether a simulation was ended before it had hosts."""
        try:
            await self._client.get_source(source_of(self._prefix))
        except NotFoundError:
            return False
        return True

    async def list_own(self) -> list[Host]:
        return [host async for host in self._client.list_hosts(labels={LABEL: self._prefix})]

    # Making ----------------------------------------------------------------------------------

    async def prepare(self, plan: Plan) -> None:
        """Make the repositories and the source."""
        await self._client.create_source(
            CreateSource(
                name=plan.source,
                paths=("/srv", "/var/lib"),
                retention=Retention(keep_daily=7, keep_weekly=5, keep_monthly=12),
            )
        )

        async def make(name: str) -> None:
            location = location_of(plan.prefix, name)
            await self._client.create_repository(
                CreateRepository(name=name, location=location, password=secrets.token_urlsafe())
            )

        await do_all(make, [*plan.repositories, plan.probe_repository])

    async def enrol(
        self,
        plan: Plan,
        target: Target,
        figures: Figures,
        *,
        clock: Clock,
        facts: HostFacts,
        on_host: Callable[[], None],
    ) -> list[Identity]:
        """Let all hosts join, with tokens that serve for many."""
        tokens = [
            await self._make_token(plan, uses=len(range(begin, plan.agents, TOKENS)))
            for begin in range(min(TOKENS, plan.agents))
        ]
        joined: dict[int, Identity] = {}
        link = LightLink(target, figures)

        async def join(number: int) -> None:
            key = nacl.public.PrivateKey.generate()
            request = EnrollRequest(
                enrollment_token=tokens[number % TOKENS],
                public_key=bytes(key.public_key),
                facts=facts,
                name=plan.host(number),
            )
            reply = await ask_to_join(link, request, figures, clock)
            joined[number] = Identity(
                server_url="",
                ca_file=None,
                host_id=reply.host_id,
                name=reply.name,
                agent_token=reply.agent_token,
                private_key=bytes(key),
                signing_key=reply.signing_key,
            )
            on_host()

        try:
            await do_all(join, range(plan.agents))
        finally:
            await link.close()
        return [joined[number] for number in range(plan.agents)]

    async def _make_token(self, plan: Plan, *, uses: int) -> str:
        made = await self._client.create_enrollment_token(
            CreateEnrollmentToken(
                expires_in=TOKEN_LIFETIME_S, uses=uses, labels={LABEL: plan.prefix}
            )
        )
        return made.token

    async def schedule(self, plan: Plan, on_host: Callable[[], None]) -> None:
        """Give every host its schedules."""
        repositories = plan.repositories

        async def give(number: int) -> None:
            dice = random.Random(f"{plan.seed}/schedules/{number}")  # noqa: S311 (a draw)
            wanted = draw_schedules(
                dice,
                per_day=plan.per_day,
                speed=plan.speed,
                repository=repositories[number // HOSTS_PER_REPOSITORY],
                source=plan.source,
                is_upkeep_host=number % HOSTS_PER_REPOSITORY == 0,
            )
            for request in wanted:
                await self._client.create_schedule(plan.host(number), request)
            on_host()

        await do_all(give, range(plan.agents))

    # Meanwhile -------------------------------------------------------------------------------

    async def post_job(self, plan: Plan, host: str, ledger: Ledger) -> None:
        """Make a job on a host, as somebody would who wants a backup now.

        Raises:
            BackhaulError: see there.
        """
        since_s = ledger.clock_s()
        job = await self._client.create_job(
            BackupRequest(host=host, repository=plan.probe_repository, source=plan.source)
        )
        ledger.note_post(job.id, since_s=since_s)

    async def edit(self, schedule_id: UUID, max_duration_s: float) -> None:
        """Change something of a schedule that moves none of its slots.

        Raises:
            BackhaulError: see there.
        """
        await self._client.update_schedule(schedule_id, UpdateSchedule(max_duration=max_duration_s))

    # The end ---------------------------------------------------------------------------------

    async def has_unfinished(self, hosts: frozenset[UUID], since: datetime) -> bool:
        """Tell whether a job of these hosts is not over."""
        async for job in self._client.list_jobs(states=_UNFINISHED, since=since):
            if job.host_id in hosts:
                return True
        return False

    async def list_jobs(self, hosts: frozenset[UUID], since: datetime) -> list[Job]:
        return [job async for job in self._client.list_jobs(since=since) if job.host_id in hosts]

    async def list_schedules(self, hosts: frozenset[UUID]) -> list[Schedule]:
        return [one async for one in self._client.list_schedules() if one.host_id in hosts]

    async def list_behind(self, hosts: frozenset[UUID]) -> list[str]:
        """List those of these hosts that do not follow their schedules."""
        own = await self.list_own()
        return [host.name for host in own if host.id in hosts and host.drift is not None]

    async def find_gaps(self, jobs: Sequence[Job], dice: random.Random) -> list[str]:
        """Read the logs of some jobs; each gap is a line for people."""
        found = []
        for job in dice.sample(jobs, min(LOGS_READ, len(jobs))):
            attempts: dict[int, list[int]] = {}
            async for line in self._client.get_job_log(job.id):
                attempts.setdefault(line.attempt, []).append(line.seq)
            found += [
                f"the log of job {job.id}, attempt {attempt}, has a gap"
                for attempt, numbers in attempts.items()
                if numbers != list(range(len(numbers)))
            ]
        return found

    async def clean(self) -> int:
        """Remove all that simulations with this prefix made. Gives the number of hosts."""
        async for token in self._client.list_enrollment_tokens():
            if token.labels.get(LABEL) == self._prefix:
                await self._client.revoke_enrollment_token(token.id)
        hosts = await self.list_own()
        own = {host.id for host in hosts}
        schedules = [one.id async for one in self._client.list_schedules() if one.host_id in own]

        async def remove_schedule(schedule_id: UUID) -> None:
            with suppress(NotFoundError):
                await self._client.delete_schedule(schedule_id)

        async def remove_host(host: Host) -> None:
            with suppress(NotFoundError):
                await self._client.remove_host(host.id, force=True)

        await do_all(remove_schedule, schedules)
        await do_all(remove_host, hosts)
        async for repository in self._client.list_repositories():
            if repository.location == location_of(self._prefix, repository.name):
                await self._client.remove_repository(repository.id)
        with suppress(NotFoundError):
            await self._client.remove_source(source_of(self._prefix))
        return len(hosts)


async def ask_to_join(
    link: LightLink, request: EnrollRequest, figures: Figures, clock: Clock
) -> EnrollReply:
    """Ask until the server answers: it knows the same request again.

    Raises:
        LinkError: it refuses, or does not answer for long.
    """
    backoff = Backoff()
    for _ in range(ENROLMENT_ATTEMPTS - 1):
        try:
            return await link.enroll(request)
        except LinkLostError as lost:
            figures.count_error("enrolment", lost.loss.value)
            await clock.sleep(backoff.delay_after(lost))
    return await link.enroll(request)


async def do_all(do: Callable[[T], Awaitable[None]], things: Iterable[T]) -> None:
    """Do something for each of many things, a few at once; the first error ends it."""
    left = iter(things)

    async def work() -> None:
        for thing in left:
            await do(thing)

    workers = [asyncio.ensure_future(work()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def describe_failure(error: BackhaulError) -> str:
    """Name an error of the operator's, for the count."""
    return type(error).__name__ if not isinstance(error, ApiError) else str(error.problem.status)
