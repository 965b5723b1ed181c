"""Child processes that leave nothing behind: each in a group of its own, its output in a file."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from backhaul.wire.tokens import redact_tokens

BACKHAUL = Path(sys.executable).with_name("backhaul")
"""The command as this environment has it."""

_LOOK_EVERY_S = 0.05
_STOP_LIMIT_S = 20.0


class ChildFailedError(Exception):
    """A child ended, or did not do in time what was waited for."""


class Child:
    """A running process. Its output goes to `<name>.out` and `<name>.err` in the log folder."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        logs: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.output_file = logs / f"{name}.out"
        self.error_file = logs / f"{name}.err"
        # Opened to append, so that `redact_output` can shorten the file under the child's hands.
        with self.output_file.open("ab") as output, self.error_file.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=dict(environment),
                cwd=folder,
                # Ctrl-C is for whoever started us, who then stops the children in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_output(self, pattern: str, *, limit_s: float = 30.0) -> str:
        """Wait for a line of output; gives the pattern's first group.

        Raises:
            ChildFailedError: the child ended first, or the time is over.
        """
        return self._wait_for(pattern, self.output_file, limit_s)

    def wait_for_error(self, pattern: str, *, limit_s: float = 30.0) -> str:
        """Wait for a line of what is no output, where many servers say that they are ready.

        Raises:
            ChildFailedError: the child ended first, or the time is over.
        """
        return self._wait_for(pattern, self.error_file, limit_s)

    def _wait_for(self, pattern: str, file: Path, limit_s: float) -> str:
        deadline = time.monotonic() + limit_s
        while True:
            if found := re.search(pattern, file.read_text(errors="replace")):
                return found.group(1)
            if self.process.poll() is not None:
                raise ChildFailedError(f"{self.name} ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                raise ChildFailedError(f"{self.name} did not say '{pattern}' within {limit_s:g} s")
            time.sleep(_LOOK_EVERY_S)

    def redact_output(self) -> None:
        """Take the tokens out of what the child has printed so far."""
        text = redact_tokens(self.output_file.read_text(errors="replace"))
        self.output_file.write_text(text)

    def stop(self, first: signal.Signals, *, limit_s: float = _STOP_LIMIT_S) -> int:
        """Ask the child to stop, and end its whole group if it does not. Gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(limit_s)
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End the child and all that it started, at once."""
        # The group may outlive its leader, and is named by the leader's id.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def build_environment(folder: Path, **more: str) -> dict[str, str]:
    """Build an environment that nothing of the user's own Backhaul or restic gets into."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKHAUL_", "RESTIC_", "AWS_", "XDG_"))
    }
    return inherited | {"XDG_CONFIG_HOME": str(folder / "config"), "NO_COLOR": "1"} | more
