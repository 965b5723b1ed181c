"""POST /v1/agent/poll: what is due, the hold, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from litestar import Litestar

from backhaul.wire.agents import HeldJob, PollReply
from backhaul.wire.commands import CommandCancel, CommandRun
from backhaul.wire.kinds import BackupArguments
from backhaul_api.app import create_app
from backhaul_api.db.tables import hosts, jobs, repository_secrets
from backhaul_api.logs import JsonFormatter
from backhaul_api.polling import envelopes
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository, read_commands
from tests.fakes.served import send_request, serve


async def test_queued_job_is_sent_with_credentials_that_only_the_host_can_open(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    reply = await agent.poll()

    [command] = read_commands(reply)
    assert isinstance(command, CommandRun)
    assert (command.job_id, command.attempt, command.kind) == (job_id, 1, "backup")
    assert msgspec.json.decode(bytes(command.arguments), type=BackupArguments).paths == ("/etc",)
    credentials = agent.unseal(command)
    assert credentials.repository_id == command.repository_id
    assert credentials.location == "/srv/restic/nas"
    assert credentials.password == "a password of its own"
    assert credentials.environment == {"RESTIC_COMPRESSION": "max"}


async def test_job_that_the_agent_holds_is_not_sent_again(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    job_id = await add_job(operator)

    again = await agent.poll()
    held = await agent.poll(jobs=[HeldJob(job_id=job_id, state="accepted")])

    assert len(again.envelopes) == 1
    assert held.envelopes == ()


async def test_jobs_of_other_hosts_are_not_sent(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    await add_agent(services, app, name="web2")
    await add_job(operator, host="web2")

    assert (await agent.poll()).envelopes == ()


async def test_one_answer_carries_a_bounded_number_of_jobs(
    operator: httpx.AsyncClient, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelopes, "MAX_DUE", 2)
    made = [await add_job(operator) for _ in range(3)]

    first = read_commands(await agent.poll())
    rest = read_commands(
        await agent.poll(jobs=[HeldJob(job_id=c.job_id, state="accepted") for c in first])
    )

    assert [command.job_id for command in first + rest] == made


async def test_cancel_is_due_while_the_agent_holds_the_job_and_it_is_not_over(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    async with services.database.writing() as connection:
        await connection.execute(sa.update(jobs).values(cancel_requested_at=clock.now()))

    held = await agent.poll(jobs=[HeldJob(job_id=job_id, state="running")], hold=20)
    over = await agent.poll(jobs=[HeldJob(job_id=job_id, state="finished")])
    unknown = await agent.poll()

    assert read_commands(held) == [CommandCancel(job_id=job_id)]
    assert held.pause > 0
    assert over.envelopes == ()
    # A host that does not know the job has to have it before it can end it.
    assert [one.job_id for one in read_commands(unknown) if isinstance(one, CommandRun)] == [job_id]


async def test_job_past_its_start_deadline_expires_instead_of_being_sent(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    job_id = await add_job(operator)
    async with services.database.writing() as connection:
        await connection.execute(sa.update(jobs).values(start_deadline_at=clock.now()))
    clock.advance(1)

    reply = await agent.poll()

    assert reply.envelopes == ()
    async with services.database.reading() as connection:
        state = await connection.scalar(sa.select(jobs.c.state).where(jobs.c.id == job_id))
    assert state == "expired"


async def test_job_whose_credentials_do_not_open_waits_for_the_server_to_be_mended(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = await add_job(operator)
    await add_repository(operator, name="cloud")
    good = await add_job(operator, repository="cloud")
    repository_id = UUID((await operator.get("/v1/repositories/nas")).json()["id"])
    async with services.database.writing() as connection:
        await connection.execute(
            sa.update(repository_secrets)
            .where(repository_secrets.c.repository_id == repository_id)
            .values(ciphertext=b"\x01" + bytes(60))
        )

    reply = await agent.poll()

    assert [command.job_id for command in read_commands(reply)] == [good]
    job = (await operator.get(f"/v1/jobs/{broken}")).json()
    assert (job["state"], job["message"]) == ("queued", None)
    (logged,) = [record for record in caplog.records if record.getMessage() == "job.unsendable"]
    assert logged.levelname == "ERROR"
    assert "not in the key file" in JsonFormatter().format(logged)


async def test_job_whose_repository_is_gone_fails_and_says_why(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    job_id = await add_job(operator)
    async with services.database.writing() as connection:
        await connection.execute(sa.delete(repository_secrets))

    reply = await agent.poll()

    assert reply.envelopes == ()
    job = (await operator.get(f"/v1/jobs/{job_id}")).json()
    assert (job["state"], job["failure_class"]) == ("failed", "other")
    assert "There is no repository" in job["message"]


async def test_answers_are_marked_and_not_to_be_stored(agent: FakeAgent) -> None:
    answer = await agent.ask()

    assert answer.headers.get_list("backhaul-protocol") == ["1"]
    assert answer.headers.get_list("cache-control") == ["no-store"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Backhaul-Protocol": "2"}, 426), ({"Authorization": "Bearer nonsense"}, 401)],
    ids=["protocol", "token"],
)
async def test_refusals_carry_the_protocol_header_too(
    agent: FakeAgent, headers: dict[str, str], status: int
) -> None:
    agent.client.headers.update(headers)

    answer = await agent.ask()

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get_list("backhaul-protocol") == ["1"]


async def test_body_that_is_no_poll_is_refused(agent: FakeAgent) -> None:
    answer = await agent.client.post("/v1/agent/poll", content=b'{"boot_id": 7}')

    assert answer.status_code == 422


async def test_poll_of_an_older_process_is_superseded(agent: FakeAgent) -> None:
    answer = await agent.ask(boot_id=uuid4())

    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:backhaul:problem:superseded"


async def test_first_poll_takes_an_identity_that_nobody_has(
    services: Services, app: Litestar, operator: httpx.AsyncClient
) -> None:
    agent = await add_agent(services, app)

    await agent.poll()

    assert (await agent.ask(boot_id=uuid4())).status_code == 409
    assert (await agent.ask()).status_code == 200


async def test_parked_poll_of_an_older_process_is_told_by_the_hello_of_a_newer(
    agent: FakeAgent, services: Services
) -> None:
    parked = asyncio.create_task(agent.ask(hold=20))
    await _until_parked(services, 1)

    await agent.say_hello(boot_id=uuid4())

    assert (await parked).status_code == 409


async def test_host_that_is_removed_while_parked_is_told_so_with_a_signature(
    agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    parked = asyncio.create_task(agent.ask(hold=20))
    await _until_parked(services, 1)

    async with services.database.writing() as connection:
        await connection.execute(sa.update(hosts).values(removed_at=clock.now()))
    services.wakeups.wake(agent.host_id)

    answer = await parked
    assert answer.status_code == 410
    assert answer.json()["signature"]


async def test_visit_is_written_at_most_once_a_minute(
    agent: FakeAgent, services: Services, clock: FakeClock
) -> None:
    async def last_seen() -> Any:
        async with services.database.reading() as connection:
            return await connection.scalar(sa.select(hosts.c.last_seen_at))

    await agent.poll()
    first = await last_seen()
    clock.advance(59)
    await agent.poll()
    soon = await last_seen()
    clock.advance(1)
    await agent.poll()

    assert soon == first
    assert await last_seen() == first + timedelta(minutes=1)


async def test_job_created_while_a_poll_is_parked_wakes_it(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services
) -> None:
    parked = asyncio.create_task(agent.poll(hold=20))
    await _until_parked(services, 1)

    job_id = await add_job(operator)

    assert [command.job_id for command in read_commands(await parked)] == [job_id]
    assert services.wakeups.waiting == 0


async def test_job_created_between_the_look_and_the_wait_is_not_missed(
    operator: httpx.AsyncClient,
    agent: FakeAgent,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = services.looks.take
    made: list[UUID] = []

    async def take_and_be_late(*arguments: Any) -> Any:
        seen = await take(*arguments)
        if not made:
            made.append(await add_job(operator))
        return seen

    monkeypatch.setattr(services.looks, "take", take_and_be_late)
    reply = await agent.poll(hold=20)

    assert [command.job_id for command in read_commands(reply)] == made


async def test_hold_ends_in_an_empty_answer(agent: FakeAgent) -> None:
    reply = await agent.poll(hold=0.05)

    assert (reply.envelopes, reply.pause) == ((), 0.0)
    assert reply.hold == 25.0


async def test_wake_up_for_nothing_does_not_end_the_hold(
    agent: FakeAgent, services: Services
) -> None:
    parked = asyncio.create_task(agent.poll(hold=20))
    await _until_parked(services, 1)

    services.wakeups.wake(agent.host_id)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not parked.done()

    services.wakeups.drain()
    assert (await parked).envelopes == ()


async def test_without_a_hold_the_answer_names_the_interval(agent: FakeAgent) -> None:
    assert (await agent.poll(hold=0)).pause == 15.0


async def test_server_that_holds_nothing_answers_at_once(
    services: Services, operator: httpx.AsyncClient
) -> None:
    settings = msgspec.structs.replace(services.settings, poll_hold=0.0, poll_pause=7.0)
    impatient = dataclasses.replace(services, settings=settings)
    agent = await add_agent(impatient, create_app(impatient))

    reply = await agent.poll(hold=25)

    assert (reply.hold, reply.pause) == (0.0, 7.0)


async def test_drain_ends_parked_polls_and_spreads_the_agents(
    agent: FakeAgent, services: Services
) -> None:
    parked = asyncio.create_task(agent.poll(hold=20))
    await _until_parked(services, 1)

    services.wakeups.drain()

    ended, refused = await parked, await agent.poll(hold=20)
    for reply in (ended, refused):
        assert reply.envelopes == ()
        assert 1.0 <= reply.pause <= 5.0


async def test_newer_poll_of_a_host_ends_the_older(agent: FakeAgent, services: Services) -> None:
    older = asyncio.create_task(agent.poll(hold=20))
    await _until_parked(services, 1)

    newer = asyncio.create_task(agent.poll(hold=20))

    assert (await older).envelopes == ()
    await _until_parked(services, 1)
    assert not newer.done()
    services.wakeups.drain()
    await newer


async def test_parked_polls_hold_no_connection(
    operator: httpx.AsyncClient, services: Services, app: Litestar
) -> None:
    agents = [await add_agent(services, app, name=f"host{n}") for n in range(40)]
    for agent in agents:
        await agent.poll()
    parked = [asyncio.create_task(agent.poll(hold=20)) for agent in agents]
    await _until_parked(services, 40)

    async with asyncio.timeout(5):
        answer = await operator.get("/v1/hosts", params={"limit": 100})

    assert len(answer.json()["items"]) == 40
    services.wakeups.drain()
    assert {reply.envelopes for reply in await asyncio.gather(*parked)} == {()}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_clients_that_hang_up_leave_nothing_behind_within_a_second(
    operator: httpx.AsyncClient, agent: FakeAgent, services: Services, app: Litestar
) -> None:
    job_id = await add_job(operator)
    await agent.accept(job_id)
    agents = [await add_agent(services, app, name=f"host{n}") for n in range(40)]
    async with serve(app) as port:
        clients = [
            await send_request(
                port,
                "POST",
                "/v1/agent/poll",
                headers=dict(agent.client.headers),
                body=agent.build_poll(hold=20),
            )
            for agent in agents
        ]
        for path in (f"/v1/jobs/{job_id}?after_revision=9", f"/v1/jobs/{job_id}/log?wait=20"):
            headers = {"Authorization": operator.headers["Authorization"]}
            clients.append(await send_request(port, "GET", path, headers=headers))
        await _until_parked(services, 42)

        for client in clients:
            client.transport.abort()

        async with asyncio.timeout(1):
            while services.wakeups.waiting:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_poll_over_a_socket_is_answered_by_a_job(
    operator: httpx.AsyncClient, services: Services, app: Litestar
) -> None:
    await add_repository(operator)
    async with serve(app) as port:
        agent = await add_agent(services, f"http://127.0.0.1:{port}")
        async with agent.client:
            parked = asyncio.create_task(agent.ask(hold=20))
            await _until_parked(services, 1)

            job_id = await add_job(operator)
            answer = await parked

            assert answer.headers.get_list("backhaul-protocol") == ["1"]
            reply = msgspec.json.decode(answer.content, type=PollReply)
            assert [command.job_id for command in read_commands(reply)] == [job_id]
            # The connection serves on: the watcher took nothing that belongs to the next request.
            assert (await agent.ask(hold=0)).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_look_for_active_jobs_uses_the_partial_index(services: Services) -> None:
    statement = str(
        envelopes._ACTIVE.params(host_ids=[uuid4()]).compile(
            dialect=services.database.sync_engine.dialect,
            compile_kwargs={"render_postcompile": True},
        )
    )
    async with services.database.reading() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (uuid4().hex,))
        text = " ".join(str(row) for row in plan)

    assert "ix_jobs_active" in text


async def _until_parked(services: Services, count: int) -> None:
    async with asyncio.timeout(20):
        while services.wakeups.waiting < count:
            await asyncio.sleep(0)
