"""restic's version: what `restic version` prints, and comparing it."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

from backhaul_agent.errors import ResticMissingError
from backhaul_agent.process import ChildProcess, Graces, StartProgram
from backhaul_agent.restic.output import parse_object

_TEXT = re.compile(r"\brestic (\d+)\.(\d+)(?:\.(\d+))?(\S*)")
_NUMBER = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)")
_TIMEOUT_S = 10.0
_ENVIRONMENT = {"HOME": "/", "LANG": "C.UTF-8"}
_GRACES = Graces(interrupt=0.5, terminate=0.5, pipe=0.5)


class ResticVersion(NamedTuple):
    """Compares as its three numbers do; a development build counts as what it will become."""

    major: int
    minor: int
    patch: int
    suffix: str = ""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}{self.suffix}"

    def is_at_least(self, major: int, minor: int, patch: int = 0) -> bool:
        return (self.major, self.minor, self.patch) >= (major, minor, patch)


def parse_version(output: str) -> ResticVersion | None:
    """Read what `restic version --json` printed: JSON since 0.17, text before."""
    for line in output.splitlines():
        found = parse_object(line)
        match = _NUMBER.fullmatch(str(found.get("version", ""))) if found else _TEXT.search(line)
        if match:
            major, minor, patch, suffix = match.groups()
            return ResticVersion(int(major), int(minor), int(patch or 0), suffix)
    return None


async def ask_version(restic: str, start: StartProgram = ChildProcess.start) -> ResticVersion:
    """Run `restic version`, with an empty environment.

    Raises:
        ResticMissingError: there is no such program, or it is not restic.
    """
    lines: list[str] = []
    try:
        process = await start([restic, "version", "--json"], _ENVIRONMENT, _GRACES)
    except OSError as error:
        raise ResticMissingError(
            f"{restic} cannot be run ({error.strerror}); install restic, or set `restic` in the "
            "agent's settings"
        ) from error
    try:
        await asyncio.wait_for(process.read_to_end(lambda _, line: lines.append(line)), _TIMEOUT_S)
    except TimeoutError as error:
        raise ResticMissingError(f"{restic} does not answer `restic version`") from error
    version = parse_version("\n".join(lines))
    if version is None:
        raise ResticMissingError(f"{restic} is not restic: `restic version` names no version")
    return version
