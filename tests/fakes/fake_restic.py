"""A program that stands in for restic and plays recorded output, with delays and bad manners.

`install_fake_restic` puts an executable into a folder, with the plays beside it. Each call is noted
in `calls.jsonl`: command line, environment, and the signals that came.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "restic"


class FakeRestic:
    """An installed fake; `path` is what goes into the agent's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "restic")
        self._plays: list[dict[str, Any]] = []
        self.on("version", case="version")

    def on(self, command: str, *, case: str | None = None, **play: Any) -> None:
        """Say what to do for a command: play a recording, and whatever else `_play` knows.

        Further plays of one command are played in turn, the last one again and again.
        """
        if case is not None:
            play = {**load_play(case), **play}
        self._plays.append({"command": command, **play})
        (self.folder / "plays.json").write_text(json.dumps(self._plays))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What was called, without `version`."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if call.get("argv", ["", ""])[1] != "version"]


def install_fake_restic(folder: Path) -> FakeRestic:
    """Put the fake into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "restic"
    # -I -S: it needs no site packages, and without them it starts in half the time.
    program.write_text(f"#!{sys.executable} -IS\n{Path(__file__).read_text()}")
    program.chmod(0o755)
    return FakeRestic(folder)


def load_play(case: str) -> dict[str, Any]:
    """Read a recording."""
    folder = DATA / case
    stdout = next(folder.glob("stdout.*"))
    return {
        "stdout": stdout.read_bytes().decode(errors="surrogateescape"),
        "stderr": (folder / "stderr.txt").read_bytes().decode(errors="surrogateescape"),
        "exit": int((folder / "exit.txt").read_text()),
    }


def _note(folder: Path, **facts: Any) -> None:
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps(facts) + "\n")


def _choose(folder: Path, command: str) -> dict[str, Any]:
    plays = [
        play
        for play in json.loads((folder / "plays.json").read_text())
        if play["command"] == command
    ]
    if not plays and command in {"unlock", "list"}:
        return {}  # there is no lock
    calls = (folder / "calls.jsonl").read_text().splitlines()
    number = sum(1 for line in calls if json.loads(line).get("argv", ["", ""])[1] == command)
    play: dict[str, Any] = plays[min(number, len(plays)) - 1]
    return play


def _play(folder: Path, play: dict[str, Any]) -> int:
    for name in play.get("ignore_signals", ()):
        signal.signal(getattr(signal, name), lambda number, _: _note(folder, signal=number))
    if play.get("on_sigint") is not None:
        signal.signal(signal.SIGINT, lambda *_: _end_by_sigint(folder, play["on_sigint"]))
    for path, text in play.get("files", {}).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    _write(sys.stderr, play.get("stderr", ""))
    _write(sys.stdout, play.get("stdout", ""))
    if play.get("nodes"):
        _write_nodes(folder, play["nodes"])
    if play.get("big_line"):
        _write(sys.stdout, "x" * play["big_line"] + "\n")
    if play.get("echo"):
        _write(sys.stderr, "\n".join(os.environ[name] for name in play["echo"]) + "\n")
    if play.get("hang"):
        _note(folder, ready=os.getpid())
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)
    code = int(play.get("exit", 0))
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def _write_nodes(folder: Path, count: int) -> None:
    """List so many files, as fast as somebody reads; `read.txt` says how many are out."""
    _write(sys.stdout, '{"struct_type":"snapshot"}\n')
    for number in range(count):
        path = f"/data/file-{number:06}"
        _write(sys.stdout, f'{{"struct_type":"node","type":"file","path":"{path}"}}\n')
        if number % 1000 == 0:
            sys.stdout.flush()
            (folder / "written.txt").write_text(str(number))


def _end_by_sigint(folder: Path, exit_code: int) -> None:
    _note(folder, signal=int(signal.SIGINT))
    _write(sys.stderr, "signal interrupt received, cleaning up\n")
    os._exit(exit_code)


def _write(stream: Any, text: str) -> None:
    stream.buffer.write(text.encode(errors="surrogateescape"))
    stream.flush()


def main() -> int:
    folder = Path(sys.argv[0]).parent
    _note(folder, argv=sys.argv, env=dict(os.environ))
    return _play(folder, _choose(folder, sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
