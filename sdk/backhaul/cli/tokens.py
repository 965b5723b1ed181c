"""backhaul tokens and backhaul enrollment-tokens. A secret is printed once, when it is made."""

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
    is_terminal,
    note,
    now,
    print_json,
    print_list,
    print_removed,
    say,
)
from backhaul.cli.values import parse_duration, parse_labels
from backhaul.wire.accounts import (
    ApiToken,
    CreateApiToken,
    CreateEnrollmentToken,
    EnrollmentToken,
)

api_app = typer.Typer(help="API tokens, for scripts.", rich_markup_mode=None)
enrollment_app = typer.Typer(help="Tokens with which hosts join.", rich_markup_mode=None)

TokenId = Annotated[str, typer.Argument(metavar="ID", help="Its id, from the list.")]


@api_app.command("create")
def create_api_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    expires_in: Annotated[
        str | None, typer.Option(help="Like 12h or 90d; without it, until it is revoked.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a token for scripts. Into a pipe, only the token is printed."""
    ends = None if expires_in is None else parse_duration(expires_in, option="--expires-in")
    with open_client() as client:
        made = client.create_api_token(CreateApiToken(name=name, expires_in=ends))
    if as_json:
        print_json(made)
        return
    say(made.token)
    if is_terminal() and not quiet:
        note("It is shown this once. Scripts read it from BACKHAUL_TOKEN, beside BACKHAUL_URL.")


@api_app.command("list")
def list_api_tokens(
    output: Output = Form.TABLE, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """List the tokens for scripts, without their secrets."""
    with open_client() as client:
        tokens = list(client.list_api_tokens())
    print_list(
        tokens,
        _build_api_columns(now()),
        key=lambda token: token.id,
        empty="No API tokens.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@api_app.command("revoke")
def revoke_api_token(token_id: TokenId, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """End a token for scripts."""
    with open_client() as client:
        client.revoke_api_token(token_id)
    print_removed(f"Token {token_id} is revoked.", as_json=as_json, quiet=quiet)


@enrollment_app.command("create")
def create_enrollment_token(
    expires_in: Annotated[str, typer.Option(help="Like 15m, 12h or 7d.")] = "1h",
    uses: Annotated[int, typer.Option(help="How many hosts can join with it.")] = 1,
    host_name: Annotated[str | None, typer.Option(help="The name that the host will have.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Given to each host. Repeatable.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a token with which hosts join. Into a pipe, only the token is printed.

    On the host: `backhaul agent enroll --server URL`, which asks for it.
    """
    request = CreateEnrollmentToken(
        expires_in=parse_duration(expires_in, option="--expires-in"),
        uses=uses,
        host_name=host_name,
        labels=parse_labels(label or []),
    )
    with open_client() as client:
        made = client.create_enrollment_token(request)
    if as_json:
        print_json(made)
        return
    say(made.token)
    if is_terminal() and not quiet:
        until = display.render_age(made.enrollment_token.expires_at, now())
        note(f"It is shown this once and ends {until}. On the host, run:")
        note(f"  backhaul agent enroll --server {client.url}")


@enrollment_app.command("list")
def list_enrollment_tokens(
    output: Output = Form.TABLE, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """List the enrollment tokens, without their secrets."""
    with open_client() as client:
        tokens = list(client.list_enrollment_tokens())
    print_list(
        tokens,
        _build_enrollment_columns(now()),
        key=lambda token: token.id,
        empty="No enrollment tokens.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@enrollment_app.command("revoke")
def revoke_enrollment_token(
    token_id: TokenId, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """End an enrollment token. Hosts that joined with it stay."""
    with open_client() as client:
        client.revoke_enrollment_token(token_id)
    print_removed(f"Enrollment token {token_id} is revoked.", as_json=as_json, quiet=quiet)


def _build_api_columns(at: datetime) -> list[Column[ApiToken]]:
    return [
        Column("ID", lambda token: str(token.id), is_whole=True),
        Column("NAME", lambda token: token.name, lambda _: "bold"),
        Column("CREATED", lambda token: display.render_age(token.created_at, at)),
        Column("LAST USED", lambda token: display.render_age(token.last_used_at, at)),
        Column("ENDS", lambda token: display.render_age(token.expires_at, at)),
        Column("UNTIL", lambda token: display.render_moment(token.expires_at), is_wide=True),
    ]


def _build_enrollment_columns(at: datetime) -> list[Column[EnrollmentToken]]:
    return [
        Column("ID", lambda token: str(token.id), is_whole=True),
        Column("USES LEFT", lambda token: str(token.uses_left), is_right=True),
        Column("ENDS", lambda token: display.render_age(token.expires_at, at)),
        Column("HOST NAME", lambda token: token.host_name or ""),
        Column("LABELS", lambda token: ", ".join(f"{k}={v}" for k, v in token.labels.items())),
        Column("CREATED", lambda token: display.render_age(token.created_at, at), is_wide=True),
        Column("UNTIL", lambda token: display.render_moment(token.expires_at), is_wide=True),
    ]
