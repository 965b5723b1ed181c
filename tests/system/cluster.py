"""Three real instances behind nginx, killed and rolled to a newer version under a mistreated fleet.

    make cluster                        200 jobs
    make cluster ARGS="--jobs 40 --seed 7"

The fleet is that of `make chaos`, and so is the mistreatment. The instances begin on an empty
PostgreSQL at the same moment; one after the other is rolled to a version whose revision expands the
tables, while those of the old version serve, and start again, over them. At the end it is measured
how soon a job that one instance makes reaches a poll that another one holds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.instances import RESULTS, Latencies, measure
from bench.results import write
from tests.fakes.postgresql import run_postgresql
from tests.system.chaos import Chaos, Verdict, say
from tests.system.cluster_fleet import INSTANCES, ClusterFleet
from tests.system.scheduled_fleet import Patience

SAMPLES = 400
"""Of each kind; the small run of the tests makes do with fewer."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    verdict: Verdict
    kills: int
    rolled: int
    errors: tuple[str, ...]
    """Each a line for people: answers and log lines of the instances that must not be."""
    latencies: Latencies

    @property
    def is_good(self) -> bool:
        return self.verdict.is_good and not self.errors and self.rolled == len(INSTANCES)

    def __str__(self) -> str:
        one = self.verdict
        return (
            f"cluster: {'ok' if self.is_good else 'failed'} jobs={one.jobs} faults={one.faults} "
            f"kills={self.kills} rolled={self.rolled} errors={len(self.errors)} "
            f"lost={len(one.lost)} doubled={len(one.doubled)} stuck={len(one.stuck)}"
        )


class ClusterChaos(Chaos):
    """The chaos of one API, with three of them that are killed and rolled apart."""

    def __init__(self, fleet: ClusterFleet, dice: random.Random, *, jobs: int) -> None:
        super().__init__(fleet, dice, jobs=jobs)
        self.cluster = fleet
        self._to_roll = dice.sample(INSTANCES, len(INSTANCES))

    def _weigh_blows(self) -> dict[Callable[[float], None], int]:
        # As many for each of them as for the only one.
        return super()._weigh_blows() | {self._kill_api: 9}

    def _kill_api(self, now: float) -> None:
        name = self._dice.choice(INSTANCES)
        if name not in self._restarts:
            self.cluster.kill_instance(name)
            self._restarts[name] = now + self._dice.uniform(0.1, 6.0)

    def _restart(self, name: str) -> None:
        if name in INSTANCES:
            self.cluster.start_instance(name)
        else:
            super()._restart(name)

    def _make_job(self, count: int) -> None:
        share = len(self.cluster.rolled) + 1
        if self._to_roll and count * (len(INSTANCES) + 2) >= self._wanted * share:
            self._roll()
        super()._make_job(count)

    def _roll(self) -> None:
        name = self._to_roll.pop()
        self._restarts.pop(name, None)
        self.cluster.roll(name)
        say(f"{name} is of the next version")
        if len(self._to_roll) == len(INSTANCES) - 1:
            # One of the old version must start again over the tables of the new one.
            old = self._to_roll[-1]
            if old not in self._restarts:
                self.cluster.kill_instance(old)
            self._restarts.pop(old, None)
            self.cluster.start_instance(old)
            say(f"{old}, of the old version, has started again")

    def _make_peace(self) -> None:
        while self._to_roll:
            self._roll()
        super()._make_peace()


def run(url: str, *, jobs: int, dice: random.Random, folder: Path, samples: int) -> Outcome:
    """Run on an empty database, in a folder that is there."""
    fleet = ClusterFleet(folder / "cluster", Patience(), dice=dice, database_url=url)
    try:
        verdict = ClusterChaos(fleet, dice, jobs=jobs).run()
        ports = list(fleet.ports.values())
        latencies = asyncio.run(measure(url, ports, samples=samples))
        answers = fleet.count_answers()
    finally:
        fleet.stop()
    errors = [*fleet.unclean, *fleet.list_errors()]
    if answers[500]:
        errors.append(f"{answers[500]} requests were answered with 500")
    say(f"answers by status: {dict(sorted(answers.items()))}")
    return Outcome(verdict, fleet.kills["api"], len(fleet.rolled), tuple(errors), latencies)


@contextmanager
def _open_database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with (
        tempfile.TemporaryDirectory(prefix="bh-pg-", ignore_cleanup_errors=True) as place,
        run_postgresql(Path(place), is_durable=True) as server,
    ):
        yield server.create_database("cluster")


def main() -> int:
    """Run it. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200, help="in all; at least 16")
    parser.add_argument("--database-url", help="an empty database on a PostgreSQL of yours")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the dispatch latency")
    parser.add_argument("--seed", type=int, default=None, help="repeats the dice, not the timing")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="backhaul-cluster-")).resolve()
    say(f"{options.jobs} jobs on {len(INSTANCES)} instances, seed {seed}")
    with _open_database(options.database_url) as url:
        dice = random.Random(f"{seed}/cluster")
        outcome = run(url, jobs=options.jobs, dice=dice, folder=folder, samples=options.samples)
    verdict = outcome.verdict
    say(f"{dict(verdict.states)}")
    for finding in (*verdict.lost, *verdict.doubled, *verdict.stuck, *outcome.errors):
        say(finding)
    if outcome.is_good:
        shutil.rmtree(folder)
    else:
        say(f"everything is left in {folder}")
    say(f"dispatch: {outcome.latencies}")
    if options.samples >= SAMPLES:
        write(outcome.latencies.build_results(), RESULTS)
    sys.stdout.write(f"{outcome}\n")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
