"""What a database is asked: every statement, as its engine tells of it before it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from backhaul_api.db.engine import Database

Tell = Callable[[str, Any], object]
"""Told of a statement and its values, a list of them if there are many; what it raises, the
statement raises. It may be called in the thread of a commit."""


@contextmanager
def watch_statements(database: Database, tell: Tell = lambda *_: None) -> Iterator[list[str]]:
    """Note the statements, and have each told before it is run."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        statements.append(statement)
        tell(statement, values)

    sa.event.listen(database.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(database.sync_engine, "before_cursor_execute", note)


def fail_at(begin: str, error: type[Exception] = LookupError) -> Tell:
    """Give what has the statements fail that begin so."""

    def tell(statement: str, _: object) -> None:
        if statement.startswith(begin):
            raise error(statement)

    return tell
