"""backhaul login, logout, whoami, bootstrap: who speaks, and to which server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from backhaul import display, settings
from backhaul.cli import connection
from backhaul.cli.output import AsJson, Quiet, note, now, print_json, print_one, print_removed, say
from backhaul.cli.prompts import ask, read_secret
from backhaul.errors import BackhaulError, NotAuthenticatedError
from backhaul.wire.accounts import NewSession

DEFAULT_URL = "http://127.0.0.1:8440"

Url = Annotated[str | None, typer.Option(help="Where the server is. [env: BACKHAUL_URL]")]
Username = Annotated[str | None, typer.Option(help="The operator's name.")]
PasswordFile = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="Read the password from here instead of asking."),
]
SetupTokenFile = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="Read the setup token from here instead of asking."),
]
ProfileName = Annotated[str | None, typer.Option(help="Remember it under this name.")]
CaFile = Annotated[Path | None, typer.Option(help="Trust this CA besides the usual ones.")]


class SignInRefusedError(BackhaulError):
    """The name, the password or the setup token is wrong: signing in is no remedy for that."""


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A session, without its token."""

    url: str
    profile: str
    username: str
    expires_at: datetime


def login(
    url: Url = None,
    username: Username = None,
    password_file: PasswordFile = None,
    profile: ProfileName = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Sign in, and remember the session.

    The session goes to ~/.config/backhaul/config.toml, which only you can read.
    """
    from backhaul.client import Client

    name, found = _choose_server(url, profile, ca_file)
    username = ask(username, what="username", option="--username")
    password = read_secret(password_file, what="password", option="--password-file")
    with Client(found.url, ca_file=found.ca_file) as client, _refused_for_good():
        session = client.log_in(username=username, password=password)
    _remember(name, found, session, as_json=as_json, quiet=quiet)


def bootstrap(
    url: Url = None,
    username: Username = None,
    setup_token_file: SetupTokenFile = None,
    password_file: PasswordFile = None,
    profile: ProfileName = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Create the first operator of a new server, and sign in as it.

    `backhaul serve` printed the setup token. Without files and without a terminal, standard input
    has the setup token in its first line and the password in its second.
    """
    from backhaul.client import Client

    name, found = _choose_server(url, profile, ca_file)
    token = read_secret(setup_token_file, what="setup token", option="--setup-token-file")
    username = ask(username, what="username", option="--username")
    password = read_secret(password_file, what="password", option="--password-file", confirm=True)
    with Client(found.url, ca_file=found.ca_file) as client, _refused_for_good():
        session = client.bootstrap(setup_token=token.strip(), username=username, password=password)
    _remember(name, found, session, as_json=as_json, quiet=quiet)


def logout(
    profile: Annotated[
        str | None, typer.Option(help="Forget the session that is under this name.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """End the session and forget it.

    It is forgotten here even when the server cannot be told.
    """
    from backhaul.client import Client

    path = connection.config_path()
    name = connection.profile_name(profile)
    found = settings.load_config(path).profiles.get(name)
    if found is None or found.token is None:
        print_removed(f"Nobody is signed in under {name!r}.", as_json=as_json, quiet=quiet)
        return
    settings.forget_token(path, name)
    try:
        with Client(found.url, token=found.token, ca_file=found.ca_file) as client:
            client.log_out()
    except NotAuthenticatedError:
        pass  # it had ended already
    except BackhaulError:
        note("The session is forgotten here, but the server could not be told to end it.")
        raise
    print_removed(f"Signed out of {found.url}.", as_json=as_json, quiet=quiet)


def whoami(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show who is signed in, and where."""
    with connection.open_client() as client:
        me = client.get_me()
    fields = [
        ("user", me.user.username),
        ("server", client.url),
        ("signed in with", me.authenticated_by.replace("_", " ")),
        ("until", "revoked" if me.expires_at is None else display.render_moment(me.expires_at)),
    ]
    print_one(me, fields, key=me.user.username, as_json=as_json, quiet=quiet)


@contextmanager
def _refused_for_good() -> Iterator[None]:
    try:
        yield
    except NotAuthenticatedError as error:
        raise SignInRefusedError(str(error)) from error


def _choose_server(
    url: str | None, profile: str | None, ca_file: Path | None
) -> tuple[str, settings.Profile]:
    name = connection.profile_name(profile)
    saved = settings.load_config(connection.config_path()).profiles.get(name)
    known = url or os.environ.get("BACKHAUL_URL") or (saved.url if saved else None)
    chosen = ask(known, what="URL of the server", option="--url", default=DEFAULT_URL)
    trusted = os.environ.get("BACKHAUL_CA_FILE") or (saved.ca_file if saved else None)
    if ca_file is not None:
        trusted = str(ca_file.expanduser().absolute())
    return name, settings.Profile(url=chosen.rstrip("/"), ca_file=trusted)


def _remember(
    name: str, found: settings.Profile, session: NewSession, *, as_json: bool, quiet: bool
) -> None:
    path = connection.config_path()
    settings.save_profile(path, name, msgspec.structs.replace(found, token=session.token))
    if as_json:
        print_json(
            SignedIn(
                url=found.url,
                profile=name,
                username=session.user.username,
                expires_at=session.expires_at,
            )
        )
    elif not quiet:
        until = display.render_age(session.expires_at, now())
        say(f"Signed in to {found.url} as {session.user.username}; the session ends {until}.")
    if os.environ.get("BACKHAUL_TOKEN") or os.environ.get("BACKHAUL_TOKEN_FILE"):
        note("A token in the environment (BACKHAUL_TOKEN) goes before this session.")
