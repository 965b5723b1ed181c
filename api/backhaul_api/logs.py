"""The log: the standard library, JSON lines in a service and plain text on a terminal.

A message is a short event name (`request.done`); its facts are fields: `extra=facts(status=200)`.
The id of the request in hand is added by itself.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from backhaul.wire.tokens import redact_tokens

current_request_id: ContextVar[str | None] = ContextVar("current_request_id", default=None)

_FACTS = "backhaul_facts"


def facts(**fields: object) -> dict[str, Any]:
    """Build the `extra` of a log call."""
    return {_FACTS: fields}


def set_up_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Send the log to a stream, the standard error output unless told otherwise.

    Raises:
        ValueError: there is no such level.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [handler]
    # These tell of each statement and each connection; nobody asked them to.
    for name in ("aiosqlite", "sqlalchemy", "alembic", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
            "logger": record.name,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = msgspec.json.encode(line, enc_hook=str).decode()
        return redact_tokens(text)  # nothing should need it; nothing passes without it


class PlainFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        time = f"{_time(record).astimezone():%H:%M:%S}"
        line = f"{time} {record.levelname.lower():7} {record.getMessage()} {pairs}".rstrip()
        lines = [line]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return redact_tokens("\n".join(map(_render_harmless, lines)))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, _FACTS, {}))
    if (request_id := current_request_id.get()) is not None:
        fields.setdefault("request_id", request_id)
    return fields


def _render_harmless(text: str) -> str:
    """Escape what could steer a terminal or pass for another line: some values are callers'."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
