"""backhaul schedules, against scripted answers and, for previews, against nobody."""

from __future__ import annotations

import builtins
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import respx

from backhaul._moments import find_seconds
from backhaul.cli import prompts
from backhaul.cli.values import parse_duration
from backhaul.cron import build_hash_key, parse_cron
from backhaul.html import render
from backhaul.wire.kinds import CheckOptions, CopyOptions, DrillOptions
from backhaul.wire.problems import FieldError, ProblemType
from backhaul.wire.schedules import ScheduleKind, SchedulePreview, UpcomingFire
from tests.unit.sdk.builders import (
    HOST_ID,
    NOW,
    REPOSITORY_ID,
    SCHEDULE_ID,
    URL,
    build_repository,
    build_schedule,
    page,
    refuse,
    reply,
)
from tests.unit.sdk.command_line import Cli, assert_one_line

ID = str(SCHEDULE_ID)
PATH = f"/v1/schedules/{SCHEDULE_ID}"
CREATE = ("schedules", "create", "web-1", "backup", "--cron", "30 1 * * *")
AUTUMN = ("--timezone", "Europe/London", "--from", "2026-10-24T00:00:00+01:00")


def _read_body(route: respx.Route) -> Mapping[str, Any]:
    body: Mapping[str, Any] = json.loads(route.calls[0].request.content)
    return body


def test_schedule_is_created_with_every_policy(cli: Cli, server: respx.MockRouter) -> None:
    route = server.post("/v1/hosts/web-1/schedules").mock(return_value=reply(build_schedule(), 201))

    result = cli(
        *CREATE,
        *("--timezone", "Europe/London", "--repository", "nas", "--source", "etc", "--disabled"),
        *("--catch-up", "skip", "--catch-up-window", "12h", "--jitter", "15m"),
        *("--start-deadline", "3600", "--max-duration", "7d", "--when-unreachable", "wait"),
        *("--attempts", "5", "--retry-delay", "30s"),
    )

    assert result.exit_code == 0, result.output
    assert ID in result.stdout
    assert _read_body(route) == {
        "kind": "backup",
        "cron": "30 1 * * *",
        "repository": "nas",
        "source": "etc",
        "timezone": "Europe/London",
        "enabled": False,
        "catch_up": "skip",
        "catch_up_window": 43_200,
        "jitter": 900,
        "start_deadline": 3600,
        "max_duration": 604_800,
        "attempts": 5,
        "retry_delay": 30,
        "when_unreachable": "wait",
        "options": None,
    }


@pytest.mark.parametrize(
    ("kind", "options", "named", "shown"),
    [
        (
            ScheduleKind.COPY,
            CopyOptions(destination=str(REPOSITORY_ID), of_host="db-1"),
            {"destination": "cloud"},
            "destination cloud, of host db-1",
        ),
        (
            ScheduleKind.DRILL,
            DrillOptions(of_host=str(REPOSITORY_ID), files=7, max_bytes=2**31),
            {"of_host": "db-1"},
            "of host db-1, files 7, max bytes 2.0 GiB",
        ),
    ],
    ids=["copy", "drill"],
)
def test_what_options_name_by_an_id_is_shown_by_its_name(
    cli: Cli,
    server: respx.MockRouter,
    kind: ScheduleKind,
    options: CopyOptions | DrillOptions,
    named: dict[str, Any],
    shown: str,
) -> None:
    schedule = build_schedule(kind=kind, options=options, **named)
    server.get(PATH).mock(return_value=reply(schedule))

    result = cli("schedules", "show", ID)

    assert re.search(f"^options +{shown}$", result.stdout, re.MULTILINE)
    assert shown in render(schedule, now=NOW)


def test_option_of_a_kind_is_sent_among_its_options(cli: Cli, server: respx.MockRouter) -> None:
    check = build_schedule(kind=ScheduleKind.CHECK, options=CheckOptions(read_data_parts=7))
    create = server.post("/v1/hosts/web-1/schedules").mock(return_value=reply(check, 201))
    server.get(PATH).mock(return_value=reply(check))
    update = server.patch(PATH).mock(return_value=reply(check))
    options = ("--repository", "nas", "--cron", "@weekly", "--read-data-parts", "7")

    made = cli("schedules", "create", "web-1", "check", *options)
    shown = cli("schedules", "show", ID)
    changed = cli("schedules", "update", ID, "--read-data-parts", "4")

    assert (made.exit_code, changed.exit_code) == (0, 0)
    assert _read_body(create)["options"] == {"kind": "check", "read_data_parts": 7}
    assert re.search(r"^options +read data parts 7$", shown.stdout, re.MULTILINE)
    assert _read_body(update) == {"options": {"kind": "check", "read_data_parts": 4}}


def test_copy_needs_to_be_told_where_to(cli: Cli, server: respx.MockRouter) -> None:
    line = ("schedules", "create", "web-1", "copy", "--cron", "@daily", "--of-host", "db-1")

    assert "--destination" in assert_one_line(cli(*line), exit_code=2)


def test_option_of_another_kind_is_bad_input(cli: Cli, server: respx.MockRouter) -> None:
    server.get(PATH).mock(return_value=reply(build_schedule()))

    created = cli(*CREATE, "--read-data-parts", "7")
    updated = cli("schedules", "update", ID, "--read-data-parts", "7")

    for result in (created, updated):
        assert "--read-data-parts is no option of a backup" in assert_one_line(result, exit_code=2)


def test_schedule_that_says_little_leaves_the_rest_to_the_server(
    cli: Cli, server: respx.MockRouter
) -> None:
    server.get("/v1/repositories").mock(return_value=page(build_repository("nas")))
    route = server.post("/v1/hosts/web-1/schedules").mock(return_value=reply(build_schedule(), 201))

    result = cli(*CREATE, "--quiet")

    assert result.stdout == f"{ID}\n"
    sent = _read_body(route)
    assert (sent["repository"], sent["timezone"], sent["enabled"]) == ("nas", "UTC", True)
    assert (sent["jitter"], sent["when_unreachable"], sent["max_duration"]) == (0, None, None)
    assert (sent["attempts"], sent["retry_delay"]) == (3, 60)


@pytest.mark.parametrize(
    "command", [[*CREATE], ["schedules", "update", ID]], ids=["create", "update"]
)
@pytest.mark.parametrize(
    "option",
    ["--catch-up-window", "--jitter", "--start-deadline", "--max-duration", "--retry-delay"],
)
@pytest.mark.parametrize("text", ["soon", "-5m", "1.5h", "", "9" * 400])
def test_bad_duration_is_one_line_that_names_the_option(
    cli: Cli, server: respx.MockRouter, command: list[str], option: str, text: str
) -> None:
    line = assert_one_line(cli(*command, f"{option}={text}"), exit_code=2)

    assert line.startswith(f"error: {option}: ")
    assert "90s, 15m, 12h or 7d" in line
    assert not server.calls


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("7d", 604_800), ("2w", 1_209_600), ("1d12h", 129_600)],
)
def test_durations_are_what_python_takes_too(text: str, seconds: int) -> None:
    assert parse_duration(text, option="--since") == seconds
    if not text.isdecimal():
        assert find_seconds("since", text) == seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "web-1", "backup"],
        ["create", "web-1", "restore", "--cron", "@daily"],
        [*CREATE[1:], "--catch-up", "twice"],
        [*CREATE[1:], "--when-unreachable", "panic"],
        ["show", "nightly"],
        ["update", ID],
        ["update", ID, "--clear", "jitter"],
        ["update", ID, "--clear", "max-duration", "--max-duration", "1h"],
        ["update", ID, "--clear", "options", "--read-data-parts", "7"],
        ["update", ID, "--read-data-parts", "257"],
        ["delete", ID],
        ["preview"],
        ["preview", "30 1 * * *", "--count", "0"],
        ["preview", "30 1 * * *", "--count", "1001"],
        ["preview", "30 1 * * *", "--host", "web-1"],
        ["preview", "--schedule", "nightly"],
        ["preview", "--schedule", ID, "--timezone", "UTC"],
        ["preview", "--schedule", ID, "--host", ID],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_2(
    cli: Cli, server: respx.MockRouter, arguments: list[str]
) -> None:
    assert_one_line(cli("schedules", *arguments), exit_code=2)
    assert not server.calls


def test_schedules_of_one_host_are_listed(cli: Cli, server: respx.MockRouter) -> None:
    schedules = [
        build_schedule(),
        build_schedule(enabled=False, next_fire_at=None),
        build_schedule(error="The policy allows no backup."),
    ]
    route = server.get("/v1/schedules").mock(return_value=page(*schedules))

    lines = cli("schedules", "list", "web-1").stdout.splitlines()

    assert route.calls[0].request.url.params["host"] == "web-1"
    assert lines[0].split() == [
        *("ID", "HOST", "KIND", "CRON", "TIME", "ZONE", "REPOSITORY", "SOURCE", "NEXT")
    ]
    assert "30 1 * * *  Europe/London" in lines[1]
    assert lines[2].endswith("disabled")
    assert lines[3].endswith("skipped by the agent")


def test_all_schedules_are_listed_as_json(cli: Cli, server: respx.MockRouter) -> None:
    route = server.get("/v1/schedules").mock(return_value=page(build_schedule()))

    found = json.loads(cli("schedules", "list", "--json").stdout)

    assert "host" not in route.calls[0].request.url.params
    assert [schedule["id"] for schedule in found] == [ID]
    assert cli("schedules", "list", "-q").stdout == f"{ID}\n"


def test_empty_list_says_how_to_make_one(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/schedules").mock(return_value=page())

    result = cli("schedules", "list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "schedules create" in result.stderr


def test_schedule_is_shown_with_its_policies(cli: Cli, server: respx.MockRouter) -> None:
    schedule = build_schedule(
        catch_up_window=43_200.0, jitter=900.0, error="The policy allows no backup."
    )
    server.get(PATH).mock(return_value=reply(schedule))

    shown = dict(
        re.split(r" {2,}", line, maxsplit=1)
        for line in cli("schedules", "show", ID).stdout.splitlines()
    )

    assert shown["cron"] == "30 1 * * *"
    assert shown["catch up"] == "once, within 12 h"
    assert shown["jitter"] == "15 min"
    assert shown["skipped because"] == "The policy allows no backup."
    assert "max duration" not in shown


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (["--cron", "@daily"], {"cron": "@daily"}),
        (["--timezone", "UTC", "--source", "home"], {"timezone": "UTC", "source": "home"}),
        (["--disabled"], {"enabled": False}),
        (["--enabled"], {"enabled": True}),
        (["--jitter", "0"], {"jitter": 0}),
        (
            ["--max-duration", "6h", "--clear", "catch-up-window", "--clear", "start-deadline"],
            {"max_duration": 21_600, "catch_up_window": None, "start_deadline": None},
        ),
        (["--clear", "options"], {"options": None}),
    ],
    ids=["cron", "zone and source", "disabled", "enabled", "no jitter", "clear", "options"],
)
def test_update_sends_only_what_changes(
    cli: Cli, server: respx.MockRouter, options: list[str], sent: dict[str, Any]
) -> None:
    route = server.patch(PATH).mock(return_value=reply(build_schedule(revision=2)))

    result = cli("schedules", "update", ID, *options)

    assert result.exit_code == 0, result.output
    assert _read_body(route) == sent
    assert "If-Match" not in route.calls[0].request.headers


@pytest.mark.parametrize(("command", "enabled"), [("enable", True), ("disable", False)])
def test_schedule_is_enabled_and_disabled(
    cli: Cli, server: respx.MockRouter, command: str, enabled: bool
) -> None:
    route = server.patch(PATH).mock(return_value=reply(build_schedule(enabled=enabled)))

    result = cli("schedules", command, ID, "--json")

    assert _read_body(route) == {"enabled": enabled}
    assert json.loads(result.stdout)["enabled"] is enabled


def test_change_of_another_revision_is_refused(cli: Cli, server: respx.MockRouter) -> None:
    refusal = refuse(412, ProblemType.PRECONDITION_FAILED, detail="It was changed. Read it again.")
    route = server.patch(PATH).mock(return_value=refusal)

    result = cli("schedules", "update", ID, "--disabled", "--if-revision", "3")

    assert "Read it again." in assert_one_line(result, exit_code=1)
    assert route.calls[0].request.headers["If-Match"] == '"3"'


def test_schedule_is_deleted_after_a_yes(
    cli: Cli, server: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = server.delete(PATH).mock(return_value=httpx.Response(204))
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)

    assert cli("schedules", "delete", ID, input="n\n").exit_code == 1
    assert not route.called
    assert cli("schedules", "delete", ID, input="y\n").exit_code == 0
    assert cli("schedules", "delete", ID, "--yes", "--json").stdout == "null\n"
    assert route.call_count == 2


def test_refused_expression_is_the_servers_line(cli: Cli, server: respx.MockRouter) -> None:
    errors = (FieldError(field="cron", message="'0 2 30 2 *' never fires"),)
    server.patch(PATH).mock(return_value=refuse(422, ProblemType.INVALID_REQUEST, errors=errors))

    result = cli("schedules", "update", ID, "--cron", "0 2 30 2 *")

    assert "cron: '0 2 30 2 *' never fires" in assert_one_line(result, exit_code=2)


# Previews without a server ------------------------------------------------------------------------


def test_preview_is_exact_across_autumn_and_asks_nobody(
    signed_out: Cli, server: respx.MockRouter
) -> None:
    result = signed_out("schedules", "preview", "30 1 * * *", *AUTUMN, "--count", "60", "--json")

    assert result.exit_code == 0, result.output
    fires = json.loads(result.stdout)
    assert all(set(fire) == {"at"} for fire in fires)
    at = [fire["at"] for fire in fires]
    assert len(at) == 60
    assert [text for text in at if text.startswith("2026-10-25")] == ["2026-10-25T01:30:00+01:00"]
    assert at[0] == "2026-10-24T01:30:00+01:00"
    assert at[2] == "2026-10-26T01:30:00+00:00"
    assert at[-1] == "2026-12-22T01:30:00+00:00"
    assert not server.calls


def test_preview_fires_at_the_end_of_the_gap_in_spring(signed_out: Cli) -> None:
    result = signed_out(
        *("schedules", "preview", "30 1 * * *", "--timezone", "Europe/London"),
        *("--from", "2026-03-29T00:00:00Z", "--count", "2", "--quiet"),
    )

    assert result.stdout == "2026-03-29T02:00:00+01:00\n2026-03-30T01:30:00+01:00\n"


def test_slot_at_the_very_start_counts(signed_out: Cli) -> None:
    result = signed_out(
        *("schedules", "preview", "30 1 * * *", "--timezone", "Europe/London"),
        *("--from", "2026-10-24T02:30:00+02:00", "--count", "1", "--quiet"),
    )

    assert result.stdout == "2026-10-24T01:30:00+01:00\n"


def test_preview_begins_now_in_utc(signed_out: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backhaul.cli.schedule_preview.now", lambda: NOW)

    lines = signed_out("schedules", "preview", "@daily").stdout.splitlines()

    assert lines[0].split("  ")[0] == "TIME (UTC)"
    assert lines[1].split(maxsplit=4) == ["2026-11-24", "00:00", "Tue", "+00:00", "in 12 h"]
    assert len(lines) == 1 + 10


def test_preview_for_people_marks_the_change_of_the_clock(signed_out: Cli) -> None:
    lines = signed_out("schedules", "preview", "30 1 * * *", *AUTUMN).stdout.splitlines()

    assert [line for line in lines if "(was" in line] == [lines[3]]
    assert "2026-10-26 01:30" in lines[3]
    assert "Mon" in lines[3]
    assert "+00:00 (was +01:00)" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["0 2 30 2 *"], "CRON: '0 2 30 2 *' never fires: none of its months has a day 30"),
        (["0 0 2 * * *"], "6 fields, not 5"),
        (["@reboot"], "@daily"),
        (["0 2 * * *", "--timezone", "Mars/Olympus"], "--timezone: 'Mars/Olympus' is not an IANA"),
        (["H 2 * * *"], "give --host HOST_ID and --schedule SCHEDULE_ID"),
        (["H 2 * * *", "--host", str(HOST_ID)], "--schedule SCHEDULE_ID"),
        (["H 2 * * *", "--schedule", ID], "--schedule alone to ask the server"),
        (["H 2 30 2 *"], "never fires"),
        (["0 2 * * *", "--from", "2026-10-24"], "--from: '2026-10-24' needs a time and an offset"),
        (["0 2 * * *", "--from", "2026-10-24T00:00:00"], "an offset, like 2026-10-24T00:00:00+01"),
        (["0 2 * * *", "--from", "tomorrow"], "--from: 'tomorrow' is not a moment like 2026"),
        (["0 2 * * *", "--from", "0001-01-01T00:00:00Z"], "choose another --from"),
        (["0 2 * * *", "--from", "9999-12-30T00:00:00Z"], "choose another --from"),
        (["0 0 29 2 */7", "--count", "1000"], "fewer with --count"),
    ],
)
def test_preview_that_cannot_be_is_one_line_with_the_remedy(
    signed_out: Cli, arguments: list[str], words: str
) -> None:
    line = assert_one_line(signed_out("schedules", "preview", *arguments), exit_code=2)

    assert words in line


def test_hashed_expression_is_previewed_as_the_schedule_will_fire(signed_out: Cli) -> None:
    cron = parse_cron("H 2 * * *", "UTC", hash_key=build_hash_key(HOST_ID, SCHEDULE_ID))

    result = signed_out(
        *("schedules", "preview", "H 2 * * *", "--host", str(HOST_ID), "--schedule", ID),
        *("--from", NOW.isoformat(), "--count", "1", "--quiet"),
    )

    assert result.stdout == f"{cron.next_after(NOW).isoformat()}\n"


def test_preview_without_croniter_says_how_to_get_it(
    signed_out: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "backhaul.cron", raising=False)
    real_import = builtins.__import__

    def import_all_but_croniter(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "croniter":
            raise ModuleNotFoundError("No module named 'croniter'", name="croniter")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_all_but_croniter)

    line = assert_one_line(signed_out("schedules", "preview", "@daily"), exit_code=2)

    assert line == (
        "error: 'backhaul schedules preview' needs more packages: pip install 'backhaul[agent]'\n"
    )


def test_schedule_of_the_server_is_previewed_by_the_server(
    cli: Cli, server: respx.MockRouter
) -> None:
    fires = (UpcomingFire(at="2026-10-25T01:07:00+01:00"), UpcomingFire(at="2026-10-26T01:07:00Z"))
    preview = SchedulePreview(cron="H 1 * * *", timezone="Europe/London", fires=fires)
    route = server.get(f"{PATH}/preview").mock(return_value=reply(preview))
    asked = ("--from", "2026-10-24T00:00:00+01:00", "--count", "2")

    as_json = cli("schedules", "preview", "--schedule", ID, *asked, "--json")
    table = cli("schedules", "preview", "--schedule", ID, *asked)

    assert json.loads(as_json.stdout) == [{"at": fire.at} for fire in fires]
    assert dict(route.calls[0].request.url.params) == {
        "from": "2026-10-24T00:00:00+01:00",
        "count": "2",
    }
    assert "+00:00 (was +01:00)" in table.stdout.splitlines()[2]
    assert str(route.calls[0].request.url).startswith(URL)
