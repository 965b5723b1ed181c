"""`backhaul agent`: joins a host, and runs the agent on it.

Exit codes: 0 stopped as asked, 1 an error while running, 2 usage, bad input or not enrolled. What
nobody foresaw goes to the log with its traceback: under systemd, nobody watches the terminal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from backhaul.wire.printing import render_error
from backhaul_agent.doctor import Doctor, Finding, Verdict
from backhaul_agent.enrolment import Application
from backhaul_agent.enrolment import enroll as enroll_host
from backhaul_agent.errors import AgentError
from backhaul_agent.identity import load_identity
from backhaul_agent.logs import configure_logging, fields
from backhaul_agent.run import run_agent
from backhaul_agent.settings import Settings, load_settings

agent = typer.Typer(
    name="agent",
    help="Join this machine to a Backhaul server, and run the agent on it.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

log = logging.getLogger(__name__)

_BAD_INPUT = 2
_FAILED = 1
_MAX_TOKEN_BYTES = 4096

StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", help="Where the agent keeps its identity and its journal."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Settings in TOML; default: /etc/backhaul/agent.toml."),
]


@agent.command()
def enroll(  # noqa: PLR0913, PLR0917 (each is an option of the command line)
    server: Annotated[str, typer.Option("--server", help="The server's URL.")],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="Read the enrollment token from this file; - is standard input."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the host; default: its hostname.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="KEY=VALUE; may be repeated.")
    ] = None,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Certificates in PEM to trust as well.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the identity of an enrolled host.")
    ] = False,
) -> None:
    """Join this machine to a server.

    The enrollment token is asked for, or read from standard input or a file; it is never an
    argument, which every user of the machine could read.
    """
    try:
        settings = load_settings(
            os.environ, file=config, state_dir=_resolve(state_dir), ca_file=_resolve(ca_file)
        )
        application = Application(
            server_url=server,
            token=_read_token(token_file),
            name=name,
            labels=_parse_labels(label or []),
            ca_file=settings.ca_file,
            force=force,
        )
        identity = asyncio.run(enroll_host(application, settings))
    except AgentError as error:
        _fail(error, _BAD_INPUT)
    typer.echo(f"Enrolled as {identity.name}")
    typer.echo(f"Public key fingerprint: {identity.fingerprint}")


@agent.command()
def run(state_dir: StateDirOption = None, config: ConfigOption = None) -> None:
    """Run the agent until it is stopped."""
    try:
        settings = load_settings(os.environ, file=config, state_dir=_resolve(state_dir))
        load_identity(settings.state_dir)
    except AgentError as error:
        _fail(error, _BAD_INPUT)
    configure_logging(settings.log_level)
    raise typer.Exit(_run(settings))


@agent.command()
def doctor(
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not try how long a request can be held.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Look at the way to the server: restic, proxy, DNS, TLS, token, clock, longest hold.

    An agent that runs goes on undisturbed. Exit code 1 when something failed; warnings are 0.
    """
    try:
        settings = load_settings(os.environ, file=config, state_dir=_resolve(state_dir))
        identity = load_identity(settings.state_dir)
        findings = asyncio.run(
            _examine(Doctor(settings, identity), is_quick=quick, is_silent=as_json)
        )
    except AgentError as error:
        _fail(error, _BAD_INPUT)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2))
    has_failed = any(finding.verdict is Verdict.FAILED for finding in findings)
    raise typer.Exit(_FAILED if has_failed else 0)


async def _examine(doctor: Doctor, *, is_quick: bool, is_silent: bool) -> list[Finding]:
    findings = []
    async for finding in doctor.examine(has_patience=not is_quick):
        findings.append(finding)
        if not is_silent:
            typer.echo(f"{finding.verdict:<8} {finding.check:<7} {finding.detail}")
            if finding.remedy is not None:
                typer.echo(f"{'':<16} -> {finding.remedy}")
    return findings


def _run(settings: Settings) -> int:
    try:
        return asyncio.run(run_agent(settings, os.environ))
    except AgentError as error:
        _fail(error, _BAD_INPUT)
    except ExceptionGroup as group:
        # An AgentError from inside a loop, like a full disk under the journal.
        found, others = group.split(AgentError)
        if found is None or others is not None:
            return _die(group)
        _fail(_first(found), _FAILED)
    except Exception as error:  # noqa: BLE001 (the last one who can write it down)
        return _die(error)


def _die(error: Exception) -> int:
    log.critical("agent.died", extra=fields(reason=str(error)), exc_info=error)
    return _FAILED


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _resolve(path: Path | None) -> Path | None:
    return path.expanduser().absolute() if path else None


def _read_token(token_file: Path | None) -> str:
    if token_file is not None and str(token_file) != "-":
        try:
            return token_file.read_text()[:_MAX_TOKEN_BYTES].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AgentError(f"--token-file {token_file}: cannot be read ({error})") from error
    if token_file is None and sys.stdin.isatty():
        return str(typer.prompt("Enrollment token", hide_input=True)).strip()
    token = sys.stdin.buffer.read(_MAX_TOKEN_BYTES).decode(errors="replace").strip()
    if not token:
        raise AgentError("no enrollment token: pipe it in, or name a file with --token-file")
    return token


def _parse_labels(labels: list[str]) -> dict[str, str]:
    pairs = [label.partition("=") for label in labels]
    for key, separator, _ in pairs:
        if not key or not separator:
            raise AgentError(f"--label {key!r}: must be KEY=VALUE, like role=web")
    return {key: value for key, _, value in pairs}


def _fail(error: BaseException, code: int) -> NoReturn:
    typer.echo(f"backhaul agent: {render_error(str(error))}", err=True)
    raise typer.Exit(code)
