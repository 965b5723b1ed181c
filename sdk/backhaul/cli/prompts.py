"""Asking: secrets from the terminal, from a file or from standard input; never from arguments.

Arguments and their values are visible to everybody on the machine. Questions stand on standard
error, for standard output may be a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from backhaul.cli.failures import BadInputError

STDIN = "-"


def is_interactive() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin.isatty()


def ask(value: str | None, *, what: str, option: str, default: str | None = None) -> str:
    """Give the value of an option, or ask for it.

    Raises:
        BadInputError: it was not given and there is nobody to ask.
    """
    if value:
        return value
    if not is_interactive():
        raise BadInputError(f"The {what} is missing: give {option}.")
    answer: str = typer.prompt(what.capitalize(), default=default, err=True)
    return answer


def read_secret(file: str | None, *, what: str, option: str, confirm: bool = False) -> str:
    """Read a secret: from a file, or (without one, or with `-`) from the terminal without echo,
    or one line from standard input when that is not a terminal.

    Several secrets of one command are read from standard input line by line.

    Raises:
        BadInputError: there is none, or the file cannot be read.
    """
    if file is not None and file != STDIN:
        secret = _read_file(file, option)
    elif is_interactive():
        secret = typer.prompt(
            what.capitalize(), hide_input=True, confirmation_prompt=confirm, err=True
        )
    else:
        secret = sys.stdin.readline()
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise BadInputError(
            f"The {what} is missing: give {option} FILE, or put it on standard input as one line."
        )
    if "\n" in secret or "\r" in secret:
        raise BadInputError(f"The {what} has more than one line.")
    return secret


def confirm_removal(question: str, *, is_sure: bool) -> None:
    """Ask before something is removed, as `confirm` does."""
    confirm(question, is_sure=is_sure)


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask before something that cannot be taken back.

    Raises:
        BadInputError: there is nobody to ask; `--yes` goes without asking.
        typer.Exit: the answer was no.
    """
    if is_sure:
        return
    if not is_interactive():
        raise BadInputError(f"{question} There is nobody to ask: say --yes if you are sure.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _read_file(file: str, option: str) -> str:
    try:
        return Path(file).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{option}: {error}") from error
