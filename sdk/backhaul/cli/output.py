"""What commands print: tables for people, plain columns into a pipe, JSON for programs.

Whatever comes from elsewhere (names, paths, log lines) is made printable first, and reaches rich
as text, never as markup.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import msgspec
import typer

from backhaul.wire.jobs import JobState
from backhaul.wire.printing import render_printable

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only what the next command needs, if anything.")
]


class Form(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


Output = Annotated[
    Form,
    typer.Option("--output", "-o", help="`wide` has every column; `json` is the same as --json."),
]

_GAP = 2
"""Between two columns."""
_LONG_WORD = 16
"""How much of a word stands in one line: more of it is a path, or something else to be broken."""
_BROKEN_WORD = 6

STATE_STYLES = {
    JobState.QUEUED: "dim",
    JobState.ACCEPTED: "cyan",
    JobState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.INCOMPLETE: "yellow",
    JobState.CANCELLED: "yellow",
    JobState.FAILED: "red",
    JobState.REJECTED: "red",
    JobState.EXPIRED: "red",
    JobState.LOST: "red",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table."""

    title: str
    render: Callable[[T], str]
    style: Callable[[T], str] = lambda _: ""
    is_right: bool = False
    is_whole: bool = False
    """Never broken over lines on a terminal, for what people copy."""
    is_wide: bool = False
    """Only in a wide table."""
    is_spare: bool = False
    """Left out where a terminal has no room for whole words, the last such column first."""


def is_terminal() -> bool:
    """Tell whether a person looks at what is printed."""
    return sys.stdout.isatty()


def now() -> datetime:
    """The moment that ages are counted from."""
    return datetime.now(UTC)


def build_console(*, is_stderr: bool = False) -> Console:
    """Make the console of a terminal. rich honours NO_COLOR and TERM=dumb."""
    from rich.console import Console

    return Console(stderr=is_stderr, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line."""
    typer.echo(render_printable(text))


def note(text: str) -> None:
    """Print a line beside the result: on stderr."""
    typer.echo(render_printable(text), err=True)


def print_json(value: Any, *, is_compact: bool = False) -> None:
    """Print a value of the wire as JSON; `is_compact` makes it one line."""
    encoded = msgspec.json.encode(value)
    typer.echo(encoded if is_compact else msgspec.json.format(encoded, indent=2))


def print_list(
    items: Iterable[T],
    columns: Sequence[Column[T]],
    *,
    key: Callable[[T], object],
    empty: str,
    output: Form = Form.TABLE,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print a list: as a JSON array, as keys, or as a table."""
    found = list(items)
    if as_json or output is Form.JSON:
        print_json(found)
    elif quiet:
        for item in found:
            say(str(key(item)))
    elif found:
        shown = [column for column in columns if output is Form.WIDE or not column.is_wide]
        _print_table(found, shown)
    else:
        note(empty)


def print_one(
    item: Any, fields: Sequence[tuple[str, str]], *, key: object, as_json: bool, quiet: bool
) -> None:
    """Print one thing: as JSON, as its key, or field by field."""
    if as_json:
        print_json(item)
    elif quiet:
        say(str(key))
    else:
        print_fields(fields)


def print_changed(item: Any, text: str, *, key: object, as_json: bool, quiet: bool) -> None:
    """Print what became of one thing: as JSON, as its key, or as a sentence."""
    if as_json:
        print_json(item)
    else:
        say(str(key) if quiet else text)


def print_removed(text: str, *, as_json: bool, quiet: bool) -> None:
    """Print that something is gone: null in JSON, nothing when quiet, or a sentence."""
    if as_json:
        print_json(None)
    elif not quiet:
        say(text)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; an empty value is left out."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        if value:
            say(f"{name:<{width}}  {value}")


def _print_table(items: Sequence[T], columns: Sequence[Column[T]]) -> None:
    cells = [[render_printable(column.render(item)) or "-" for column in columns] for item in items]
    if is_terminal():
        _print_rich(items, columns, cells)
    else:
        _print_plain(columns, cells)


def _print_rich(
    items: Sequence[T], columns: Sequence[Column[T]], cells: Sequence[Sequence[str]]
) -> None:
    from rich.table import Table
    from rich.text import Text

    console = build_console()
    texts = [[column.title, *(row[at] for row in cells)] for at, column in enumerate(columns)]
    shown, widths = fit_columns(columns, texts, room=console.width)
    # What nobody can make narrower is broken by the terminal: that loses nothing of an id.
    console.width = max(console.width, sum(widths) + _GAP * (len(widths) - 1))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for at, width in zip(shown, widths, strict=True):
        column = columns[at]
        justify: Literal["left", "right"] = "right" if column.is_right else "left"
        table.add_column(column.title, justify=justify, overflow="fold", width=width)
    for item, row in zip(items, cells, strict=True):
        table.add_row(*(Text(row[at], style=columns[at].style(item)) for at in shown))
    console.print(table)


def fit_columns(
    columns: Sequence[Column[T]], texts: Sequence[Sequence[str]], *, room: int
) -> tuple[list[int], list[int]]:
    """Choose which columns a terminal has room for, and how wide each of them is.

    `texts` has the title and the cells of each column. Lines break between words, spare columns
    are left out until that is enough, and only then words are broken too.
    """
    from rich.cells import cell_len

    whole = [max(map(cell_len, column)) for column in texts]
    least = [
        width if column.is_whole else min(width, _LONG_WORD, _measure_words(text))
        for column, width, text in zip(columns, whole, texts, strict=True)
    ]
    shown = list(range(len(columns)))
    for at in reversed(range(len(columns))):
        if columns[at].is_spare and _measure(least, shown) > room:
            shown.remove(at)
    if _measure(least, shown) > room:
        least = [
            width if column.is_whole else min(width, _BROKEN_WORD)
            for column, width in zip(columns, least, strict=True)
        ]
    widths = list(whole)
    while _measure(widths, shown) > room:
        wider = [at for at in shown if widths[at] > least[at]]
        if not wider:
            break
        widths[max(wider, key=widths.__getitem__)] -= 1
    return shown, [widths[at] for at in shown]


def _measure(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[at] for at in shown) + _GAP * (len(shown) - 1)


def _measure_words(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _print_plain(columns: Sequence[Column[T]], cells: Sequence[Sequence[str]]) -> None:
    rows = [[column.title for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())
