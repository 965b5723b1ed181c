"""Page through a snapshot of many small files, with a real API, agent and restic on this machine.

`python -m bench.browse [FILES]`; 200,000 by default, compared with 2,000. Files and repository lie
in memory where there is /dev/shm.

restic opens the repository and reads its index before it lists anything, so the first page is
measured beside restic alone: the same command line in the same environment on the same repository,
until as many lines are read, in turns with the page, and the median of each. Prints a table, writes
bench/results/browse.jsonl, and ends with exit code 1 when the first page of the small snapshot
takes longer than a second, or that of the large one longer than 1.3 times restic alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backhaul.wire.commands import Credentials
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupRequest
from backhaul.wire.snapshots import ListFiles, Snapshot
from backhaul_agent.restic import ls
from backhaul_agent.restic.environment import build_environment
from backhaul_agent.settings import Settings
from bench.results import Result, write
from tools.local_fleet import HOST, REPOSITORY, LocalFleet, name_restic

RESULTS = Path(__file__).parent / "results" / "browse.jsonl"

MEMORY = Path("/dev/shm")  # noqa: S108 (a folder is made in it)
FILES, FEW_FILES = 200_000, 2_000
PER_FOLDER = 1000
PAGE = 1000
ROUNDS = 3
FIRST_PAGE_LIMIT_S = 1.0
RATIO_LIMIT = 1.3


def main() -> int:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    heads = ("files", "restic alone", "first page", "ratio", "a page", "all", "agent", "API")
    print("".join(f"{head:>13}" for head in heads))
    small, large = (measure(count) for count in (FEW_FILES, files))
    results = [*small, *large]
    write(results, RESULTS)
    faults = []
    if small[0].value > FIRST_PAGE_LIMIT_S:
        faults.append(f"the first page of {FEW_FILES:,} files took over {FIRST_PAGE_LIMIT_S} s")
    if (large[0].ratio or 0.0) > RATIO_LIMIT:
        faults.append(f"that of {files:,} files took over {RATIO_LIMIT} times restic alone")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def measure(count: int) -> list[Result]:
    """Back so many files up, page through them, and print a line; the first page comes first."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        tree = Path(folder) / "tree"
        make_files(tree, count)
        (Path(folder) / "fleet").mkdir()
        fleet = LocalFleet(Path(folder) / "fleet")
        try:
            fleet.start_api()
            fleet.enrol_host()
            fleet.start_agent()
            fleet.create_repository()
            return page_through(fleet, tree, count)
        finally:
            fleet.stop()


def make_files(tree: Path, count: int) -> None:
    for number in range(count):
        if number % PER_FOLDER == 0:
            folder = tree / f"{number // PER_FOLDER:04}"
            folder.mkdir(parents=True)
        (folder / f"{number:07}").write_text(f"{number}\n")


def page_through(fleet: LocalFleet, tree: Path, count: int) -> list[Result]:
    job = fleet.run_job(BackupRequest(host=HOST, repository=REPOSITORY, paths=(str(tree),)))
    assert job.state is JobState.SUCCEEDED, job
    [snapshot] = fleet.client.list_snapshots()
    alone, first = [], []
    for _ in range(ROUNDS):
        alone.append(time_restic(fleet, snapshot, tree))
        # A first page is never that of a listing which waits: it starts restic each time.
        first.append(time_pages(fleet, snapshot, tree, pages=1)[0][0])
    times, seen = time_pages(fleet, snapshot, tree, pages=None)
    assert seen == count, f"{seen} of {count} files were listed"
    agent, api = (read_peak(process.pid) for process in (fleet.agent, fleet.api))
    baseline, page = statistics.median(alone), statistics.median(first)
    later = sum(times[1:]) / max(len(times) - 1, 1)
    shown = (
        f"{count:,}",
        f"{baseline:.2f} s",
        f"{page:.2f} s",
        f"{page / baseline:.2f}",
        f"{later:.2f} s",
        f"{sum(times):.1f} s",
        f"{agent:.0f} MB",
        f"{api:.0f} MB",
    )
    print("".join(f"{cell:>13}" for cell in shown), flush=True)
    of = f"of {count} files"
    return [
        _build(f"first page {of}", page, "s", baseline),
        _build(f"later page {of}", later, "s"),
        _build(f"all pages {of}", sum(times), "s"),
        _build(f"agent's peak {of}", agent, "MB"),
        _build(f"API's peak {of}", api, "MB"),
    ]


def _build(name: str, value: float, unit: str, baseline: float | None = None) -> Result:
    if baseline is None:
        return Result(name=name, value=round(value, 4), unit=unit)
    return Result(
        name=name,
        value=round(value, 4),
        unit=unit,
        baseline=round(baseline, 4),
        ratio=round(value / baseline, 4),
    )


def time_pages(
    fleet: LocalFleet, snapshot: Snapshot, tree: Path, *, pages: int | None
) -> tuple[list[float], int]:
    """Ask for so many pages, or for all; gives the time of each, and how many files there were."""
    times: list[float] = []
    cursor, seen = None, 0
    while pages is None or len(times) < pages:
        started = time.monotonic()
        page = fleet.client.list_snapshot_files(
            REPOSITORY, snapshot.id, str(tree), recursive=True, limit=PAGE, cursor=cursor
        )
        times.append(time.monotonic() - started)
        seen += sum(entry.type == "file" for entry in page.entries)
        cursor = page.next_cursor
        if cursor is None:
            break
    return times, seen


def time_restic(fleet: LocalFleet, snapshot: Snapshot, tree: Path) -> float:
    """Run restic as the agent does, until it has printed a page and one entry more."""
    credentials = Credentials(
        repository_id=snapshot.repository_id,
        location=str(fleet.repository),
        password=fleet.secrets["repository password"],
    )
    environment = build_environment(
        credentials,
        inherited=os.environ,
        cache_dir=Settings(state_dir=fleet.state).effective_cache_dir,
    )
    arguments = ls.build_arguments(
        ListFiles(snapshot=snapshot.id, path=str(tree), is_recursive=True, limit=PAGE)
    )
    started = time.monotonic()
    with subprocess.Popen(
        [name_restic(), *arguments], env=environment, stdout=subprocess.PIPE
    ) as restic:
        assert restic.stdout is not None
        # Before the entries stand the snapshot and the folder itself.
        for _ in range(PAGE + 3):
            assert restic.stdout.readline()
        took_s = time.monotonic() - started
        restic.kill()
    return took_s


def read_peak(pid: int) -> float:
    """Read the most memory that a process has had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"process {pid} says nothing of its memory")


if __name__ == "__main__":
    sys.exit(main())
