"""The connection of one block, and what the block has written later than it says.

A statement's way to the database costs more than a row. So what nobody needs at once waits, and is
written together:

    await change(connection, ...)         # a row's new values: before the next statement
    await execute_soon(connection, ...)   # the same, for what is not told of
    await postpone(connection, ...)       # at the end of the block, or of its transaction

Values are converted when they are given: what is wrong with one is told to whoever gave it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from backhaul_api.db.statements import Parameters, Ready, Statements


@dataclass(frozen=True, slots=True)
class Change:
    """How a row that was read is to become: see `change`."""

    build: Callable[[str, tuple[str, ...]], sa.Update]
    """Builds, for a dialect, the constant statement that changes these columns of the row `which`,
    if it is still at the revision `was_revision`, and adds `times` to that. On PostgreSQL, where
    many changes do not tell how many there were, it gives a row for each."""
    which: Hashable
    was_revision: int
    values: Parameters
    lost: Callable[[Sequence[Any]], Exception]
    """Builds the error for rows of which not all were as they were read."""


@dataclass(slots=True)
class _Pending:
    """The changes of one row so far."""

    how: Change
    """The first one."""
    names: tuple[str, ...]
    """Of the columns."""
    converted: dict[str, Any]
    """The parameters of the statement."""

    @property
    def revision(self) -> int:
        """The row's, once this is written."""
        return self.how.was_revision + int(self.converted["times"])

    def add(self, after: Change, converted: dict[str, Any]) -> None:
        """Add a change of what the row is now.

        Raises:
            Exception: what `Change.lost` builds, if it is of what the row was before.
        """
        if after.was_revision != self.revision:
            raise after.lost([after.which])
        times = self.converted["times"] + converted["times"]
        was_revision = self.converted["was_revision"]
        self.names = tuple(dict.fromkeys([*self.names, *after.values]))
        self.converted |= {**converted, "times": times, "was_revision": was_revision}


class Postponed(NamedTuple):
    """What is to be written at the end."""

    text: str
    many: list[tuple[Any, ...]]
    """The values of each execution."""
    outlasts_block: bool
    """It may wait for the end of the transaction."""


class Executing(ABC):
    """What SQLAlchemy's `AsyncConnection` makes of its `execute`; and what waits."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._changes: dict[Hashable, _Pending] = {}
        self._soon: list[tuple[Ready, tuple[Any, ...]]] = []
        self.postponed: list[Postponed] = []

    @property
    @abstractmethod
    def dialect(self) -> sa.Dialect: ...

    @abstractmethod
    async def execute(self, statement: sa.Executable, parameters: Any = None) -> Any:
        """Execute a statement, which sees all that was changed before."""

    @abstractmethod
    async def execute_many(self, ready: Ready, many: list[tuple[Any, ...]]) -> Any:
        """Execute a constant statement for each of the values, which are converted."""

    @abstractmethod
    async def execute_long(self, statement: sa.Executable, parameters: Any) -> Any:
        """Execute a constant statement that may take long."""

    async def scalar(self, statement: sa.Executable, parameters: Any = None) -> Any:
        return (await self.execute(statement, parameters)).scalar()

    async def scalars(self, statement: sa.Executable, parameters: Any = None) -> Any:
        return (await self.execute(statement, parameters)).scalars()

    @property
    def has_changes(self) -> bool:
        """Whether anything is to be written before the next statement."""
        return bool(self._changes or self._soon)

    def change(self, how: Change) -> None:
        own = {"which": how.which, "was_revision": how.was_revision, "times": 1}
        parameters = {**how.values, **own}
        names = tuple(how.values)
        ready = self._find_constant(how.build(self.dialect.name, names), parameters)
        converted = ready.convert(parameters)
        key = (how.build, how.which)
        pending = self._changes.get(key)
        if pending is None:
            self._changes[key] = _Pending(how, names, converted)
        else:
            pending.add(how, converted)

    def execute_soon(self, statement: sa.Executable, row: Parameters) -> None:
        ready = self._find_constant(statement, row)
        self._soon.append((ready, ready.bind(row)))

    def postpone(
        self, statement: sa.Executable, rows: Sequence[Parameters], *, outlasts_block: bool
    ) -> None:
        ready = self._find_constant(statement, rows)
        # What changes rows may change those that the next block reads.
        outlasts_block = outlasts_block and only_adds(ready.text)
        self.postponed.append(Postponed(ready.text, ready.bind_all(rows), outlasts_block))

    def forget_changes(self) -> None:
        """Forget what was not written yet: it is undone with all the rest."""
        self._changes.clear()
        self._soon.clear()

    async def write_changes(self) -> None:
        """Write what must not wait for the end: see `change` and `execute_soon`.

        Raises:
            Exception: what `Change.lost` builds, if a row was not as it was read.
        """
        changes, self._changes = self._changes, {}
        soon, self._soon = self._soon, []
        alike: dict[Hashable, list[_Pending]] = {}
        for pending in changes.values():
            alike.setdefault((pending.how.build, pending.names), []).append(pending)
        for some in alike.values():
            await self._write_alike(some)
        for _, together in itertools.groupby(soon, key=lambda one: one[0].text):
            (ready, first), *rest = together
            await self.execute_many(ready, [first, *(values for _, values in rest)])

    async def _write_alike(self, some: Sequence[_Pending]) -> None:
        """Write changes of the same columns."""
        first = some[0]
        statement = first.how.build(self.dialect.name, first.names)
        ready = self._find_constant(statement, first.converted)
        many = [ready.arrange(pending.converted) for pending in some]
        if (await self.execute_many(ready, many)).rowcount != len(many):
            raise first.how.lost([pending.how.which for pending in some])

    def _find_constant(self, statement: sa.Executable, parameters: Any) -> Ready:
        ready = self._statements.find(statement, parameters)
        assert ready is not None  # noqa: S101 (no other waits)
        return ready


async def change(connection: AsyncConnection, how: Change) -> None:
    """Change a row that was read and, where others could change it meanwhile, locked. It is written
    together with changes of other rows, before the next statement or the end of the block; what is
    changed twice until then is written once.

    Raises:
        Exception: what `Change.lost` builds, if the row was changed since it was read; now, or when
            it is written.
    """
    _as_block(connection).change(how)


async def execute_soon(
    connection: AsyncConnection, statement: sa.Executable, row: Parameters
) -> None:
    """Execute a constant statement that gives no rows, after all changes that were made before, and
    before the next statement or the end of the block: together with those like it."""
    _as_block(connection).execute_soon(statement, row)


async def execute_long(
    connection: AsyncConnection, statement: sa.Executable, parameters: Parameters
) -> Any:
    """Execute a constant statement that may take long, without keeping others from the loop."""
    return await _as_block(connection).execute_long(statement, parameters)


async def postpone(
    connection: AsyncConnection,
    statement: sa.Executable,
    rows: Sequence[Parameters],
    *,
    outlasts_block: bool = True,
) -> None:
    """Execute a constant statement for each of the rows, but at the end of the block and together
    with others, in their order: for what nobody in the block reads, like entries of a log.

    Args:
        outlasts_block: what is only added may wait for the end of the transaction, of which other
            blocks can be a part: none of them reads it, and it cannot fail but for all of them.
    """
    if rows:
        _as_block(connection).postpone(statement, rows, outlasts_block=outlasts_block)


def _as_block(connection: AsyncConnection) -> Executing:
    assert isinstance(connection, Executing)  # noqa: S101 (`Database` lends no other)
    return connection


def only_adds(text: str) -> bool:
    """Tell whether a statement inserts rows and changes none."""
    return text.startswith("INSERT")


def group(postponed: Iterable[Postponed]) -> dict[str, list[tuple[Any, ...]]]:
    """Put what is to be written in the same way together, in its order."""
    grouped: dict[str, list[tuple[Any, ...]]] = {}
    for one in postponed:
        grouped.setdefault(one.text, []).extend(one.many)
    return grouped
