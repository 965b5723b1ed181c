"""Values that arguments carry: labels, durations, moments, variables for restic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backhaul._moments import SECONDS
from backhaul.cli.failures import BadInputError

# Nine digits of days are more than a calendar has: what is longer is a slip of the finger.
_TERM = re.compile(r"([0-9]{1,9})([smhdw])")
_DURATION = re.compile(rf"[0-9]{{1,9}}|(?:{_TERM.pattern})+")
_SIZE = re.compile(r"([1-9][0-9]{0,11})([kKmMgGtT]?)")
_SIZE_UNITS = ("", "k", "m", "g", "t")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_duration(text: str, *, option: str) -> float:
    """Parse `90`, `90s`, `15m`, `12h`, `7d`, `2w` or `1d12h` into seconds.

    Raises:
        BadInputError: it is none of these; the message names the option.
    """
    written = text.strip()
    if not _DURATION.fullmatch(written):
        raise BadInputError(f"{option}: {text!r} is not a duration like 90s, 15m, 12h or 7d.")
    if written.isdecimal():
        return float(written)
    return float(sum(int(number) * SECONDS[unit] for number, unit in _TERM.findall(written)))


def parse_size(text: str, *, option: str) -> int:
    """Parse `500000`, `500k`, `500M` or `2G` into bytes, in powers of 1024 as restic does.

    Raises:
        BadInputError: it is none of these, or nothing; the message names the option.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise BadInputError(f"{option}: {text!r} is not a size like 500M or 2G.")
    return int(found[1]) << 10 * _SIZE_UNITS.index(found[2].lower())


def parse_moment(text: str, *, option: str) -> datetime:
    """Parse a moment of RFC 3339, with its offset.

    Raises:
        BadInputError: it is none, or could be any of many for want of an offset.
    """
    example = "2026-10-24T00:00:00+01:00"
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise BadInputError(f"{option}: {text!r} is not a moment like {example}.") from error
    if moment.utcoffset() is None:
        raise BadInputError(f"{option}: {text!r} needs a time and an offset, like {example}.")
    return moment


def parse_since(text: str | None, *, option: str) -> datetime | None:
    """Parse how long ago, like `7d` or `12h`, or a moment of RFC 3339.

    Raises:
        BadInputError: it is neither; the message names the option.
    """
    if text is None:
        return None
    if _DURATION.fullmatch(text.strip()):
        ago = timedelta(seconds=parse_duration(text, option=option))
        try:
            return datetime.now(UTC) - ago
        except OverflowError as error:
            raise BadInputError(f"{option}: {text!r} is before all time.") from error
    try:
        return parse_moment(text, option=option)
    except BadInputError as error:
        raise BadInputError(f"{error} Or say how long ago, like 7d or 12h.") from error


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Parse `key=value` pairs.

    Raises:
        BadInputError: one has no `=`, or no key.
    """
    labels = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise BadInputError(f"{text!r} is not a label like env=prod.")
        labels[key] = value
    return labels


def change_labels(labels: Mapping[str, str], changes: Iterable[str]) -> dict[str, str]:
    """Apply changes: `key=value` sets a label, `key-` removes it.

    Raises:
        BadInputError: a change is neither.
    """
    changed = dict(labels)
    for change in changes:
        if "=" not in change and change.endswith("-") and change != "-":
            changed.pop(change.removesuffix("-"), None)
        else:
            changed.update(parse_labels([change]))
    return changed


def read_variables(
    names: Iterable[str], file: Path | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """Collect variables for restic: those of a file, then those that are named.

    Raises:
        BadInputError: a value stands in an argument, a variable is not set, a line is unreadable.
    """
    variables = {} if file is None else _read_env_file(file)
    for name in names:
        if "=" in name:
            raise BadInputError(
                f"--env {name.partition('=')[0]}=… would show the value to everybody on this "
                "machine: use --env-file FILE, or set the variable and name it alone."
            )
        if name not in environment:
            raise BadInputError(f"--env {name}: there is no such variable in the environment.")
        variables[name] = environment[name]
    return variables


def _read_env_file(file: Path) -> dict[str, str]:
    try:
        lines = file.expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"--env-file: {error}") from error
    variables = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or _VARIABLE.fullmatch(name.strip()) is None:
            # The line itself may be a secret.
            raise BadInputError(f"{file}, line {number}: not like NAME=VALUE.")
        variables[name.strip()] = value
    return variables
