"""New jobs that go to parked polls with their commit: the same answer as by a look, and never a job
that was not committed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import nacl.public
import pytest
import sqlalchemy as sa
from litestar import Litestar
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul.wire.agents import PollReply
from backhaul.wire.commands import CommandAck, CommandRun
from backhaul.wire.jobs import Outcome
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleFire
from backhaul_api.db.changes import Touched
from backhaul_api.db.engine import Database
from backhaul_api.db.tables import hosts, repositories, repository_secrets
from backhaul_api.errors import NotReadyError
from backhaul_api.jobs import turns
from backhaul_api.jobs.store import NewJob
from backhaul_api.polling.handover import offer
from backhaul_api.polling.looks import Looks, Seen
from backhaul_api.repositories import secrets
from backhaul_api.services import Services
from tests.fakes.clock import START
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_job,
    add_repository,
    add_schedule,
    add_source,
    read_commands,
)
from tests.fakes.served import serve
from tests.fakes.statements import fail_at, watch_statements

Enrol = Callable[..., Awaitable[FakeAgent]]

HOLD_S = 20.0
PATIENCE_S = 20.0
SHORT_S = 0.2
JOB = {"kind": "backup", "host": "web1", "repository": "nas", "paths": ["/etc"]}
SLOT = START.replace(microsecond=0)


@pytest.fixture
async def server(
    app: Litestar, operator: httpx.AsyncClient, services: Services
) -> AsyncIterator[str]:
    """Serve an app with repositories and a source, which hears of every change; gives its URL."""
    await add_repository(operator)
    await add_repository(operator, name="cloud")
    await add_source(operator, retention={"keep_daily": 7})
    services.wakeups.memory.is_trusted = True
    async with serve(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def enrol(server: str, services: Services) -> AsyncIterator[Enrol]:
    """Give what enrols a host of a name, which says hello over a real socket."""
    enrolled: list[FakeAgent] = []

    async def enrol(name: str = "web1") -> FakeAgent:
        enrolled.append(agent := await add_agent(services, server, name=name))
        await agent.say_hello()
        return agent

    yield enrol
    for agent in enrolled:
        await agent.client.aclose()


@pytest.fixture
async def agent(enrol: Enrol) -> FakeAgent:
    return await _quieten(await enrol())


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Tell whose polls have looked."""
    looked: list[UUID] = []
    take = Looks.take

    async def note(self: Looks, poll: Any) -> Seen:
        looked.append(poll.host_id)
        return await take(self, poll)

    monkeypatch.setattr(Looks, "take", note)
    return looked


class BoxesMade:
    """How many boxes were made, and not taken from those that are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.one_is_made = threading.Event()


@pytest.fixture
async def newcomer(
    operator: httpx.AsyncClient, agent: FakeAgent, enrol: Enrol, services: Services
) -> FakeAgent:
    """Give a host that has no box yet of a repository that the server knows."""
    await _make_known(operator, agent, services)
    return await _quieten(await enrol("db1"))


@pytest.fixture
def boxes(newcomer: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> BoxesMade:
    """Count the boxes from here on."""
    made = BoxesMade()

    class Counted(nacl.public.SealedBox[Any]):
        def encrypt(self, *arguments: Any, **options: Any) -> bytes:
            box = super().encrypt(*arguments, **options)
            made.count += 1
            made.one_is_made.set()
            return box

    monkeypatch.setattr(nacl.public, "SealedBox", Counted)
    return made


async def _make_known(operator: httpx.AsyncClient, agent: FakeAgent, services: Services) -> None:
    """Let the server learn what opens the repository, with a job that comes to its end."""
    [parked] = await _park_quiet(services, agent)
    job_id = await add_job(operator)
    await _wait(parked)
    await agent.send(*_report(job_id))


async def _quieten(agent: FakeAgent, **poll: Any) -> FakeAgent:
    """Have a host poll and find nothing."""
    assert (await agent.poll(**poll)).envelopes == ()
    return agent


async def _park(
    services: Services, *agents: FakeAgent, **poll: Any
) -> list[asyncio.Task[PollReply]]:
    before = services.wakeups.waiting
    parked = [asyncio.create_task(agent.poll(**{"hold": HOLD_S, **poll})) for agent in agents]
    async with asyncio.timeout(PATIENCE_S):
        while services.wakeups.waiting < before + len(agents):
            assert not any(one.done() for one in parked), "a poll was answered"
            await asyncio.sleep(0.005)
    return parked


async def _park_quiet(services: Services, agent: FakeAgent) -> list[asyncio.Task[PollReply]]:
    """Park a poll, perhaps after a look, as that of a quiet host."""
    parked = await _park(services, agent)
    async with asyncio.timeout(PATIENCE_S):
        while not services.wakeups.takes_news(agent.host_id):
            await asyncio.sleep(0.005)
    return parked


async def _wait(parked: asyncio.Task[PollReply]) -> Sequence[msgspec.Raw]:
    reply = await asyncio.wait_for(parked, 5)
    assert reply.pause == 0.0
    return reply.envelopes


def _read(envelopes: Sequence[msgspec.Raw]) -> list[Any]:
    return [msgspec.json.decode(bytes(raw)) for raw in envelopes]


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "backup", "paths": ["/etc"], "tags": ["by-hand"], "exclude_caches": True},
        {"kind": "backup", "source": "etc"},
        {"kind": "snapshots"},
        {"kind": "stats"},
        {"kind": "restore", "snapshot": "a" * 64, "target": "/tmp/restored"},
        {"kind": "unlock"},
        {"kind": "diff", "snapshot": "a" * 64, "other": "b" * 64},
    ],
    ids=lambda request: request["kind"],
)
async def test_job_is_handed_over_as_a_look_would_find_it(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    looks: list[UUID],
    request_: dict[str, Any],
) -> None:
    [parked] = await _park(services, agent)
    job_id = await add_job(operator, **request_)
    told = await _wait(parked)
    assert looks == []

    found = (await agent.poll()).envelopes
    assert looks == [agent.host_id]
    assert _read(told) == _read(found)
    [command] = read_commands(await agent.poll())
    assert isinstance(command, CommandRun)
    assert command.job_id == job_id


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "check"},
        {"kind": "prune"},
        {"kind": "forget", "source": "etc"},
        {"kind": "copy", "destination": "cloud"},
        {"kind": "unlock", "remove_all": True},
    ],
    ids=lambda request: request["kind"],
)
async def test_job_that_needs_more_than_most_is_looked_for(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    looks: list[UUID],
    request_: dict[str, Any],
) -> None:
    [parked] = await _park(services, agent)
    await add_job(operator, **request_)

    assert len(await _wait(parked)) == 1
    assert looks == [agent.host_id]


async def test_repository_that_is_known_is_not_asked_for_again(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    opened, counts = [], []
    for _ in range(2):
        [parked] = await _park_quiet(services, agent)
        with watch_statements(services.database) as asked:
            job_id = await add_job(operator)
            [raw] = await _wait(parked)
        opened.append(agent.unseal(msgspec.json.decode(bytes(raw), type=CommandRun)))
        counts.append(sum("FROM repository_secrets" in statement for statement in asked))
        await agent.send(*_report(job_id))

    assert counts == [1, 0]
    assert opened[0] == opened[1]


async def test_change_of_a_repository_is_in_the_next_job(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, looks: list[UUID]
) -> None:
    locations = []
    for location in ("/srv/restic/nas", "/srv/restic/moved"):
        answer = await operator.patch("/v1/repositories/nas", json={"location": location})
        assert answer.status_code == 200, answer.text
        [parked] = await _park_quiet(services, agent)
        looks.clear()
        job_id = await add_job(operator)
        [raw] = await _wait(parked)
        command = msgspec.json.decode(bytes(raw), type=CommandRun)
        locations.append(agent.unseal(command).location)
        assert looks == []
        await agent.send(*_report(job_id))

    assert locations == ["/srv/restic/nas", "/srv/restic/moved"]


async def test_change_that_another_instance_made_is_in_the_next_job(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    """This one has not heard of it yet."""
    await _make_known(operator, agent, services)
    other = Database(services.database.url.render_as_string(hide_password=False))
    async with other.writing() as connection:
        repository_id = await connection.scalar(
            sa.select(repositories.c.id).where(repositories.c.name == "nas")
        )
        assert repository_id is not None
        moved = {"location": "/srv/restic/moved"}
        await secrets.save(connection, services.keys, repository_id, moved, now=START)
        later = sa.update(repositories).values(updated_at=START + timedelta(seconds=1))
        await connection.execute(later)
    await other.close()
    [parked] = await _park_quiet(services, agent)
    await add_job(operator)
    [raw] = await _wait(parked)

    command = msgspec.json.decode(bytes(raw), type=CommandRun)
    assert agent.unseal(command).location == "/srv/restic/moved"


async def test_jobs_are_looked_for_while_another_keeps_them_waiting(
    enrol: Enrol,
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    looks: list[UUID],
) -> None:
    checking = await enrol("nas1")
    ways = []
    check_id: UUID | None = None
    for has_check in (False, True, False):
        if has_check:
            check_id = await add_job(operator, kind="check", host="nas1")
        elif check_id is not None:
            await checking.send(*_report(check_id))
        [parked] = await _park_quiet(services, agent)
        looks.clear()
        # What an operator asks for does not let a check go first that has not begun.
        job_id = await add_job(operator)
        assert len(await _wait(parked)) == 1
        ways.append(len(looks))
        await agent.send(*_report(job_id))

    assert ways == [0, 1, 0]


async def test_job_of_a_fire_is_handed_over(
    enrol: Enrol, operator: httpx.AsyncClient, services: Services, looks: list[UUID]
) -> None:
    agent = await enrol()
    schedule = await add_schedule(operator, start_deadline=3600, max_duration=7200)
    await _quieten(agent, schedule_version=1)
    [parked] = await _park(services, agent, schedule_version=1)
    looks.clear()
    fire = ScheduleFire(schedule_id=UUID(schedule["id"]), scheduled_at=SLOT, fired_at=START)
    [receipt] = await agent.send(fire)
    told = await _wait(parked)
    assert looks == []

    found = await agent.poll(schedule_version=1)
    assert _read(told) == _read(found.envelopes)
    [command] = read_commands(found)
    assert isinstance(command, CommandRun)
    assert command.job_id == receipt.job_id
    assert command.max_duration == 7200


async def test_each_host_of_a_broadcast_gets_its_own_job(
    enrol: Enrol,
    operator: httpx.AsyncClient,
    services: Services,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backhaul_api.polling.handover.AT_ONCE", 3)
    agents = [await _quieten(await enrol(f"web{number}")) for number in range(10)]
    looks.clear()
    parked = await _park(services, *agents)
    wanted = [{**JOB, "host": agent.name} for agent in agents]
    answer = await operator.post("/v1/jobs/batch", json={"jobs": wanted})
    assert answer.status_code == 201, answer.text
    told = [await _wait(one) for one in parked]

    commands = [msgspec.json.decode(bytes(one), type=CommandRun) for [one] in told]
    assert [str(command.job_id) for command in commands] == answer.json()["ids"]
    opened = [agent.unseal(one) for agent, one in zip(agents, commands, strict=True)]
    assert {one.password for one in opened} == {"a password of its own"}
    assert looks == []


async def test_several_jobs_of_one_host_are_looked_for(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, looks: list[UUID]
) -> None:
    """What goes first is decided in one place."""
    [parked] = await _park(services, agent)
    restore = {
        "kind": "restore",
        "host": "web1",
        "repository": "nas",
        "snapshot": "a" * 64,
        "target": "/tmp/restored",
    }
    await operator.post("/v1/jobs/batch", json={"jobs": [JOB, restore]})
    told = await _wait(parked)

    kinds = [msgspec.json.decode(bytes(raw), type=CommandRun).kind for raw in told]
    assert kinds == ["restore", "backup"]
    assert looks == [agent.host_id]


async def test_job_whose_turn_it_is_not_is_not_handed_over(
    enrol: Enrol, operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    pruning = await enrol("nas1")
    prune_id = await add_job(operator, kind="prune", host="nas1")
    await pruning.accept(prune_id)
    [parked] = await _park(services, agent, hold=SHORT_S)
    await add_job(operator)

    assert await _wait(parked) == ()


async def test_job_whose_credentials_do_not_open_is_not_handed_over(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    async with services.database.writing() as connection:
        await connection.execute(sa.update(repository_secrets).values(ciphertext=b"x" * 60))
    [parked] = await _park(services, agent, hold=SHORT_S)
    job_id = await add_job(operator)

    assert await _wait(parked) == ()
    assert (await operator.get(f"/v1/jobs/{job_id}")).json()["state"] == "queued"


async def test_job_that_is_not_committed_is_told_to_nobody(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered: list[NewJob] = []

    def fail_after(connection: AsyncConnection, new: list[NewJob], **fields: Any) -> None:
        offer(connection, new, **fields)
        offered.extend(new)
        raise NotReadyError("The database is away.")

    [parked] = await _park(services, agent, hold=SHORT_S)
    monkeypatch.setattr("backhaul_api.jobs.creation.offer", fail_after)
    answer = await operator.post("/v1/jobs", json=JOB)

    assert answer.status_code == 503
    assert [job.host_id for job in offered] == [agent.host_id]
    assert await _wait(parked) == ()


async def test_box_is_made_while_the_commit_is_under_way(
    operator: httpx.AsyncClient,
    newcomer: FakeAgent,
    services: Services,
    boxes: BoxesMade,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_before: list[int] = []
    tell = services.database.on_changes

    def note(touched: Touched) -> None:
        made_before.append(boxes.count)
        tell(touched)

    def wait(statement: str, _: object) -> None:
        # In the thread of the commit. PostgreSQL's is asked in the loop, which then goes on.
        if statement == "COMMIT" and services.database.is_sqlite:
            boxes.one_is_made.wait(PATIENCE_S)

    [parked] = await _park_quiet(services, newcomer)
    monkeypatch.setattr(services.database, "on_changes", note)
    with watch_statements(services.database, wait):
        await add_job(operator, host=newcomer.name)

    assert len(await _wait(parked)) == 1
    assert made_before == [1]
    assert boxes.count == 1


async def test_commit_that_fails_tells_nobody_though_the_box_is_made(
    operator: httpx.AsyncClient, newcomer: FakeAgent, services: Services, boxes: BoxesMade
) -> None:
    [parked] = await _park_quiet(services, newcomer)
    with watch_statements(services.database, fail_at("COMMIT")):
        answer = await operator.post("/v1/jobs", json={**JOB, "host": newcomer.name})
    is_told = parked.done()
    services.wakeups.drain()

    assert answer.status_code == 500
    assert boxes.count == 1
    assert not is_told
    assert (await asyncio.wait_for(parked, PATIENCE_S)).envelopes == ()
    queued = await operator.get("/v1/jobs", params={"state": "queued"})
    assert queued.json()["items"] == []


async def test_failure_of_the_short_way_leaves_the_job_to_a_look(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    [parked] = await _park(services, agent)
    monkeypatch.setattr("backhaul_api.polling.handover.build_command", fail)
    await add_job(operator)

    assert len(await _wait(parked)) == 1
    assert looks == [agent.host_id]


async def test_host_that_is_woken_meanwhile_looks_by_itself(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    looks: list[UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def wake_before(connection: AsyncConnection, repository_id: UUID) -> bool:
        services.wakeups.wake(agent.host_id)
        return await has_exclusive(connection, repository_id)

    has_exclusive = turns.has_exclusive
    [parked] = await _park(services, agent)
    monkeypatch.setattr(turns, "has_exclusive", wake_before)
    job_id = await add_job(operator)
    [raw] = await _wait(parked)

    assert msgspec.json.decode(bytes(raw), type=CommandRun).job_id == job_id
    assert looks == [agent.host_id]


async def test_poll_that_has_gone_meanwhile_leaves_the_job_to_the_next(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang_up_before(connection: AsyncConnection, repository_id: UUID) -> bool:
        parked.cancel()
        while services.wakeups.waiting:
            await asyncio.sleep(0.005)
        told.set()
        return await has_exclusive(connection, repository_id)

    has_exclusive = turns.has_exclusive
    told = asyncio.Event()
    [parked] = await _park(services, agent)
    monkeypatch.setattr(turns, "has_exclusive", hang_up_before)
    job_id = await add_job(operator)
    await asyncio.wait_for(told.wait(), 5)

    [command] = read_commands(await agent.poll())
    assert isinstance(command, CommandRun)
    assert command.job_id == job_id


@pytest.mark.parametrize("delay_s", [0.0, 0.1], ids=["at-once", "slowly"])
async def test_job_that_is_committed_during_a_look_is_found_by_the_next(
    operator: httpx.AsyncClient,
    enrol: Enrol,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    delay_s: float,
) -> None:
    agent, made = await enrol(), list[UUID]()
    take, has_exclusive = Looks.take, turns.has_exclusive

    async def make_after(self: Looks, poll: Any) -> Seen:
        seen = await take(self, poll)
        if not made:
            made.append(agent.host_id)
            made.append(await add_job(operator))
        return seen

    async def learn_late(connection: AsyncConnection, repository_id: UUID) -> bool:
        await asyncio.sleep(delay_s)
        return await has_exclusive(connection, repository_id)

    monkeypatch.setattr(turns, "has_exclusive", learn_late)
    monkeypatch.setattr(Looks, "take", make_after)
    [command] = read_commands(await asyncio.wait_for(agent.poll(hold=HOLD_S), 5))

    assert isinstance(command, CommandRun)
    assert command.job_id == made[1]
    assert services.wakeups.waiting == 0


async def test_repository_of_which_nothing_is_heard_holds_up_no_other(
    operator: httpx.AsyncClient,
    enrol: Enrol,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = [await _quieten(await enrol(name)) for name in ("web1", "web2")]
    [parked] = await _park(services, second)
    job_id = await add_job(operator, host="web2", repository="cloud")
    await _wait(parked)
    await second.send(*_report(job_id))
    [parked_second] = await _park_quiet(services, second)
    [parked_first] = await _park(services, first)

    async def hear_nothing(*_: object) -> bool:
        await asyncio.sleep(HOLD_S)
        raise AssertionError("it was waited for")

    monkeypatch.setattr(turns, "has_exclusive", hear_nothing)
    monkeypatch.setattr("backhaul_api.polling.handover.LEARNING_LIMIT_S", SHORT_S)
    await add_job(operator, host="web1", repository="nas")
    await add_job(operator, host="web2", repository="cloud")
    done, _ = await asyncio.wait(
        [parked_first, parked_second], timeout=5, return_when=asyncio.FIRST_COMPLETED
    )

    assert done == {parked_second}
    assert len(await _wait(parked_second)) == len(await _wait(parked_first)) == 1


async def test_newer_poll_of_a_host_ends_the_older_while_both_look(
    operator: httpx.AsyncClient,
    enrol: Enrol,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pruning, agent = await enrol("nas1"), await enrol()
    await pruning.accept(await add_job(operator, kind="prune", host="nas1"))
    await add_job(operator)  # it waits, so the host is not quiet
    begun, both = list[int](), asyncio.Event()
    take = Looks.take

    async def take_together(self: Looks, poll: Any) -> Seen:
        begun.append(1)
        if len(begun) == 2:
            both.set()
        await both.wait()
        return await take(self, poll)

    monkeypatch.setattr(Looks, "take", take_together)
    older = asyncio.create_task(agent.poll(hold=HOLD_S))
    async with asyncio.timeout(PATIENCE_S):
        while not begun:
            await asyncio.sleep(0.005)
    newer = asyncio.create_task(agent.poll(hold=HOLD_S))
    await asyncio.wait([older, newer], timeout=5, return_when=asyncio.FIRST_COMPLETED)

    assert (older.done(), newer.done()) == (True, False)
    newer.cancel()
    await asyncio.wait([newer])


@pytest.mark.parametrize("ending", ["stop", "hang-up"])
async def test_poll_that_ends_during_its_look_is_not_parked(
    agent: FakeAgent, services: Services, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    take, is_over = Looks.take, asyncio.Event()

    async def end_after(self: Looks, poll: Any) -> Seen:
        seen = await take(self, poll)
        if ending == "stop":
            services.wakeups.drain()
        else:
            polling.cancel()
            async with asyncio.timeout(PATIENCE_S):
                while not poll.client.has_hung_up():
                    await asyncio.sleep(0.005)
        is_over.set()
        return seen

    services.wakeups.wake(agent.host_id)  # what is known of it is old
    monkeypatch.setattr(Looks, "take", end_after)
    polling = asyncio.create_task(agent.poll(hold=HOLD_S))
    await asyncio.wait_for(is_over.wait(), 5)
    await asyncio.wait([polling], timeout=5)

    assert polling.done()
    async with asyncio.timeout(PATIENCE_S):
        while services.wakeups.waiting:
            await asyncio.sleep(0.005)


async def test_host_gets_the_next_job_as_well_while_its_poll_waits_again(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, looks: list[UUID]
) -> None:
    """A poll that has looked, and found nothing, waits as that of a quiet host from then on."""
    for _ in range(2):
        [parked] = await _park_quiet(services, agent)
        looks.clear()
        job_id = await add_job(operator)
        assert len(await _wait(parked)) == 1
        assert looks == []
        await agent.send(*_report(job_id))


def _report(job_id: UUID) -> Sequence[object]:
    return (
        CommandAck(job_id=job_id, is_accepted=True),
        JobStarted(job_id=job_id, attempt=1, at=START),
        JobFinished(
            job_id=job_id,
            attempt=1,
            at=START,
            outcome=Outcome.SUCCEEDED,
            log_lines=0,
            exit_code=0,
        ),
    )


async def test_host_that_was_removed_gets_no_job_of_a_fire(
    enrol: Enrol, operator: httpx.AsyncClient, services: Services
) -> None:
    """Another instance has removed it, and this one has not heard of that yet."""
    agent = await enrol()
    schedule = await add_schedule(operator)
    await _quieten(agent, schedule_version=1)
    [parked] = await _park(services, agent, schedule_version=1)
    async with services.database.writing() as connection:
        await connection.execute(sa.update(hosts).values(removed_at=START))
    fire = ScheduleFire(schedule_id=UUID(schedule["id"]), scheduled_at=SLOT, fired_at=START)
    await agent.send(fire)

    with pytest.raises(AssertionError, match="host-removed"):
        await asyncio.wait_for(parked, 5)
