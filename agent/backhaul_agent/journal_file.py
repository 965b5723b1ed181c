"""The agent's database file: opening, checking, transactions, tables. Nothing about meaning.

SQLite in WAL mode with synchronous=FULL: what a finished transaction wrote survives a power cut.
Calls block the event loop for one fsync, a few milliseconds; at a few transactions a second a
thread would cost more than it saves.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from backhaul_agent.errors import DiskFullError, StateFileError
from backhaul_agent.files import make_private_folder

ROOM_EVERY_S = 5.0
"""How often a full disk is tried again."""

FILE_NAME = "journal.sqlite3"
_FORMAT = 6

_TABLES = """
CREATE TABLE spool (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    job_id TEXT,
    body BLOB NOT NULL,
    -- Log lines that the server has are kept until the job's end has its receipt, so that a gap
    -- can be filled.
    is_sent INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE jobs (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    attempt INTEGER NOT NULL,
    -- As it came: the credentials in it are sealed.
    command BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('accepted', 'claimed', 'running', 'finished')),
    log_lines INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,
    pid_started INTEGER
) STRICT;
-- Every job that ever was here, so that none runs twice.
CREATE TABLE known_jobs (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    UNIQUE (job_id, attempt)
) STRICT;
"""

_UPGRADES = {
    1: """
-- Of fires that may still be replaced by a later one of the same schedule.
ALTER TABLE spool ADD COLUMN schedule_id TEXT;
CREATE INDEX spool_fires ON spool (schedule_id) WHERE schedule_id IS NOT NULL;
-- Of jobs that this host began by itself.
ALTER TABLE jobs ADD COLUMN schedule_id TEXT;
CREATE TABLE applied_set (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    schedule_version INTEGER NOT NULL
) STRICT;
CREATE TABLE schedules (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule_id TEXT NOT NULL UNIQUE,
    -- As it came: the credentials in its template are sealed.
    entry BLOB NOT NULL,
    -- In microseconds since 1970. NULL: the schedule does not run.
    settled_until INTEGER
) STRICT;
-- In microseconds since 1970: the slots that fired lately.
CREATE TABLE fired_slots (
    schedule_id TEXT NOT NULL,
    slot INTEGER NOT NULL,
    PRIMARY KEY (schedule_id, slot)
) STRICT, WITHOUT ROWID;
""",
    2: """
-- The errors of the ack that went with the set. NULL: an older agent did not note them.
ALTER TABLE applied_set ADD COLUMN errors BLOB;
""",
    3: """
-- How the work of a job that is not over yet has ended, while the rest of it goes on.
ALTER TABLE jobs ADD COLUMN noted_end BLOB;
""",
    4: """
-- Lines that there was no room for, since the last one that is numbered.
ALTER TABLE jobs ADD COLUMN lines_left_out INTEGER NOT NULL DEFAULT 0;
""",
    5: """
-- In microseconds since 1970: up to where slots were over when the clock stepped back.
ALTER TABLE schedules ADD COLUMN settled_before INTEGER;
""",
}
"""By the format that each one leaves behind. Every file has gone through all of them."""


class JournalFile:
    """An open database file."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all or nothing.

        Raises:
            DiskFullError: nothing was changed, because the disk is full.
            StateFileError: the file or the disk failed, or something in it is not what was
                written, which SQLite does not see; the agent cannot go on.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                # On a full disk SQLite has done it already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._commit()
        except sqlite3.Error as error:
            raise _failure(self.path, error) from error
        except _UNREADABLE as error:
            raise StateFileError(f"{self.path} is damaged ({error}); {_REMEDY}") from error

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            # A commit that failed for want of space stays open, to be tried again. It is not.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._connection.close()


def open_journal_file(state_dir: Path) -> JournalFile:
    """Open the journal, or make one where there is none.

    Raises:
        DiskFullError: there is no room for what SQLite keeps beside it.
        StateFileError: there is one and it cannot be used; it is left as it is.
    """
    path = state_dir / FILE_NAME
    try:
        make_private_folder(state_dir)
        is_new = _create_privately(path)
        connection = sqlite3.connect(path, isolation_level=None)
    except OSError as error:
        raise StateFileError(f"{path}: cannot be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        raise _failure(path, error) from error
    try:
        _prepare(connection, path, is_new=is_new)
    except sqlite3.Error as error:
        connection.close()
        raise _failure(path, error) from error
    except StateFileError:
        connection.close()
        raise
    return JournalFile(connection, path)


def delete_journal(state_dir: Path) -> None:
    """Remove the journal and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        (state_dir / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)


def _create_privately(path: Path) -> bool:
    """Make the file with its mode before SQLite does; SQLite gives -wal and -shm the same mode.

    An empty file counts as new: the agent can die between making it and its first transaction.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        is_empty = os.fstat(descriptor).st_size == 0
    finally:
        os.close(descriptor)
    return is_empty and not path.with_name(f"{path.name}-wal").exists()


def _prepare(connection: sqlite3.Connection, path: Path, *, is_new: bool) -> None:
    connection.execute("PRAGMA busy_timeout=5000")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # What was deleted is overwritten: the file holds nothing that it does not show.
    connection.execute("PRAGMA secure_delete=ON")
    if is_new or (_format_of(connection) == 0 and not _has_tables(connection)):
        connection.executescript(f"BEGIN;{_TABLES}PRAGMA user_version=1;COMMIT;")
    while (found := _format_of(connection)) in _UPGRADES:
        script = f"BEGIN;{_UPGRADES[found]}PRAGMA user_version={found + 1};COMMIT;"
        connection.executescript(script)
    if found != _FORMAT:
        raise StateFileError(f"{path} has format {found}; this agent reads format {_FORMAT}")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StateFileError(f"{path} is damaged ({verdict}); {_REMEDY}")


def _format_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])


_REMEDY = (
    "restore it, or move it away: reports that the server has not received are then lost, and "
    "jobs that were running become lost"
)


_UNREADABLE = (msgspec.DecodeError, ValueError, OverflowError)
"""What reading a message, an id or a moment raises. Nothing else in a transaction does."""

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
"""The second: no room for the file that SQLite keeps beside the journal while it is open."""


def _failure(path: Path, error: sqlite3.Error) -> StateFileError:
    if getattr(error, "sqlite_errorcode", None) in _FULL:
        return DiskFullError(f"{path}: the disk is full; make room")
    if isinstance(error, sqlite3.OperationalError):
        return StateFileError(f"{path}: {error}; look at the disk and the file's owner")
    return StateFileError(f"{path} is damaged ({error}); {_REMEDY}")
