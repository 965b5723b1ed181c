"""The exact JSON of every message, both ways, so that a rename breaks a test and not an agent.

An example is added to `MESSAGES` for each new message; a changed one means a changed protocol.
"""

from __future__ import annotations

import base64
import inspect
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType
from typing import Any
from uuid import RFC_4122, UUID

import msgspec
import pytest

from backhaul.wire import (
    agents,
    base,
    commands,
    honesty,
    job_batches,
    jobs,
    kinds,
    problems,
    reports,
    schedules,
    snapshots,
    ticks,
)
from backhaul.wire.base import Request, Wire

AT = datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)
AT_JSON = "2026-11-23T12:00:01Z"
ONE = UUID("0192f0c1-7777-7000-8000-000000000001")
TWO = UUID("0192f0c1-7777-7000-8000-000000000002")
KEY = bytes(range(32))
KEY_JSON = base64.b64encode(KEY).decode()
HEX = "0a1b2c3d" * 8

FACTS = agents.HostFacts(
    hostname="web1",
    os="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    agent_version="0.1.0",
    protocol=base.SPOKEN_PROTOCOLS,
    restic_version="0.14.0",
    capabilities=("backup", "restore"),
)
FACTS_JSON = {
    "hostname": "web1",
    "os": "Debian GNU/Linux 12 (bookworm)",
    "architecture": "x86_64",
    "agent_version": "0.1.0",
    "protocol": {"minimum": 1, "maximum": 1},
    "restic_version": "0.14.0",
    "capabilities": ["backup", "restore"],
}
BACKUP_RESULT = kinds.BackupResult(snapshot_id=HEX, files_new=1, unreadable=2, total_duration=1.5)
INIT_JSON = {"kind": "init", "chunker_of_id": None, "chunker_of": None}
PLAIN_OPTIONS = {
    "exclude_files": [],
    "exclude_caches": False,
    "exclude_larger_than": None,
    "limit_upload": None,
    "limit_download": None,
    "compression": None,
    "nice": None,
    "ionice": None,
    "dump": None,
}
OPTIONS: dict[str, Any] = {
    "exclude_files": ("/etc/not-these",),
    "exclude_caches": True,
    "exclude_larger_than": "2G",
    "limit_upload": 2048,
    "limit_download": 4096,
    "compression": "max",
    "nice": 19,
    "ionice": "idle",
    "dump": "postgres",
}
OPTIONS_JSON = OPTIONS | {"exclude_files": ["/etc/not-these"]}
BACKUP_RESULT_JSON = {
    "kind": "backup",
    "snapshot_id": HEX,
    "files_new": 1,
    "files_changed": 0,
    "files_unmodified": 0,
    "dirs_new": 0,
    "dirs_changed": 0,
    "dirs_unmodified": 0,
    "data_blobs": 0,
    "tree_blobs": 0,
    "data_added": 0,
    "total_files_processed": 0,
    "total_bytes_processed": 0,
    "total_duration": 1.5,
    "unreadable": 2,
    "dry_run": False,
}
FORGET_GUARD = kinds.ForgetGuard(
    keep=kinds.Retention(keep_daily=7),
    at=AT,
    origins=(honesty.Origin("9f86d081884c7d65", 1763985300, 1763985960, "web-1"),),
)
FORGET_GUARD_JSON = {
    "keep": {"keep_daily": 7},
    "at": AT_JSON,
    "origins": [["9f86d081884c7d65", 1763985300, 1763985960, "web-1"]],
}
SNAPSHOT_TO_GO = kinds.SnapshotToGo(id="0a1b2c3d", time=AT, hostname="web-1")
SNAPSHOT_TO_GO_JSON = {"id": "0a1b2c3d", "time": AT_JSON, "hostname": "web-1"}
SNAPSHOT_SET_ASIDE = kinds.SnapshotSetAside(
    id="4e5f6a7b", time=None, hostname="web-1", reason=honesty.Doubt.TIME
)
SNAPSHOT_SET_ASIDE_JSON = {
    "id": "4e5f6a7b",
    "time": None,
    "hostname": "web-1",
    "reason": "its time is not that of its job",
}
SNAPSHOT = snapshots.ReportedSnapshot(
    id=HEX,
    time=AT,
    hostname="web1",
    paths=("/etc",),
    username="root",
    tags=("home",),
    tree=HEX,
    parent=HEX,
    original=HEX,
    program_version="restic 0.18.0",
)
SNAPSHOT_JSON = {
    "id": HEX,
    "time": AT_JSON,
    "hostname": "web1",
    "paths": ["/etc"],
    "username": "root",
    "tags": ["home"],
    "tree": HEX,
    "parent": HEX,
    "original": HEX,
    "program_version": "restic 0.18.0",
}
FILE_ENTRY = snapshots.FileEntry(
    path="/etc/hosts",
    name="hosts",
    type="file",
    size=120,
    mode=0o644,
    mtime=AT,
    uid=0,
    gid=0,
    user="root",
    group="root",
    link_target=None,
)
FILE_ENTRY_JSON = {
    "path": "/etc/hosts",
    "name": "hosts",
    "type": "file",
    "size": 120,
    "mode": 420,
    "mtime": AT_JSON,
    "uid": 0,
    "gid": 0,
    "user": "root",
    "group": "root",
    "link_target": None,
}
PROBLEM = problems.Problem(
    type=problems.ProblemType.LOG_GAP,
    title="Log gap",
    status=409,
    detail="line 3 comes next",
    instance="r1",
    errors=(problems.FieldError(field="seq", message="must be 3"),),
    expected_seq=3,
    protocol=base.SPOKEN_PROTOCOLS,
    signature=b"\x00\x01",
)
PROBLEM_JSON = {
    "type": "urn:backhaul:problem:log-gap",
    "title": "Log gap",
    "status": 409,
    "detail": "line 3 comes next",
    "instance": "r1",
    "errors": [{"field": "seq", "message": "must be 3"}],
    "expected_seq": 3,
    "protocol": {"minimum": 1, "maximum": 1},
    "signature": "AAE=",
}
SCHEDULE_ENTRY = schedules.ScheduleEntry(
    schedule_id=ONE,
    kind="backup",
    cron="0 2 * * *",
    timezone="Europe/London",
    catch_up="skip",
    catch_up_window=60.0,
    jitter=5.0,
    start_deadline=3600.0,
    max_duration=7200.0,
    when_unreachable="run",
    template=schedules.RunTemplate(
        arguments=kinds.BackupArguments(paths=("/etc",)), repository_id=TWO, credentials=b"\x00"
    ),
)
SCHEDULE_ENTRY_JSON = {
    "schedule_id": str(ONE),
    "kind": "backup",
    "cron": "0 2 * * *",
    "timezone": "Europe/London",
    "enabled": True,
    "catch_up": "skip",
    "catch_up_window": 60.0,
    "jitter": 5.0,
    "start_deadline": 3600.0,
    "max_duration": 7200.0,
    "when_unreachable": "run",
    "template": {
        "arguments": {
            "kind": "backup",
            "paths": ["/etc"],
            "excludes": [],
            "tags": [],
            "one_file_system": False,
            **PLAIN_OPTIONS,
            "dry_run": False,
        },
        "repository_id": str(TWO),
        "credentials": "AA==",
    },
}

OBSTACLE = jobs.Obstacle(
    job_id=TWO, kind=kinds.JobKind.PRUNE, state=jobs.JobState.RUNNING, host="db1"
)
MESSAGES: list[tuple[msgspec.Struct, dict[str, Any]]] = [
    # ticks
    (
        ticks.Tick(
            expired_jobs=1,
            lost_jobs=2,
            deleted_sessions=3,
            deleted_tokens=4,
            deleted_answers=5,
            deleted_queries=6,
            deleted_events=7,
            deleted_log_lines=8,
            has_more=True,
        ),
        {
            "expired_jobs": 1,
            "lost_jobs": 2,
            "deleted_sessions": 3,
            "deleted_tokens": 4,
            "deleted_answers": 5,
            "deleted_queries": 6,
            "deleted_events": 7,
            "deleted_log_lines": 8,
            "has_more": True,
        },
    ),
    # base
    (base.ProtocolRange(minimum=1, maximum=2), {"minimum": 1, "maximum": 2}),
    # agents
    (FACTS, FACTS_JSON),
    (
        agents.EnrollRequest(
            enrollment_token="bhe_x", public_key=KEY, facts=FACTS, name="web1", labels={"a": "b"}
        ),
        {
            "enrollment_token": "bhe_x",
            "public_key": KEY_JSON,
            "facts": FACTS_JSON,
            "name": "web1",
            "labels": {"a": "b"},
        },
    ),
    (
        agents.EnrollReply(
            host_id=ONE,
            name="web1",
            agent_token="bha_x",
            server_time=AT,
            protocol=base.SPOKEN_PROTOCOLS,
            signing_key=KEY,
        ),
        {
            "host_id": str(ONE),
            "name": "web1",
            "agent_token": "bha_x",
            "server_time": AT_JSON,
            "protocol": {"minimum": 1, "maximum": 1},
            "signing_key": KEY_JSON,
        },
    ),
    (
        agents.HeldJob(job_id=ONE, state="accepted"),
        {"job_id": str(ONE), "attempt": 1, "state": "accepted"},
    ),
    (
        agents.PollRequest(
            boot_id=ONE,
            schedule_version=1,
            settings_version=2,
            jobs=(agents.HeldJob(job_id=TWO, state="finished"),),
            clock=AT,
            hold=25.0,
        ),
        {
            "boot_id": str(ONE),
            "schedule_version": 1,
            "settings_version": 2,
            "jobs": [{"job_id": str(TWO), "attempt": 1, "state": "finished"}],
            "clock": AT_JSON,
            "hold": 25.0,
        },
    ),
    (agents.HoldRequest(hold=25.0), {"hold": 25.0}),
    (
        agents.HoldReply(held=9.5, allowed=25.0, server_time=AT),
        {"held": 9.5, "allowed": 25.0, "server_time": AT_JSON},
    ),
    (
        agents.PollReply(envelopes=(msgspec.Raw(b'{"x":1}'),), server_time=AT, hold=25.0),
        {"envelopes": [{"x": 1}], "server_time": AT_JSON, "hold": 25.0, "pause": 0.0},
    ),
    (
        agents.Hello(boot_id=ONE, facts=FACTS, jobs=(agents.HeldJob(job_id=TWO, state="running"),)),
        {
            "type": "hello",
            "boot_id": str(ONE),
            "facts": FACTS_JSON,
            "jobs": [{"job_id": str(TWO), "attempt": 1, "state": "running"}],
        },
    ),
    (agents.Batch(envelopes=(msgspec.Raw(b'{"x":1}'),)), {"envelopes": [{"x": 1}]}),
    (
        agents.Receipt(status=agents.ReceiptStatus.REJECTED, problem=PROBLEM, job_id=ONE),
        {"status": "rejected", "problem": PROBLEM_JSON, "job_id": str(ONE)},
    ),
    (
        agents.BatchReply(receipts=(agents.Receipt(status=agents.ReceiptStatus.OK),)),
        {"receipts": [{"status": "ok"}]},
    ),
    # commands
    (
        commands.Credentials(
            repository_id=ONE, location="/srv", password="p", environment={"A": "b"}
        ),
        {
            "repository_id": str(ONE),
            "location": "/srv",
            "password": "p",
            "environment": {"A": "b"},
            "new_password": None,
            "old_password": None,
        },
    ),
    (
        commands.CommandRun(
            job_id=ONE,
            attempt=1,
            kind="init",
            arguments=msgspec.Raw(b'{"kind":"init"}'),
            repository_id=TWO,
            credentials=b"\x00",
            second_repository_id=ONE,
            second_credentials=b"\x01",
            start_deadline_at=AT,
            max_duration=60.0,
            priority=2,
        ),
        {
            "type": "command.run",
            "job_id": str(ONE),
            "attempt": 1,
            "kind": "init",
            "arguments": {"kind": "init"},
            "repository_id": str(TWO),
            "credentials": "AA==",
            "second_repository_id": str(ONE),
            "second_credentials": "AQ==",
            "start_deadline_at": AT_JSON,
            "max_duration": 60.0,
            "priority": 2,
        },
    ),
    (
        commands.CommandAck(job_id=ONE, attempt=2, is_accepted=False, reason="no"),
        {
            "type": "command.ack",
            "job_id": str(ONE),
            "attempt": 2,
            "is_accepted": False,
            "reason": "no",
        },
    ),
    (commands.CommandCancel(job_id=ONE), {"type": "command.cancel", "job_id": str(ONE)}),
    (
        commands.QueryRun(
            query_id=ONE,
            kind="browse",
            arguments=msgspec.Raw(b"{}"),
            ttl=9.0,
            repository_id=TWO,
            credentials=b"\x00",
        ),
        {
            "type": "query.run",
            "query_id": str(ONE),
            "kind": "browse",
            "arguments": {},
            "ttl": 9.0,
            "repository_id": str(TWO),
            "credentials": "AA==",
        },
    ),
    (
        commands.QueryAnswer(
            query_id=ONE,
            answer=msgspec.Raw(b"[1]"),
            error="half of it",
            is_cut=True,
            failure=commands.QueryFailure.FAILED,
        ),
        {
            "type": "query.answer",
            "query_id": str(ONE),
            "answer": [1],
            "error": "half of it",
            "is_cut": True,
            "failure": "failed",
        },
    ),
    (
        commands.AgentSettings(progress_interval=2.0, agent_token=b"\x00"),
        {"progress_interval": 2.0, "agent_token": "AA=="},
    ),
    (
        commands.SettingsSet(settings_version=3, settings=commands.AgentSettings()),
        {
            "type": "settings.set",
            "settings_version": 3,
            "settings": {"progress_interval": 1.0, "agent_token": None},
        },
    ),
    # reports
    (
        reports.JobStarted(job_id=ONE, attempt=1, at=AT),
        {"type": "job.started", "job_id": str(ONE), "attempt": 1, "at": AT_JSON},
    ),
    (
        reports.JobProgress(job_id=ONE, attempt=1, at=AT, progress=jobs.Progress(percent_done=0.5)),
        {
            "type": "job.progress",
            "job_id": str(ONE),
            "attempt": 1,
            "at": AT_JSON,
            "progress": {"percent_done": 0.5},
        },
    ),
    (
        reports.JobLog(
            job_id=ONE,
            attempt=1,
            seq=4,
            lines=(jobs.LogLine(at=AT, stream="stderr", text="x"),),
        ),
        {
            "type": "job.log",
            "job_id": str(ONE),
            "attempt": 1,
            "seq": 4,
            "lines": [{"at": AT_JSON, "stream": "stderr", "text": "x"}],
        },
    ),
    (
        reports.JobFinished(
            job_id=ONE,
            attempt=1,
            at=AT,
            outcome=jobs.Outcome.INCOMPLETE,
            log_lines=5,
            exit_code=3,
            failure_class=jobs.FailureClass.OTHER,
            message="some files",
            result=BACKUP_RESULT,
        ),
        {
            "type": "job.finished",
            "job_id": str(ONE),
            "attempt": 1,
            "at": AT_JSON,
            "outcome": "incomplete",
            "log_lines": 5,
            "exit_code": 3,
            "failure_class": "other",
            "message": "some files",
            "result": BACKUP_RESULT_JSON,
        },
    ),
    # schedules
    (SCHEDULE_ENTRY, SCHEDULE_ENTRY_JSON),
    (
        schedules.RunTemplate(arguments=kinds.InitArguments()),
        {"arguments": INIT_JSON, "repository_id": None, "credentials": None},
    ),
    (
        schedules.ScheduleSet(schedule_version=7, schedules=(SCHEDULE_ENTRY,)),
        {"type": "schedule.set", "schedule_version": 7, "schedules": [SCHEDULE_ENTRY_JSON]},
    ),
    (
        schedules.EntryError(schedule_id=ONE, message="no such zone"),
        {"schedule_id": str(ONE), "message": "no such zone"},
    ),
    (
        schedules.ScheduleAck(
            schedule_version=7, errors=(schedules.EntryError(schedule_id=ONE, message="x"),)
        ),
        {
            "type": "schedule.ack",
            "schedule_version": 7,
            "errors": [{"schedule_id": str(ONE), "message": "x"}],
        },
    ),
    (
        schedules.ScheduleFire(
            schedule_id=ONE,
            scheduled_at=AT,
            fired_at=AT,
            missed=2,
            missed_since=AT,
            ran_offline=True,
            arguments=kinds.BackupArguments(paths=("/etc",)),
            repository_id=TWO,
        ),
        {
            "type": "schedule.fire",
            "schedule_id": str(ONE),
            "scheduled_at": AT_JSON,
            "fired_at": AT_JSON,
            "missed": 2,
            "missed_since": AT_JSON,
            "ran_offline": True,
            "arguments": {
                "kind": "backup",
                "paths": ["/etc"],
                "excludes": [],
                "tags": [],
                "one_file_system": False,
                **PLAIN_OPTIONS,
                "dry_run": False,
            },
            "repository_id": str(TWO),
        },
    ),
    (
        schedules.CreateSchedule(
            kind=schedules.ScheduleKind.BACKUP,
            cron="H 2 * * *",
            repository="nas",
            source="etc",
            timezone="Europe/London",
            enabled=False,
            catch_up="skip",
            catch_up_window=60.0,
            jitter=5.0,
            start_deadline=3600.0,
            max_duration=7200.0,
            attempts=5,
            retry_delay=30.0,
            when_unreachable="wait",
            options=kinds.CheckOptions(read_data_parts=7),
        ),
        {
            "kind": "backup",
            "cron": "H 2 * * *",
            "repository": "nas",
            "source": "etc",
            "timezone": "Europe/London",
            "enabled": False,
            "catch_up": "skip",
            "catch_up_window": 60.0,
            "jitter": 5.0,
            "start_deadline": 3600.0,
            "max_duration": 7200.0,
            "attempts": 5,
            "retry_delay": 30.0,
            "when_unreachable": "wait",
            "options": {"kind": "check", "read_data_parts": 7},
        },
    ),
    (
        schedules.UpdateSchedule(cron="@daily", catch_up_window=None),
        {"cron": "@daily", "catch_up_window": None},
    ),
    (
        schedules.Schedule(
            id=ONE,
            host_id=TWO,
            host="web1",
            kind=schedules.ScheduleKind.PRUNE,
            cron="@weekly",
            timezone="UTC",
            enabled=True,
            repository_id=TWO,
            repository="nas",
            source_id=None,
            source=None,
            catch_up="once",
            catch_up_window=None,
            jitter=0.0,
            start_deadline=None,
            max_duration=None,
            attempts=3,
            retry_delay=60.0,
            when_unreachable="wait",
            next_fire_at=AT,
            created_at=AT,
            updated_at=AT,
            revision=3,
            error="no such zone",
        ),
        {
            "id": str(ONE),
            "host_id": str(TWO),
            "host": "web1",
            "kind": "prune",
            "cron": "@weekly",
            "timezone": "UTC",
            "enabled": True,
            "repository_id": str(TWO),
            "repository": "nas",
            "source_id": None,
            "source": None,
            "catch_up": "once",
            "catch_up_window": None,
            "jitter": 0.0,
            "start_deadline": None,
            "max_duration": None,
            "attempts": 3,
            "retry_delay": 60.0,
            "when_unreachable": "wait",
            "options": None,
            "destination": None,
            "of_host": None,
            "next_fire_at": AT_JSON,
            "created_at": AT_JSON,
            "updated_at": AT_JSON,
            "revision": 3,
            "error": "no such zone",
        },
    ),
    (
        schedules.UpcomingFire(at="2026-10-25T01:30:00+01:00"),
        {"at": "2026-10-25T01:30:00+01:00"},
    ),
    (
        schedules.SchedulePreview(
            cron="@daily", timezone="UTC", fires=(schedules.UpcomingFire(at=AT_JSON),)
        ),
        {"cron": "@daily", "timezone": "UTC", "fires": [{"at": AT_JSON}]},
    ),
    # snapshots
    (SNAPSHOT, SNAPSHOT_JSON),
    (
        snapshots.SnapshotsReport(
            repository_id=ONE, job_id=TWO, snapshots=(SNAPSHOT,), is_complete=True
        ),
        {
            "type": "snapshots.report",
            "repository_id": str(ONE),
            "job_id": str(TWO),
            "snapshots": [SNAPSHOT_JSON],
            "is_complete": True,
        },
    ),
    (FILE_ENTRY, FILE_ENTRY_JSON),
    (
        snapshots.FileList(snapshot_id=HEX, host="web1", entries=(FILE_ENTRY,), next_cursor="x"),
        {
            "snapshot_id": HEX,
            "host": "web1",
            "entries": [FILE_ENTRY_JSON],
            "next_cursor": "x",
        },
    ),
    (snapshots.FoundFiles(entries=(FILE_ENTRY,)), {"entries": [FILE_ENTRY_JSON]}),
    (
        snapshots.ListFiles(snapshot=HEX, path="/etc", is_recursive=True, skip=5, limit=10),
        {
            "kind": "snapshot.ls",
            "snapshot": HEX,
            "path": "/etc",
            "is_recursive": True,
            "skip": 5,
            "limit": 10,
        },
    ),
    (
        snapshots.FindFiles(snapshot=HEX, pattern="*.conf", skip=5, limit=10),
        {
            "kind": "snapshot.find",
            "snapshot": HEX,
            "pattern": "*.conf",
            "skip": 5,
            "limit": 10,
        },
    ),
    (
        snapshots.Snapshot(
            id=HEX,
            short_id=HEX[:8],
            repository_id=ONE,
            repository="nas",
            time=AT,
            hostname="web1",
            paths=("/etc",),
            username="root",
            tags=(),
            tree=HEX,
            parent=None,
            original=None,
            program_version=None,
            host_id=TWO,
            job_id=None,
            reported_at=AT,
            doubt=honesty.Doubt.UNKNOWN,
        ),
        {
            "id": HEX,
            "short_id": "0a1b2c3d",
            "repository_id": str(ONE),
            "repository": "nas",
            "time": AT_JSON,
            "hostname": "web1",
            "paths": ["/etc"],
            "username": "root",
            "tags": [],
            "tree": HEX,
            "parent": None,
            "original": None,
            "program_version": None,
            "host_id": str(TWO),
            "job_id": None,
            "reported_at": AT_JSON,
            "doubt": "no job of Backhaul has reported it",
        },
    ),
    # problems
    (PROBLEM, PROBLEM_JSON),
    (
        problems.FieldError(field="paths[0]", message="must be absolute"),
        {"field": "paths[0]", "message": "must be absolute"},
    ),
    # jobs
    (kinds.InitArguments(), INIT_JSON),
    (
        kinds.InitArguments(chunker_of_id=TWO, chunker_of="nas"),
        {"kind": "init", "chunker_of_id": str(TWO), "chunker_of": "nas"},
    ),
    (kinds.SnapshotsArguments(), {"kind": "snapshots"}),
    (
        kinds.BackupArguments(
            paths=("/etc",),
            excludes=("*.iso",),
            tags=("home",),
            one_file_system=True,
            **OPTIONS,
            dry_run=True,
        ),
        {
            "kind": "backup",
            "paths": ["/etc"],
            "excludes": ["*.iso"],
            "tags": ["home"],
            "one_file_system": True,
            **OPTIONS_JSON,
            "dry_run": True,
        },
    ),
    (
        kinds.RestoreArguments(
            snapshot="latest",
            target="/",
            include=("/etc",),
            exclude=("*.iso",),
            verify=True,
            in_place=True,
            of_host="web2",
            tag="etc",
        ),
        {
            "kind": "restore",
            "snapshot": "latest",
            "target": "/",
            "include": ["/etc"],
            "exclude": ["*.iso"],
            "verify": True,
            "in_place": True,
            "of_host": "web2",
            "tag": "etc",
        },
    ),
    (
        kinds.Retention(
            keep_last=1,
            keep_hourly=2,
            keep_daily=3,
            keep_weekly=4,
            keep_monthly=5,
            keep_yearly=6,
            keep_within="1y5m7d2h",
        ),
        {
            "keep_last": 1,
            "keep_hourly": 2,
            "keep_daily": 3,
            "keep_weekly": 4,
            "keep_monthly": 5,
            "keep_yearly": 6,
            "keep_within": "1y5m7d2h",
        },
    ),
    (
        kinds.ForgetArguments(tag="etc", keep=kinds.Retention(keep_daily=7)),
        {"kind": "forget", "tag": "etc", "keep": {"keep_daily": 7}},
    ),
    (
        # Without rules of its own: an agent that knows no guard must not do it.
        kinds.ForgetArguments(
            tag="etc",
            dry_run=True,
            guard=FORGET_GUARD,
        ),
        {
            "kind": "forget",
            "tag": "etc",
            "dry_run": True,
            "guard": FORGET_GUARD_JSON,
        },
    ),
    (FORGET_GUARD, FORGET_GUARD_JSON),
    (kinds.PruneArguments(), {"kind": "prune"}),
    (
        kinds.DrillArguments(snapshot="latest", of_host="web2", files=20, max_bytes=1000),
        {
            "kind": "drill",
            "snapshot": "latest",
            "of_host": "web2",
            "files": 20,
            "max_bytes": 1000,
        },
    ),
    (
        kinds.DrillRequest(host="web1", repository="nas", of_host="web2", max_bytes=1000),
        {
            "kind": "drill",
            "host": "web1",
            "repository": "nas",
            "snapshot": "latest",
            "of_host": "web2",
            "files": 20,
            "max_bytes": 1000,
        },
    ),
    (
        kinds.DrillOptions(of_host="web2", files=50, max_bytes=1000),
        {"kind": "drill", "of_host": "web2", "files": 50, "max_bytes": 1000},
    ),
    (
        kinds.DrillResult(
            snapshot_id=HEX,
            snapshot_time=AT,
            hostname="web1",
            files_total=300,
            files_compared=18,
            bytes_compared=1000,
            files_differing=1,
            files_unreadable=1,
            differing=("/etc/a",),
            unreadable=("/etc/b",),
            skipped_too_large=1,
            skipped_unnameable=2,
            duration=4.5,
        ),
        {
            "kind": "drill",
            "snapshot_id": HEX,
            "snapshot_time": AT_JSON,
            "hostname": "web1",
            "files_total": 300,
            "files_compared": 18,
            "bytes_compared": 1000,
            "files_differing": 1,
            "files_unreadable": 1,
            "differing": ["/etc/a"],
            "unreadable": ["/etc/b"],
            "skipped_too_large": 1,
            "skipped_unnameable": 2,
            "duration": 4.5,
        },
    ),
    (
        kinds.DiffArguments(snapshot="0a1b2c3d", other="4e5f6a7b"),
        {"kind": "diff", "snapshot": "0a1b2c3d", "other": "4e5f6a7b"},
    ),
    (
        kinds.DiffRequest(host="web1", repository="nas", snapshot="0a1b2c3d", other="4e5f6a7b"),
        {
            "kind": "diff",
            "host": "web1",
            "repository": "nas",
            "snapshot": "0a1b2c3d",
            "other": "4e5f6a7b",
        },
    ),
    (kinds.DiffChange(path="/etc/a", modifier="M"), {"path": "/etc/a", "modifier": "M"}),
    (
        kinds.DiffCounts(files=1, dirs=2, others=3, data_blobs=4, tree_blobs=5, bytes=6),
        {"files": 1, "dirs": 2, "others": 3, "data_blobs": 4, "tree_blobs": 5, "bytes": 6},
    ),
    (
        kinds.DiffResult(
            source_snapshot="0a1b2c3d",
            target_snapshot="4e5f6a7b",
            changed_files=1,
            added=kinds.DiffCounts(files=1, bytes=9),
            changes=(kinds.DiffChange(path="/etc/a", modifier="M"),),
            is_cut=True,
        ),
        {
            "kind": "diff",
            "source_snapshot": "0a1b2c3d",
            "target_snapshot": "4e5f6a7b",
            "changed_files": 1,
            "added": {
                "files": 1,
                "dirs": 0,
                "others": 0,
                "data_blobs": 0,
                "tree_blobs": 0,
                "bytes": 9,
            },
            "removed": dict.fromkeys(
                ("files", "dirs", "others", "data_blobs", "tree_blobs", "bytes"), 0
            ),
            "changes": [{"path": "/etc/a", "modifier": "M"}],
            "is_cut": True,
        },
    ),
    (kinds.UnlockArguments(remove_all=True), {"kind": "unlock", "remove_all": True}),
    (kinds.UnlockResult(locks_left=2), {"kind": "unlock", "locks_left": 2}),
    (
        kinds.CheckArguments(read_data_subset="1/7"),
        {"kind": "check", "read_data_subset": "1/7"},
    ),
    (
        kinds.ForgetResult(kept=3, removed=2, removed_snapshots=("0a1b2c3d", "4e5f6a7b")),
        {
            "kind": "forget",
            "kept": 3,
            "removed": 2,
            "removed_snapshots": ["0a1b2c3d", "4e5f6a7b"],
            "dry_run": False,
            "to_go": 0,
            "snapshots_to_go": [],
            "set_aside": 0,
            "snapshots_set_aside": [],
        },
    ),
    (
        kinds.ForgetResult(
            kept=3,
            removed=0,
            dry_run=True,
            to_go=1,
            snapshots_to_go=(SNAPSHOT_TO_GO,),
            set_aside=1,
            snapshots_set_aside=(SNAPSHOT_SET_ASIDE,),
        ),
        {
            "kind": "forget",
            "kept": 3,
            "removed": 0,
            "removed_snapshots": [],
            "dry_run": True,
            "to_go": 1,
            "snapshots_to_go": [SNAPSHOT_TO_GO_JSON],
            "set_aside": 1,
            "snapshots_set_aside": [SNAPSHOT_SET_ASIDE_JSON],
        },
    ),
    (SNAPSHOT_TO_GO, SNAPSHOT_TO_GO_JSON),
    (SNAPSHOT_SET_ASIDE, SNAPSHOT_SET_ASIDE_JSON),
    (kinds.PruneResult(), {"kind": "prune"}),
    (
        kinds.StatsResult(total_size=5, snapshots_count=2, restore_size=9),
        {
            "kind": "stats",
            "total_size": 5,
            "snapshots_count": 2,
            "blobs_count": 0,
            "uncompressed_size": None,
            "restore_size": 9,
            "restore_files": None,
        },
    ),
    (
        kinds.PasswdResult(step=kinds.PasswdStep.ADD, keys_added=1),
        {"kind": "passwd", "step": "add", "keys_added": 1, "keys_removed": 0},
    ),
    (kinds.StatsArguments(), {"kind": "stats"}),
    (kinds.PasswdArguments(step=kinds.PasswdStep.REMOVE), {"kind": "passwd", "step": "remove"}),
    (
        kinds.CheckResult(read_data_subset="2.5%"),
        {"kind": "check", "read_data_subset": "2.5%"},
    ),
    (kinds.InitResult(repository_id=HEX), {"kind": "init", "repository_id": HEX}),
    (BACKUP_RESULT, BACKUP_RESULT_JSON),
    (kinds.SnapshotsResult(snapshots_count=3), {"kind": "snapshots", "snapshots_count": 3}),
    (
        kinds.RestoreResult(snapshot_id=HEX, target="/tmp/r", files_restored=2, bytes_restored=3),
        {
            "kind": "restore",
            "snapshot_id": HEX,
            "target": "/tmp/r",
            "files_restored": 2,
            "bytes_restored": 3,
        },
    ),
    (
        jobs.Progress(
            percent_done=0.25,
            total_files=8,
            files_done=2,
            total_bytes=400,
            bytes_done=100,
            error_count=1,
            seconds_elapsed=9,
            seconds_remaining=27,
            current_files=("/etc/passwd",),
        ),
        {
            "percent_done": 0.25,
            "total_files": 8,
            "files_done": 2,
            "total_bytes": 400,
            "bytes_done": 100,
            "error_count": 1,
            "seconds_elapsed": 9,
            "seconds_remaining": 27,
            "current_files": ["/etc/passwd"],
        },
    ),
    (
        jobs.LogLine(at=AT, stream="agent", text="begun"),
        {"at": AT_JSON, "stream": "agent", "text": "begun"},
    ),
    (
        kinds.InitRequest(host="web1", repository="nas", chunker_of="cloud"),
        {"kind": "init", "host": "web1", "repository": "nas", "chunker_of": "cloud"},
    ),
    (
        job_batches.CreateJobs(jobs=(kinds.InitRequest(host="web1", repository="nas"),)),
        {"jobs": [{"kind": "init", "host": "web1", "repository": "nas", "chunker_of": None}]},
    ),
    (job_batches.CreatedJobs(ids=(ONE,)), {"ids": [str(ONE)]}),
    (
        kinds.SnapshotsRequest(host="web1", repository="nas"),
        {"kind": "snapshots", "host": "web1", "repository": "nas"},
    ),
    (
        kinds.BackupRequest(
            host="web1",
            repository="nas",
            source="home",
            paths=("/etc",),
            excludes=("*.iso",),
            tags=("once",),
            one_file_system=True,
            **OPTIONS,
            dry_run=True,
        ),
        {
            "kind": "backup",
            "host": "web1",
            "repository": "nas",
            "source": "home",
            "paths": ["/etc"],
            "excludes": ["*.iso"],
            "tags": ["once"],
            "one_file_system": True,
            **OPTIONS_JSON,
            "dry_run": True,
        },
    ),
    (
        kinds.RestoreRequest(
            host="web1",
            repository="nas",
            snapshot="latest",
            target="/tmp/r",
            include=("/etc",),
            exclude=("*.iso",),
            verify=True,
            of_host="web2",
            source="etc",
            in_place=True,
            confirm_host="web1",
        ),
        {
            "kind": "restore",
            "host": "web1",
            "repository": "nas",
            "snapshot": "latest",
            "target": "/tmp/r",
            "include": ["/etc"],
            "exclude": ["*.iso"],
            "verify": True,
            "of_host": "web2",
            "source": "etc",
            "in_place": True,
            "confirm_host": "web1",
        },
    ),
    (
        kinds.ForgetRequest(host="web1", repository="nas", source="etc"),
        {"kind": "forget", "host": "web1", "repository": "nas", "source": "etc"},
    ),
    (
        kinds.UnlockRequest(host="web1", repository="nas"),
        {"kind": "unlock", "host": "web1", "repository": "nas", "remove_all": False},
    ),
    (
        kinds.PruneRequest(host="web1", repository="nas"),
        {"kind": "prune", "host": "web1", "repository": "nas"},
    ),
    (
        kinds.CopyArguments(
            destination_id=TWO, snapshots=("01234567",), tags=("etc",), of_host="web1"
        ),
        {
            "kind": "copy",
            "destination_id": str(TWO),
            "snapshots": ["01234567"],
            "tags": ["etc"],
            "of_host": "web1",
        },
    ),
    (
        kinds.CopyRequest(host="web1", repository="nas", destination="cloud", source="etc"),
        {
            "kind": "copy",
            "host": "web1",
            "repository": "nas",
            "destination": "cloud",
            "snapshots": [],
            "source": "etc",
            "tags": [],
            "of_host": None,
        },
    ),
    (kinds.CopyResult(copied=2, skipped=1), {"kind": "copy", "copied": 2, "skipped": 1}),
    (
        kinds.CopyOptions(destination="cloud", tags=("etc",)),
        {"kind": "copy", "destination": "cloud", "tags": ["etc"], "of_host": None},
    ),
    (
        kinds.CheckOptions(read_data_parts=7),
        {"kind": "check", "read_data_parts": 7},
    ),
    (
        kinds.StatsRequest(host="web1", repository="nas"),
        {"kind": "stats", "host": "web1", "repository": "nas"},
    ),
    (
        kinds.CheckRequest(host="web1", repository="nas", read_data_subset="1/7"),
        {
            "kind": "check",
            "host": "web1",
            "repository": "nas",
            "read_data_subset": "1/7",
            "read_data_parts": None,
        },
    ),
    (
        jobs.Job(
            id=ONE,
            kind=kinds.JobKind.INIT,
            state=jobs.JobState.QUEUED,
            host_id=TWO,
            host="web1",
            repository_id=TWO,
            repository="nas",
            arguments=kinds.InitArguments(),
            actor_kind=jobs.ActorKind.USER,
            actor_id=TWO,
            created_at=AT,
            waits_for=OBSTACLE,
        ),
        {
            "id": str(ONE),
            "kind": "init",
            "state": "queued",
            "host_id": str(TWO),
            "host": "web1",
            "repository_id": str(TWO),
            "repository": "nas",
            "destination_id": None,
            "destination": None,
            "arguments": INIT_JSON,
            "actor_kind": "user",
            "actor_id": str(TWO),
            "schedule_id": None,
            "scheduled_at": None,
            "missed": 0,
            "ran_offline": False,
            "attempt": 1,
            "attempts": 1,
            "retry_at": None,
            "created_at": AT_JSON,
            "accepted_at": None,
            "started_at": None,
            "finished_at": None,
            "start_deadline_at": None,
            "cancel_requested_at": None,
            "waits_for": {
                "job_id": str(TWO),
                "kind": "prune",
                "state": "running",
                "host": "db1",
            },
            "progress": None,
            "progressed_at": None,
            "stalled_since": None,
            "exit_code": None,
            "failure_class": None,
            "message": None,
            "result": None,
            "log_lines": 0,
            "revision": 0,
        },
    ),
    (
        OBSTACLE,
        {"job_id": str(TWO), "kind": "prune", "state": "running", "host": "db1"},
    ),
    (
        jobs.NumberedLogLine(attempt=1, seq=0, at=AT, stream="stdout", text="x"),
        {"attempt": 1, "seq": 0, "at": AT_JSON, "stream": "stdout", "text": "x"},
    ),
    (
        jobs.JobLogPage(
            lines=(), next_cursor="abc", state=jobs.JobState.RUNNING, is_complete=False
        ),
        {"lines": [], "next_cursor": "abc", "state": "running", "is_complete": False},
    ),
]

PINNED_MODULES = [
    agents,
    base,
    commands,
    jobs,
    kinds,
    problems,
    reports,
    schedules,
    snapshots,
    ticks,
]

_ids = [type(message).__name__ for message, _ in MESSAGES]


@pytest.mark.parametrize(("message", "expected"), MESSAGES, ids=_ids)
def test_message_has_exactly_this_json(message: msgspec.Struct, expected: dict[str, Any]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(message)) == expected


@pytest.mark.parametrize(("message", "expected"), MESSAGES, ids=_ids)
def test_json_reads_back_as_the_message(message: msgspec.Struct, expected: dict[str, Any]) -> None:
    read = msgspec.json.decode(msgspec.json.encode(expected), type=type(message))

    assert msgspec.json.encode(read) == msgspec.json.encode(message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [pair for pair in MESSAGES if isinstance(pair[0], Wire)],
    ids=[type(message).__name__ for message, _ in MESSAGES if isinstance(message, Wire)],
)
def test_unknown_fields_of_a_message_are_ignored(message: Wire, expected: dict[str, Any]) -> None:
    newer = msgspec.json.encode({"from_the_future": [1], **expected})

    read = msgspec.json.decode(newer, type=type(message))

    assert msgspec.json.encode(read) == msgspec.json.encode(message)


def test_every_message_is_pinned() -> None:
    pinned = {type(message) for message, _ in MESSAGES}

    assert _structs_of(*PINNED_MODULES) - pinned == set()
    assert set(agents.UpEnvelope.__args__) <= pinned
    assert set(agents.DownEnvelope.__args__) <= pinned


def test_operators_requests_refuse_unknown_fields() -> None:
    lenient = {
        type_.__name__
        for type_ in _subclasses(Request)
        if not type_.__struct_config__.forbid_unknown_fields
    }

    assert lenient == set()


@pytest.mark.parametrize(
    ("request_", "json"),
    [pair for pair in MESSAGES if isinstance(pair[0], Request)],
    ids=[type(message).__name__ for message, _ in MESSAGES if isinstance(message, Request)],
)
def test_mistyped_field_of_a_request_is_refused(request_: Request, json: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `pahts`"):
        msgspec.json.decode(msgspec.json.encode({**json, "pahts": []}), type=type(request_))


def test_messages_cannot_be_changed() -> None:
    configs = {
        type_.__name__: type_.__struct_config__ for type_ in _structs_of(*PINNED_MODULES, schedules)
    }

    assert {name for name, config in configs.items() if not config.frozen} == set()


@pytest.mark.parametrize(
    ("union", "types"),
    [
        (
            agents.UpEnvelope,
            "hello schedule.ack schedule.fire command.ack job.started job.progress job.log "
            "job.finished snapshots.report query.answer",
        ),
        (agents.DownEnvelope, "schedule.set command.run command.cancel query.run settings.set"),
    ],
    ids=["up", "down"],
)
def test_envelopes_have_these_types(union: Any, types: str) -> None:
    configs = [type_.__struct_config__ for type_ in union.__args__]

    assert sorted(config.tag for config in configs) == sorted(types.split())
    assert {config.tag_field for config in configs} == {"type"}


def test_problem_types_have_these_names() -> None:
    prefix = "urn:backhaul:problem:"

    assert {type_.value.removeprefix(prefix) for type_ in problems.ProblemType} >= {
        "invalid-request",
        "not-authenticated",
        "not-allowed",
        "not-found",
        "method-not-allowed",
        "conflict",
        "superseded",
        "host-removed",
        "too-large",
        "unsupported-protocol",
        "rate-limited",
        "log-gap",
        "illegal-move",
        "unknown-envelope",
        "not-ready",
        "internal",
    }
    assert all(type_.value.startswith(prefix) for type_ in problems.ProblemType)


def test_removal_is_signed_over_these_bytes() -> None:
    assert problems.removal_message(ONE) == (
        b"backhaul host-removed 0192f0c1-7777-7000-8000-000000000001"
    )


def test_secrets_stay_out_of_reprs() -> None:
    credentials = commands.Credentials(
        repository_id=ONE, location="rest:https://u:hunter2@x/", password="hunter2"
    )
    enrolment = agents.EnrollRequest(enrollment_token="hunter2", public_key=KEY, facts=FACTS)

    assert "hunter2" not in repr(credentials) + repr(enrolment)


def _structs_of(*modules: ModuleType) -> set[type[msgspec.Struct]]:
    return {
        type_
        for module in modules
        for _, type_ in inspect.getmembers(module, inspect.isclass)
        if issubclass(type_, msgspec.Struct)
        and type_.__module__.startswith(module.__name__)
        and type_ not in {Wire, Request}
    }


def _subclasses(type_: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    direct = set(type_.__subclasses__())
    return direct.union(*(_subclasses(sub) for sub in direct)) if direct else direct


# The job of a fire -------------------------------------------------------------------------------


def test_job_of_a_fire_has_an_id_that_both_sides_know() -> None:
    job_id = schedules.build_scheduled_job_id(ONE, AT)

    assert job_id == UUID("01a20847-01e8-7dd0-a085-cbecd2277833")
    assert (job_id.version, job_id.variant) == (7, RFC_4122)


def test_job_id_of_a_fire_does_not_depend_on_how_its_time_is_written() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))

    assert schedules.build_scheduled_job_id(ONE, elsewhere) == schedules.build_scheduled_job_id(
        ONE, AT
    )


def test_jobs_of_other_slots_and_other_schedules_have_other_ids() -> None:
    ids = {
        schedules.build_scheduled_job_id(schedule_id, AT + timedelta(minutes=minutes))
        for schedule_id in (ONE, TWO)
        for minutes in range(1000)
    }

    assert len(ids) == 2000


def test_failure_of_a_newer_program_is_read_as_one_without_a_class_of_its_own() -> None:
    assert msgspec.json.decode('"of_the_future"', type=jobs.FailureClass) is jobs.FailureClass.OTHER
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode("5", type=jobs.FailureClass)
