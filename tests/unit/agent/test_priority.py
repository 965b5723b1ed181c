"""What restic is started through, to be less important than the rest of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul.wire.kinds import BackupArguments
from backhaul_agent.errors import NotSupportedError
from backhaul_agent.priority import build_prefix


def install(folder: Path, *programs: str) -> str:
    for program in programs:
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    return str(folder)


def test_programs_are_named_by_their_path(tmp_path: Path) -> None:
    path = install(tmp_path, "nice", "ionice")

    both = build_prefix(BackupArguments(paths=(), nice=19, ionice="idle"), path=path)

    assert both == [f"{path}/nice", "-n", "19", f"{path}/ionice", "-c", "3"]
    assert build_prefix(BackupArguments(paths=(), nice=0), path=path) == []


@pytest.mark.parametrize(
    ("there", "missing"), [(["nice"], "ionice"), (["ionice"], "nice")], ids=["ionice", "nice"]
)
def test_missing_program_is_named(tmp_path: Path, there: list[str], missing: str) -> None:
    path = install(tmp_path, *there)

    with pytest.raises(NotSupportedError, match=f"under {missing},"):
        build_prefix(BackupArguments(paths=(), nice=5, ionice="best-effort"), path=path)
