"""One command of restic after the other: what cannot be started, and what must not run on."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest

from backhaul.wire.kinds import JobKind
from backhaul_agent.errors import AgentError, ResticMissingError, ResticStartError, StateFileError
from backhaul_agent.job_log import JobLog
from backhaul_agent.journal import Journal
from backhaul_agent.process import Child, Graces, is_alive
from backhaul_agent.redact import Redactor
from backhaul_agent.restic_runner import Exit, ResticRunner
from backhaul_agent.spool import Spool
from tests.fakes.fake_restic import FakeRestic, install_fake_restic
from tests.unit.agent.hosts import ManualClock

pytestmark = pytest.mark.timeout(20)

SHORT = Graces(interrupt=0.1, terminate=0.1, pipe=0.1)


class Bench:
    """A runner, and the children that it announced."""

    def __init__(self, restic: str, log: JobLog) -> None:
        self.children: list[Child | None] = []
        self.is_disk_full = False
        self.runner = ResticRunner(
            restic,
            version=None,
            environment={"PATH": os.defpath},
            log=log,
            on_child=self._note,
            graces=SHORT,
        )

    def _note(self, child: Child | None) -> None:
        self.children.append(child)
        if child is not None and self.is_disk_full:
            raise StateFileError("disk full")

    async def run(self, *arguments: str) -> Exit:
        return await self.runner.run(
            ["backup", *arguments], kind=JobKind.BACKUP, on_stdout=lambda _: None
        )


@pytest.fixture
def fake(tmp_path: Path) -> FakeRestic:
    return install_fake_restic(tmp_path / "bin")


@pytest.fixture
def job_log(journal: Journal, spool: Spool, clock: ManualClock) -> JobLog:
    return JobLog(
        uuid4(), attempt=1, journal=journal, spool=spool, clock=clock, redactor=Redactor()
    )


@pytest.fixture
def bench(fake: FakeRestic, job_log: JobLog) -> Bench:
    return Bench(fake.path, job_log)


async def test_command_line_that_is_too_long_is_not_called_a_missing_restic(bench: Bench) -> None:
    with pytest.raises(ResticStartError, match="too long"):
        await bench.run("x" * 4_000_000)

    assert bench.children == []


async def test_nul_on_the_command_line_is_an_error_of_ours(bench: Bench) -> None:
    with pytest.raises(ResticStartError):
        await bench.run("a\x00b")


@pytest.mark.parametrize("mode", [None, 0o600, 0o700], ids=["gone", "no right", "no program"])
async def test_restic_that_is_none_is_missing(
    tmp_path: Path, job_log: JobLog, mode: int | None
) -> None:
    program = tmp_path / "restic"
    if mode is not None:
        program.write_bytes(b"\x00\x01")
        program.chmod(mode)

    with pytest.raises(AgentError) as caught:
        await Bench(str(program), job_log).run()

    assert type(caught.value) is ResticMissingError


async def test_process_that_the_journal_cannot_note_does_not_run_on(
    bench: Bench, fake: FakeRestic
) -> None:
    fake.on("backup", hang=True)
    bench.is_disk_full = True

    with pytest.raises(StateFileError):
        await bench.run()

    child = bench.children[0]
    assert child is not None
    assert not is_alive(child)


async def test_process_is_forgotten_once_it_is_gone(bench: Bench, fake: FakeRestic) -> None:
    fake.on("backup", stdout="line\n", hang=True)

    def fail(_: str) -> None:
        raise OverflowError

    with pytest.raises(OverflowError):
        await bench.runner.run(["backup"], kind=JobKind.BACKUP, on_stdout=fail)

    child, after = bench.children
    assert child is not None
    assert not is_alive(child)
    assert after is None
