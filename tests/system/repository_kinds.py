"""Does every kind of job on every type of repository, for real, and tells what came of it.

One control plane has it all, with a host for each repository, so that none waits for another. What
is in `ROWS` is done in that order on each, and what must be true afterwards is asserted there, on
the files of the repository where that can be seen. What is left to tell is a cell: `ok`, or why
not.

To add a kind, write its function and put it into `ROWS`, before `forget`, or after `unlock` if it
ends what the others need; then record anew, with each restic that the page tells of, and draw:

    .venv/bin/python -m tests.system.repository_kinds
    BACKHAUL_TEST_RESTIC=/path/to/restic .venv/bin/python -m tests.system.repository_kinds
    .venv/bin/python -m tools.draw_kinds
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from backhaul.wire.fleet import ChangePassword, CreateRepository, CreateSource
from backhaul.wire.jobs import Job, JobState
from backhaul.wire.kinds import (
    BackupRequest,
    BackupResult,
    CheckRequest,
    CopyRequest,
    CopyResult,
    DiffRequest,
    DiffResult,
    DrillRequest,
    DrillResult,
    ForgetRequest,
    ForgetResult,
    InitRequest,
    JobKind,
    JobRequest,
    PruneRequest,
    RestoreRequest,
    Retention,
    SnapshotsRequest,
    SnapshotsResult,
    StatsRequest,
    StatsResult,
    UnlockRequest,
    UnlockResult,
)
from backhaul_agent.restic.version import parse_version
from tests.fakes.rest_server import run_rest_server
from tests.fakes.s3_server import BUCKET, run_s3_server
from tests.fakes.sftp_server import run_sftp_server
from tests.fakes.storage import Storage
from tools.draw_kinds import CELLS, OK, REFUSED, Cells, RepositoryType, load_cells
from tools.leaks import require_no_secrets
from tools.local_fleet import JOB_LIMIT_S, LocalFleet, name_restic
from tools.trees import compare_trees

BACKUPS = 2
FILE_BYTES = 300_000
"""Random, so that each backup has data of its own, which a prune can remove."""
_LOCK_LIMIT_S = 30.0


@dataclass(kw_only=True)
class Place:
    """A repository, and what is done on it by a host of the same name."""

    fleet: LocalFleet
    name: str
    storage: Storage
    files: Path
    """Where the storage keeps the repository on this machine."""
    tree: Path
    backups: list[Job] = field(default_factory=list)
    """Of the source that is called as the repository, the oldest first."""

    def run(self, request: JobRequest) -> Job:
        return self.fleet.run_job(request)

    def wait(self, job: Job) -> Job:
        return self.fleet.client.wait_for_job(job.id, timeout=JOB_LIMIT_S)

    def does_open(self, password: str) -> bool:
        """Ask restic whether a password opens the repository."""
        return (
            subprocess.run(
                [name_restic(), "cat", "config", "--no-lock"],
                env={**self.restic_environment(), "RESTIC_PASSWORD": password},
                check=False,
                capture_output=True,
            ).returncode
            == 0
        )

    def stored_bytes(self) -> int:
        """Count what the packs of the repository take."""
        packs = (self.files / "data").rglob("*")
        return sum(pack.stat().st_size for pack in packs if pack.is_file())

    def snapshots(self) -> list[str]:
        return sorted(file.name for file in (self.files / "snapshots").iterdir())

    def locks(self) -> list[str]:
        """Ask restic for the locks: what a server is still being sent lies among its files, too."""
        listed = subprocess.run(
            [name_restic(), "list", "locks", "--no-lock"],
            env=self.restic_environment(),
            check=True,
            capture_output=True,
            text=True,
        )
        return listed.stdout.split()

    def restic_environment(self) -> Mapping[str, str]:
        """Give what restic needs to get here by itself."""
        return {
            **self.fleet.environment,
            **self.storage.environment,
            "RESTIC_REPOSITORY": self.storage.location,
            "RESTIC_PASSWORD": self.fleet.secrets[self.name],
            "RESTIC_CACHE_DIR": str(self.fleet.folder / f"cache-{self.name}"),
        }


Row = Callable[[Place], str]


def _init(place: Place) -> str:
    job = place.run(InitRequest(host=place.name, repository=place.name))
    assert (place.files / "config").exists() == (job.state is JobState.SUCCEEDED)
    return tell(job)


def _backup(place: Place) -> str:
    """Back up a tree whose only file is another one each time."""
    for number in range(BACKUPS):
        for file in place.tree.iterdir():
            file.unlink()
        (place.tree / f"file {number}").write_bytes(secrets.token_bytes(FILE_BYTES))
        place.backups.append(
            place.run(BackupRequest(host=place.name, repository=place.name, source=place.name))
        )
    result = place.backups[-1].result
    if isinstance(result, BackupResult):
        assert result.total_bytes_processed == FILE_BYTES
        assert len(place.snapshots()) == BACKUPS
    return tell(*place.backups)


def _snapshots(place: Place) -> str:
    job = place.run(SnapshotsRequest(host=place.name, repository=place.name))
    if isinstance(job.result, SnapshotsResult):
        assert job.result.snapshots_count == BACKUPS
        listed = place.fleet.client.list_snapshots(repository=place.name)
        assert sorted(one.id for one in listed) == place.snapshots()
    return tell(job)


def _restore(place: Place) -> str:
    target = place.fleet.folder / f"restored-{place.name}"
    request = RestoreRequest(
        host=place.name, repository=place.name, snapshot="latest", target=str(target), verify=True
    )
    job = place.run(request)
    if job.state is JobState.SUCCEEDED:
        restored = target / place.tree.relative_to("/")
        assert compare_trees(place.tree, restored).bytes == FILE_BYTES
    return tell(job)


def _check(place: Place) -> str:
    request = CheckRequest(host=place.name, repository=place.name, read_data_subset="1/1")
    return tell(place.run(request))


def _drill(place: Place) -> str:
    job = place.run(DrillRequest(host=place.name, repository=place.name))
    if isinstance(job.result, DrillResult):
        assert (job.result.files_total, job.result.files_compared) == (1, 1)
        assert job.result.bytes_compared == FILE_BYTES
    return tell(job)


def _diff(place: Place) -> str:
    """Compare the last two snapshots, each of which has the only file that the other lacks."""
    listed = sorted(
        place.fleet.client.list_snapshots(repository=place.name), key=lambda one: one.time
    )
    older, newer = listed[-2:]
    job = place.run(
        DiffRequest(host=place.name, repository=place.name, snapshot=older.id, other=newer.id)
    )
    if isinstance(job.result, DiffResult):
        assert (job.result.added.files, job.result.removed.files) == (1, 1)
        assert sorted(change.modifier for change in job.result.changes)[:2] == ["+", "-"]
    return tell(job)


def _copy(place: Place) -> str:
    """Copy everything to a second repository, in a folder of the host."""
    second = place.fleet.folder / f"second-{place.name}"
    password = place.fleet.secrets.setdefault(second.name, secrets.token_urlsafe(32))
    place.fleet.client.create_repository(
        CreateRepository(name=second.name, location=str(second), password=password)
    )
    created = place.run(InitRequest(host=place.name, repository=second.name))
    job = place.run(CopyRequest(host=place.name, repository=place.name, destination=second.name))
    if isinstance(job.result, CopyResult):
        assert (job.result.copied, job.result.skipped) == (BACKUPS, 0)
        assert len(list((second / "snapshots").iterdir())) == BACKUPS
        listed = list(place.fleet.client.list_snapshots(repository=second.name))
        # They are as honest there as they were here: a forget counts them.
        assert [one.doubt for one in listed] == [None] * BACKUPS
    return tell(created, job)


def _stats(place: Place) -> str:
    job = place.run(StatsRequest(host=place.name, repository=place.name))
    if isinstance(job.result, StatsResult):
        assert job.result.snapshots_count == BACKUPS
        assert job.result.total_size >= BACKUPS * FILE_BYTES
        assert job.result.restore_size == FILE_BYTES
    return tell(job)


def _passwd(place: Place) -> str:
    """Change the password: a key is added, then that of the old password is removed."""
    old, new = place.fleet.secrets[place.name], secrets.token_urlsafe(32)
    place.fleet.secrets[f"new password of {place.name}"] = new
    started = place.fleet.client.change_repository_password(
        place.name, ChangePassword(password=new, host=place.name)
    )
    added = place.wait(started.job)
    assert added.state is JobState.SUCCEEDED, added.message
    jobs = place.fleet.client.list_jobs(repository=place.name, kind=JobKind.PASSWD, limit=1)
    removed = place.wait(next(iter(jobs)))
    opens = [place.does_open(password) for password in (old, new)]
    assert opens == [removed.state is not JobState.SUCCEEDED, True]
    return tell(removed)


def _unlock(place: Place) -> str:
    """Remove the lock of a restic that was killed."""
    _leave_lock(place)
    assert len(place.locks()) == 1
    job = place.run(UnlockRequest(host=place.name, repository=place.name))
    if isinstance(job.result, UnlockResult):
        assert (job.result.locks_left, place.locks()) == (0, []), place.name
    return tell(job)


def _leave_lock(place: Place) -> None:
    """Kill a restic that has its lock, while it waits for something to read."""
    with subprocess.Popen(
        [name_restic(), "backup", "--quiet", "--stdin"],
        env=place.restic_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as restic:
        deadline = time.monotonic() + _LOCK_LIMIT_S
        while not place.locks():
            assert time.monotonic() < deadline, f"restic takes no lock in {place.name}"
        # The ssh that it may have started goes as well.
        os.killpg(restic.pid, signal.SIGKILL)


def _forget(place: Place) -> str:
    before = place.snapshots()
    job = place.run(ForgetRequest(host=place.name, repository=place.name, source=place.name))
    if isinstance(job.result, ForgetResult):
        assert (job.result.kept, job.result.removed) == (1, BACKUPS - 1)
        assert len(place.snapshots()) == 1
    else:
        assert place.snapshots() == before
    return tell(job)


def _prune(place: Place) -> str:
    _make_garbage(place)
    before = place.stored_bytes()
    job = place.run(PruneRequest(host=place.name, repository=place.name))
    if job.state is JobState.SUCCEEDED:
        assert place.stored_bytes() < before - FILE_BYTES
    else:
        assert place.stored_bytes() >= before
    return tell(job)


def _make_garbage(place: Place) -> None:
    """Leave one snapshot, for what a storage may have refused to forget."""
    for snapshot in place.snapshots()[1:]:
        (place.files / "snapshots" / snapshot).unlink()


ROWS: Mapping[JobKind, Row] = {
    JobKind.INIT: _init,
    JobKind.BACKUP: _backup,
    JobKind.SNAPSHOTS: _snapshots,
    JobKind.RESTORE: _restore,
    JobKind.CHECK: _check,
    JobKind.DRILL: _drill,
    JobKind.DIFF: _diff,
    JobKind.COPY: _copy,
    JobKind.STATS: _stats,
    JobKind.UNLOCK: _unlock,
    JobKind.FORGET: _forget,
    JobKind.PRUNE: _prune,
    # Last: it takes the old password's key away.
    JobKind.PASSWD: _passwd,
}


def tell(*jobs: Job) -> str:
    """Say what became of jobs in one cell: of the first that did not succeed, why."""
    for job in jobs:
        if job.state is JobState.SUCCEEDED:
            continue
        message = job.message or "no reason"
        return REFUSED if "403 Forbidden" in message else f"{job.state}: {message}"
    return OK


class Site(NamedTuple):
    """Where one repository is, and what is done there."""

    type: RepositoryType
    storage: Storage
    files: Path
    kinds: tuple[JobKind, ...] = tuple(ROWS)


SLOWLY_REFUSED = (JobKind.FORGET, JobKind.PRUNE, JobKind.PASSWD)
"""What restic 0.14 tries on an append-only storage for most of a minute before it takes the no."""


@contextmanager
def open_sites(folder: Path) -> Iterator[list[Site]]:
    """Start the servers.

    What is slowly refused has an append-only storage of its own, and comes first, so that all of it
    waits at the same time.

    Raises:
        ServerMissingError: a server's program is not on this machine.
    """
    local, rest, s3 = folder / "local", folder / "rest", folder / "s3"
    kept = folder / "append-only"
    type_ = RepositoryType
    with ExitStack() as stack:

        def open_append_only(files: Path, *kinds: JobKind) -> Site:
            server = stack.enter_context(run_rest_server(files, is_append_only=True))
            return Site(type_.APPEND_ONLY, server, files, kinds)

        sftp = stack.enter_context(run_sftp_server(folder / "sftp"))
        yield [
            *(
                open_append_only(folder / f"no-{kind}", JobKind.INIT, JobKind.BACKUP, kind)
                for kind in SLOWLY_REFUSED
            ),
            Site(type_.LOCAL, Storage(location=str(local)), local),
            Site(type_.SFTP, sftp, sftp.files),
            Site(type_.REST, stack.enter_context(run_rest_server(rest)), rest),
            open_append_only(kept, *(kind for kind in ROWS if kind not in SLOWLY_REFUSED)),
            Site(type_.S3, stack.enter_context(run_s3_server(s3)), s3 / BUCKET),
        ]


def see_all_cells(folder: Path) -> Cells:
    """Do everything in an empty folder.

    Raises:
        ServerMissingError: a server's program is not on this machine.
    """
    (folder / "servers").mkdir()
    (folder / "fleet").mkdir()
    with open_sites(folder / "servers") as sites, _run_fleet(folder) as fleet:
        with ThreadPoolExecutor(len(sites)) as pool:
            columns = list(pool.map(lambda site: _fill_column(fleet, site), sites))
        require_no_secrets(
            [fleet.folder / "api", fleet.logs], fleet.secrets, credentials=fleet.folder / "token"
        )
    cells: dict[JobKind, dict[RepositoryType, str]] = {kind: {} for kind in ROWS}
    for site, column in zip(sites, columns, strict=True):
        for kind, cell in column.items():
            cells[kind].setdefault(site.type, cell)
    return cells


@contextmanager
def _run_fleet(folder: Path) -> Iterator[LocalFleet]:
    """Run the API, and for each repository an agent, which finds the `ssh` of the SFTP server."""
    fleet = LocalFleet(folder / "fleet")
    ssh = folder / "servers" / "sftp" / "bin"
    fleet.environment["PATH"] = f"{ssh}:{fleet.environment['PATH']}"
    try:
        fleet.start_api()
        yield fleet
    finally:
        fleet.stop()


def _fill_column(fleet: LocalFleet, site: Site) -> Mapping[JobKind, str]:
    place = _make_place(fleet, site)
    fleet.enrol(place.name)
    fleet.start_agent_of(place.name)
    return {kind: ROWS[kind](place) for kind in site.kinds}


def _make_place(fleet: LocalFleet, site: Site) -> Place:
    name = site.files.name
    tree = fleet.folder / f"tree-{name}"
    tree.mkdir()
    fleet.secrets[name] = secrets.token_urlsafe(32)
    fleet.secrets |= {f"{name}'s {key}": text for key, text in site.storage.environment.items()}
    fleet.client.create_repository(
        CreateRepository(
            name=name,
            location=site.storage.location,
            password=fleet.secrets[name],
            environment=dict(site.storage.environment),
        )
    )
    fleet.client.create_source(
        CreateSource(name=name, paths=(str(tree),), retention=Retention(keep_last=1))
    )
    return Place(fleet=fleet, name=name, storage=site.storage, files=site.files, tree=tree)


def ask_version() -> str:
    """Say which restic it is that all this is done with."""
    output = subprocess.check_output([name_restic(), "version"], text=True)
    return str(parse_version(output))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="backhaul-kinds-") as folder:
        seen = see_all_cells(Path(folder))
    cells = {**load_cells(), ask_version(): seen}
    CELLS.write_bytes(msgspec.json.format(msgspec.json.encode(cells, order="sorted"), indent=2))
    sys.stdout.write(f"{CELLS} is written; now run: .venv/bin/python -m tools.draw_kinds\n")


if __name__ == "__main__":
    main()
