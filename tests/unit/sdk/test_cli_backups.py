"""What `jobs run HOST backup` and `sources` send of the options of a backup."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
import respx

from backhaul.wire.fleet import Source
from backhaul.wire.jobs import JobState
from backhaul.wire.kinds import BackupResult
from tests.unit.sdk.builders import NOW, build_job, reply
from tests.unit.sdk.command_line import Cli

SOURCE = Source(
    id=UUID(int=7),
    name="db",
    paths=(),
    excludes=(),
    tags=(),
    one_file_system=False,
    retention=None,
    created_at=NOW,
    updated_at=NOW,
    limit_upload=2048,
    dump="postgres",
)
OPTIONS = [
    *("--exclude-file", "/etc/not-these", "--exclude-caches", "--exclude-larger-than", "2G"),
    *("--limit-upload", "2048", "--limit-download", "4096", "--compression", "max"),
    *("--nice", "19", "--ionice", "best-effort"),
]
SENT = {
    "exclude_files": ["/etc/not-these"],
    "exclude_caches": True,
    "exclude_larger_than": "2G",
    "limit_upload": 2048,
    "limit_download": 4096,
    "compression": "max",
    "nice": 19,
    "ionice": "best-effort",
}


def sent_by(route: respx.Route) -> dict[str, object]:
    body: dict[str, object] = json.loads(route.calls.last.request.content)
    return body


def test_backup_sends_every_option(cli: Cli, server: respx.MockRouter) -> None:
    job = build_job(JobState.SUCCEEDED, result=BackupResult(total_files_processed=5, dry_run=True))
    route = server.post("/v1/jobs").mock(return_value=reply(job, 201))
    server.get(f"/v1/jobs/{job.id}").mock(return_value=reply(job))
    where = ["web-1", "backup", "--repository", "nas", "--path", "/etc"]

    result = cli("jobs", "run", *where, *OPTIONS, "--dry-run", "--wait")

    assert result.exit_code == 0, result.output
    body = sent_by(route)
    assert {name: body[name] for name in SENT} == SENT
    assert body["dry_run"] is True
    assert "5 files, 0 B, 0 B would be added" in result.output


@pytest.mark.parametrize(
    ("verb", "arguments", "expected"),
    [
        ("create", ["--path", "/etc", *OPTIONS], SENT),
        ("create", ["--dump", "postgres"], {"dump": "postgres", "paths": []}),
        ("update", OPTIONS, SENT),
        ("update", ["--dump", "postgres"], {"dump": "postgres", "paths": []}),
        ("update", ["--path", "/etc"], {"dump": None, "paths": ["/etc"]}),
        ("update", ["--clear", "limit_upload"], {"limit_upload": None}),
    ],
    ids=["create", "create a dump", "update", "to a dump", "to paths", "clear"],
)
def test_source_sends_what_is_named(
    cli: Cli,
    server: respx.MockRouter,
    verb: str,
    arguments: list[str],
    expected: dict[str, object],
) -> None:
    answers = {
        "create": server.post("/v1/sources").mock(return_value=reply(SOURCE, 201)),
        "update": server.patch("/v1/sources/db").mock(return_value=reply(SOURCE)),
    }

    result = cli("sources", verb, "db", *arguments)

    assert result.exit_code == 0, result.output
    body = sent_by(answers[verb])
    assert {name: body.get(name, "not sent") for name in expected} == expected
    assert verb == "create" or set(body) == set(expected)


def test_source_shows_its_dump_and_its_limits(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/sources/db").mock(return_value=reply(SOURCE))

    shown = cli("sources", "show", "db").stdout

    assert "postgres" in shown
    assert "2048 KiB/s" in shown
