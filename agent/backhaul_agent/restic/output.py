"""Reads restic's output: JSON lines with plain text between them, in every version.

restic adds fields and message types at any time and leaves zero values out, so that everything
here is looked up by name with a default, and nothing unknown is an error.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from backhaul.wire.jobs import Progress

JsonObject = dict[str, Any]

MAX_COUNT = 2**63 - 1
"""What a 64-bit database column holds."""
LONGEST_ESTIMATE_S = 10 * 365 * 86400
"""restic 0.14 and 0.15 divide by zero and say 2**63 seconds; nothing beyond this is believed."""
MAX_LINE_LENGTH = 8192
"""Of a log line, in characters; what is longer is cut."""
MAX_CURRENT_FILES = 8

_PERCENT = re.compile(r"\[[\d:]+\] +(\d+(?:\.\d+)?)%")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def parse_object(line: str) -> JsonObject | None:
    """Read a line that holds one JSON object, or give None for everything else."""
    if not line.lstrip().startswith("{"):
        return None
    value = _decode(line)
    return value if isinstance(value, dict) else None


def parse_array(line: str) -> list[Any] | None:
    """Read a line that holds one JSON array, or give None for everything else."""
    if not line.lstrip().startswith("["):
        return None
    value = _decode(line)
    return value if isinstance(value, list) else None


def read_message(line: str) -> list[str]:
    """Read the lines for people that stand in a line of stderr, which may be JSON.

    From 0.18 on `exit_error` carries all that restic says at its end, in one text of several lines.
    """
    found = parse_object(line)
    if found is None:
        return [line.rstrip()]
    return read_text(found, "message").splitlines()


def parse_progress(status: JsonObject) -> Progress | None:
    """Read a `status` line of backup, or of restore (0.16 and later).

    None for the `scan_finished` line of 0.14 and 0.15, which calls itself a status too.
    """
    if status.get("message_type") != "status" or "action" in status:
        return None
    remaining = read_count(status, "seconds_remaining")
    files = status.get("current_files")
    return Progress(
        percent_done=min(max(_read_float(status, "percent_done"), 0.0), 1.0),
        total_files=read_count(status, "total_files"),
        files_done=read_count(status, "files_done") or read_count(status, "files_restored"),
        total_bytes=read_count(status, "total_bytes"),
        bytes_done=read_count(status, "bytes_done") or read_count(status, "bytes_restored"),
        error_count=read_count(status, "error_count"),
        seconds_elapsed=read_count(status, "seconds_elapsed"),
        seconds_remaining=remaining if 0 < remaining <= LONGEST_ESTIMATE_S else None,
        current_files=tuple(
            clean_line(str(file)) for file in (files if isinstance(files, list) else ())
        )[:MAX_CURRENT_FILES],
    )


def parse_percent(line: str) -> float | None:
    """Read a line of progress as text, like `[0:45] 97.22%  35 / 36 packs`: 0 to 1."""
    match = _PERCENT.match(clean_line(line))
    return None if match is None else min(float(match[1]) / 100, 1.0)


def read_count(value: JsonObject, name: str) -> int:
    """Read a whole number, at least 0 and small enough to store; 0 when there is none."""
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found:
        return 0
    return int(min(max(found, 0), MAX_COUNT))


def read_duration(value: JsonObject, name: str) -> float:
    """Read seconds, at least 0."""
    return max(_read_float(value, name), 0.0)


def read_text(value: JsonObject, name: str) -> str:
    """Read a text; empty when there is none."""
    found = value.get(name)
    return found if isinstance(found, str) else ""


def read_texts(value: JsonObject, name: str) -> tuple[str, ...]:
    """Read a list of texts; restic writes null for an empty one."""
    found = value.get(name)
    return tuple(str(item) for item in found) if isinstance(found, list) else ()


def parse_time(text: str) -> datetime | None:
    """Read an RFC 3339 time with 0 to 9 digits of fraction and any offset, as UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None  # Anybody may say --time; the year 1 in Tokyo is before all time in UTC.


def parse_own_time(text: str) -> datetime | None:
    """Read such a time with the offset that it was written with."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def clean_line(text: str) -> str:
    """Take out what terminals understand and databases refuse, and cut what is too long."""
    text = _ANSI.sub("", text).replace("\x00", "\N{REPLACEMENT CHARACTER}")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_LINE_LENGTH else f"{text[: MAX_LINE_LENGTH - 1]}…"


def _decode(line: str) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _read_float(value: JsonObject, name: str) -> float:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found:
        return 0.0
    return float(min(found, MAX_COUNT))
