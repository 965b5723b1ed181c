"""The first answer of a fresh process comes soon, and loads nothing that it does not need.

`make bench-cold-start` prints the figures, and fails above the limit in seconds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cold_start import APP, FUNCTION, LIBRARIES, ROOT, build_environment, start

MOST_OF_LIBRARIES = 2.5
"""Times what loading Litestar and SQLAlchemy alone takes; 1.6 to 1.7 were measured."""

NOT_NEEDED = ("alembic", "pydantic", "swagger_ui", "uvicorn", "uvloop")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("script", [FUNCTION, APP], ids=["function", "app"])
def test_a_fresh_process_answers_soon(database_url: str, script: str, tmp_path: Path) -> None:
    environment = build_environment(database_url, tmp_path)
    for one in (LIBRARIES, script):
        start(one, environment)

    starts = [(start(LIBRARIES, environment), start(script, environment)) for _ in range(3)]

    # Beside what the libraries take at the same time, and by the processor's time: machines differ,
    # and other tests share this one.
    least_s = min(libraries.cpu_s for libraries, _ in starts)
    assert min(one.cpu_s for _, one in starts) < MOST_OF_LIBRARIES * least_s


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
