"""The agent's own log: an event name and its facts. JSON lines in service, text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from backhaul.wire.tokens import redact_tokens

job_id_in_log: ContextVar[str | None] = ContextVar("job_id_in_log", default=None)
"""Bound while a job runs, so that every line of that time names the job."""


def fields(**facts: object) -> dict[str, Any]:
    """Build the `extra` of a log call: `log.info("job.finished", extra=fields(outcome=…))`."""
    return {"fields": facts}


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send everything to one stream, stderr by default.

    Raises:
        ValueError: there is no such level.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TextFormatter() if stream.isatty() else _JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # httpx logs each request at info: one line every poll for ever.
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    facts: dict[str, object] = dict(getattr(record, "fields", {}))
    job_id = job_id_in_log.get()
    if job_id is not None:
        facts.setdefault("job_id", job_id)
    return facts


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact_tokens(json.dumps(line, default=str, ensure_ascii=False))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        text = f"{at} {record.levelname.lower():7} {record.getMessage()}{facts}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return redact_tokens(text)
