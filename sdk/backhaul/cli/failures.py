"""What a person reads when something did not work: one line on stderr, and the exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback

import typer
from typer.exceptions import TyperException

from backhaul import display, settings
from backhaul.cli import connection
from backhaul.errors import (
    BackhaulError,
    ConfigurationError,
    InvalidRequestError,
    NotAuthenticatedError,
    RateLimitedError,
    ServerFailedError,
)
from backhaul.wire.printing import render_error
from backhaul.wire.problems import ProblemType
from backhaul.wire.tokens import redact_tokens

_PYDANTIC_UUID = re.compile(r"Input should be a valid UUID, .*", re.DOTALL)

FAILED, BAD_INPUT, INCOMPLETE, INTERRUPTED = 1, 2, 3, 130


class BadInputError(BackhaulError):
    """Arguments that do not go together, or an answer that is missing."""


class MissingExtraError(BackhaulError):
    """A command whose packages are not installed."""


def report(error: Exception) -> int:
    """Print one line about an error; gives the exit code. BACKHAUL_DEBUG=1 adds the traceback."""
    if os.environ.get("BACKHAUL_DEBUG"):
        traceback.print_exception(error)
    message = describe(error)
    if message:
        # Tokens should be in no message. If one is in an error of some library, it ends here.
        print_error(redact_tokens(message))
    return choose_exit_code(error)


def print_error(message: str) -> None:
    """Print one line on stderr, without what could steer a terminal."""
    sys.stdout.flush()
    typer.echo(f"error: {render_error(message)}", err=True)


def choose_exit_code(error: Exception) -> int:
    """Tell bad input (2) from everything else that can fail (1)."""
    if isinstance(error, TyperException):
        return error.exit_code
    if _is_interrupt(error):
        return INTERRUPTED
    if isinstance(
        error, BadInputError | ConfigurationError | InvalidRequestError | MissingExtraError
    ):
        return BAD_INPUT
    return FAILED


def describe(error: Exception) -> str:
    """Say what failed and what to do; empty when all was said."""
    match error:
        case TyperException():
            return _describe_usage(error)
        case typer.Abort():
            typer.echo(err=True)  # to end the line of the question
            return "" if _is_interrupt(error) else "aborted"
        case NotAuthenticatedError():
            login = settings.build_login(connection.named_profile())
            return f"{_as_clause(error)}. Sign in with `{login}`."
        case RateLimitedError() | ServerFailedError():
            said = (f"{_as_clause(error)}.", _when(error), _request_id(error))
            return " ".join(filter(None, said))
        case BackhaulError():
            return str(error)
        case OSError():
            return str(error)
        case _:
            reason = str(error) or "no reason given"
            return f"{type(error).__name__}: {reason} (BACKHAUL_DEBUG=1 shows where)"


def _is_interrupt(error: Exception) -> bool:
    """Tell Ctrl-C at a question from the end of the input, which typer reports as the same."""
    return isinstance(error, typer.Abort) and isinstance(error.__context__, KeyboardInterrupt)


def _describe_usage(error: TyperException) -> str:
    if type(error).__name__ == "NoArgsIsHelpError":  # its text is the whole help
        typer.echo(error.format_message(), err=True)
        return ""
    context = getattr(error, "ctx", None)
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    message = _PYDANTIC_UUID.sub("not an id, which is a UUID", error.format_message())
    message = message.replace("Value error, ", "")  # pydantic's too, inside typer
    return f"{message}{'' if message.endswith(('.', '?')) else '.'}{hint}"


def _as_clause(error: Exception) -> str:
    return str(error).rstrip(". ")


def _when(error: RateLimitedError | ServerFailedError) -> str:
    if error.retry_after_s is not None:
        return f"Try again in {display.render_duration(error.retry_after_s)}."
    if error.may_retry:
        return "Try again later."
    # Backhaul says so itself; another server, or a proxy, does not.
    return "" if error.problem.type == ProblemType.INTERNAL else "The server's log has the reason."


def _request_id(error: RateLimitedError | ServerFailedError) -> str:
    return f"Request {error.problem.instance}." if error.problem.instance else ""
