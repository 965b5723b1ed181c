"""What notebooks show: escaped, readable in light and dark, told by words and not by colours."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backhaul.errors import JobFailedError, NotFoundError
from backhaul.html import render, render_error, render_note, render_table
from backhaul.html.markup import DARK, LIGHT, TEXT_COLOURS
from backhaul.html.plain import render_line
from backhaul.html.tables import COLUMNS
from backhaul.wire.accounts import ApiToken, AuditEntry, EnrollmentToken, User
from backhaul.wire.events import Event
from backhaul.wire.fleet import HostState, RepositorySize, ScheduleDrift, Source
from backhaul.wire.honesty import Doubt
from backhaul.wire.jobs import JobState, Progress
from backhaul.wire.kinds import BackupResult, JobKind, Retention
from backhaul.wire.problems import Problem, ProblemType
from backhaul.wire.snapshots import FileEntry, Snapshot
from tests.unit.sdk.builders import (
    HOST_ID,
    JOB_ID,
    NOW,
    REPOSITORY_ID,
    SOURCE_ID,
    build_host,
    build_job,
    build_repository,
    build_schedule,
)

SOURCE = Source(
    id=SOURCE_ID,
    name="etc",
    paths=("/etc",),
    excludes=("*.tmp",),
    tags=("nightly",),
    one_file_system=False,
    retention=Retention(keep_daily=7),
    created_at=NOW,
    updated_at=NOW,
)
SNAPSHOT = Snapshot(
    id="ab" * 32,
    short_id="abababab",
    repository_id=REPOSITORY_ID,
    repository="nas",
    time=NOW - timedelta(hours=3),
    hostname="web-1",
    paths=("/etc",),
    username="root",
    tags=("etc",),
    tree="cd" * 32,
    parent=None,
    original=None,
    program_version=None,
    host_id=HOST_ID,
    job_id=JOB_ID,
    reported_at=NOW,
)
THINGS: dict[str, Any] = {
    "sizes": RepositorySize(
        measured_at=NOW,
        total_size=2**30,
        snapshots_count=7,
        blobs_count=9,
        uncompressed_size=None,
        restore_size=5,
        job_id=None,
    ),
    "hosts": build_host(),
    "jobs": build_job(),
    "schedules": build_schedule(),
    "sources": SOURCE,
    "repositories": build_repository(),
    "snapshots": SNAPSHOT,
    "files": FileEntry(
        path="/etc/hosts", name="hosts", type="file", size=220, mode=0o644, mtime=NOW, uid=0, gid=0
    ),
    "api_tokens": ApiToken(id=JOB_ID, name="ci", created_at=NOW, expires_at=None, last_used_at=NOW),
    "users": User(id=JOB_ID, username="ada", created_at=NOW, disabled_at=NOW),
    "enrollment_tokens": EnrollmentToken(
        id=JOB_ID, created_at=NOW, expires_at=NOW, uses_left=1, host_name=None, labels={}
    ),
    "events": Event(
        id=1,
        at=NOW,
        kind="job.failed",
        host_id=HOST_ID,
        host="web-1",
        job_id=JOB_ID,
        job_kind=JobKind.BACKUP,
        message="restic exited with 1",
    ),
    "audit": AuditEntry(
        id=JOB_ID,
        at=NOW,
        actor_kind="user",
        actor_id=JOB_ID,
        actor="ada",
        action="host.update",
        target_kind="host",
        target_id=HOST_ID,
        target="web-1",
    ),
}


class Reader(HTMLParser):
    """Reads HTML back: its elements, its text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.attributes: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data


def read(text: str) -> Reader:
    reader = Reader(text)
    assert reader.open == []
    return reader


@pytest.mark.parametrize("noun", THINGS)
def test_everything_has_a_card_a_row_and_a_line(noun: str) -> None:
    card = read(render(THINGS[noun], now=NOW))
    table = read(render_table(noun, [THINGS[noun]] * 2, has_more=True, now=NOW))

    assert card.attributes[1]["role"] == "group"
    assert "th" in table.tags
    assert table.tags.count("tr") == 3
    assert "The first 2." in table.words
    assert "\n" not in render_line(THINGS[noun])


def test_every_collection_has_columns() -> None:
    assert set(COLUMNS) == set(THINGS)


def test_empty_collection_says_so() -> None:
    assert read(render_table("api_tokens", [], now=NOW)).words == "No api tokens."


@given(text=st.text(min_size=1))
def test_no_text_becomes_markup(text: str) -> None:
    nasty = f"<script>{text}</script><img src=x onerror=alert(1)>\"'&"
    host = msgspec.structs.replace(build_host(), name=nasty, labels={nasty: nasty})
    job = build_job(JobState.FAILED, message=nasty, host=nasty, repository=nasty)

    for shown in (
        render(host, now=NOW),
        render(job, now=NOW),
        render_table("hosts", [host], now=NOW),
        render_table("jobs", [job], now=NOW),
        render_note(nasty),
    ):
        assert not {"script", "img"} & set(read(shown).tags)


def test_running_job_has_a_progress_bar_for_screen_readers_too() -> None:
    progress = Progress(percent_done=0.42, total_files=10, files_done=4, seconds_remaining=90)
    job = build_job(JobState.RUNNING, progress=progress, started_at=NOW)

    shown = read(render(job, now=NOW))

    (bar,) = [one for one in shown.attributes if one.get("role") == "progressbar"]
    assert (bar["aria-valuenow"], bar["aria-valuemax"]) == ("42", "100")
    assert "42%, 4 of 10 files" in shown.words
    assert "1 min 30 s left" in shown.words


def test_ended_job_is_a_summary() -> None:
    result = BackupResult(
        snapshot_id="0123abcd" * 8,
        total_files_processed=1234,
        total_bytes_processed=5 * 1024**2,
        data_added=1024,
    )
    job = build_job(
        JobState.SUCCEEDED,
        result=result,
        started_at=NOW - timedelta(seconds=65),
        finished_at=NOW,
    )

    shown = read(render(job, now=NOW))

    assert "progressbar" not in [one.get("role") for one in shown.attributes]
    assert "1,234 files, 5.0 MiB, 1.0 KiB added, snapshot 0123abcd" in shown.words
    assert "1 min 5 s" in shown.words


def test_card_of_a_source_tells_its_limits() -> None:
    plain = read(render(SOURCE, now=NOW)).words
    limited = msgspec.structs.replace(
        SOURCE,
        exclude_files=("/etc/not-these",),
        exclude_caches=True,
        exclude_larger_than="2G",
        limit_upload=2048,
        limit_download=4096,
        compression="max",
        nice=0,
        ionice="idle",
    )

    words = read(render(limited, now=NOW)).words

    assert "limits" not in plain
    assert (
        "excludes of /etc/not-these, no caches, nothing larger than 2G, upload 2048 KiB/s, "
        "download 4096 KiB/s, compression max, nice 0, ionice idle"
    ) in words


def test_copy_names_both_repositories() -> None:
    shown = read(render(build_job(JobState.RUNNING, destination="cloud"), now=NOW))

    assert "nas, copied to cloud" in shown.words


@pytest.mark.parametrize("state", JobState)
def test_state_of_a_job_is_told_in_words(state: JobState) -> None:
    assert state.value in read(render(build_job(state), now=NOW)).words


def test_host_card_answers_what_is_asked_first() -> None:
    host = msgspec.structs.replace(
        build_host(),
        state=HostState.OFFLINE,
        last_seen_at=NOW - timedelta(hours=5),
        last_backup_at=NOW - timedelta(days=3),
        next_fire_at=NOW + timedelta(hours=2),
        drift=ScheduleDrift(desired=4, applied=3, since=NOW),
    )

    words = read(render(host, now=NOW)).words

    for said in ("offline, seen 5 h ago", "3 d ago", "in 2 h", "follows version 3 of 4"):
        assert said in words


def test_last_lines_of_a_failure_are_lines() -> None:
    error = JobFailedError(build_job(JobState.FAILED), last_lines=("one <b>", "two\x1b"))

    assert "<pre>one &lt;b&gt;\ntwo\\x1b</pre>" in render_error(error)


def test_error_is_a_short_panel() -> None:
    problem = Problem(
        type=ProblemType.NOT_FOUND, title="Not found", status=404, detail="There is no host <b>."
    )
    job = build_job(JobState.FAILED, message="restic exited with 1")

    assert (
        read(render_error(NotFoundError(problem))).words == "✖ NotFoundErrorThere is no host <b>."
    )
    words = read(render_error(JobFailedError(job, last_lines=("Fatal: no",)))).words
    assert words.endswith("restic exited with 1Fatal: no")


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", TEXT_COLOURS)
def test_text_can_be_read_on_its_ground(colours: dict[str, str], name: str) -> None:
    # WCAG 2.2, 1.4.3: 4.5 to 1 for text.
    assert _contrast(colours[name], colours["back"]) >= 4.5


def test_style_touches_nothing_outside() -> None:
    style = re.search("<style>(.*)</style>", render_note("x"))
    assert style is not None
    rules = re.findall(
        r"([^{}]+)\{[^{}]*\}", style[1].replace("@media(prefers-color-scheme:dark){", "")
    )
    assert all(".backhaul" in selector for rule in rules for selector in rule.split(","))


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_card_of_a_snapshot_tells_its_doubt_only_where_there_is_one() -> None:
    doubted = msgspec.structs.replace(SNAPSHOT, doubt=Doubt.FUTURE)

    assert "its time is in the future" in render(doubted)
    assert "doubt" not in render(SNAPSHOT)
