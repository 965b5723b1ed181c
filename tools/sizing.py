"""Size a server: run `backhaul simulate` with fleets of several sizes, and write the table.

    .venv/bin/python -m tools.sizing                       # or: make sizing
    .venv/bin/python -m tools.sizing --sizes 100 1000 --write

Each size has a server and a PostgreSQL of its own, which write to the disk as in real life. What
they use is read from /proc while the fleet lives, at `--speed` times the pace of a day: so often
would a fleet fire that does all its work in a few hours of the night. `--write` puts the table into
docs/sizing.md; the figures of every run go to bench/results/sizing.jsonl.

Before it lives, a fleet enrols, gets its schedules and comes to poll: 10,000 agents in about three
minutes on two cores. How far it is stands on stderr.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from backhaul import display
from backhaul.wire.agents import DEFAULT_HOLD_S
from backhaul_agent.simulation.figures import BytesPerDay, Report
from tests.fakes.postgresql import PostgresqlServer, run_postgresql
from tools.children import Child
from tools.local_fleet import LocalFleet

SIZES = (100, 1000, 10_000)
SPEED = 6.0
SECONDS = 120.0
SHORTEST_S = 10.0
"""What is used is sampled once a second."""
RAMP_PER_S = 200.0
"""More than a server takes in: a large fleet comes at the pace of the server."""
SAMPLE_EVERY_S = 1.0
DATABASE = "sizing"
PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
RESULTS = Path(__file__).parents[1] / "bench" / "results" / "sizing.jsonl"
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"

_TICKS = os.sysconf("SC_CLK_TCK")
_HEADROOM = 2.0
"""A server that is half busy answers soon, and takes its fleet in again after a restart."""
_SMALLEST_GIB = 1


@dataclass(frozen=True)
class Sample:
    """What was used up to a moment, or then."""

    at: datetime
    server_cpu_s: float
    server_mib: float
    postgresql_cpu_s: float = 0.0
    postgresql_mib: float = 0.0
    transactions: int = 0
    database_bytes: int = 0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the results."""

    database: str
    agents: int
    speed: float
    server_cores: float
    server_mib: float
    postgresql_cores: float
    postgresql_mib: float
    transactions_per_s: float
    database_bytes_per_job: int | None
    report: Report


class SizedFleet(LocalFleet):
    """A server on a given database."""

    def __init__(self, folder: Path, database_url: str | None) -> None:
        super().__init__(folder)
        if database_url is not None:
            self.environment["BACKHAUL_API_DATABASE_URL"] = database_url

    def simulate(self, *options: str) -> Child:
        return self._start("simulate", "simulate", "--json", *options)


def measure(folder: Path, database: str, agents: int, *, speed: float, seconds: float) -> Row:
    """Run one size."""
    with _database(database) as postgresql:
        url = None if postgresql is None else postgresql.create_database(DATABASE)
        fleet = SizedFleet(folder, url)
        try:
            fleet.start_api()
            child = fleet.simulate(
                f"--agents={agents}",
                f"--speed={speed}",
                f"--duration={seconds:.0f}s",
                # Spread over a hold, for their polls come back as the first ones came.
                f"--ramp={max(agents / RAMP_PER_S, DEFAULT_HOLD_S):.0f}s",
            )
            samples, told_until = [], 0
            while child.process.poll() is None:
                samples.append(_take_sample(fleet.api.pid, postgresql))
                told_until = _pass_on(child, since=told_until)
                time.sleep(SAMPLE_EVERY_S)
            if not (told := child.output_file.read_bytes()):
                raise SystemExit(child.error_file.read_text()[-2000:])
            return build_row(database, msgspec.json.decode(told, type=Report), samples)
        finally:
            fleet.stop()


@contextmanager
def _database(name: str) -> Iterator[PostgresqlServer | None]:
    if name == "sqlite":
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="bh-pg-", ignore_cleanup_errors=True) as place,
        run_postgresql(Path(place), is_durable=True) as server,
    ):
        yield server


def _pass_on(child: Child, *, since: int) -> int:
    """Say what the simulation has said of its progress; gives how much that is by now."""
    said = child.error_file.read_text()
    sys.stderr.write(said[since:])
    sys.stderr.flush()
    return len(said)


def _take_sample(pid: int, postgresql: PostgresqlServer | None) -> Sample:
    sample = Sample(
        at=datetime.now(UTC), server_cpu_s=_read_cpu_s(pid), server_mib=_read_memory_mib(pid)
    )
    if postgresql is None:
        return sample
    children = _list_children(postgresql.pid)
    counted = postgresql.ask(
        DATABASE,
        "SELECT xact_commit + xact_rollback, pg_database_size(datname) FROM pg_stat_database"
        " WHERE datname = current_database()",
    )
    transactions, size = counted.split("|")
    return Sample(
        at=sample.at,
        server_cpu_s=sample.server_cpu_s,
        server_mib=sample.server_mib,
        postgresql_cpu_s=_read_cpu_s(postgresql.pid, has_ended=True)
        + sum(_read_cpu_s(one) for one in children),
        postgresql_mib=sum(_read_memory_mib(one) for one in (postgresql.pid, *children)),
        transactions=int(transactions),
        database_bytes=int(size),
    )


def _read_cpu_s(pid: int, *, has_ended: bool = False) -> float:
    """Read what a process has used; `has_ended` adds its children that are gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(word) for word in words[11 : 15 if has_ended else 13]) / _TICKS


def _read_memory_mib(pid: int) -> float:
    """Read the memory of a process, its share of what it has in common with others."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(one.split()[1]) / 1024 for one in lines if one.startswith("Pss:")), 0.0)


def _list_children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def build_row(database: str, report: Report, samples: Sequence[Sample]) -> Row:
    """Build the results of the time in which the whole fleet lived."""
    begin = report.ended_at - timedelta(seconds=report.seconds)
    lived = [one for one in samples if begin <= one.at <= report.ended_at]
    first, last = lived[0], lived[-1]
    seconds = (last.at - first.at).total_seconds()
    grown = last.database_bytes - first.database_bytes
    return Row(
        database=database,
        agents=report.agents,
        speed=report.speed,
        server_cores=round((last.server_cpu_s - first.server_cpu_s) / seconds, 3),
        server_mib=round(max(one.server_mib for one in lived), 1),
        postgresql_cores=round((last.postgresql_cpu_s - first.postgresql_cpu_s) / seconds, 3),
        postgresql_mib=round(max(one.postgresql_mib for one in lived), 1),
        transactions_per_s=round((last.transactions - first.transactions) / seconds, 1),
        database_bytes_per_job=grown // report.ended if report.ended and grown > 0 else None,
        report=report,
    )


def draw(rows: Sequence[Row], *, machine: str, load: float, on: datetime) -> str:
    """Draw the table, as the page has it. The load is what others made before it."""
    lines = [
        "| agents | database | instance | server | PostgreSQL | polls | jobs | fire to command "
        "| per agent and day |",
        "| ---: | --- | --- | --- | --- | ---: | ---: | --- | --- |",
        *(_draw_row(row) for row in rows),
    ]
    seconds, speed = rows[0].report.seconds, rows[0].speed
    said = [
        f"Measured on {on:%Y-%m-%d}: {machine}; server, PostgreSQL and simulator together on it.",
        f"{seconds:.0f} seconds each, with {speed:g} times the jobs of the mean hour of a day.",
        f"Other work made a load of {load:.1f} before: beyond 0.5, believe the cores and not the",
        "latencies.",
    ]
    return "\n".join([BEGIN, "", *lines, "", *said, "", END])


def _draw_row(row: Row) -> str:
    report, day = row.report, row.report.bytes_per_day
    timed = report.latencies.get("fire to command")
    is_sqlite = row.database == "sqlite"
    cells = [
        f"{row.agents:,}",
        "SQLite" if is_sqlite else "PostgreSQL",
        suggest(row.server_cores + row.postgresql_cores, row.server_mib + row.postgresql_mib),
        f"{row.server_cores:.2f} cores, {row.server_mib:,.0f} MiB",
        ""
        if is_sqlite
        else f"{row.postgresql_cores:.2f} cores, {row.postgresql_mib:,.0f} MiB, "
        f"{row.transactions_per_s:,.0f} transactions/s",
        f"{report.polls_per_s:,.1f}/s",
        f"{report.ended / report.seconds:,.2f}/s",
        "" if timed is None else f"p50 {timed.p50_ms:,.0f} ms, p99 {timed.p99_ms:,.0f} ms",
        "" if day is None else _draw_traffic(day),
    ]
    return f"| {' | '.join(cells)} |"


def _draw_traffic(day: BytesPerDay) -> str:
    return f"{display.render_bytes(day.sent)} sent, {display.render_bytes(day.received)} received"


def suggest(cores: float, mib: float) -> str:
    """Name the smallest usual instance with room for twice of it, and a system."""
    count = max(1, 2 ** math.ceil(math.log2(max(cores * _HEADROOM, 1.0))))
    gib = max(_SMALLEST_GIB, (mib * _HEADROOM + 512) / 1024)
    return f"{count} vCPU, {2 ** math.ceil(math.log2(gib))} GiB"


def describe_machine() -> str:
    """Say what this is measured on, for people."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def write(table: str) -> None:
    """Put the table into the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + table + rest.partition(END)[2])


def main() -> int:
    """Run it. Gives the exit code: 1 when a fleet lost something."""
    parser = argparse.ArgumentParser(prog="make sizing", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--speed", type=float, default=SPEED)
    parser.add_argument("--write", action="store_true", help="put the table into docs/sizing.md")
    options = parser.parse_args()
    if options.seconds < SHORTEST_S:
        parser.error(f"--seconds: {SHORTEST_S:g} at least")
    rows, load = [], os.getloadavg()[0]
    for agents in options.sizes:
        print(f"{agents:,} agents", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="backhaul-sizing-") as folder:
            row = measure(
                Path(folder).resolve(),
                options.database,
                agents,
                speed=options.speed,
                seconds=options.seconds,
            )
        rows.append(row)
        print(_draw_row(row), flush=True)
        findings = [*row.report.lost, *row.report.doubled, *row.report.stuck]
        print("\n".join(findings[:10] or ["nothing lost, doubled or stuck"]), flush=True)
    RESULTS.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    table = draw(rows, machine=describe_machine(), load=load, on=datetime.now(UTC))
    print(table)
    if options.write:
        write(table)
    return 0 if all(row.report.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
