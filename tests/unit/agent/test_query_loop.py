"""The query loop: what it answers, how often, and when it lets go."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from backhaul.wire.agents import Receipt
from backhaul.wire.commands import QueryAnswer, QueryRun
from backhaul.wire.kinds import JobKind
from backhaul.wire.snapshots import FindFiles, FoundFiles, ListFiles, QueryArguments
from backhaul_agent import restic_listing
from backhaul_agent.clock import SystemClock
from backhaul_agent.errors import LinkLostError
from backhaul_agent.identity import Identity
from backhaul_agent.job import Workshop
from backhaul_agent.journal import Journal
from backhaul_agent.policy import Policy
from backhaul_agent.query_loop import QueryLoop
from backhaul_agent.restic_listing import MAX_PARKED
from backhaul_agent.settings import PolicySettings, Settings
from backhaul_agent.spool import Spool
from tests.fakes.fake_restic import FakeRestic, install_fake_restic
from tests.unit.agent.hosts import OK, PASSWORD, build_credentials, build_identity, seal

pytestmark = pytest.mark.timeout(20)

SNAPSHOT = "d9c8cbca952341eef17575b8f47501f81d68b8d2be5bf1925a7b06051030e58b"
LIST = ListFiles(snapshot=SNAPSHOT, path="/data/etc")


class AnswerLink:
    """Keeps the answers that are sent; fails as often as it is told to."""

    def __init__(self) -> None:
        self.answers: list[QueryAnswer] = []
        self.failures = 0
        self.has_answer = asyncio.Event()

    async def send(self, envelopes: tuple[msgspec.Raw, ...]) -> tuple[Receipt, ...]:
        if self.failures:
            self.failures -= 1
            raise LinkLostError("no connection")
        self.answers += [msgspec.json.decode(raw, type=QueryAnswer) for raw in envelopes]
        self.has_answer.set()
        return (OK,) * len(envelopes)


class Bench:
    """A query loop with a restic that plays recordings."""

    def __init__(
        self, folder: Path, journal: Journal, spool: Spool, policy: PolicySettings
    ) -> None:
        self.fake: FakeRestic = install_fake_restic(folder / "bin")
        self.identity: Identity = build_identity()
        self.link = AnswerLink()
        workshop = Workshop(
            settings=Settings(state_dir=folder / "state", restic=self.fake.path),
            identity=self.identity,
            policy=Policy(policy),
            journal=journal,
            spool=spool,
            clock=SystemClock(),
            inherited={"RESTIC_REPOSITORY": "another"},
        )
        link: Any = self.link
        self.loop = QueryLoop(workshop, link)

    def ask(self, arguments: QueryArguments, **changes: Any) -> QueryRun:
        credentials = build_credentials(uuid4())
        query = QueryRun(
            query_id=uuid4(),
            kind=str(arguments.__struct_config__.tag),
            arguments=msgspec.Raw(msgspec.json.encode(arguments)),
            ttl=10.0,
            repository_id=credentials.repository_id,
            credentials=seal(self.identity, credentials),
        )
        return msgspec.structs.replace(query, **changes)

    async def answer(self, arguments: QueryArguments, **changes: Any) -> QueryAnswer:
        self.loop.take(self.ask(arguments, **changes))
        await self.link.has_answer.wait()
        return self.link.answers[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.loop.run_forever())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def policy() -> PolicySettings:
    return PolicySettings()


@pytest.fixture
async def bench(
    tmp_path: Path, journal: Journal, spool: Spool, policy: PolicySettings
) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, journal, spool, policy)
    async with bench.running():
        yield bench


def entries_of(answer: QueryAnswer) -> list[str]:
    return [entry.name for entry in msgspec.json.decode(answer.answer, type=FoundFiles).entries]


async def test_folder_is_listed_with_the_sealed_credentials(bench: Bench) -> None:
    bench.fake.on("ls", case="ls-path")

    answer = await bench.answer(LIST)

    [call] = bench.fake.calls
    assert entries_of(answer) == ["app.conf", "new.conf", "nginx", "secret.key"]
    assert (answer.error, answer.is_cut) == (None, False)
    assert call["env"]["RESTIC_PASSWORD"] == PASSWORD
    assert call["env"]["RESTIC_REPOSITORY"] == "/srv/repo"
    assert PASSWORD not in str(call["argv"])


async def test_search_finds_files(bench: Bench) -> None:
    bench.fake.on("find", case="find-in-snapshot")

    answer = await bench.answer(FindFiles(snapshot=SNAPSHOT, pattern="current"))

    assert entries_of(answer)[-1] == "current"


async def test_query_that_comes_again_is_answered_once(bench: Bench) -> None:
    bench.fake.on("ls", case="ls-path")
    query = bench.ask(LIST)

    taken = [bench.loop.take(query), bench.loop.take(query)]
    await bench.link.has_answer.wait()
    bench.link.has_answer.clear()
    taken.append(bench.loop.take(query))
    await bench.answer(LIST)

    assert taken == [True, False, False]
    assert len(bench.fake.calls) == len(bench.link.answers) == 2


async def test_page_that_is_full_ends_restic_and_says_so(bench: Bench) -> None:
    bench.fake.on("ls", case="ls", hang=True)

    answer = await bench.answer(ListFiles(snapshot=SNAPSHOT, path="/", limit=2))

    assert entries_of(answer) == ["data", "etc"]
    assert answer.is_cut


@pytest.mark.parametrize(
    ("arguments", "case", "failure", "words"),
    [
        (ListFiles(snapshot=SNAPSHOT, path="/nope"), "ls-path", "missing", "there is no /nope"),
        (LIST, "ls-unknown-snapshot", "missing", "no longer in the repository"),
        (LIST, "wrong-password-backup", "failed", "wrong password or no key found"),
    ],
    ids=["path", "snapshot", "password"],
)
async def test_what_cannot_be_answered_says_why(
    bench: Bench, arguments: QueryArguments, case: str, failure: str, words: str
) -> None:
    bench.fake.on("ls", case=case)

    answer = await bench.answer(arguments)

    assert answer.failure == failure
    assert words in (answer.error or "")


async def test_secret_in_what_restic_says_is_masked(bench: Bench) -> None:
    bench.fake.on("ls", stderr=f"Fatal: cannot open with {PASSWORD}\ntrace\n", exit=1)

    answer = await bench.answer(LIST)

    assert answer.error == "Fatal: cannot open with ***"


async def test_missing_restic_is_an_answer(bench: Bench) -> None:
    os.unlink(bench.fake.path)

    answer = await bench.answer(LIST)

    assert answer.failure == "failed"
    assert "cannot be run" in (answer.error or "")


async def test_credentials_of_another_repository_are_refused(bench: Bench) -> None:
    answer = await bench.answer(LIST, repository_id=uuid4())

    assert "belong to another repository" in (answer.error or "")
    assert bench.fake.calls == []


async def test_kind_that_the_agent_does_not_know_is_refused(bench: Bench) -> None:
    unknown = msgspec.Raw(b'{"kind": "snapshot.dump"}')

    bench.loop.take(
        msgspec.structs.replace(bench.ask(LIST), kind="snapshot.dump", arguments=unknown)
    )
    await bench.link.has_answer.wait()
    [answer] = bench.link.answers

    assert answer.failure == "refused"


@pytest.mark.parametrize(
    ("policy", "is_allowed"),
    [
        (PolicySettings(), True),
        (PolicySettings(browse=False), False),
        (PolicySettings(kinds=(JobKind.BACKUP,)), False),
        (PolicySettings(kinds=(JobKind.BACKUP,), browse=True), True),
    ],
    ids=["default", "forbidden", "no snapshots", "allowed"],
)
async def test_policy_decides_whether_snapshots_are_browsed(bench: Bench, is_allowed: bool) -> None:
    bench.fake.on("ls", case="ls-path")

    answer = await bench.answer(LIST)

    assert (answer.failure is None) == is_allowed
    assert len(bench.fake.calls) == is_allowed


async def test_restic_is_ended_when_nobody_waits_any_more(bench: Bench) -> None:
    bench.fake.on("ls", hang=True, on_sigint=130)
    bench.fake.on("find", case="find-no-hits")

    for _ in range(2):
        bench.loop.take(bench.ask(LIST, ttl=0.3))
    # Both workers are at it; this one is answered when they have let go.
    await bench.answer(FindFiles(snapshot=SNAPSHOT, pattern="x"))

    assert [call["signal"] for call in bench.fake.calls if "signal" in call] == [2, 2]
    assert len(bench.link.answers) == 1


async def test_answer_is_sent_again_while_somebody_waits(bench: Bench) -> None:
    bench.fake.on("ls", case="ls-path")
    bench.link.failures = 1

    await bench.answer(LIST)

    assert len(bench.link.answers) == 1
    assert len(bench.fake.calls) == 1


def read_number(file: Path) -> int:
    while not (text := file.read_text()):  # it is just being written
        pass
    return int(text)


async def turn_page(bench: Bench, skip: int, *, limit: int = 1000) -> list[str]:
    bench.link.has_answer.clear()
    arguments = ListFiles(snapshot=SNAPSHOT, path="/data", skip=skip, limit=limit)
    return entries_of(await bench.answer(arguments))


@pytest.mark.timeout(120)
async def test_large_snapshot_is_read_page_by_page_in_little_memory(bench: Bench) -> None:
    count, limit = 200_000, 1000
    bench.fake.on("ls", nodes=count)
    names = await turn_page(bench, 0)
    written_early = read_number(bench.fake.folder / "written.txt")
    gc.collect()
    tracemalloc.start()

    while len(names) < count:
        page = await turn_page(bench, len(names))
        bench.link.answers.clear()
        assert len(page) == limit
        names += page
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert names == [f"file-{number:06}" for number in range(count)]
    assert len(bench.fake.calls) == 1, "restic went on where it had stopped"
    assert written_early < 10 * limit, "restic waits while nobody turns the page"
    # The names above take some 12 MB of it.
    assert peak_bytes < 24 * 2**20


async def test_page_that_nobody_asked_for_in_time_is_found_by_skipping(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restic_listing, "PARKED_FOR_S", 0.0)
    bench.fake.on("ls", nodes=3000)

    first = await turn_page(bench, 0)
    while len(bench.loop._parked):
        await asyncio.sleep(0)
    second = await turn_page(bench, 1000)

    assert (first[0], second[0], second[-1]) == ("file-000000", "file-001000", "file-001999")
    assert len(bench.fake.calls) == 2


async def test_few_listings_wait_at_a_time_the_oldest_goes(bench: Bench) -> None:
    bench.fake.on("ls", nodes=100_000)

    for limit in (500, 600, 700):
        await turn_page(bench, 0, limit=limit)
    kept = len(bench.loop._parked)
    oldest = await turn_page(bench, 500, limit=500)
    newest = await turn_page(bench, 700, limit=700)

    assert kept == MAX_PARKED
    assert (oldest[0], newest[0]) == ("file-000500", "file-000700")
    assert len(bench.fake.calls) == 4
