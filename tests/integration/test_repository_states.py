"""How a repository stands: derived from its jobs, and from what its stats jobs measured."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar import Litestar

from backhaul.wire.commands import CommandAck
from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import (
    BackupResult,
    CheckResult,
    ForgetResult,
    PruneResult,
    Result,
    StatsResult,
    UnlockResult,
)
from backhaul.wire.reports import JobFinished, JobStarted
from backhaul_api.repositories import sizes
from backhaul_api.services import Services
from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeAgent, add_agent, add_job, add_repository, add_source
from tests.fakes.statements import watch_statements

LOCKED = (
    "unable to create lock in backend: repository is already locked exclusively by PID 1868 on "
    "web-9 by root (UID 0, GID 0)"
)


class Host:
    """A host whose jobs end as a test says."""

    def __init__(self, operator: httpx.AsyncClient, agent: FakeAgent, clock: FakeClock) -> None:
        self.operator, self.agent, self.clock = operator, agent, clock

    async def run(
        self,
        kind: str,
        result: Result | None,
        *,
        failed: FailureClass | None = None,
        **request: Any,
    ) -> UUID:
        """Run a job; a minute passes."""
        self.clock.advance(60)
        job_id = await add_job(self.operator, kind=kind, **request)
        at = self.clock.now()
        finished = JobFinished(
            job_id=job_id,
            attempt=1,
            at=at,
            outcome=Outcome.FAILED if failed else Outcome.SUCCEEDED,
            failure_class=failed,
            message=LOCKED if failed is FailureClass.LOCKED else None,
            log_lines=0,
            result=result,
        )
        receipts = await self.agent.send(
            CommandAck(job_id=job_id, is_accepted=True),
            JobStarted(job_id=job_id, attempt=1, at=at),
            finished,
            finished,
        )
        assert [receipt.status for receipt in receipts] == ["ok", "ok", "ok", "duplicate"]
        return job_id

    async def show(self) -> dict[str, Any]:
        (listed,) = (await self.operator.get("/v1/repositories")).json()["items"]
        shown: dict[str, Any] = (await self.operator.get("/v1/repositories/nas")).json()
        assert listed == shown
        return shown


@pytest.fixture
async def host(
    services: Services, app: Litestar, operator: httpx.AsyncClient, clock: FakeClock
) -> Host:
    await add_repository(operator)
    await add_source(operator, retention={"keep_last": 1})
    agent = await add_agent(services, app)
    await agent.say_hello()
    return Host(operator, agent, clock)


async def test_new_repository_has_no_state(host: Host) -> None:
    shown = await host.show()

    for name in ("size", "growth_30d", "lock", "last_check", "last_prune", "last_forget"):
        assert shown[name] is None


async def test_newest_check_prune_and_forget_are_shown(host: Host) -> None:
    await host.run("check", CheckResult())
    checked = await host.run("check", None, failed=FailureClass.DAMAGED, read_data_subset="1/7")
    pruned = await host.run("prune", PruneResult())
    forgotten = await host.run("forget", ForgetResult(kept=1, removed=2), source="etc")

    shown = await host.show()

    check = shown["last_check"]
    assert (check["job_id"], check["state"]) == (str(checked), "failed")
    assert (check["read_data_subset"], check["failure_class"]) == ("1/7", "damaged")
    assert shown["last_prune"]["job_id"] == str(pruned)
    assert (shown["last_forget"]["job_id"], shown["last_forget"]["host"]) == (
        str(forgotten),
        "web1",
    )


async def test_lock_is_shown_until_a_job_that_it_kept_out_gets_it(host: Host) -> None:
    await host.run("prune", PruneResult())
    first = await host.run("prune", None, failed=FailureClass.LOCKED)
    last = await host.run("check", None, failed=FailureClass.LOCKED)
    # A lock that others share keeps out only who wants to be alone.
    await host.run("backup", BackupResult())
    locked = (await host.show())["lock"]
    await host.run("check", CheckResult())
    cleared = (await host.show())["lock"]

    job = (await host.operator.get(f"/v1/jobs/{first}")).json()
    assert locked == {
        "since": job["finished_at"],
        "job_id": str(last),
        "holder": "PID 1868 on web-9 by root",
        "message": LOCKED,
    }
    assert cleared is None


async def test_copy_that_was_kept_out_says_nothing_of_either_repository(host: Host) -> None:
    await add_repository(host.operator, name="cloud")
    await host.run("copy", None, failed=FailureClass.LOCKED, repository="nas", destination="cloud")

    for name in ("nas", "cloud"):
        assert (await host.operator.get(f"/v1/repositories/{name}")).json()["lock"] is None


async def test_lock_that_keeps_backups_out_is_cleared_by_a_backup(host: Host) -> None:
    await host.run("backup", None, failed=FailureClass.LOCKED)
    locked = (await host.show())["lock"]
    await host.run("backup", BackupResult())

    assert locked is not None
    assert (await host.show())["lock"] is None


@pytest.mark.parametrize(("left", "is_locked"), [(0, False), (1, True)])
async def test_unlock_clears_it_when_it_left_none(host: Host, left: int, is_locked: bool) -> None:
    await host.run("prune", None, failed=FailureClass.LOCKED)
    await host.run("unlock", UnlockResult(locks_left=left))

    assert ((await host.show())["lock"] is not None) is is_locked


async def test_sizes_are_kept_and_the_growth_is_that_of_thirty_days(
    host: Host, services: Services
) -> None:
    job_id = await host.run("stats", StatsResult(total_size=4000, snapshots_count=7))
    repository_id = UUID((alone := await host.show())["id"])
    growths = []
    for days, size in ((11, 1500), (31, 1000), (90, 10)):
        at = host.clock.now() - timedelta(days=days)
        result = StatsResult(total_size=size, snapshots_count=1)
        async with services.database.writing() as connection:
            await sizes.insert(connection, repository_id, job_id, result, at=at)
        growths.append((await host.show())["growth_30d"]["bytes"])

    first = (await host.operator.get("/v1/repositories/nas/sizes?limit=3")).json()
    cursor = first["next_cursor"]
    rest = (await host.operator.get(f"/v1/repositories/nas/sizes?cursor={cursor}")).json()

    assert (alone["size"]["total_size"], alone["size"]["job_id"]) == (4000, str(job_id))
    assert alone["growth_30d"] is None
    assert growths == [2500, 3000, 3000]
    found = [one["total_size"] for one in (*first["items"], *rest["items"])]
    assert (found, rest["next_cursor"]) == ([4000, 1500, 1000, 10], None)


async def test_page_of_many_repositories_takes_as_many_statements_as_one_of_few(
    host: Host, services: Services
) -> None:
    names = ["nas", "cloud", "vault", "attic"]

    for name in names:
        if name != "nas":
            await add_repository(host.operator, name=name)
        await host.run("stats", StatsResult(total_size=4000, snapshots_count=7), repository=name)
        await host.run("check", None, failed=FailureClass.LOCKED, repository=name)
        if name == "nas":
            with watch_statements(services.database) as of_one:
                await host.operator.get("/v1/repositories")
    with watch_statements(services.database) as of_all:
        listed = (await host.operator.get("/v1/repositories")).json()["items"]

    assert len(of_all) == len(of_one)
    assert [one["name"] for one in listed] == sorted(names)
    assert all(one["lock"] and one["size"] and one["last_check"] for one in listed)
