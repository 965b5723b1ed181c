"""backhaul hosts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from backhaul import display
from backhaul.cli.connection import open_client
from backhaul.cli.output import (
    AsJson,
    Column,
    Form,
    Output,
    Quiet,
    now,
    print_changed,
    print_list,
    print_one,
    print_removed,
)
from backhaul.cli.prompts import confirm_removal
from backhaul.cli.values import change_labels, parse_labels
from backhaul.wire.fleet import Host, HostState, UpdateHost

app = typer.Typer(help="The machines that agents run on.", rich_markup_mode=None)

HostName = Annotated[str, typer.Argument(metavar="HOST", help="Its name or id.")]

STATE_STYLES = {
    HostState.ONLINE: "green",
    HostState.OFFLINE: "red",
    HostState.NEVER_SEEN: "yellow",
}


@app.command("list")
def list_hosts(
    state: Annotated[
        HostState | None, typer.Option(metavar="STATE", help=", ".join(HostState))
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only with this label. Repeatable: all must match."),
    ] = None,
    output: Output = Form.TABLE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the hosts: `backhaul hosts list --state offline --label env=prod`."""
    labels = parse_labels(label or ())
    with open_client() as client:
        hosts = list(client.list_hosts(state=state, labels=labels))
    print_list(
        hosts,
        _build_columns(now()),
        key=lambda host: host.name,
        empty="No such hosts."
        if state or labels
        else "No hosts yet. `backhaul enrollment-tokens create` lets one join.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("show")
def show_host(host: HostName, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show a host."""
    with open_client() as client:
        found = client.get_host(host)
    print_one(found, _build_fields(found, now()), key=found.id, as_json=as_json, quiet=quiet)


@app.command("rename")
def rename_host(
    host: HostName,
    name: Annotated[str, typer.Argument(help="Its new name.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give a host another name."""
    with open_client() as client:
        found = client.update_host(host, UpdateHost(name=name))
    text = f"Host {host} is now called {found.name}."
    print_changed(found, text, key=found.name, as_json=as_json, quiet=quiet)


@app.command("label")
def label_host(
    host: HostName,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE|KEY-...", help="`env=prod` sets, `env-` removes."),
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Change the labels of a host."""
    change_labels({}, changes)  # refuses before anything is asked
    with open_client() as client:
        labels = change_labels(client.get_host(host).labels, changes)
        found = client.update_host(host, UpdateHost(labels=labels))
    text = f"Host {found.name} has the labels {_render_labels(found) or '(none)'}."
    print_changed(found, text, key=found.name, as_json=as_json, quiet=quiet)


@app.command("remove")
def remove_host(
    host: HostName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Count jobs that it has begun as lost: for a host that is gone."
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove a host. Its agent stops, jobs that it has not begun are cancelled; its snapshots stay
    in their repositories.
    """
    confirm_removal(f"Remove host {host}? Its agent will stop.", is_sure=yes)
    with open_client() as client:
        client.remove_host(host, force=force)
    print_removed(f"Host {host} is removed.", as_json=as_json, quiet=quiet)


def _render_followed(host: Host) -> str:
    applied, desired = host.applied_schedule_version, host.schedule_version
    return f"{applied}" if applied == desired else f"{applied} of {desired}"


def _build_columns(at: datetime) -> list[Column[Host]]:
    return [
        Column("NAME", lambda host: host.name, lambda _: "bold"),
        Column("STATE", _render_state, lambda host: STATE_STYLES[host.state]),
        Column("LAST SEEN", lambda host: display.render_age(host.last_seen_at, at)),
        Column("LAST BACKUP", lambda host: display.render_age(host.last_backup_at, at)),
        Column("NEXT FIRE", lambda host: display.render_age(host.next_fire_at, at, absent="-")),
        Column("OS", lambda host: host.facts.os, is_spare=True),
        Column("RESTIC", lambda host: host.facts.restic_version or "missing", is_spare=True),
        Column("AGENT", lambda host: host.facts.agent_version, is_spare=True),
        Column("LABELS", _render_labels, is_spare=True),
        Column("ID", lambda host: str(host.id), is_whole=True, is_wide=True),
        Column("KEY", lambda host: host.public_key_fingerprint[:16], is_wide=True),
        Column("ARCHITECTURE", lambda host: host.facts.architecture, is_wide=True),
        Column("SCHEDULES", _render_followed, is_wide=True),
        Column("ENROLLED", lambda host: display.render_moment(host.enrolled_at), is_wide=True),
    ]


def _build_fields(host: Host, at: datetime) -> list[tuple[str, str]]:
    return [
        ("name", host.name),
        ("id", str(host.id)),
        ("state", _render_state(host)),
        ("last seen", display.render_age(host.last_seen_at, at)),
        ("last good backup", display.render_age(host.last_backup_at, at)),
        ("next fire", display.render_age(host.next_fire_at, at, absent="nothing is scheduled")),
        ("enrolled", display.render_moment(host.enrolled_at)),
        ("labels", _render_labels(host)),
        ("hostname", host.facts.hostname),
        ("os", f"{host.facts.os} ({host.facts.architecture})"),
        ("restic", host.facts.restic_version or "missing"),
        ("agent", host.facts.agent_version),
        ("job kinds", ", ".join(host.facts.capabilities)),
        ("schedules", _render_versions(host, at)),
        *(
            ("skipped schedule", f"{error.schedule_id}: {error.message}")
            for error in (host.drift.errors if host.drift else ())
        ),
        ("key fingerprint", host.public_key_fingerprint),
    ]


def _render_versions(host: Host, at: datetime) -> str:
    wanted, applied = host.schedule_version, host.applied_schedule_version
    if wanted == applied:
        return f"version {applied}, applied" if applied else "none yet"
    since = host.drift.since if host.drift else None
    ended = f", since {display.render_moment(since)} ({display.render_age(since, at)})"
    return f"version {wanted}, but {applied or 'none'} is applied{ended if since else ''}"


def _render_state(host: Host) -> str:
    return host.state.replace("_", " ")


def _render_labels(host: Host) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(host.labels.items()))
