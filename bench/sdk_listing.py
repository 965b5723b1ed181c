"""How long the SDK takes for 10,000 jobs in a table of pandas, and how much memory for a million.

    .venv/bin/python -m bench.sdk_listing               # or: make bench-sdk
    .venv/bin/python -m bench.sdk_listing --jobs 100000

The first asks a real server, over a real socket, in a process of its own. The second iterates over
pages that stand ready, so that only the SDK is measured. Ends with exit code 1 when a limit is
broken.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

import httpx
import msgspec

import backhaul
from backhaul.objects.fleet import Fleet
from backhaul.wire.jobs import Job as JobData
from backhaul.wire.kinds import BackupRequest, BackupResult
from backhaul.wire.pages import Page
from backhaul.wire.tokens import TokenKind, build_token
from tools.local_fleet import LocalFleet

JOBS = 10_000
TABLE_LIMIT_S = 2.0
"""For 10,000 jobs."""
MILLION = 1_000_000
MEMORY_LIMIT_MIB = 20.0
"""Above what one page takes. All of a million would be two gigabytes."""
PAGE = 500


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backhaul-bench-")).resolve()
    local = LocalFleet(folder)
    try:
        job = fill(local, options.jobs)
        # First, while the process is small: what grows later would hide that this grows.
        million_s, grown_mib = measure_million(job)
        table_s = measure_table(Fleet(local.client), options.jobs)
    finally:
        local.remove()
    print(
        f"{options.jobs:,} jobs as a table of pandas: {table_s:.2f} s (limit {TABLE_LIMIT_S:g} s)"
    )
    print(
        f"{MILLION:,} jobs iterated: {million_s:.1f} s, {grown_mib:.1f} MiB more than for a page "
        f"(limit {MEMORY_LIMIT_MIB:g} MiB)"
    )
    is_slow = options.jobs <= JOBS and table_s > TABLE_LIMIT_S
    return 1 if is_slow or grown_mib > MEMORY_LIMIT_MIB else 0


def fill(local: LocalFleet, count: int) -> JobData:
    """Start a server whose host has run so many backups. Gives one of them."""
    local.start_api()
    local.enrol_host()
    local.client.create_repository(
        backhaul.CreateRepository(name="nas", location="/srv/restic", password="of its own")
    )
    request = BackupRequest(host=local.host_name, repository="nas", paths=("/etc",))
    first = local.client.create_job(request)
    result = BackupResult(
        snapshot_id="0123abcd", total_files_processed=7, total_bytes_processed=1 << 30
    )
    # Asking for each of them would take minutes, and is not what is measured.
    with sqlite3.connect(local.folder / "api" / "backhaul.sqlite3") as connection:
        connection.execute(
            "UPDATE jobs SET state = 'succeeded', accepted_at = created_at, "
            "started_at = created_at, finished_at = created_at, exit_code = 0, result = ?",
            (msgspec.json.encode(result).decode(),),
        )
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
        copied = ", ".join("?" if name == "id" else name for name in columns)
        connection.executemany(
            f"INSERT INTO jobs SELECT {copied} FROM jobs WHERE id = ?",  # noqa: S608
            ((UUID(int=first.id.int + number).hex, first.id.hex) for number in range(1, count)),
        )
    connection.close()
    return local.client.get_job(first.id)


def measure_table(fleet: Fleet, count: int) -> float:
    """Give the seconds from the question to the table; the best of three."""
    fleet.jobs.to_pandas(limit=1)  # imports pandas
    best_s = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        table = fleet.jobs.to_pandas()
        best_s = min(best_s, time.perf_counter() - began)
        assert len(table) == count, len(table)
    return best_s


def measure_million(job: JobData) -> tuple[float, float]:
    """Give the seconds, and the MiB by which the process grew after the first page."""
    page = msgspec.json.encode(Page(items=(job,) * PAGE, next_cursor="more"))
    last = msgspec.json.encode(Page(items=(job,) * PAGE, next_cursor=None))
    left = MILLION // PAGE

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal left
        left -= 1
        return httpx.Response(200, content=page if left else last)

    token = build_token(TokenKind.SESSION)
    transport = httpx.MockTransport(answer)
    began, count, before = time.perf_counter(), 0, 0
    with Fleet(backhaul.Client("http://bench", token=token, transport=transport)) as fleet:
        for _ in fleet.jobs:
            count += 1
            if count == PAGE:
                before = read_peak()
    assert count == MILLION, count
    return time.perf_counter() - began, (read_peak() - before) / 1024


def read_peak() -> int:
    """Give the most memory that this process ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
