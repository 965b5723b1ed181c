"""Write docs/images from the displays as Chromium draws them, in light and in dark.

    .venv/bin/python -m tools.take_screenshots

Needs `chromium` (Debian: apt-get install chromium). What is shown is made up, by the builders of
the tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import msgspec

from backhaul._view import Scene
from backhaul.errors import JobFailedError
from backhaul.html import render, render_error, render_scene, render_table
from backhaul.wire.events import Event
from backhaul.wire.fleet import Host, HostState, ScheduleDrift
from backhaul.wire.jobs import Job, JobState, Progress
from backhaul.wire.kinds import BackupResult
from tests.unit.sdk.builders import NOW, build_host, build_job

IMAGES = Path(__file__).parents[1] / "docs" / "images"
GROUNDS = {"light": "#ffffff", "dark": "#111418"}
SIZE = "900,1640"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --hide-scrollbars"
)


def build_displays() -> list[str]:
    """Build what is shown: a card, tables, a job under way and ended, an error."""
    refused = "Fatal: unable to open repository: connection refused"
    host = msgspec.structs.replace(
        build_host(),
        state=HostState.ONLINE,
        last_seen_at=NOW - timedelta(seconds=40),
        last_backup_at=NOW - timedelta(hours=9),
        next_fire_at=NOW + timedelta(hours=14),
        labels={"env": "prod", "role": "web"},
    )
    away = msgspec.structs.replace(
        host,
        name="db-1",
        state=HostState.OFFLINE,
        last_backup_at=NOW - timedelta(days=3),
        drift=ScheduleDrift(desired=4, applied=3, since=NOW),
    )
    begin = NOW - timedelta(seconds=95)
    running = build_job(
        JobState.RUNNING,
        started_at=begin,
        progress=Progress(
            percent_done=0.42,
            total_files=12_000,
            files_done=5_100,
            total_bytes=8 * 2**30,
            bytes_done=3 * 2**30,
            seconds_remaining=130,
        ),
    )
    result = BackupResult(
        snapshot_id="0123abcd",
        total_files_processed=12_000,
        total_bytes_processed=8 * 2**30,
        data_added=2**26,
    )
    done = build_job(JobState.SUCCEEDED, started_at=begin, finished_at=NOW, result=result)
    failed = build_job(JobState.FAILED, started_at=begin, finished_at=NOW, message=refused)
    return [
        render(host, now=NOW),
        render_table("hosts", [host, away], now=NOW),
        render(running, now=NOW),
        render(done, now=NOW),
        render_table("jobs", [running, done, failed], has_more=True, now=NOW),
        render_scene(_build_scene([running], [away], failed), now=NOW),
        render_error(JobFailedError(failed, last_lines=("Load(<lock/1>), retrying", refused))),
    ]


def _build_scene(jobs: list[Job], away: list[Host], failed: Job) -> Scene:
    """Build what a live view shows."""
    scene = Scene()
    scene.jobs, scene.away = jobs, away
    at = NOW - timedelta(minutes=3)
    changed = Event(id=1, at=at, kind="schedule.update", actor="ada", target="web-1")
    ended = Event(
        id=2,
        at=NOW - timedelta(seconds=40),
        kind="job.failed",
        host=failed.host,
        job_kind=failed.kind,
        message=failed.message,
    )
    begun = Event(id=3, at=NOW, kind="job.running", host=jobs[0].host, job_kind=jobs[0].kind)
    scene.events = (changed, ended, begun)
    return scene


def take(theme: str, browser: str) -> Path:
    """Draw the displays on a ground of their theme."""
    name = f'class="backhaul bh-{theme}"'
    shown = "".join(
        f'<p style="margin:12px">{one.replace("class=backhaul", name)}</p>'
        for one in (each.replace('class="backhaul"', "class=backhaul") for each in build_displays())
    )
    image = IMAGES / f"displays-{theme}.png"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        head = '<!doctype html><meta charset="utf-8">'
        page.write_text(f'{head}<body style="background:{GROUNDS[theme]}">{shown}')
        command = [browser, *FLAGS.split(), f"--user-data-dir={folder}/profile"]
        command += [f"--window-size={SIZE}", f"--screenshot={image}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    return image


def main() -> int:
    browser = shutil.which("chromium")
    if browser is None:
        sys.stderr.write("chromium is missing: apt-get install chromium\n")
        return 1
    IMAGES.mkdir(exist_ok=True)
    for theme in GROUNDS:
        sys.stdout.write(f"{take(theme, browser)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
