"""Statements that never change, run without SQLAlchemy's way to the driver.

SQLAlchemy takes several times as long to pass a statement on as the database to run it. A module's
own statements are the same at each call, though. So each is compiled once for a dialect, and from
then on its parameters go straight to the driver:

    _ONE = constant(sa.select(jobs).where(jobs.c.id == sa.bindparam("job_id")))
    ...
    row = (await connection.execute(_ONE, {"job_id": job_id})).one_or_none()

What it means stays SQLAlchemy's: the text, the conversion of parameters and columns, the results,
the errors as far as anybody tells them apart, and the engine's `before_cursor_execute`, by which
tests see what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine.result import SimpleResultMetaData

StatementT = TypeVar("StatementT", bound=sa.Executable)

Convert = Callable[[Any], Any]
Parameters = Mapping[str, Any]

_constants: dict[int, sa.Executable] = {}
"""By their identity, and kept, so that no other statement ever has it."""

_NOTHING: Any = object()

_LIKE_A_PARAMETER = re.compile(r"\$\d|%\(|__\[")
"""Text that SQLAlchemy, or `postgresql._join`, would take for the place of a parameter."""

_FLOAT8 = 701
"""PostgreSQL's type of the only columns whose conversion asks for it."""


def constant(statement: StatementT) -> StatementT:
    """Promise that a statement is built once for all of its calls. Values that stand in it, and are
    none of its parameters, are text, whole numbers, booleans or None."""
    _constants[id(statement)] = statement
    return statement


class Rows:
    """The rows that a statement gives, as SQLAlchemy's result does."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    @property
    def rowcount(self) -> int:
        return len(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def one_or_none(self) -> Any:
        if len(self._rows) > 1:
            raise sa.exc.MultipleResultsFound("there are several rows")
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        if not self._rows:
            raise sa.exc.NoResultFound("there is no row")
        return self.one_or_none()

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None

    def scalars(self) -> Rows:
        return Rows([row[0] for row in self._rows])

    def mappings(self) -> Rows:
        return Rows([row._mapping for row in self._rows])


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
    _binds: Sequence[tuple[str, Convert | None]]
    """The names of the values in the order of the text, and their conversions."""
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
            return tuple(
                [
                    parameters[name] if convert is None else convert(parameters[name])
                    for name, convert in self._binds
                ]
            )
        except Exception as error:
            raise self._explain(error) from error

    def bind_all(self, rows: Sequence[Parameters]) -> list[tuple[Any, ...]]:
        """Convert the parameters of many executions, as `bind` does each."""
        if self._lists or len(rows) == 1:
            return [self.bind(row) for row in rows]
        try:
            columns = [
                _convert(convert, [row[name] for row in rows]) for name, convert in self._binds
            ]
        except Exception as error:
            raise self._explain(error) from error
        return list(zip(*columns, strict=True))

    def convert(self, parameters: Parameters) -> dict[str, Any]:
        """Convert the parameters of one execution, for `arrange`. Raises as `bind` does."""
        try:
            return {
                name: parameters[name] if convert is None else convert(parameters[name])
                for name, convert in self._binds
            }
        except Exception as error:
            raise self._explain(error) from error

    def arrange(self, converted: Parameters) -> tuple[Any, ...]:
        """Put values that are converted in the order of the text."""
        return tuple([converted[name] for name, _ in self._binds])

    def build_result(self, rows: Iterable[Any]) -> Rows:
        """Build the result out of the driver's rows."""
        metadata = self._metadata
        converts, places = metadata._processors, metadata._key_to_index
        return Rows([sa.Row(metadata, converts, places, row) for row in rows])

    def _explain(self, error: Exception) -> Exception:
        name = type(error).__name__
        return sa.exc.StatementError(f"({name})", self.text, None, error, hide_parameters=True)

    def _spread(self, parameters: Parameters) -> Iterator[tuple[str, Any]]:
        yield from parameters.items()
        for name, singles in self._lists.items():
            values = parameters[name]
            # The rest repeats one of them, which means the same: see `_round_up`.
            padded = [*values, *values[-1:] * (len(singles) - len(values))]
            yield from zip(singles, padded, strict=True)


def wrap(error: Exception, text: str, dialect: sa.Dialect, *, is_lost: bool = False) -> Exception:
    """Wrap an error of the driver as SQLAlchemy does; `is_lost` if the connection is of no use."""
    wrapped: Exception = sa.exc.DBAPIError.instance(
        text,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=is_lost,
        dialect=dialect,
    )
    return wrapped


class Statements:
    """The constant statements of one dialect, compiled when they are first used."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._compiled: dict[Any, _Compiled] = {}

    def find(self, statement: sa.Executable, parameters: Any) -> Ready | None:
        """Find a statement as it is with these parameters, or a list of them, which are all alike;
        None if it is not constant."""
        number = id(statement)
        if number not in _constants or parameters == []:
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
        converts = _find_binds(self.text, singles, self.dialect)
        columns = _find_columns(self.statement)
        return Ready(
            text=expanded.statement,
            gives_rows=columns is not None,
            _metadata=_build_metadata(columns or (), self.dialect),
            _binds=[(name, converts.get(name)) for name in expanded.positiontup],
            _lists={name: singles[name] for name in lists},
        )


def _compile(statement: sa.Executable, parameters: Parameters, dialect: sa.Dialect) -> _Compiled:
    assert isinstance(statement, sa.ClauseElement)  # noqa: S101 (all that are built here are)
    compiler: Any = dialect.statement_compiler
    compiled: Any = _build_compiler(compiler)(dialect, statement, column_keys=list(parameters))
    if compiled.insert_prefetch or compiled.update_prefetch:
        raise TypeError("a constant statement has no defaults that Python fills in")
    lists = tuple(name for bind, name in compiled.bind_names.items() if bind.expanding)
    return _Compiled(statement, dialect, compiled, lists)


@cache
def _build_compiler(base: Any) -> Any:
    """Build what writes the values that stand in a statement into its text.

    As parameters they would be passed each time, and where one could decide whether a partial index
    fits, SQLite would plan the statement anew at each execution, which takes ten times as long.
    """

    class Compiler(base):  # type: ignore[misc]
        def visit_bindparam(
            self, bindparam: Any, *, literal_binds: bool = False, **options: Any
        ) -> str:
            is_fixed = not bindparam.required
            if is_fixed and not _has_literal(bindparam.effective_value):
                raise TypeError("this cannot stand in a constant statement: make it a parameter")
            text: str = super().visit_bindparam(
                bindparam, literal_binds=literal_binds or is_fixed, **options
            )
            return text

    return Compiler


def _has_literal(value: object) -> bool:
    """Tell whether each database takes a value, or all of a list, as SQLAlchemy writes it."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(
        one is None or (isinstance(one, (int, str)) and not _LIKE_A_PARAMETER.search(str(one)))
        for one in values
    )


def _find_binds(
    compiled: Any, lists: Mapping[str, Sequence[str]], dialect: sa.Dialect
) -> dict[str, Convert | None]:
    """Find how to convert each value."""
    converts: dict[str, Convert | None] = {}
    for bind, name in compiled.bind_names.items():
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        converts |= dict.fromkeys([name, *lists.get(name, ())], convert)
    return converts


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


def _convert(convert: Convert | None, values: list[Any]) -> list[Any]:
    """Convert the values of one column. What many rows have in common is converted once."""
    if convert is None:
        return values
    converted: list[Any] = []
    last, so_far = _NOTHING, None
    for value in values:
        if value is not last:
            last, so_far = value, convert(value)
        converted.append(so_far)
    return converted


def _round_up(length: int) -> int:
    """Round the length of a list up, so that there are few texts of one statement."""
    return length if length <= 1 else 1 << (length - 1).bit_length()
