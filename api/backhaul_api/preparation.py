"""What comes before a command touches the database: its URL, its folder, its lock, its revision."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import sqlalchemy as sa

from backhaul_api.db import migrate
from backhaul_api.db.urls import DatabaseUrlError, check_database_url, sqlite_file
from backhaul_api.settings import Settings

_LOCK_FILE = "backhaul.lock"


class StartError(Exception):
    """The command cannot run like this; the message is one line with the remedy."""


def check_settings(settings: Settings) -> Settings:
    """Check the database URL, and that not everybody may write into the data folder.

    Makes and changes nothing.

    Raises:
        StartError: the URL or the folder cannot be used.
    """
    try:
        url = check_database_url(settings.effective_database_url)
    except DatabaseUrlError as error:
        raise StartError(str(error)) from error
    if _uses_folder(settings) and _folder_mode(settings) & stat.S_IWOTH:
        raise StartError(
            f"everybody may write into the data folder {settings.data_dir}, and so take the "
            f"place of the key file; run: chmod o-w {settings.data_dir}"
        )
    # The default stays unset: a folder is made for it, and for no other database.
    return settings if settings.database_url is None else _with_url(settings, url)


def make_folder(settings: Settings) -> None:
    """Make the data folder, private to the user, if the SQLite database belongs into it.

    A folder that is there already stays as it is: whoever made it chose its mode.

    Raises:
        StartError: it cannot be made.
    """
    if settings.database_url is not None:
        return
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _folder_error(settings, error) from error


def keep_files_private() -> None:
    """See to it that whatever this process makes is its user's alone: the database has no mode of
    its own, nor has what SQLite puts beside it."""
    os.umask(0o077)


def is_folder_shared(settings: Settings) -> bool:
    """Tell whether a group may write into the data folder, as some volumes are made."""
    return _uses_folder(settings) and bool(_folder_mode(settings) & stat.S_IWGRP)


@contextmanager
def hold_database(settings: Settings) -> Iterator[None]:
    """Keep an SQLite database for this process: two servers would not hear each other's wake-ups,
    and a migration would pull the tables from under one. PostgreSQL is shared.

    Raises:
        StartError: another process keeps it.
    """
    file = sqlite_file(settings.effective_database_url)
    if file is None:
        yield
        return
    path = file.parent / _LOCK_FILE
    try:
        lock = path.open("a+")
    except OSError as error:
        raise StartError(f"the database {file} cannot be used: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(_describe_holder(path, file)) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


async def read_revision(settings: Settings) -> str | None:
    """Tell the revision that the database is at; None for an empty one, or none. Makes nothing.

    Raises:
        StartError: it does not answer.
    """
    file = sqlite_file(settings.effective_database_url)
    if file is not None and not file.exists():
        return None
    with explaining(settings):
        return await migrate.current_revision(settings.effective_database_url)


async def _is_fit(settings: Settings) -> bool:
    file = sqlite_file(settings.effective_database_url)
    if file is not None and not file.exists():
        return False
    with explaining(settings):
        return await migrate.is_database_fit(settings.effective_database_url)


async def upgrade_database(settings: Settings) -> None:
    """Bring the database to this version's revision, or leave it at a newer one that this version
    can serve. On SQLite, `hold_database` goes around it.

    Raises:
        StartError: it does not answer, or is at a newer revision that this version cannot serve.
    """
    with explaining(settings):
        await migrate.upgrade(settings.effective_database_url)


async def downgrade_database(settings: Settings, revision: str) -> None:
    """Take the database back to a revision. On SQLite, `hold_database` goes around it.

    Raises:
        StartError: it does not answer, or there is no such revision.
    """
    with explaining(settings):
        await migrate.downgrade(settings.effective_database_url, revision)


async def upgrade_if_behind(settings: Settings) -> None:
    """Bring the database to a revision that this version can serve; one that is there already may
    be in use.

    Raises:
        StartError: as `upgrade_database`, or another process keeps a database that is behind.
    """
    if not await _is_fit(settings):
        with hold_database(settings):
            await upgrade_database(settings)


def hide_password(settings: Settings) -> str:
    """Give the database's URL as it may be shown."""
    url = sa.make_url(settings.effective_database_url)
    return url.render_as_string(hide_password=True)


def name_cause(error: Exception) -> str:
    """Give what the driver says in one line: what follows it may show values."""
    cause = getattr(error, "orig", None) or error
    return (str(cause) or type(error).__name__).splitlines()[0]


@contextmanager
def explaining(settings: Settings) -> Iterator[None]:
    """Turn what the database says no with into a `StartError` that does not show the password."""
    try:
        yield
    except migrate.UnknownRevisionError as error:
        raise StartError(str(error)) from error
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise StartError(
            f"the database {hide_password(settings)} cannot be used: {name_cause(error)}"
        ) from error


def _uses_folder(settings: Settings) -> bool:
    has_own_keys = settings.key is None and settings.key_file is None
    return settings.database_url is None or has_own_keys


def _folder_mode(settings: Settings) -> int:
    try:
        return settings.data_dir.stat().st_mode
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _folder_error(settings, error) from error


def _folder_error(settings: Settings, error: OSError) -> StartError:
    return StartError(f"the data folder {settings.data_dir} cannot be used: {error}")


def _with_url(settings: Settings, url: str) -> Settings:
    return msgspec.structs.replace(settings, database_url=url)


def _describe_holder(path: Path, file: Path) -> str:
    try:
        holder = path.read_text().strip()
    except OSError:
        holder = ""
    process = f" (process {holder})" if holder.isdecimal() else ""
    return (
        f"another backhaul{process} uses {file}: SQLite serves one process at a time. Stop it "
        "first, or use PostgreSQL: --database-url postgresql://…"
    )
