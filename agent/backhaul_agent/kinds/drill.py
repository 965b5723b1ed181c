"""Prove that files can be restored: a random sample is restored, read a second time, and compared.

The evidence is in the result, also when files differ: then the job has failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from backhaul.wire.jobs import FailureClass, Outcome, Progress
from backhaul.wire.kinds import DrillArguments, DrillResult, JobKind
from backhaul.wire.snapshots import ReportedSnapshot
from backhaul.wire.wording import render_count
from backhaul_agent.bench import Bench
from backhaul_agent.choice import LATEST, choose_latest, find
from backhaul_agent.ending import Ending, build_ending, build_failure
from backhaul_agent.restic import drill, ls
from backhaul_agent.restic.drill import SampledFile, Sampler
from backhaul_agent.restic.output import clean_line
from backhaul_agent.restic_runner import Exit
from backhaul_agent.scratch import make_scratch, remove_scratch

MAX_NAMES = 100
MAX_NAMES_BYTES = 64 * 1024
"""Of each list; lists of jobs carry them."""

_CHUNK_BYTES = 1024 * 1024
_NAMES_IN_MESSAGE = 3

_FAULTS_OF_FILES = frozenset({FailureClass.DAMAGED, FailureClass.OTHER})
"""What restic may fail with at one file. Anything else says nothing about the file."""


async def work(bench: Bench, arguments: DrillArguments) -> Ending:
    snapshot = await _choose_snapshot(bench, arguments)
    if isinstance(snapshot, Ending):
        return snapshot
    began_s = bench.clock.monotonic()
    sampler = Sampler(arguments.files, random.SystemRandom())
    listed = await bench.restic.run(
        ls.build_paths_arguments(snapshot.id), kind=JobKind.DRILL, on_stdout=sampler.read
    )
    if listed.verdict.outcome is not Outcome.SUCCEEDED:
        return build_ending(listed, None)
    files, too_large = sampler.choose(arguments.max_bytes)
    comparison = _Comparison(bench, snapshot.id, files)
    failed = await comparison.run() if files else None
    result = DrillResult(
        snapshot_id=snapshot.id,
        snapshot_time=snapshot.time,
        hostname=snapshot.hostname,
        files_total=sampler.files,
        files_compared=comparison.compared,
        bytes_compared=comparison.bytes_compared,
        files_differing=len(comparison.differing),
        files_unreadable=len(comparison.unreadable),
        differing=_cut(comparison.differing),
        unreadable=_cut(comparison.unreadable),
        skipped_too_large=too_large,
        skipped_unnameable=sampler.unnameable,
        duration=max(bench.clock.monotonic() - began_s, 0.0),
    )
    bench.log.write("agent", _describe(result))
    return _judge(result, listed, failed)


async def _choose_snapshot(bench: Bench, arguments: DrillArguments) -> ReportedSnapshot | Ending:
    if arguments.snapshot != LATEST:
        found = await find(bench, arguments.snapshot)
        return found or build_failure(
            f"the repository has no snapshot {arguments.snapshot}, or several that begin like this",
            failure_class=FailureClass.SNAPSHOT_MISSING,
        )
    if arguments.of_host is not None:
        return await choose_latest(bench, of_host=arguments.of_host)
    # A host that only keeps a repository up makes no snapshots of its own.
    found = await find(bench, LATEST, host=bench.host) or await find(bench, LATEST)
    return found or build_failure(
        "the repository has no snapshot", failure_class=FailureClass.SNAPSHOT_MISSING
    )


class _Comparison:
    """Restores files to a scratch folder, and compares each with a second read."""

    def __init__(self, bench: Bench, snapshot_id: str, files: Sequence[SampledFile]) -> None:
        self._bench = bench
        self._snapshot_id = snapshot_id
        self._files = files
        self._bytes_total = sum(file.size for file in files)
        self._bytes_done = 0
        self.compared = 0
        self.bytes_compared = 0
        self.differing: list[str] = []
        self.unreadable: list[str] = []

    async def run(self) -> Ending | None:
        """Compare; gives the ending of a restic that failed for another reason than its files, or
        besides them."""
        bench = self._bench
        try:
            folder = await asyncio.to_thread(make_scratch, bench.scratch_dir, bench.job_id)
        except OSError as error:
            return build_failure(f"the scratch folder cannot be made: {error}")
        try:
            return await self._compare_in(folder)
        finally:
            await self._remove(folder)

    async def _remove(self, folder: Path) -> None:
        try:
            await asyncio.to_thread(remove_scratch, folder)
        except OSError as error:
            # The next start of the agent tries again.
            self._bench.log.write("agent", f"the scratch folder was not removed: {error}")

    async def _compare_in(self, folder: Path) -> Ending | None:
        failed: Exit | None = None
        for paths in drill.split_by_length(self._files):
            done = await self._bench.restic.run(
                drill.build_restore_arguments(self._snapshot_id, paths, target=str(folder)),
                kind=JobKind.DRILL,
                on_stdout=self._bench.write_stdout,
            )
            if done.verdict.outcome is Outcome.FAILED:
                failed = done
                if done.verdict.failure_class not in _FAULTS_OF_FILES:
                    return build_ending(done, None)
        for number, file in enumerate(self._files):
            ending = await self._compare(file, folder)
            if ending is not None:
                return ending
            self._show(number + 1, file)
        self._bench.progress.flush()
        return None if failed is None else build_ending(failed, None)

    async def _compare(self, file: SampledFile, folder: Path) -> Ending | None:
        restored = await asyncio.to_thread(_hash_file, folder / file.path.lstrip("/"))
        second = hashlib.sha256()
        done = await self._bench.restic.run(
            drill.build_dump_arguments(self._snapshot_id, file.path),
            kind=JobKind.DRILL,
            on_stdout=self._bench.write_stdout,
            on_chunk=second.update,
        )
        if done.verdict.outcome is Outcome.FAILED:
            if done.verdict.failure_class not in _FAULTS_OF_FILES:
                return build_ending(done, None)
            self.unreadable.append(file.path)
        elif restored is None:
            self.unreadable.append(file.path)
        else:
            self.compared += 1
            self.bytes_compared += file.size
            if restored != second.digest():
                self.differing.append(file.path)
        return None

    def _show(self, number: int, file: SampledFile) -> None:
        self._bytes_done += file.size
        self._bench.progress.offer(
            Progress(
                percent_done=number / len(self._files),
                total_files=len(self._files),
                files_done=number,
                total_bytes=self._bytes_total,
                bytes_done=self._bytes_done,
                error_count=len(self.differing) + len(self.unreadable),
            )
        )


def _hash_file(path: Path) -> bytes | None:
    """Hash what was restored; None when it is not there, or is no file."""
    found = hashlib.sha256()
    try:
        if path.is_symlink():
            return None
        path.chmod(0o600)  # Its mode, which is the original's, may forbid its owner to read it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
    except OSError:
        return None
    return found.digest()


def _judge(result: DrillResult, listed: Exit, failed: Ending | None) -> Ending:
    bad = [*result.differing, *result.unreadable]
    if bad:
        count = result.files_differing + result.files_unreadable
        names = ", ".join(bad[:_NAMES_IN_MESSAGE]) + (", …" if count > _NAMES_IN_MESSAGE else "")
        return Ending(
            outcome=Outcome.FAILED,
            exit_code=failed.exit_code if failed else None,
            failure_class=FailureClass.DAMAGED,
            message=(
                f"{render_count(count, 'file')} with two reads that differ, or that cannot be "
                f"read: {names}"
            ),
            result=result,
        )
    if failed is not None:
        # Whoever restores in earnest would meet the same error.
        return msgspec.structs.replace(failed, result=result)
    if result.files_compared == 0:
        return Ending(
            outcome=Outcome.FAILED,
            failure_class=FailureClass.OTHER,
            message="nothing was compared, so nothing is proven: no file of the snapshot fits",
            result=result,
        )
    return build_ending(listed, result)


def _cut(paths: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    left = MAX_NAMES_BYTES
    for path in map(clean_line, paths[:MAX_NAMES]):
        left -= len(path.encode())
        if left < 0:
            break
        kept.append(path)
    return tuple(kept)


def _describe(result: DrillResult) -> str:
    skipped = result.skipped_too_large + result.skipped_unnameable
    return (
        f"{result.files_compared} of {render_count(result.files_total, 'file')} compared,"
        f" {render_count(result.bytes_compared, 'byte')}; {result.files_differing} differ,"
        f" {result.files_unreadable} unreadable, {skipped} skipped"
    )
