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
        restore.check(RestoreRequest(**WHERE, snapshot="latest", target=target), host="web1")

    assert [error.field for error in refused.value.errors] == ["target"]


def test_refused_target_says_what_to_write_instead() -> None:
    with pytest.raises(InvalidError, match="write /srv/restored instead"):
        restore.check_target("/srv/x/../restored/")


IN_PLACE: dict[str, Any] = {"in_place": True, "confirm_host": "web1", "include": ("/srv/x",)}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "target"),
        ({"target": "/tmp/r", "include": ("/a",), "exclude": ("/b",)}, "exclude"),
        ({"target": "/tmp/r", "confirm_host": "web1"}, "confirm_host"),
        ({**IN_PLACE, "confirm_host": None}, "confirm_host"),
        ({**IN_PLACE, "confirm_host": "web2"}, "confirm_host"),
        ({**IN_PLACE, "target": "/tmp/r"}, "target"),
        ({**IN_PLACE, "include": ()}, "include"),
        ({**IN_PLACE, "include": ("/srv/x", "*.conf")}, "include[1]"),
        ({**IN_PLACE, "include": ("/srv/[x]",)}, "include[0]"),
        ({**IN_PLACE, "include": ("/srv/../etc",)}, "include[0]"),
        ({**IN_PLACE, "include": ("/",)}, "include[0]"),
    ],
    ids=str,
)
def test_refused_restore_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidError) as refused:
        restore.check(RestoreRequest(**WHERE, snapshot="latest", **fields), host="web1")

    assert [error.field for error in refused.value.errors] == [field]


def test_restore_in_place_that_names_the_host_again_goes_to_the_root() -> None:
    request = RestoreRequest(**WHERE, snapshot="latest", **IN_PLACE)

    assert restore.check(request, host="web1") == "/"


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
