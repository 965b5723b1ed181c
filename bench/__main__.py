"""Measure Backhaul beside servers that do less, and beside the design that it replaces.

    .venv/bin/python -m bench                     # or: make bench
    .venv/bin/python -m bench --quick             # or: make bench-quick; few agents, judges nothing
    .venv/bin/python -m bench --only fires --rounds 1

Each server runs alone on one core and its clients on another, one server after the other, in
rounds; the median counts. Backhaul runs on SQLite (synchronous=FULL) and on a PostgreSQL server of
its own (fsync on), on the clients' core. Prints a table, writes bench/results/suite.jsonl, and ends
with exit code 1 when a limit is not kept.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backhaul_api.settings import Settings
from bench import fires, parked, results, stopping
from bench.contenders import Contender, Made, build_backhaul, build_baseline, build_sockets
from bench.made_fleet import make_fleet
from bench.parked import Figures, Scale
from bench.processes import become_client, build_runner
from bench.results import Limit, Result, compare
from tests.fakes.postgresql import PostgresqlServer, run_postgresql

AGENTS, ROUNDS = 10_000, 3
GROWTH = (100, 1_000)
"""Numbers of agents besides, for how the cost grows."""
MOST = 20_000
"""As many as that, or as the limit of open files leaves room for, for the same."""
_FILES_BESIDES = 1000
_REPOLLING_OF_MOST = 500

PARTS = ("polls", "fires", "stop")
SQLITE, POSTGRESQL = "backhaul", "backhaul_postgresql"
FILE = results.FOLDER / "suite.jsonl"

LIMITS = (
    Limit(name="memory.backhaul", bound=0.45),
    Limit(name="repoll.backhaul", bound=0.8),
    Limit(name="dispatch_p50.backhaul", bound=3),
    Limit(name="dispatch_p50.backhaul_postgresql", bound=5),
    Limit(name="dispatch_p99_by_p50.backhaul", bound=4),
    Limit(name="broadcast.backhaul", bound=0.6),
    Limit(name="intake.backhaul", bound=0.8),
    Limit(name="jobs_16.backhaul", bound=0.7, is_least=True),
    Limit(name="jobs_64.backhaul", bound=0.7, is_least=True),
    *(
        Limit(name=f"{measure}.{name}", bound=0, of="value")
        for measure in ("lost", "doubled", "fires.lost", "fires.doubled")
        for name in (SQLITE, POSTGRESQL)
    ),
    Limit(name="fires.backhaul", bound=8, is_least=True),
    Limit(name="fires.backhaul_postgresql", bound=5, is_least=True),
    Limit(name="fires_by_100.backhaul", bound=2, is_least=True),
    Limit(name="fires_by_100.backhaul_postgresql", bound=2, is_least=True),
    Limit(name="growth.memory", bound=1.05),
    Limit(name="growth.repoll", bound=1.1),
    Limit(name="growth.dispatch_p50", bound=1.5),
    Limit(name="growth.broadcast", bound=1.5),
    Limit(name="stop.exit", bound=3, of="value"),
    Limit(name="stop.errors", bound=0, of="value"),
    Limit(name="stop.late", bound=0, of="value"),
    Limit(name="stop.next_cpu", bound=0.8, of="value"),
)

Seen = dict[tuple[str, str, int], list[Figures]]
"""What each round saw, by the part, the server and the number of agents."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how much of it."""

    sizes: tuple[int, ...]
    """Numbers of agents. With that of `scale`, all servers are measured."""
    rounds: int
    parts: tuple[str, ...]
    scale: Scale
    load: fires.Load
    short_interval_s: float
    short_jobs: int
    plain_hold_s: float
    """What uvicorn alone waits for."""
    with_postgresql: bool

    @property
    def hosts(self) -> int:
        return max(build_scale(self, agents).hosts for agents in self.sizes)


def build_scale(plan: Plan, agents: int) -> Scale:
    """Build how much is measured with so many agents."""
    repolling = plan.scale.repolling
    if agents > plan.scale.agents:
        # Each of them takes a connection, too.
        repolling = min(repolling, _REPOLLING_OF_MOST)
    return replace(plan.scale, agents=agents, repolling=repolling)


def _choose_sizes(agents: int, *, is_usual: bool) -> tuple[int, ...]:
    if not is_usual:
        return (agents,)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if soft == resource.RLIM_INFINITY else min(MOST, soft - _FILES_BESIDES)
    return (*GROWTH, agents, *([most] if most > agents else []))


def build_plan(options: argparse.Namespace) -> Plan:
    quick: bool = options.quick
    agents: int = options.agents or (200 if quick else AGENTS)
    scale = Scale(agents=agents)
    if quick:
        hosts, seconds = min(agents, 200), options.seconds
        scale = Scale(
            agents=agents,
            repolling=hosts,
            repoll_hold_s=seconds / 4,
            repoll_s=seconds,
            dispatches=min(agents, 50),
            jobs_s=seconds,
            clients=(16, 64) if agents >= 64 else (16,),
        )
    return Plan(
        sizes=_choose_sizes(agents, is_usual=not quick and options.agents is None),
        rounds=options.rounds or (1 if quick else ROUNDS),
        parts=tuple(options.only or PARTS),
        scale=scale,
        load=fires.Load(clients=16, seconds=options.seconds) if quick else fires.Load(),
        short_interval_s=0.5 if quick else 5.0,
        short_jobs=min(agents, 200),
        plain_hold_s=1.0 if quick else 25.0,
        with_postgresql=not options.without_postgresql,
    )


class Suite:
    """One run of the suite, in a folder of its own."""

    def __init__(self, plan: Plan, folder: Path, postgresql: PostgresqlServer | None) -> None:
        self._plan = plan
        self._folder = folder
        self._postgresql = postgresql
        self._numbers = itertools.count()
        self.seen: Seen = defaultdict(list)

    def run(self) -> None:
        plan = self._plan
        made = {name: self._make(name, plan.hosts) for name in self._databases}
        fired = {
            name: self._make(f"{name}_fires", fires.HOSTS, schedules_each=fires.SCHEDULES_EACH)
            for name in self._databases
            if "fires" in plan.parts
        }
        for _ in range(plan.rounds):
            if "polls" in plan.parts:
                for agents in plan.sizes:
                    self._measure_polls(agents, made)
                self._measure_short_polls(made[SQLITE])
            for name, one in fired.items():
                self._measure_fires(name, one)
        if "stop" in plan.parts:
            self._measure_stop(made)

    @property
    def _databases(self) -> tuple[str, ...]:
        return (SQLITE, POSTGRESQL) if self._postgresql is not None else (SQLITE,)

    def _make(self, name: str, hosts: int, *, schedules_each: int = 0) -> Made:
        """Fill a control plane."""
        folder = self._folder / f"made_{name}"
        folder.mkdir()
        postgresql, url = None, None
        if name.startswith(POSTGRESQL):
            assert self._postgresql is not None
            postgresql, url = self._postgresql, self._postgresql.create_database(folder.name)
        settings = Settings(data_dir=folder, database_url=url)
        fleet = _run(make_fleet(settings, hosts, schedules_each=schedules_each))
        return Made(folder=folder, fleet=fleet, postgresql=postgresql)

    @contextmanager
    def _copied(self, made: Made) -> Iterator[tuple[Path, str]]:
        name = f"copy_{next(self._numbers)}"
        try:
            yield made.copy(name)
        finally:
            made.delete(name)

    def _measure_polls(self, agents: int, made: Mapping[str, Made]) -> None:
        """Measure all servers with the agents of the plan's scale; with more and fewer, those that
        growth is told of."""
        fleet, is_main = made[SQLITE].fleet, agents == self._plan.scale.agents
        scale = build_scale(self._plan, agents)
        self._add_polls(build_baseline("bare_asgi", fleet), scale)
        if is_main:
            self._add_polls(build_baseline("minimal_litestar", fleet), scale)
            self._add_polls(build_sockets("websockets", fleet), scale)
            self._add_polls(build_sockets("websockets_plain", fleet, "--no-compression"), scale)
        for name in self._databases if is_main else (SQLITE,):
            with self._copied(made[name]) as (folder, url):
                self._add_polls(build_backhaul(name, made[name].fleet, folder, url), scale)

    def _add_polls(self, contender: Contender, scale: Scale) -> None:
        self._add("polls", contender.name, scale.agents, parked.measure(contender, scale))

    def _measure_short_polls(self, made: Made) -> None:
        measuring = parked.measure_short_polls(
            build_baseline("bare_asgi", made.fleet),
            interval_s=self._plan.short_interval_s,
            jobs=self._plan.short_jobs,
        )
        self._add("polls", "short_polls", self._plan.scale.agents, measuring)

    def _measure_fires(self, name: str, made: Made) -> None:
        single = self._plan.load
        batched = fires.Load(clients=single.clients, seconds=single.seconds, batch=100)
        for key, load in ((name, single), (f"{name}_by_100", batched)):
            with self._copied(made) as (folder, url):
                measuring = fires.measure_backhaul(made.fleet, folder, url, load)
                self._add("fires", key, load.clients, measuring)
        folder = self._folder / f"orm_{next(self._numbers)}"
        folder.mkdir()
        url = f"sqlite+aiosqlite:///{folder / 'orm.sqlite3'}"
        if made.postgresql is not None:
            url = made.postgresql.create_database(folder.name)
        measuring = fires.measure_orm(made.fleet, folder, url, single)
        self._add("fires", f"{name}_orm", single.clients, measuring)

    def _measure_stop(self, made: Mapping[str, Made]) -> None:
        """Stop uvicorn alone, and one of two instances: they need PostgreSQL."""
        agents = self._plan.scale.agents
        plain = build_baseline("bare_asgi", made[SQLITE].fleet)
        hold_s = self._plan.plain_hold_s
        self._add(
            "stop", plain.name, agents, stopping.measure_plain_stop(plain, agents, hold_s=hold_s)
        )
        if POSTGRESQL in made:
            one = made[POSTGRESQL]
            with self._copied(one) as (folder, url):
                both = build_backhaul(SQLITE, one.fleet, folder, url)
                self._add("stop", SQLITE, agents, stopping.measure_stop(both, agents))

    def _add(
        self, part: str, name: str, agents: int, measuring: Coroutine[Any, Any, Figures]
    ) -> None:
        figures = _run(measuring)
        self.seen[part, name, agents].append(figures)
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{part}, {agents}: {name}: {shown}", flush=True)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with build_runner() as runner:
        return runner.run(coroutine)


# What is made of it ------------------------------------------------------------------------------


def summarise(seen: Seen) -> list[Result]:
    """Take the medians, and put each beside its baseline."""
    medians = {key: _take_medians(rounds) for key, rounds in seen.items()}
    return [
        *_summarise_polls(medians),
        *_summarise_growth(medians),
        *_summarise_fires(medians),
        *_summarise_stop(medians),
    ]


def _take_medians(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


Medians = Mapping[tuple[str, str, int], Figures]


def _find_main(medians: Medians) -> int | None:
    """Find with how many agents all servers were measured."""
    return next((agents for _, name, agents in medians if name == "minimal_litestar"), None)


def _summarise_polls(medians: Medians) -> Iterator[Result]:
    """Compare with the bare ASGI app, the rate of jobs with a minimal Litestar."""
    main = _find_main(medians)
    if main is None:
        return
    here = {
        name: figures
        for (part, name, agents), figures in medians.items()
        if part == "polls" and agents == main
    }
    for measure, unit in parked.UNITS.items():
        base = here["minimal_litestar" if measure.startswith("jobs") else "bare_asgi"]
        for name, figures in here.items():
            if measure in figures:
                yield compare(f"{measure}.{name}", figures[measure], unit, base.get(measure))
        if measure == "dispatch_p99":
            for name, figures in here.items():
                yield compare(
                    f"dispatch_p99_by_p50.{name}",
                    figures["dispatch_p99"],
                    unit,
                    figures["dispatch_p50"],
                )


def build_growth(medians: Medians) -> dict[str, dict[int, Figures]]:
    """Give the cost per agent, by the server and the number of agents."""
    grown: dict[str, dict[int, Figures]] = defaultdict(dict)
    for (part, name, agents), figures in medians.items():
        if part == "polls" and name in {"bare_asgi", SQLITE}:
            cost = {measure: figures[measure] for measure in GROWN}
            grown[name][agents] = cost | {"broadcast": figures["broadcast"] * 1000 / agents}
    return grown


GROWN = {"memory": "KiB", "repoll": "µs", "dispatch_p50": "ms", "broadcast": "µs"}
"""What is told of growth: of a broadcast, the time for each agent."""


def _summarise_growth(medians: Medians) -> Iterator[Result]:
    """Give all of it, and compare as many agents as all servers had with a thousand, where those
    are fewer."""
    main = _find_main(medians)
    for name, by_agents in build_growth(medians).items():
        agents = sorted(by_agents)
        if len(agents) < 2:
            return
        for measure, unit in GROWN.items():
            for number in agents:
                yield compare(f"growth.{measure}.{name}.{number}", by_agents[number][measure], unit)
            if name == SQLITE and main is not None and GROWTH[-1] in agents and main > GROWTH[-1]:
                least, most = (by_agents[number][measure] for number in (GROWTH[-1], main))
                yield compare(f"growth.{measure}", most, unit, least)


def _summarise_fires(medians: Medians) -> Iterator[Result]:
    here = {name: figures for (part, name, _), figures in medians.items() if part == "fires"}
    for name in (SQLITE, POSTGRESQL):
        if name not in here:
            continue
        single, many, orm = here[name], here[f"{name}_by_100"], here[f"{name}_orm"]
        yield compare(f"fires.{name}", single["fires"], "1/s", orm["fires"])
        yield compare(f"fires_by_100.{name}", many["fires"], "1/s", single["fires"])
        for measure in ("lost", "doubled"):
            yield compare(f"fires.{measure}.{name}", single[measure] + many[measure], "")


def _summarise_stop(medians: Medians) -> Iterator[Result]:
    here = {name: figures for (part, name, _), figures in medians.items() if part == "stop"}
    plain = here.get("bare_asgi", {})
    for measure, unit in stopping.UNITS.items():
        if measure in plain:
            yield compare(f"stop.{measure}.bare_asgi", plain[measure], unit)
        if SQLITE in here:
            yield compare(f"stop.{measure}", here[SQLITE][measure], unit, plain.get(measure))


# The command -------------------------------------------------------------------------------------


@contextmanager
def _postgresql(folder: Path, *, is_wanted: bool) -> Iterator[PostgresqlServer | None]:
    if not is_wanted:
        yield None
        return
    folder.mkdir()
    with run_postgresql(folder, is_durable=True) as server:
        yield server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--agents", type=int, help=f"default {AGENTS}, or 200 with --quick")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, or 1 with --quick")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="small numbers, and no limits")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measure, with --quick")
    parser.add_argument("--without-postgresql", action="store_true")
    parser.add_argument("--results", type=Path, help="default: none with --quick")
    options = parser.parse_args(arguments)
    plan = build_plan(options)
    become_client()
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may have to run as another user
        with _postgresql(folder / "pg", is_wanted=plan.with_postgresql) as server:
            suite = Suite(plan, folder, server)
            suite.run()
    found = summarise(suite.seen)
    limits = () if options.quick else LIMITS
    results.print_table(found, limits)
    file = options.results or (None if options.quick else FILE)
    if file is not None:
        results.write(found, file)
    broken = results.find_broken(found, limits)
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
