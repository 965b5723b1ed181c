"""Statements that never change, run without SQLAlchemy's way to the driver.

SQLAlchemy takes several times as long to pass a statement on as the database to run it. A module's
own statements are the same at each call, though. So each is compiled once for a dialect, and from
then on its parameters go straight to the driver:

    _ONE = constant(sa.select(jobs).where(jobs.c.id == sa.bindparam("job_id")))
    ...
    row = (await connection.execute(_ONE, {"job_id": job_id})).one_or_none()

What it means stays SQLAlchemy's: the text, the conversion of parameters and columns, the results,
the errors, and the engine's events, by which tests see what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

StatementT = TypeVar("StatementT", bound=sa.Executable)

Convert = Callable[[Any], Any]
Parameters = Mapping[str, Any]

_constants: dict[int, sa.Executable] = {}
"""By their identity, and kept, so that no other statement ever has it."""

_REQUIRED = object()

_FLOAT8 = 701
"""PostgreSQL's type of the only columns whose conversion asks for it."""


def constant(statement: StatementT) -> StatementT:
    """Promise that a statement is built once for all of its calls."""
    _constants[id(statement)] = statement
    return statement


class Changed:
    """What a statement that gives no rows has done."""

    __slots__ = ("rowcount",)

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


@dataclass(frozen=True, slots=True)
class Ready:
    """A statement as the driver takes it."""

    text: str
    gives_rows: bool
    _metadata: SimpleResultMetaData
    _binds: Sequence[tuple[str, Convert | None, Any]]
    """In the order of the text: the name, the conversion, and the value where none is given."""
    _lists: Mapping[str, Sequence[str]]
    """The names of the single values of those that are lists."""

    def bind(self, parameters: Parameters) -> tuple[Any, ...]:
        """Convert the parameters of one execution.

        Raises:
            sa.exc.StatementError: one is missing, or cannot be converted.
        """
        try:
            if self._lists:
                parameters = dict(self._spread(parameters))
            return tuple([_bind(parameters, *bind) for bind in self._binds])
        except Exception as error:
            name = type(error).__name__
            raise sa.exc.StatementError(
                f"({name})", self.text, None, error, hide_parameters=True
            ) from error

    def build_result(self, rows: Iterable[Any]) -> IteratorResult[Any]:
        """Build the result out of the driver's rows."""
        return IteratorResult(self._metadata, iter(rows))

    def _spread(self, parameters: Parameters) -> Iterator[tuple[str, Any]]:
        yield from parameters.items()
        for name, singles in self._lists.items():
            values = parameters[name]
            # The rest repeats one of them, which means the same: see `_round_up`.
            padded = [*values, *values[-1:] * (len(singles) - len(values))]
            yield from zip(singles, padded, strict=True)


def wrap(error: Exception, text: str, dialect: sa.Dialect) -> Exception:
    """Wrap an error of the driver as SQLAlchemy does."""
    base = dialect.loaded_dbapi.Error
    return sa.exc.DBAPIError.instance(
        text, None, error, base, hide_parameters=True, dialect=dialect
    )


def _bind(parameters: Parameters, name: str, convert: Convert | None, fixed: Any) -> Any:
    value = parameters[name] if fixed is _REQUIRED else parameters.get(name, fixed)
    return value if convert is None else convert(value)


class Statements:
    """The constant statements of one dialect, compiled when they are first used."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._compiled: dict[Any, _Compiled] = {}

    def find(self, statement: sa.Executable, parameters: Any) -> Ready | None:
        """Find a statement as it is with these parameters, or a list of them; None if it is not
        constant."""
        number = id(statement)
        if number not in _constants:
            return None
        first: Parameters = (parameters[0] if isinstance(parameters, list) else parameters) or {}
        key = (number, *first)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = _compile(statement, first, self._dialect)
        return compiled.find(first)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement, but for the lengths of lists in it."""

    statement: sa.Executable
    dialect: sa.Dialect
    text: Any
    """SQLAlchemy's `SQLCompiler`."""
    lists: tuple[str, ...]
    _ready: dict[tuple[int, ...], Ready] = field(default_factory=dict)

    def find(self, parameters: Parameters) -> Ready:
        lengths = tuple([_round_up(len(parameters[name])) for name in self.lists])
        ready = self._ready.get(lengths)
        if ready is None:
            ready = self._ready[lengths] = self._build(parameters, lengths)
        return ready

    def _build(self, parameters: Parameters, lengths: tuple[int, ...]) -> Ready:
        lists = {name: [None] * length for name, length in zip(self.lists, lengths, strict=True)}
        expanded = self.text.construct_expanded_state({**parameters, **lists})
        singles = expanded.parameter_expansion
        columns = _find_columns(self.statement)
        return Ready(
            text=expanded.statement,
            gives_rows=columns is not None,
            _metadata=_build_metadata(columns or (), self.dialect),
            _binds=_find_binds(self.text, expanded.positiontup, singles, self.dialect),
            _lists={name: singles[name] for name in lists},
        )


def _compile(statement: sa.Executable, parameters: Parameters, dialect: sa.Dialect) -> _Compiled:
    assert isinstance(statement, sa.ClauseElement)  # noqa: S101 (all that are built here are)
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(parameters))
    if compiled.insert_prefetch or compiled.update_prefetch:
        raise TypeError("a constant statement has no defaults that Python fills in")
    lists = tuple(
        name for bind, name in compiled.bind_names.items() if bind.expanding and bind.required
    )
    return _Compiled(statement, dialect, compiled, lists)


def _find_binds(
    compiled: Any,
    names: Iterable[str],
    lists: Mapping[str, Sequence[str]],
    dialect: sa.Dialect,
) -> list[tuple[str, Convert | None, Any]]:
    """Find how to convert each value, and those that stand in the statement itself."""
    found: dict[str, tuple[Convert | None, Any]] = {}
    for bind, name in compiled.bind_names.items():
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        fixed: Any = _REQUIRED if bind.required else bind.effective_value
        found[name] = (convert, fixed)
        for number, single in enumerate(lists.get(name, ())):
            found[single] = (convert, _REQUIRED if bind.required else fixed[number])
    return [(name, *found[name]) for name in names]


def _find_columns(statement: Any) -> Sequence[sa.ColumnElement[Any]] | None:
    """Find the columns of the rows; None where there are no rows."""
    if isinstance(statement, sa.sql.dml.UpdateBase):
        return list(statement.exported_columns) or None
    return list(statement.selected_columns)


def _build_metadata(
    columns: Sequence[sa.ColumnElement[Any]], dialect: sa.Dialect
) -> SimpleResultMetaData:
    converts = [
        column.type.dialect_impl(dialect).result_processor(dialect, _FLOAT8) for column in columns
    ]
    return SimpleResultMetaData([str(column.key) for column in columns], _processors=converts)


def _round_up(length: int) -> int:
    """Round the length of a list up, so that there are few texts of one statement."""
    return length if length <= 1 else 1 << (length - 1).bit_length()
