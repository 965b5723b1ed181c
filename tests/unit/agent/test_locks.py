"""What restic says of a lock in its way, and what we make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul_agent.restic.locks import Lock, explain_lock, read_lock

DATA = Path(__file__).parents[2] / "data" / "restic"


@pytest.mark.parametrize(
    "case",
    [
        "locked-exclusive-backup",
        "locked-exclusive-restore",
        "locked-shared-check",
        "locked-shared-forget",
        "locked-shared-prune",
    ],
)
def test_owner_and_age_are_read_from_what_restic_says(case: str) -> None:
    lock = read_lock((DATA / case / "stderr.txt").read_text().splitlines())

    assert lock is not None
    assert lock.host == "web-1"
    assert lock.pid > 1
    assert 0 < lock.age_s < 60


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("4.5s", 4.5), ("1m30s", 90), ("26h3m0.25s", 93_780.25), ("750.5ms", 0.7505)],
)
def test_ages_are_those_of_go(age: str, seconds: float) -> None:
    lines = [
        "repository is already locked exclusively by PID 7 on db by root (UID 0, GID 0)",
        f"lock was created at 2026-11-23 02:47:40 ({age} ago)",
    ]

    lock = read_lock(lines)

    assert lock is not None
    assert (lock.pid, lock.host) == (7, "db")
    assert lock.age_s == pytest.approx(seconds)


def test_other_errors_tell_of_no_lock() -> None:
    assert read_lock(["Fatal: wrong password or no key found"]) is None


@pytest.mark.parametrize(
    ("lock", "is_there", "expected"),
    [
        (Lock(7, "web-1", 10), False, "stale: process 7 of this host is gone"),
        (Lock(7, "web-1", 10), True, "works on the repository on web-1 (process 7): wait for it"),
        (Lock(7, "db", 10), False, "works on the repository on db (process 7): wait for it"),
        (Lock(7, "db", 7300), False, "stale: its restic has not renewed it for 121 minutes"),
    ],
)
def test_stale_lock_is_told_from_one_in_use(lock: Lock, is_there: bool, expected: str) -> None:
    text = explain_lock(lock, hostname="web-1", is_there=lambda _: is_there)

    assert expected in text
    assert "unlock" in text
