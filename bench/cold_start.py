"""How long the API takes from nothing to its first answer, as a function and as a container.

`python -m bench.cold_start [RUNS]`; each run is a fresh process that loads the code, opens a
database on this machine, and answers one request, which reads that database. Beside it, what
loading Litestar and SQLAlchemy alone takes. The best of the runs counts: the others tell of what
else the machine did. Exits with 1 above the limit.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backhaul_api.db import migrate
from bench.results import Result, write
from tests.fakes.gateways import Asked, build_http_event_2
from tests.fakes.postgresql import run_postgresql

RUNS = 7
LIMIT_S = 1.5
RESULTS = Path(__file__).parent / "results" / "cold_start.jsonl"
ROOT = Path(__file__).parents[1]

LIBRARIES = "import litestar, sqlalchemy.ext.asyncio, asyncpg"
FUNCTION = """
import json, sys
from backhaul_api.aws_lambda import handler
answer = handler(json.loads(sys.argv[1]), None)
assert answer["statusCode"] == 200, answer
"""
APP = """
import asyncio
from backhaul_api.asgi import app
sent = []
async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}
async def send(message):
    sent.append(message)
scope = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
    "scheme": "http", "path": "/health/ready", "raw_path": b"/health/ready", "root_path": "",
    "query_string": b"", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
}
asyncio.run(app(scope, receive, send))
assert sent[0]["status"] == 200, sent
"""
EVENT = json.dumps(build_http_event_2(Asked(method="GET", path="/health/ready")))


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one process."""

    wall_s: float
    cpu_s: float


def build_environment(database_url: str, compiled: Path) -> dict[str, str]:
    """Build what a function is started with.

    Args:
        compiled: a folder for compiled modules, which an image has for all that is installed in it.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    return inherited | {
        "PYTHONPYCACHEPREFIX": str(compiled),
        "BACKHAUL_API_DATABASE_URL": database_url,
        "BACKHAUL_API_KEY": base64.b64encode(bytes(32)).decode(),
    }


def start(script: str, environment: Mapping[str, str]) -> Start:
    """Run a script in a fresh Python. The first time, it compiles what it loads."""
    before = os.times()
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", script, EVENT],
        env=environment,
        cwd=ROOT,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    wall_s = time.perf_counter() - begun
    after = os.times()
    cpu_s = after.children_user - before.children_user
    cpu_s += after.children_system - before.children_system
    return Start(wall_s=wall_s, cpu_s=cpu_s)


def measure(runs: int) -> list[Result]:
    with (
        tempfile.TemporaryDirectory(prefix="bh-pg-", ignore_cleanup_errors=True) as folder,
        run_postgresql(Path(folder)) as server,
    ):
        url = server.create_database("cold")
        asyncio.run(migrate.upgrade(url))
        # In turns, so that what else happens on the machine meets all of them.
        scripts = {"libraries": LIBRARIES, "function": FUNCTION, "app": APP}
        environment = build_environment(url, Path(folder) / "compiled")
        starts: dict[str, list[Start]] = {name: [] for name in scripts}
        for script in scripts.values():
            start(script, environment)
        for _ in range(runs):
            for name, script in scripts.items():
                starts[name].append(start(script, environment))
    return [result for name in starts for result in _summarize(name, starts)]


def _summarize(name: str, starts: Mapping[str, list[Start]]) -> list[Result]:
    wall_s = min(one.wall_s for one in starts[name])
    cpu_s = min(one.cpu_s for one in starts[name])
    base_s = min(one.wall_s for one in starts["libraries"])
    base_cpu_s = min(one.cpu_s for one in starts["libraries"])
    return [
        _compare(f"cold start, {name}", wall_s, base_s),
        _compare(f"cold start, {name}, CPU", cpu_s, base_cpu_s),
    ]


def _compare(name: str, value: float, baseline: float) -> Result:
    return Result(
        name=name,
        value=round(value, 3),
        unit="s",
        baseline=round(baseline, 3),
        ratio=round(value / baseline, 2),
    )


def main() -> int:
    results = measure(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
    print(f"{'':28} {'value':>8} {'libraries':>10} {'ratio':>6}")
    for one in results:
        print(f"{one.name:28} {one.value:6.3f} s {one.baseline:8.3f} s {one.ratio:6.2f}")
    write(results, RESULTS)
    slow = [one.name for one in results if one.value > LIMIT_S]
    for name in slow:
        print(f"{name}: more than {LIMIT_S} s")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
