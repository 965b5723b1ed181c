"""The change of a repository's password: at every moment the server has one that opens it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from litestar import Litestar

from backhaul.wire.agents import Receipt
from backhaul.wire.commands import CommandAck, CommandRun, Credentials
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import PasswdArguments, PasswdResult, PasswdStep
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul.wire.schedules import ScheduleAck, ScheduleSet
from backhaul_api.hosts import store as hosts
from backhaul_api.identity import SYSTEM
from backhaul_api.jobs import store as jobs
from backhaul_api.repositories import secrets
from backhaul_api.services import Services
from tests.fakes.clock import START, FakeClock
from tests.fakes.fleet import (
    FakeAgent,
    add_agent,
    add_schedule,
    add_source,
    read_commands,
    read_set,
)

OLD, NEW = "a password of its own", "the next password"
PATH = "/v1/repositories/nas/password-change"


class Keys:
    """What opens the repository: each job of a change does to it what an agent would."""

    def __init__(self) -> None:
        self.passwords = {OLD}

    def work(self, arguments: PasswdArguments, credentials: Credentials) -> PasswdResult:
        assert credentials.password in self.passwords
        assert credentials.new_password is not None
        if arguments.step is PasswdStep.ADD:
            self.passwords.add(credentials.new_password)
        else:
            assert credentials.new_password in self.passwords
            self.passwords.discard(str(credentials.old_password))
        return PasswdResult(step=arguments.step)


async def change(operator: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await operator.post(PATH, json={"password": NEW, "host": "web1", **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def show(operator: httpx.AsyncClient) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await operator.get("/v1/repositories/nas")).json()[
        "password_change"
    ]
    return found


async def read_stored(services: Services, repository_id: UUID) -> dict[str, str]:
    names = (secrets.PASSWORD, secrets.NEXT_PASSWORD, secrets.OLD_PASSWORD)
    async with services.database.reading() as connection:
        return await secrets.load(connection, services.keys, repository_id, names=names)


async def take(agent: FakeAgent) -> CommandRun:
    """Take up the one job that is due."""
    found = [one for one in read_commands(await agent.poll()) if isinstance(one, CommandRun)]
    (command,) = found
    begun = JobStarted(job_id=command.job_id, attempt=command.attempt, at=START)
    ack = CommandAck(job_id=command.job_id, attempt=command.attempt, is_accepted=True)
    await agent.send(ack, begun)
    return command


def report(command: CommandRun, result: PasswdResult | None) -> JobFinished:
    return JobFinished(
        job_id=command.job_id,
        attempt=command.attempt,
        at=START,
        outcome=Outcome.FAILED if result is None else Outcome.SUCCEEDED,
        failure_class=FailureClass.WRONG_PASSWORD if result is None else None,
        log_lines=0,
        result=result,
    )


def read_step(command: CommandRun) -> PasswdArguments:
    return msgspec.json.decode(command.arguments, type=PasswdArguments)


async def do(agent: FakeAgent, keys: Keys) -> tuple[CommandRun, list[Receipt]]:
    """Do the one job that is due, and report it."""
    command = await take(agent)
    result = keys.work(read_step(command), agent.unseal(command))
    return command, await agent.send(report(command, result))


async def test_change_goes_through_and_always_keeps_a_password_that_opens(
    operator: httpx.AsyncClient, services: Services, agent: FakeAgent
) -> None:
    repository_id = UUID((await operator.get("/v1/repositories/nas")).json()["id"])
    keys = Keys()
    await change(operator)
    moments = [await read_stored(services, repository_id)]

    # The agent dies after `key add` and before its report: the server has what still opens it.
    command = await take(agent)
    keys.work(read_step(command), agent.unseal(command))
    moments.append(await read_stored(services, repository_id))
    assert all(one[secrets.PASSWORD] in keys.passwords for one in moments)
    await agent.send(report(command, PasswdResult(step=PasswdStep.ADD)))
    moments.append(await read_stored(services, repository_id))
    await agent.send(report(command, PasswdResult(step=PasswdStep.ADD)))  # the report is repeated
    assert await read_stored(services, repository_id) == moments[-1]
    assert keys.passwords == {OLD, NEW}
    removal, _ = await do(agent, keys)
    await agent.send(report(removal, PasswdResult(step=PasswdStep.REMOVE)))

    assert moments == [
        {secrets.PASSWORD: OLD, secrets.NEXT_PASSWORD: NEW},
        {secrets.PASSWORD: OLD, secrets.NEXT_PASSWORD: NEW},
        {secrets.PASSWORD: NEW, secrets.OLD_PASSWORD: OLD},
    ]
    assert keys.passwords == {NEW}
    assert await read_stored(services, repository_id) == {secrets.PASSWORD: NEW}
    assert await show(operator) is None


async def change_beside_another_host(
    operator: httpx.AsyncClient, services: Services, app: Litestar, agent: FakeAgent
) -> tuple[FakeAgent, ScheduleSet]:
    """Add the new password, which another host has yet to be told; gives what that host holds."""
    other = await add_agent(services, app, name="web2")
    await other.say_hello()
    await add_source(operator)
    await add_schedule(operator, host="web2")
    held = read_set(await other.poll())
    await other.send(ScheduleAck(schedule_version=held.schedule_version))
    await change(operator)
    await do(agent, Keys())
    return other, held


async def test_removal_waits_for_the_hosts_that_hold_the_old_password(
    operator: httpx.AsyncClient, services: Services, app: Litestar, agent: FakeAgent
) -> None:
    other, held = await change_beside_another_host(operator, services, app, agent)

    waiting = await show(operator)
    unforced = await operator.post(f"{PATH}/continue", json={})
    fresh = read_set(await other.poll(schedule_version=held.schedule_version))
    assert fresh.schedules[0].template is not None
    applied = await other.send(ScheduleAck(schedule_version=fresh.schedule_version))

    assert waiting is not None
    assert (waiting["step"], waiting["waits_for"]) == ("remove", ["web2"])
    assert unforced.status_code == 409
    assert other.unseal(fresh.schedules[0].template).password == NEW
    assert other.unseal(fresh.schedules[0].template).old_password is None
    assert [receipt.status for receipt in applied] == ["ok"]
    assert read_step(await take(agent)).step is PasswdStep.REMOVE


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_removal_begins_while_an_operator_holds_the_host_that_is_to_do_it(
    operator: httpx.AsyncClient, services: Services, app: Litestar, agent: FakeAgent
) -> None:
    """The operator's transaction may want the repository next, which the report has."""
    other, held = await change_beside_another_host(operator, services, app, agent)
    fresh = read_set(await other.poll(schedule_version=held.schedule_version))

    async with services.database.writing() as connection:
        await hosts.fetch(connection, "web1", for_update=True)
        async with asyncio.timeout(5):
            await other.send(ScheduleAck(schedule_version=fresh.schedule_version))

    assert read_step(await take(agent)).step is PasswdStep.REMOVE


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_job_that_is_being_made_for_a_host_ends_when_the_host_is_removed(
    operator: httpx.AsyncClient, services: Services, agent: FakeAgent
) -> None:
    """Whoever makes it has not locked the host: that would be a deadlock."""
    repository_id = UUID((await operator.get("/v1/repositories/nas")).json()["id"])
    new = jobs.NewJob(
        host_id=agent.host_id,
        repository_id=repository_id,
        arguments=PasswdArguments(step=PasswdStep.REMOVE),
        actor=SYSTEM,
    )
    async with services.database.writing() as connection:
        job = await jobs.insert(connection, new, now=START)
        removing = asyncio.create_task(operator.delete("/v1/hosts/web1"))
        await asyncio.sleep(0.2)
    removed = await removing

    assert removed.status_code == 204
    assert (await operator.get(f"/v1/jobs/{job.id}")).json()["state"] == "cancelled"


async def test_operator_may_force_the_removal(
    operator: httpx.AsyncClient, services: Services, app: Litestar, agent: FakeAgent
) -> None:
    other = await add_agent(services, app, name="web2")
    await add_source(operator)
    await add_schedule(operator, host="web2")
    await change(operator)
    keys = Keys()
    await do(agent, keys)

    forced = await operator.post(f"{PATH}/continue", json={"force": True})
    await do(agent, keys)

    assert forced.status_code == 201
    assert keys.passwords == {NEW}
    assert await show(operator) is None
    assert other.name == "web2"


async def test_failed_step_is_done_again_with_the_same_password(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    await change(operator)
    busy = await operator.post(PATH, json={"password": "a third", "host": "web1"})
    await agent.send(report(await take(agent), None))

    again = await operator.post(f"{PATH}/continue", json={})
    command = await take(agent)

    assert busy.status_code == 409
    assert again.status_code == 201
    assert agent.unseal(command).new_password == NEW


async def test_late_report_of_a_job_that_was_replaced_changes_nothing(
    operator: httpx.AsyncClient, services: Services, agent: FakeAgent, clock: FakeClock
) -> None:
    repository_id = UUID((await operator.get("/v1/repositories/nas")).json()["id"])
    await change(operator)
    late = await take(agent)
    agent.boot_id = UUID(int=1)
    await agent.say_hello()  # a new process, without the job: it is lost
    await change(operator, password="a third")

    await agent.send(report(late, PasswdResult(step=PasswdStep.ADD)))

    assert (await operator.get(f"/v1/jobs/{late.job_id}")).json()["state"] == "succeeded"
    assert await read_stored(services, repository_id) == {
        secrets.PASSWORD: OLD,
        secrets.NEXT_PASSWORD: "a third",
    }


async def test_change_that_is_given_up_leaves_the_password_in_use(
    operator: httpx.AsyncClient, services: Services, agent: FakeAgent
) -> None:
    repository_id = UUID((await operator.get("/v1/repositories/nas")).json()["id"])
    started = await change(operator)
    busy = await operator.delete(PATH)
    disturbed = await operator.patch("/v1/repositories/nas", json={"password": "x"})
    await operator.post(f"/v1/jobs/{started['job']['id']}/cancel")

    given_up = await operator.delete(PATH)

    assert (busy.status_code, disturbed.status_code, given_up.status_code) == (409, 409, 204)
    assert await read_stored(services, repository_id) == {secrets.PASSWORD: OLD}
    assert (await operator.delete(PATH)).status_code == 409


async def test_generated_password_is_shown_only_when_asked(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    hidden = await change(operator, password=None, generate=True)
    await operator.post(f"/v1/jobs/{hidden['job']['id']}/cancel")
    shown = await change(operator, password=None, generate=True, show=True)

    sent = agent.unseal(await take(agent)).new_password
    assert hidden["password"] is None
    assert shown["password"] == sent
    assert len(str(sent)) >= 43


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "password"),
        ({"password": NEW, "generate": True}, "password"),
        ({"password": NEW, "show": True}, "show"),
        ({"password": OLD, "host": "web1"}, "password"),
        ({"password": NEW}, "host"),
        ({"password": NEW, "host": "nobody"}, "host"),
    ],
)
async def test_bad_request_names_its_field(
    operator: httpx.AsyncClient, agent: FakeAgent, body: dict[str, Any], field: str
) -> None:
    answer = await operator.post(PATH, json=body)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_admin_credential_with_the_same_password_stands_in_the_way(
    operator: httpx.AsyncClient, agent: FakeAgent
) -> None:
    admin = {"admin": {"password": OLD}, "upkeep_host": "web1"}
    await operator.patch("/v1/repositories/nas", json=admin)

    answer = await operator.post(PATH, json={"password": NEW})

    assert answer.status_code == 409
