"""The main job on one machine: enrol a host, back it up with restic, restore, compare.

Starts a real API and a real agent in a temporary folder and works with them as a user would,
through the command line and the Python package. The last line says how it went; nothing is left
behind, unless KEEP=1.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from backhaul.wire.fleet import CreateSource
from backhaul.wire.jobs import Job, JobState
from backhaul.wire.kinds import BackupRequest, BackupResult, RestoreRequest
from tools.children import BACKHAUL
from tools.local_fleet import HOST, JOB_LIMIT_S, REPOSITORY, LocalFleet
from tools.trees import TreeSize, compare_trees, make_tree

SOURCE = "python-library"

console = Console(highlight=False, soft_wrap=True)


class DemoFailedError(Exception):
    """A step did not come out as it must."""


def run(fleet: LocalFleet, *, is_kept: bool) -> str:
    """Go through the main job. Gives the line that says how it went."""
    fleet.start_api()
    step(f"API on {fleet.client.url}, its first operator is signed in")
    fleet.enrol_host()
    fleet.start_agent()
    host = fleet.client.get_host(HOST)
    step(f"host {host.name} enrolled, its agent runs restic {host.facts.restic_version}")
    require_success(fleet.create_repository())
    step(f"repository {REPOSITORY} created")
    result = back_up(fleet)
    snapshot_id = require_listed(fleet, result)
    size = restore(fleet, snapshot_id)
    if (size.files, size.bytes) != (result.total_files_processed, result.total_bytes_processed):
        raise DemoFailedError(f"restic counted otherwise than the {size.files} files here")
    fleet.look_for_leaks()
    print_what_next(fleet, is_kept=is_kept)
    if not is_kept:
        fleet.stop()
        files = fleet.look_for_leaks()
        step(f"all stopped; no password and no token stands in the {files} files that were left")
    return (
        f"demo: ok snapshot={snapshot_id} files={size.files} bytes={size.bytes} restored=identical"
    )


def back_up(fleet: LocalFleet) -> BackupResult:
    """Back the tree up as a source, with a progress bar."""
    tree = fleet.folder / "tree"
    make_tree(tree)
    fleet.client.create_source(CreateSource(name=SOURCE, paths=(str(tree),)))
    request = BackupRequest(host=HOST, repository=REPOSITORY, source=SOURCE)
    job = require_success(follow_with_progress(fleet, fleet.client.create_job(request)))
    if not isinstance(job.result, BackupResult):
        raise DemoFailedError("the backup reported no result")
    return job.result


def follow_with_progress(fleet: LocalFleet, job: Job) -> Job:
    """Show how far restic is, as the API hears it, until the job has ended."""
    columns = (
        TextColumn("  backing up"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[files]} files"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("backup", total=None, files=0)
        for change in fleet.client.follow_job(job.id, timeout=JOB_LIMIT_S):
            job = change
            if isinstance(job.result, BackupResult):
                size, files = job.result.total_bytes_processed, job.result.total_files_processed
                bar.update(task, total=size, completed=size, files=files)
            elif (seen := job.progress) is not None:
                bar.update(
                    task, total=seen.total_bytes, completed=seen.bytes_done, files=seen.files_done
                )
    return job


def require_listed(fleet: LocalFleet, result: BackupResult) -> str:
    """List the snapshots and require the new one among them. Gives its short id."""
    short_ids = [snapshot.short_id for snapshot in fleet.client.list_snapshots()]
    if result.snapshot_id is None or short_ids != [result.snapshot_id[:8]]:
        raise DemoFailedError(f"the API lists the snapshots {short_ids}, not the new one")
    step(f"snapshot made of {result.total_files_processed} files:")
    console.print(fleet.run_cli("snapshots", "list"), end="", markup=False)
    return short_ids[0]


def restore(fleet: LocalFleet, snapshot_id: str) -> TreeSize:
    """Restore elsewhere through a job, and compare with what was backed up."""
    tree, target = fleet.folder / "tree", fleet.folder / "restored"
    request = RestoreRequest(
        host=HOST, repository=REPOSITORY, snapshot=snapshot_id, target=str(target)
    )
    require_success(fleet.run_job(request))
    size = compare_trees(tree, target / tree.relative_to("/"))
    step(f"restored into {target}, compared: contents, modes and links are the same")
    return size


def require_success(job: Job) -> Job:
    if job.state is not JobState.SUCCEEDED:
        raise DemoFailedError(f"the {job.kind} job is {job.state}: {job.message or 'no reason'}")
    return job


def step(text: str) -> None:
    console.print("✓", text, style="green", markup=False)


def print_what_next(fleet: LocalFleet, *, is_kept: bool) -> None:
    variables = " ".join(
        f"{name}={shlex.quote(fleet.environment[name])}"
        for name in ("BACKHAUL_URL", "BACKHAUL_TOKEN_FILE")
    )
    console.print(
        f"""
What to try next{"" if is_kept else ", after make demo KEEP=1, which leaves all of this running"}:

  The API         {fleet.client.url}
  Documentation   {fleet.client.url}/docs
  Command line    export {variables}
                  {BACKHAUL} jobs list
                  {BACKHAUL} jobs run {HOST} backup --path /etc --wait
  Python          import backhaul
                  with backhaul.connect() as fleet:
                      print(list(fleet.hosts["{HOST}"].snapshots))
""",
        markup=False,
    )
    if is_kept:
        pids = " ".join(str(pid) for pid in fleet.pids())
        console.print(f"  All of it is in {fleet.folder}", markup=False)
        console.print(f"  To end it       kill {pids}; rm -r {fleet.folder}\n", markup=False)


def _end_by_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo. Gives the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_by_signal)
    is_kept = os.environ.get("KEEP", "") not in {"", "0"}
    fleet = LocalFleet(Path(tempfile.mkdtemp(prefix="backhaul-demo-")).resolve())
    try:
        line = run(fleet, is_kept=is_kept)
    except Exception as error:  # noqa: BLE001 - whatever it was, a person reads one line
        fleet.stop()
        fleet.remove_all_but_logs()
        console.print(f"demo: failed: {error} (logs: {fleet.logs})", markup=False)
        return 1
    except (KeyboardInterrupt, SystemExit) as ended:
        fleet.remove()
        return 130 if isinstance(ended, KeyboardInterrupt) else int(str(ended.code))
    if is_kept:
        fleet.client.close()
    else:
        fleet.remove()
    console.print(line, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
