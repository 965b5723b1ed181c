"""A fresh process answers its first request, and loads nothing that it does not need for that.

How soon it does is measured by `make bench-cold-start`, which fails above the limit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cold_start import APP, FUNCTION, ROOT, build_environment, start

NOT_NEEDED = ("alembic", "pydantic", "swagger_ui", "uvicorn", "uvloop")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("script", [FUNCTION, APP], ids=["function", "app"])
def test_a_fresh_process_answers(database_url: str, script: str, tmp_path: Path) -> None:
    start(script, build_environment(database_url, tmp_path))  # which fails without an answer


def test_what_an_answer_does_not_need_is_not_loaded() -> None:
    script = (
        "import sys, backhaul_api.aws_events; "
        "from backhaul_api.app import build_services, create_app; "
        "from backhaul_api.db.engine import Database; "
        "from backhaul_api.keys import KeyRing; "
        "from backhaul_api.settings import Settings; "
        "database = Database('sqlite+aiosqlite:////nowhere/at/all'); "
        "keys = KeyRing([bytes(32)]); "
        "create_app(build_services(Settings(), database=database, keys=keys)); "
        f"print(*sorted(set(sys.modules) & {set(NOT_NEEDED)}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []
