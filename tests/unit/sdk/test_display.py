"""How ages, durations, sizes and foreign text are written."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from backhaul.display import (
    render_age,
    render_bytes,
    render_duration,
    render_moment,
)
from backhaul.wire.printing import join_lines, render_error, render_printable
from backhaul.wire.wording import render_count
from tests.unit.sdk.builders import NOW


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (9, "just now"),
        (-9, "just now"),
        (10, "10 s ago"),
        (59, "59 s ago"),
        (180, "3 min ago"),
        (3599, "59 min ago"),
        (7200, "2 h ago"),
        (47 * 3600, "47 h ago"),
        (48 * 3600, "2 d ago"),
        (-3600, "in 1 h"),
    ],
)
def test_age(seconds: int, text: str) -> None:
    assert render_age(NOW - timedelta(seconds=seconds), NOW) == text


def test_absent_moment_is_never_unless_said_otherwise() -> None:
    assert render_age(None, NOW) == "never"
    assert render_age(None, NOW, absent="not yet") == "not yet"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7200, "2 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert render_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (20 * 1024**3, "20.0 GiB"),
        (5 * 1024**6, "5.0 EiB"),
        (5 * 1024**7, "5120.0 EiB"),
    ],
)
def test_size(size: int | None, text: str) -> None:
    assert render_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 🙂", "plain ünïcode 🙂"),
        ("tab\tstays", "tab\tstays"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("one\r\ntwo", "one\\r\\ntwo"),
        ("\x9b31m", "\\x9b31m"),
        ("exe\u202egnp", "exe\\u202egnp"),
        ("half \ud83d", "half \\ud83d"),
    ],
    ids=["plain", "tab", "escape", "lines", "c1", "direction", "surrogate"],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert render_printable(text) == shown


@pytest.mark.parametrize(
    ("zone", "at", "text"),
    [
        ("Asia/Tokyo", datetime(2026, 11, 27, 0, 30, 15, 999999, UTC), "2026-11-27 09:30:15"),
        ("Asia/Tokyo", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), "9999-12-31 23:59:59 UTC"),
        ("America/New_York", datetime(1, 1, 1, tzinfo=UTC), "0001-01-01 00:00:00 UTC"),
        ("UTC", datetime(1, 1, 1, tzinfo=UTC), "0001-01-01 00:00:00"),
    ],
)
def test_moment_is_that_of_here_as_far_as_there_is_one(
    monkeypatch: pytest.MonkeyPatch, zone: str, at: datetime, text: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        shown = render_moment(at)
    time.tzset()

    assert shown == text


def test_one_is_no_plural() -> None:
    assert [render_count(count, "file") for count in (0, 1, 2000)] == [
        "0 files",
        "1 file",
        "2,000 files",
    ]


def test_lines_of_a_message_become_one() -> None:
    assert join_lines("no such file\n\nIs there a repository?\n") == (
        "no such file; Is there a repository?"
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no host: web-1\nSee `x --help`.\n", "no host: web-1; See `x --help`."),
        ("\x1b[31m is not known", "\\x1b[31m is not known"),
        ("a" * 200, "a" * 200),
        (f"no host {'a' * 70_000}. See `x --help`.", f"no host {'a' * 200}… See `x --help`."),
        ("a b " * 70_000, f"{'a b ' * 1000}…"),
        ("\udcff" * 70_000, "\\udcff" * 200 + "…"),
    ],
    ids=["lines", "escape", "short", "word", "words", "bytes"],
)
def test_error_is_one_bounded_line_that_keeps_its_remedy(message: str, line: str) -> None:
    assert render_error(message) == line
