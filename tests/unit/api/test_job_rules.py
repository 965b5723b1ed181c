"""What a job may be asked to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from backhaul.wire.fleet import Source
from backhaul.wire.jobs import ActorKind, Job, JobState
from backhaul.wire.kinds import (
    BackupArguments,
    BackupRequest,
    InitArguments,
    JobKind,
    RestoreArguments,
    RestoreRequest,
)
from backhaul_api.errors import InvalidError
from backhaul_api.jobs import rules
from backhaul_api.kinds import backup, restore

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WHERE: dict[str, Any] = {"host": "web1", "repository": "nas"}
HOME = Source(
    id=uuid4(),
    name="home",
    paths=("/home", "/root"),
    excludes=("*.iso",),
    tags=("people", "home"),
    one_file_system=False,
    retention=None,
    created_at=NOW,
    updated_at=NOW,
)


def test_source_gives_everything_and_its_name_is_the_first_tag() -> None:
    request = BackupRequest(**WHERE, source="home")

    assert backup.build(request, HOME) == BackupArguments(
        paths=("/home", "/root"), excludes=("*.iso",), tags=("home", "people")
    )


def test_request_adds_to_its_source() -> None:
    request = BackupRequest(
        **WHERE, source="home", excludes=("*.tmp", "*.iso"), tags=("once",), one_file_system=True
    )

    assert backup.build(request, HOME) == BackupArguments(
        paths=("/home", "/root"),
        excludes=("*.iso", "*.tmp"),
        tags=("home", "people", "once"),
        one_file_system=True,
    )


def test_repeated_paths_are_backed_up_once() -> None:
    request = BackupRequest(**WHERE, paths=("/etc", "/srv", "/etc"))

    assert backup.build(request, None) == BackupArguments(paths=("/etc", "/srv"))


@pytest.mark.parametrize(
    ("request_", "source", "field"),
    [
        (BackupRequest(**WHERE), None, "paths"),
        (BackupRequest(**WHERE, paths=("/etc",), source="home"), HOME, "paths"),
        (BackupRequest(**WHERE, paths=("/etc", "/srv/")), None, "paths[1]"),
        (BackupRequest(**WHERE, paths=("/etc/../srv",)), None, "paths[0]"),
        (BackupRequest(**WHERE, paths=("/etc",) * (backup.MAX_PATHS + 1)), None, "paths"),
    ],
)
def test_refused_backup_names_the_field(
    request_: BackupRequest, source: Source | None, field: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        backup.build(request_, source)

    assert [error.field for error in refused.value.errors] == [field]


@pytest.mark.parametrize("target", ["/", "//", "/tmp/..", "/tmp/"])
def test_refused_target_names_the_field(target: str) -> None:
    with pytest.raises(InvalidError) as refused:
        restore.build(RestoreRequest(**WHERE, snapshot="latest", target=target))

    assert [error.field for error in refused.value.errors] == ["target"]


def test_refused_target_says_what_to_write_instead() -> None:
    with pytest.raises(InvalidError, match="write /srv/restored instead"):
        restore.check_target("/srv/x/../restored/")


def test_restore_keeps_what_was_asked() -> None:
    request = RestoreRequest(
        **WHERE, snapshot="0a1b2c3d", target="/tmp/restored", include=("/etc",), verify=True
    )

    assert restore.build(request) == RestoreArguments(
        snapshot="0a1b2c3d", target="/tmp/restored", include=("/etc",), verify=True
    )


def test_deadline_counts_from_the_creation() -> None:
    assert rules.build_deadline(NOW, None) is None
    assert rules.build_deadline(NOW, 90.0) == NOW + timedelta(seconds=90)


@pytest.mark.parametrize(
    ("state", "deadline", "is_overdue"),
    [
        (JobState.QUEUED, None, False),
        (JobState.QUEUED, NOW, False),
        (JobState.QUEUED, NOW - timedelta(seconds=1), True),
        (JobState.ACCEPTED, NOW - timedelta(seconds=1), False),
        (JobState.RUNNING, NOW - timedelta(seconds=1), False),
    ],
)
def test_only_a_queued_job_can_be_overdue(
    state: JobState, deadline: datetime | None, is_overdue: bool
) -> None:
    job = Job(
        id=uuid4(),
        kind=JobKind.INIT,
        state=state,
        host_id=uuid4(),
        host="web1",
        repository_id=None,
        repository=None,
        arguments=InitArguments(),
        actor_kind=ActorKind.USER,
        actor_id=None,
        created_at=NOW,
        start_deadline_at=deadline,
    )

    assert rules.is_overdue(job, NOW) is is_overdue
