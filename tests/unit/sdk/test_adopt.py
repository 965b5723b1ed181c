"""Taking a repository over: what is shown, what is asked, and what is sent."""

from __future__ import annotations

import json

import msgspec
import pytest
import respx

import backhaul
from backhaul.errors import JobFailedError
from backhaul.wire.fleet import Adoption
from backhaul.wire.honesty import Doubt
from backhaul.wire.jobs import JobState
from tests.unit.sdk.builders import (
    HOST_ID,
    JOB_ID,
    TOKEN,
    URL,
    build_host,
    build_job,
    build_log_page,
    build_repository,
    page,
    reply,
)
from tests.unit.sdk.command_line import Cli
from tests.unit.sdk.test_html import SNAPSHOT

DOUBTS = (Doubt.UNKNOWN, Doubt.FUTURE)
ADOPTED = Adoption(repository=build_repository("nas"), adopted=1, doubted=1)


def script(server: respx.MockRouter, *, state: JobState = JobState.SUCCEEDED) -> respx.Route:
    ended = build_job(state)
    server.post("/v1/jobs").mock(return_value=reply(build_job(), 201))
    server.get(f"/v1/hosts/{HOST_ID}").mock(return_value=reply(build_host()))
    server.get(f"/v1/jobs/{JOB_ID}").mock(return_value=reply(ended))
    server.get("/v1/repositories/nas").mock(return_value=reply(build_repository("nas")))
    server.get("/v1/snapshots").mock(
        return_value=page(*(msgspec.structs.replace(SNAPSHOT, doubt=doubt) for doubt in DOUBTS))
    )
    server.get(f"/v1/jobs/{JOB_ID}/log").mock(return_value=reply(build_log_page(is_complete=True)))
    return server.post(url__regex=r".*/v1/repositories/[^/]+/adopt").mock(
        return_value=reply(ADOPTED)
    )


def test_what_is_found_is_shown_before_it_is_adopted(cli: Cli, server: respx.MockRouter) -> None:
    route = script(server)

    unsure = cli("repositories", "adopt", "nas", "--host", "web-1")
    refused = route.call_count
    sure = cli("repositories", "adopt", "nas", "--host", "web-1", "--yes")

    assert (unsure.exit_code, refused) == (2, 0)
    assert "2 snapshots, of web-1" in unsure.stderr
    assert f"1 would be vouched for: {Doubt.UNKNOWN}" in unsure.stderr
    assert f"1 stay set aside: {Doubt.FUTURE}" in unsure.stderr
    assert sure.exit_code == 0, sure.output
    assert "vouched for 1 snapshot. Still doubted: 1" in sure.stdout
    assert json.loads(route.calls[0].request.content) == {"snapshots": None}


def test_repository_that_cannot_be_listed_is_not_adopted(
    cli: Cli, server: respx.MockRouter
) -> None:
    route = script(server, state=JobState.FAILED)

    result = cli("repositories", "adopt", "nas", "--host", "web-1", "--yes", "--quiet")

    assert (result.exit_code, route.call_count) == (1, 0)


def test_repository_is_adopted_from_python(server: respx.MockRouter) -> None:
    route = script(server)

    with backhaul.connect(URL, token=TOKEN) as fleet:
        adoption = fleet.repositories["nas"].adopt(host="web-1", snapshots=["ab" * 32])

    assert adoption == ADOPTED
    assert json.loads(route.calls[0].request.content) == {"snapshots": ["ab" * 32]}


def test_failure_to_list_is_raised_in_python(server: respx.MockRouter) -> None:
    script(server, state=JobState.FAILED)

    with backhaul.connect(URL, token=TOKEN) as fleet, pytest.raises(JobFailedError):
        fleet.repositories["nas"].adopt(host="web-1")
