"""backhaul users. Passwords come from the terminal, a file or standard input."""

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
from backhaul.cli.prompts import confirm_removal, read_secret
from backhaul.wire.accounts import CreateUser, UpdateUser, User

app = typer.Typer(help="The operators: who may sign in.", rich_markup_mode=None)

Username = Annotated[str, typer.Argument(metavar="USER", help="The username.")]
PasswordFile = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="Read the password from here instead of asking."),
]


@app.command("list")
def list_users(output: Output = Form.TABLE, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the operators."""
    with open_client() as client:
        users = list(client.list_users())
    print_list(
        users,
        _build_columns(now()),
        key=lambda user: user.username,
        empty="No operators.",
        output=output,
        as_json=as_json,
        quiet=quiet,
    )


@app.command("show")
def show_user(user: Username, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show an operator."""
    with open_client() as client:
        found = client.get_user(user)
    fields = [(column.title.lower(), column.render(found)) for column in _build_columns(now())]
    print_one(found, fields, key=found.username, as_json=as_json, quiet=quiet)


@app.command("create")
def create_user(
    username: Annotated[str, typer.Argument(help="A name of its own.")],
    password_file: PasswordFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Create an operator. The password has at least 12 characters."""
    password = read_secret(password_file, what="password", option="--password-file", confirm=True)
    with open_client() as client:
        user = client.create_user(CreateUser(username=username, password=password))
    text = f"Operator {user.username} can sign in: backhaul login --url {client.url}"
    print_changed(user, text, key=user.username, as_json=as_json, quiet=quiet)


@app.command("password")
def set_password(
    user: Username,
    password_file: PasswordFile = None,
    keep_tokens: Annotated[
        bool, typer.Option("--keep-tokens", help="The API tokens go on to serve.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give an operator a new password.

    It ends the operator's sessions, but for yours, and revokes the API tokens: whoever had the old
    password could have made some.
    """
    password = read_secret(password_file, what="password", option="--password-file", confirm=True)
    with open_client() as client:
        changed = client.update_user(user, UpdateUser(password=password, keep_tokens=keep_tokens))
    text = f"Operator {changed.username} has a new password."
    print_changed(changed, text, key=changed.username, as_json=as_json, quiet=quiet)


@app.command("disable")
def disable_user(user: Username, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Shut an operator out: sessions end, API tokens do not serve."""
    with open_client() as client:
        changed = client.update_user(user, UpdateUser(disabled=True))
    text = f"Operator {changed.username} is shut out."
    print_changed(changed, text, key=changed.username, as_json=as_json, quiet=quiet)


@app.command("enable")
def enable_user(user: Username, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Let an operator in again."""
    with open_client() as client:
        changed = client.update_user(user, UpdateUser(disabled=False))
    text = f"Operator {changed.username} can sign in again."
    print_changed(changed, text, key=changed.username, as_json=as_json, quiet=quiet)


@app.command("remove")
def remove_user(
    user: Username,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove an operator, with the tokens. Hosts that joined with one of them stay."""
    confirm_removal(f"Remove operator {user}?", is_sure=yes)
    with open_client() as client:
        client.remove_user(user)
    print_removed(f"Operator {user} is removed.", as_json=as_json, quiet=quiet)


def _build_columns(at: datetime) -> list[Column[User]]:
    return [
        Column("USER", lambda user: user.username, lambda _: "bold"),
        Column("STATE", lambda user: "enabled" if user.disabled_at is None else "disabled"),
        Column("CREATED", lambda user: display.render_age(user.created_at, at)),
        Column("SIGNED IN", lambda user: display.render_age(user.last_login_at, at)),
        Column("ID", lambda user: str(user.id), is_whole=True, is_wide=True),
    ]
