"""What a drill asks of restic: which files there are, some of them restored, each read again.

`restic restore` takes patterns, so what means something in one is escaped (tried with 0.14.0 and
0.19.1 on 2026-11-26: a backslash before `*`, `?`, `[` and itself). `restic dump` takes the path as
it is. Data is never in restic's cache, so the second read fetches it from the repository again.
"""

from __future__ import annotations

import posixpath
import random
import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from backhaul_agent.restic.ls import NodeLines
from backhaul_agent.restic.output import read_count, read_text

MAX_LINE_BYTES = 256 * 1024
"""Of paths in one command line; Linux takes 2 MiB, the environment included."""

_PATTERN_SIGN = re.compile(r"[\\*?\[]")
_UNNAMEABLE = "\N{REPLACEMENT CHARACTER}"


class SampledFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was drawn."""

    path: str
    size: int


class Sampler(NodeLines):
    """Draws files from what `restic ls` prints, each as likely as any other, in one pass.

    A reservoir: however many files there are, only the sample is kept.
    """

    def __init__(self, size: int, source: random.Random) -> None:
        super().__init__()
        self._size = size
        self._random = source
        self._sample: list[SampledFile] = []
        self._nameable = 0
        self.unnameable = 0

    @property
    def files(self) -> int:
        return self._nameable + self.unnameable

    def read(self, line: str) -> None:
        node = self.read_node(line)
        if node is not None and read_text(node, "type") == "file":
            self._offer(SampledFile(path=read_text(node, "path"), size=read_count(node, "size")))

    def choose(self, max_bytes: int) -> tuple[list[SampledFile], int]:
        """Give what fits of the sample, in random order, and how many did not."""
        self._random.shuffle(self._sample)
        fitting = []
        for file in self._sample:
            if file.size <= max_bytes:
                fitting.append(file)
                max_bytes -= file.size
        return fitting, len(self._sample) - len(fitting)

    def _offer(self, file: SampledFile) -> None:
        if not _is_nameable(file.path):
            self.unnameable += 1
            return
        self._nameable += 1
        if len(self._sample) < self._size:
            self._sample.append(file)
            return
        place = self._random.randrange(self._nameable)
        if place < self._size:
            self._sample[place] = file


def build_restore_arguments(snapshot_id: str, paths: Iterable[str], *, target: str) -> list[str]:
    line = ["restore", f"--target={target}"]
    line += [f"--include={escape(path)}" for path in paths]
    return [*line, "--", snapshot_id]


def build_dump_arguments(snapshot_id: str, path: str) -> list[str]:
    return ["dump", "--", snapshot_id, path]


def escape(path: str) -> str:
    """Build the pattern that matches a path and nothing else."""
    return _PATTERN_SIGN.sub(r"\\\g<0>", path)


def split_by_length(files: Iterable[SampledFile]) -> Iterator[Sequence[str]]:
    """Split paths so that each part fits into a command line."""
    part: list[str] = []
    size = 0
    for file in files:
        # Each sign may be escaped.
        length = 2 * len(file.path.encode("utf-8", "surrogatepass")) + 16
        if part and size + length > MAX_LINE_BYTES:
            yield part
            part, size = [], 0
        part.append(file.path)
        size += length
    if part:
        yield part


def _is_nameable(path: str) -> bool:
    return (
        path.startswith("/")
        and _UNNAMEABLE not in path
        and "\x00" not in path
        # A repository is not trusted to name files of the scratch folder only.
        and posixpath.normpath(path) == path
    )
