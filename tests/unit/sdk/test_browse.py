"""Looking into snapshots: what is asked, how often, and what the commands print."""

from __future__ import annotations

import json

import httpx
import pytest
import respx

from backhaul._fields import FileEntry as Entry
from backhaul.errors import InvalidRequestError, ServerFailedError
from backhaul.objects.fleet import Fleet
from backhaul.objects.snapshots import Snapshot
from backhaul.wire.problems import ProblemType
from backhaul.wire.snapshots import FileEntry, FileList
from tests.unit.sdk.builders import (
    NOW,
    Script,
    build_repository,
    page,
    refuse,
    reply,
)
from tests.unit.sdk.command_line import Cli, assert_one_line
from tests.unit.sdk.test_html import SNAPSHOT

ID = "d9c8cbca" * 8
HOSTS = FileEntry(path="/etc/hosts", name="hosts", type="file", size=2048, mode=0o644, mtime=NOW)
NGINX = FileEntry(path="/etc/nginx", name="nginx", type="dir", mode=0o755, uid=0, user="root")
LS = "/v1/repositories/nas/snapshots/d9c8/files"


def files(*entries: FileEntry, next_cursor: str | None = None) -> httpx.Response:
    return reply(FileList(snapshot_id=ID, host="web-1", entries=entries, next_cursor=next_cursor))


def test_listing_is_asked_for_as_long_as_the_server_holds_it() -> None:
    script = Script(files(HOSTS, next_cursor="x"))

    found = script.build_client().list_snapshot_files("nas", "d9c8", "/etc", recursive=True)

    [request] = script.requests
    assert found.is_cut
    assert request.url.path == LS
    assert dict(request.url.params) == {"path": "/etc", "recursive": "true", "wait": "25"}
    assert request.extensions["timeout"]["read"] > 25


def test_search_takes_host_and_cursor() -> None:
    script = Script(files())

    script.build_client().find_snapshot_files(
        "nas", "d9c8", "*.conf", host="web-2", limit=5, cursor="x"
    )

    assert dict(script.requests[0].url.params) == {
        "pattern": "*.conf",
        "host": "web-2",
        "limit": "5",
        "cursor": "x",
        "wait": "25",
    }


def test_host_that_is_away_is_asked_once() -> None:
    away = refuse(504, ProblemType.HOST_SILENT, detail="away", headers={"Retry-After": "60"})
    script = Script(away)

    with pytest.raises(ServerFailedError, match="away"):
        script.build_client().list_snapshot_files("nas", "d9c8")

    assert (len(script.requests), script.slept_s) == (1, [])


def test_snapshot_that_would_lead_elsewhere_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="snapshot"):
        Script().build_client().list_snapshot_files("nas", "..")


def test_ls_prints_paths_page_by_page(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/repositories").mock(return_value=page(build_repository()))
    route = server.get(LS).mock(side_effect=[files(HOSTS, next_cursor="x"), files(NGINX)])

    result = cli("snapshots", "ls", "d9c8", "/etc")

    assert (result.exit_code, result.stdout) == (0, "/etc/hosts\n/etc/nginx/\n")
    assert [call.request.url.params.get("cursor") for call in route.calls] == [None, "x"]


def test_quiet_gives_bare_paths(cli: Cli, server: respx.MockRouter) -> None:
    server.get(LS).mock(side_effect=[files(HOSTS, NGINX), files()])

    result = cli("snapshots", "ls", "d9c8", "/etc", "--repository", "nas", "--quiet")
    nothing = cli("snapshots", "ls", "d9c8", "/etc", "--repository", "nas", "--quiet")

    assert result.stdout == "/etc/hosts\n/etc/nginx\n"
    assert nothing.output == ""


def test_limit_ends_the_listing(cli: Cli, server: respx.MockRouter) -> None:
    route = server.get(LS).mock(side_effect=[files(HOSTS, next_cursor="x")])

    result = cli("snapshots", "ls", "d9c8", "--repository", "nas", "--limit", "1")

    assert result.stdout == "/etc/hosts\n"
    assert route.calls[0].request.url.params["limit"] == "1"


def test_long_listing_is_like_that_of_ls(cli: Cli, server: respx.MockRouter) -> None:
    server.get(LS).mock(return_value=files(HOSTS, NGINX))

    result = cli("snapshots", "ls", "d9c8", "/etc", "--repository", "nas", "-l")

    _, hosts, nginx = result.stdout.splitlines()
    assert hosts.split()[0] == "-rw-r--r--"
    assert "2.0 KiB" in hosts
    assert nginx.split()[:2] == ["drwxr-xr-x", "root"]
    assert nginx.endswith("/etc/nginx")


def test_search_gives_json_for_programs(cli: Cli, server: respx.MockRouter) -> None:
    server.get("/v1/repositories/nas/snapshots/d9c8/find").mock(return_value=files(HOSTS))

    result = cli("snapshots", "find", "d9c8", "ho*", "--repository", "nas", "--json")

    assert [entry["path"] for entry in json.loads(result.stdout)] == ["/etc/hosts"]


def test_name_of_a_file_cannot_move_the_cursor(cli: Cli, server: respx.MockRouter) -> None:
    nasty = FileEntry(path="/tmp/\x1b[2J", name="\x1b[2J", type="file")
    server.get(LS).mock(return_value=files(nasty))

    result = cli("snapshots", "ls", "d9c8", "/tmp", "--repository", "nas")

    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("status", "type_", "exit_code"),
    [(504, ProblemType.HOST_SILENT, 1), (409, ProblemType.HOST_REFUSED, 1), (422, "x", 2)],
)
def test_refusal_is_one_line(
    cli: Cli, server: respx.MockRouter, status: int, type_: ProblemType, exit_code: int
) -> None:
    headers = {"Retry-After": "60"}
    server.get(LS).mock(
        return_value=refuse(status, type_, detail="web-1 is away.", headers=headers)
    )

    result = cli("snapshots", "ls", "d9c8", "--repository", "nas")

    assert "web-1 is away" in assert_one_line(result, exit_code=exit_code)


def browse(*answers: httpx.Response) -> tuple[Snapshot, Script]:
    """Give a snapshot of a fleet whose server answers with these."""
    script = Script(*answers)
    return Fleet(script.build_client()).snapshots.wrap(SNAPSHOT), script


def test_folder_of_a_snapshot_is_read_page_by_page() -> None:
    snapshot, script = browse(files(HOSTS, next_cursor="x"), files(NGINX))

    found = list(snapshot.ls("/etc"))

    assert [entry.path for entry in found] == ["/etc/hosts", "/etc/nginx"]
    first, second = script.requests
    assert (first.url.params["path"], first.url.params["limit"]) == ("/etc", "1000")
    assert second.url.params["cursor"] == "x"


def test_only_as_many_files_as_wanted_are_asked_for() -> None:
    snapshot, script = browse(files(HOSTS, next_cursor="x"), files(NGINX, next_cursor="y"))

    found = snapshot.find("*", host="web-2").to_list(limit=2)

    assert found[0].size == 2048
    assert [request.url.params["limit"] for request in script.requests] == ["2", "1"]
    assert script.requests[0].url.params["host"] == "web-2"


def test_files_show_themselves_and_become_a_table() -> None:
    snapshot, _ = browse(files(HOSTS, NGINX), files(HOSTS, NGINX))

    listing = snapshot.ls("/etc")

    assert "/etc/nginx" in listing._repr_html_()
    assert list(listing.to_pandas()["size"].fillna(-1)) == [2048, -1]
    assert repr(listing) == f"<Files files(snapshot={SNAPSHOT.short_id}, path=/etc)>"


def test_two_files_are_equal_when_all_of_them_is() -> None:
    assert Entry(HOSTS) == Entry(HOSTS) != Entry(NGINX)
