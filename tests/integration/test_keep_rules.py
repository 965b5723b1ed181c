"""The agent's keep rules against those of the real restic, over one repository."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backhaul.wire.kinds import ForgetArguments, Retention
from backhaul_agent.restic import forget
from backhaul_agent.restic.keep_rules import Dated, choose, does_keep_oldest
from backhaul_agent.restic.version import parse_version
from tests.fakes.light_repository import PASSWORD, make_light_repository

pytestmark = pytest.mark.timeout(180)

SEED = 2205
HERE = "Europe/Berlin"
AWAY = "America/St_Johns"
FIRST = datetime(2024, 12, 28, 22, 40)  # noqa: DTZ001 (as a clock on a wall shows it)

POLICIES = [
    Retention(keep_last=3),
    Retention(keep_daily=200),
    Retention(keep_weekly=3),
    Retention(keep_yearly=2, keep_monthly=3),
    Retention(keep_within="1y2m3d4h"),
    Retention(keep_within="2d5d", keep_last=1),
    Retention(keep_within="0d", keep_hourly=2),
    Retention(keep_within="999999y"),
]


class Repository:
    """A repository of three hosts, whose snapshots were made at chosen times."""

    def __init__(self, folder: Path, restic: str) -> None:
        self._restic = restic
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RESTIC_REPOSITORY": str(folder / "repository"),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }
        self._file = folder / "file"
        self._file.write_text("content\n")
        make_light_repository(folder / "repository")
        version = parse_version(self.run("version"))
        assert version is not None
        self.keeps_oldest = does_keep_oldest(version)

    def run(self, *arguments: str, timezone: str = HERE) -> str:
        run = subprocess.run(
            [self._restic, *arguments],
            env={**self._environment, "TZ": timezone},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def back_up(self, host: str, at: datetime, timezone: str) -> None:
        line = ["backup", "--tag=etc", f"--host={host}", f"--time={at:%Y-%m-%d %H:%M:%S}"]
        self.run(*line, str(self._file), timezone=timezone)


def choose_times() -> list[tuple[str, datetime, str]]:
    """Choose bunches of hours, days, weeks and months, over ends of years and summer times."""
    random_ = random.Random(SEED)
    chosen = []
    for host, longest in (("web-1", 2), ("web-2", 40), ("web-3", 1500)):
        at = FIRST
        for _ in range(12):
            chosen.append((host, at, random_.choice([HERE, HERE, AWAY])))
            at += timedelta(hours=random_.uniform(0.2, longest))
    future = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=400)
    return [*chosen, ("web-3", future, HERE)]


def choose_policies() -> list[Retention]:
    random_ = random.Random(SEED)
    names = ["last", "hourly", "daily", "weekly", "monthly", "yearly"]
    drawn = []
    for _ in range(6):
        counts = {f"keep_{name}": random_.randint(1, 5) for name in random_.sample(names, 3)}
        within = f"{random_.randint(1, 40)}d{random_.randint(1, 30)}h"
        drawn.append(Retention(keep_within=random_.choice([None, within]), **counts))
    return [*POLICIES, *drawn]


@pytest.fixture
def in_one_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the agent live where restic does."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", HERE)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_one_time_zone")
def test_what_is_kept_is_what_restic_keeps(restic: str, tmp_path: Path) -> None:
    repository = Repository(tmp_path, restic)
    policies = choose_policies()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: repository.back_up(*one), choose_times()))
        printed = list(pool.map(lambda keep: ask(repository, keep), policies))

    ours = [
        apply(groups, keep, keeps_oldest=repository.keeps_oldest)
        for groups, keep in zip(printed, policies, strict=True)
    ]

    assert ours == [kept_by_restic(groups) for groups in printed]
    assert len({json.dumps(kept, sort_keys=True) for kept in ours}) > len(policies) // 2


def ask(repository: Repository, keep: Retention) -> list[forget.Group]:
    line = forget.build_dry_run(ForgetArguments(tag="etc", keep=keep))
    groups = forget.read_groups(repository.run(*line, "--no-lock").splitlines())
    assert groups is not None
    assert sum(len(group.kept) + len(group.removed) for group in groups) == 37
    return groups


def kept_by_restic(groups: list[forget.Group]) -> dict[str, list[str]]:
    return {group.host: sorted(one.id for one in group.kept) for group in groups}


def apply(
    groups: list[forget.Group], keep: Retention, *, keeps_oldest: bool
) -> dict[str, list[str]]:
    hosts: dict[str, list[Dated]] = defaultdict(list)
    for group in groups:
        for one in (*group.kept, *group.removed):
            fields: Any = msgspec.structs.asdict(one)
            hosts[one.hostname].append(Dated(**fields))
    now = datetime.now(UTC)
    return {
        host: sorted(one.id for one in choose(found, keep, now=now, keeps_oldest=keeps_oldest)[0])
        for host, found in hosts.items()
    }
