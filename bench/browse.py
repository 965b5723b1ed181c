"""Page through a snapshot of many small files, with a real API, agent and restic on this machine.

`python -m bench.browse [FILES]`; 200,000 by default, compared with 2,000. Files and repository lie
in memory where there is /dev/shm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupRequest
from tools.local_fleet import HOST, REPOSITORY, LocalFleet

MEMORY = Path("/dev/shm")  # noqa: S108 (a folder is made in it)
FILES, FEW_FILES = 200_000, 2_000
PER_FOLDER = 1000
PAGE = 1000
FIRST_PAGE_LIMIT_S = 1.0


def main() -> int:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    print(f"{'files':>9} {'first page':>11} {'a page':>8} {'all':>8} {'agent':>9} {'API':>9}")
    first_pages = [measure(count) for count in (FEW_FILES, files)]
    if max(first_pages) > FIRST_PAGE_LIMIT_S:
        print(f"the first page took longer than {FIRST_PAGE_LIMIT_S} s")
        return 1
    return 0


def measure(count: int) -> float:
    """Back so many files up, page through them, and print a line; gives the first page's time."""
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


def page_through(fleet: LocalFleet, tree: Path, count: int) -> float:
    job = fleet.run_job(BackupRequest(host=HOST, repository=REPOSITORY, paths=(str(tree),)))
    assert job.state is JobState.SUCCEEDED, job
    [snapshot] = fleet.client.list_snapshots()
    cursor, seen, times = None, 0, []
    while True:
        started = time.monotonic()
        page = fleet.client.list_snapshot_files(
            REPOSITORY, snapshot.id, str(tree), recursive=True, limit=PAGE, cursor=cursor
        )
        times.append(time.monotonic() - started)
        seen += sum(entry.type == "file" for entry in page.entries)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == count, f"{seen} of {count} files were listed"
    agent, api = (read_peak(process.pid) for process in (fleet.agent, fleet.api))
    later = sum(times[1:]) / max(len(times) - 1, 1)
    print(
        f"{count:>9,} {times[0]:>9.2f} s {later:>6.2f} s {sum(times):>6.1f} s"
        f" {agent:>6.0f} MB {api:>6.0f} MB"
    )
    return times[0]


def read_peak(pid: int) -> float:
    """Read the most memory that a process has had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"process {pid} says nothing of its memory")


if __name__ == "__main__":
    sys.exit(main())
