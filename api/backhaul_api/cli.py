"""`backhaul serve`, `backhaul db …` and `backhaul admin …`.

The server's libraries are imported inside the commands: `backhaul --help` reads this file.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from backhaul_api.settings import Settings, SettingsError, load_settings

_TELL_EVERY_ROWS = 100_000
_FAILED = 1
_USAGE_ERROR = 2

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Where the SQLite database and the key file are. [default: backhaul-data]",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="postgresql://user:password@host/database, or sqlite:////path. To keep a password "
        "off the command line, set BACKHAUL_API_DATABASE_URL or …_FILE instead. "
        "[default: SQLite in the data folder]",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML.", show_default=False),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="Read the password from the first line of a file (- for standard input) instead of "
        "asking for it.",
        show_default=False,
    ),
]
Username = Annotated[str, typer.Argument(help="The operator's name; case does not matter.")]

db = typer.Typer(no_args_is_help=True, help="Look after the API's database.")
admin = typer.Typer(no_args_is_help=True, help="Look after operators, without a running server.")


def serve(
    data_dir: DataDir = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on. [default: 127.0.0.1]", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="The port to listen on; 0 takes a free one. [default: 8440]", show_default=False
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Run the API. On an empty database it prints a setup token for the first operator."""
    with _one_line_for_errors():
        settings = _load(
            config, data_dir=_text(data_dir), host=host, port=port, database_url=database_url
        )
        from backhaul_api.serve import serve_forever

        serve_forever(settings)


@db.command("upgrade")
def upgrade_database(
    data_dir: DataDir = None, database_url: DatabaseUrl = None, config: ConfigFile = None
) -> None:
    """Bring the database to the newest revision. `backhaul serve` does so when it starts."""
    with _one_line_for_errors():
        settings = _load_checked(data_dir, database_url, config)
        _prepare(settings)
        from backhaul_api import preparation

        with preparation.hold_database(settings):
            asyncio.run(preparation.upgrade_database(settings))
        revision = asyncio.run(preparation.read_revision(settings))
        typer.echo(f"The database is at revision {revision}.")


@db.command("downgrade")
def downgrade_database(
    revision: Annotated[
        str, typer.Argument(help="The revision to go back to; base removes every table.")
    ],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
    is_sure: Annotated[
        bool, typer.Option("--yes", help="Do it: data that the older revision cannot hold is lost.")
    ] = False,
) -> None:
    """Take the database back to an older revision. Stop the server first."""
    with _one_line_for_errors():
        if not is_sure:
            _fail(f"a downgrade to {revision} loses data; back the database up and add --yes")
        settings = _load_checked(data_dir, database_url, config)
        from backhaul_api import preparation
        from backhaul_api.db.migrate import check_downgrade

        current = asyncio.run(preparation.read_revision(settings))
        check_downgrade(current, revision)
        if current is not None:
            preparation.keep_files_private()
            with preparation.hold_database(settings):
                asyncio.run(preparation.downgrade_database(settings, revision))
        typer.echo(f"The database is at revision {revision}.")


@db.command("current")
def show_revision(
    data_dir: DataDir = None, database_url: DatabaseUrl = None, config: ConfigFile = None
) -> None:
    """Show the revision that the database is at, and the newest one."""
    with _one_line_for_errors():
        settings = _load_checked(data_dir, database_url, config)
        from backhaul_api.db.revisions import head_revision
        from backhaul_api.preparation import read_revision

        current = asyncio.run(read_revision(settings))
        typer.echo(f"{current or 'none'} (newest: {head_revision()})")


@db.command("copy")
def copy_database(
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="The SQLite database: sqlite:////path. [default: the one in the data folder]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="A PostgreSQL database that holds nothing: postgresql://user@host/database. "
            "[default: the setting database_url, which keeps its password off the command line]",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Copy a control plane from SQLite to PostgreSQL, and compare each row. Stop the server first.

    Ended early, it leaves nothing in the target, and can be run again.
    """
    with _one_line_for_errors():
        _check_utf8({"--from": source, "--to": target})
        settings = _load(config, data_dir=_text(data_dir))
        url = target or settings.database_url
        if url is None:
            _fail("name the PostgreSQL database: --to postgresql://user@host/database")
        from backhaul_api.copying import copy_database
        from backhaul_api.preparation import check_settings, keep_files_private

        keep_files_private()
        old = check_settings(msgspec.structs.replace(settings, database_url=source))
        new = check_settings(msgspec.structs.replace(settings, database_url=url))
        copied = asyncio.run(copy_database(old, new, _tell_progress))
        if as_json:
            typer.echo(msgspec.json.format(msgspec.json.encode(copied), indent=2))
            return
        typer.echo(f"{copied.rows:,} rows are in {copied.target} now, each compared.")
        keys = copied.key_file or "the setting key"
        typer.echo(f"Start the server on it with the same keys as before: {keys}")


def _tell_progress(step: str, table: str, done: int, count: int) -> None:
    """Tell of the ends of tables, and at times of the way there."""
    if done == count or done % _TELL_EVERY_ROWS == 0:
        typer.echo(f"{step} {table}: {done:,} of {count:,}", err=True)


@admin.command("create")
def create_operator(
    username: Username,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
    password_file: PasswordFile = None,
) -> None:
    """Create an operator. The password is asked for, or read from standard input or a file."""
    with _one_line_for_errors():
        settings = _load_checked(data_dir, database_url, config)
        password = _read_checked_password(username, password_file)
        _prepare(settings)
        from backhaul_api import administration

        user = asyncio.run(administration.create_operator(settings, username, password))
        typer.echo(f"Operator {user.username} was created. Sign in with: backhaul login")


@admin.command("reset-password")
def reset_password(  # noqa: PLR0917 (each is an option of the command)
    username: Username,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
    password_file: PasswordFile = None,
    keep_tokens: Annotated[
        bool, typer.Option("--keep-tokens", help="Leave the operator's API tokens valid.")
    ] = False,
) -> None:
    """Give an operator a new password, end all sessions and revoke all API tokens."""
    with _one_line_for_errors():
        settings = _load_checked(data_dir, database_url, config)
        password = _read_checked_password(username, password_file)
        from backhaul_api import administration, preparation

        preparation.keep_files_private()
        reset = administration.reset_password(settings, username, password, keep_tokens=keep_tokens)
        user, tokens = asyncio.run(reset)
        told = f"{tokens} API token{'' if tokens == 1 else 's'}"
        typer.echo(
            f"Operator {user.username} has a new password; all sessions have ended; {told} "
            f"{'kept' if keep_tokens else 'revoked'}."
        )


@contextmanager
def _one_line_for_errors() -> Iterator[None]:
    """Turn what an operator can mend into one line on the standard error output, exit code 2; 1 if
    something was begun."""
    try:
        yield
    except SettingsError as error:
        _fail(str(error))
    except typer.Exit:
        raise
    except Exception as error:
        if not _is_explained(error):
            raise
        _fail(str(error), _FAILED if _has_begun(error) else _USAGE_ERROR)


def _has_begun(error: Exception) -> bool:
    from backhaul_api.copying import CopyFailedError

    return isinstance(error, CopyFailedError)


def _is_explained(error: Exception) -> bool:
    from backhaul_api.copying import CopyFailedError
    from backhaul_api.db.migrate import UnknownRevisionError
    from backhaul_api.errors import DomainError
    from backhaul_api.preparation import StartError

    return isinstance(error, CopyFailedError | StartError | DomainError | UnknownRevisionError)


def _fail(message: str, code: int = _USAGE_ERROR) -> NoReturn:
    from backhaul.wire.printing import render_error

    typer.echo(f"backhaul: {render_error(message)}", err=True)
    raise typer.Exit(code)


def _load(config: Path | None, **options: object) -> Settings:
    """Load the settings, and refuse those that no database or network can be named by."""
    _check_utf8({f"--{name.replace('_', '-')}": value for name, value in options.items()})
    settings = load_settings(os.environ, file=config, **options)
    _check_utf8({"host": settings.host, "database_url": settings.database_url})
    if settings.database_url is None:
        try:
            # The folder's own name may be right, and that of one above it not.
            _check_utf8({"data_dir": str(settings.data_dir.resolve())})
        except (OSError, RuntimeError) as error:  # links in a ring
            raise SettingsError(f"data_dir {settings.data_dir}: {error}") from error
    return settings


def _check_utf8(texts: Mapping[str, object]) -> None:
    from backhaul.wire.utf8 import NO_UTF8, find_no_utf8

    for name, text in texts.items():
        if find_no_utf8(text, name) is not None:
            raise SettingsError(f"{name} {NO_UTF8}")


def _load_checked(data_dir: Path | None, database_url: str | None, config: Path | None) -> Settings:
    settings = _load(config, data_dir=_text(data_dir), database_url=database_url)
    from backhaul_api.preparation import check_settings

    return check_settings(settings)


def _prepare(settings: Settings) -> None:
    """Make the folder, for a command that may create the database."""
    from backhaul_api.preparation import keep_files_private, make_folder

    keep_files_private()
    make_folder(settings)


def _read_checked_password(username: str, file: Path | None) -> str:
    from backhaul.wire import accounts
    from backhaul.wire.refusals import explain

    try:
        msgspec.convert(username, accounts.Username)
    except msgspec.ValidationError as error:
        _fail(f"username: {explain(str(error)).message}")
    password = _read_password(file)
    try:
        msgspec.convert(password, accounts.NewPassword)
    except msgspec.ValidationError as error:
        _fail(f"password: {explain(str(error)).message}")
    return password


def _read_password(file: Path | None) -> str:
    if file is None and sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    if file is None or str(file) == "-":
        return sys.stdin.readline().rstrip("\r\n")
    try:
        with file.open(encoding="utf-8") as lines:
            return lines.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the password file {file} cannot be read: {error}") from error


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
