"""Why a value is refused: the field that is wrong, and what would be accepted.

msgspec's messages are turned into such words here, for the API and for whoever calls it from
Python, who hears of it before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, get_args

import msgspec
from msgspec import inspect

from backhaul.wire import accounts, base, fleet, kinds
from backhaul.wire.kinds import backup
from backhaul.wire.kinds.base import ExactSnapshotId
from backhaul.wire.printing import render_printable
from backhaul.wire.problems import FieldError

_WHERE = re.compile(r"(?P<message>.*?)( - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_TYPE = re.compile(r"Expected `(?P<wanted>[^`]*)`(?:, got `(?P<got>[^`]*)`)?")
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>.*)", re.DOTALL)
_LENGTH = re.compile(r"Expected `(?P<type>\w+)` of length (?P<sign>[<>]=?|==) (?P<length>\d+)")
_LIMIT = re.compile(r"Expected `(?:int|float)` (?P<sign>[<>]=?) (?P<limit>\S+)")
_UNKNOWN_VALUE = re.compile(r"Invalid (?:enum )?value (?P<value>.*)", re.DOTALL)

_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "bytes": "base64",
    "uuid": "an id (UUID)",
    "datetime": "a time (RFC 3339)",
}
_A_MOMENT = "must be a time with its offset (RFC 3339), like 2026-01-31T12:00:00Z"
_SAID = {
    "Number out of range": "is too large a number",
    "Integer value out of range": "is too large a number",
    "Invalid UUID": "must be an id (UUID)",
    "Invalid RFC3339 encoded datetime": _A_MOMENT,
    "Expected `datetime` with a timezone component": _A_MOMENT,
    "Invalid base64 encoded string": "must be base64",
}
OF_KEY = "a key "
"""Begins what is said of a key, and not of the value that it has."""

MAX_SAID = 200
"""Characters."""

_SIGNS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than", "==": "exactly"}
_COUNTED = {"str": "character", "bytes": "byte"}
_STEP = re.compile(r"\.(?P<name>\w+)|\[[^]]*\]")


def explain(message: str, type_: Any = None, *, prefix: str = "") -> FieldError:
    """Turn a message of msgspec into the field that is wrong and what would be accepted."""
    found = _WHERE.fullmatch(message)
    text, path, at_key = message, "", False
    if found is not None:
        text, path, at_key = found["message"], found["path"] or "", bool(found["key"])
    field = f"{prefix}{path}".lstrip(".")
    for pattern, reason in ((_MISSING, "is required"), (_UNKNOWN, "is not a field of this")):
        if named := pattern.fullmatch(text):
            return FieldError(field=f"{field}.{named['name']}".lstrip("."), message=reason)
    return FieldError(field=field, message=(OF_KEY if at_key else "") + _say(text, type_, path))


def _say(text: str, type_: Any, path: str) -> str:
    if found := _TYPE.fullmatch(text):
        wanted = " or ".join(_words(found["wanted"]))
        return f"must be {wanted}" + (f", not {got}" if (got := _say_got(found["got"])) else "")
    if found := _PATTERN.fullmatch(text):
        return _remedies().get(found["pattern"], f"must match {found['pattern']}")
    if found := _LENGTH.fullmatch(text):
        counted = _COUNTED.get(found["type"], "item")
        plural = "" if found["length"] == "1" else "s"
        return f"must have {_SIGNS[found['sign']]} {found['length']} {counted}{plural}"
    if found := _LIMIT.fullmatch(text):
        return f"must be {_SIGNS[found['sign']]} {found['limit'].removesuffix('.0')}"
    if said := _SAID.get(text):
        return said
    if found := _UNKNOWN_VALUE.fullmatch(text):
        known = ", ".join(_list_known(type_, path))
        return f"{shorten(found['value'])} is not known here" + (
            f"; it can be {known}" if known else ""
        )
    return text


def _say_got(types: str | None) -> str:
    return " or ".join(_words(types)) if types else ""


def shorten(text: str) -> str:
    """Build what is said again, in one line, of a value that may be as long as a body."""
    shown = render_printable(text[:MAX_SAID])
    return shown if len(text) <= MAX_SAID else f"{shown}…"


def _words(types: str) -> list[str]:
    return [_WORDS.get(name, name) for name in types.split(" | ")]


def _list_known(type_: Any, path: str) -> list[str]:
    """List what can stand at a path: the values of an enumeration, or the tags of a union."""
    if type_ is None:
        return []
    steps = list(_STEP.finditer(path))
    held = list(_flatten(inspect.type_info(type_)))
    for step in steps[:-1]:
        held = list(_descend(held, step["name"]))
    if not steps:  # Litestar does not say which one of a list it is
        return _list_values(held) or _list_values(_descend(held, None))
    name = steps[-1]["name"]
    tags = [str(one.tag) for one in _structs(held) if one.tag_field == name and name is not None]
    return tags or _list_values(_descend(held, name))


def _list_values(held: Iterable[inspect.Type]) -> list[str]:
    values: list[Any] = []
    for one in held:
        if isinstance(one, inspect.EnumType):
            values += [member.value for member in one.cls]
        elif isinstance(one, inspect.LiteralType):
            values += one.values
    # Members of a union may share a field.
    return list(dict.fromkeys(map(str, values)))


def _descend(held: Iterable[inspect.Type], name: str | None) -> Iterator[inspect.Type]:
    """Go to the field of that name, or where there is none, to the items."""
    for one in held:
        if isinstance(one, inspect.StructType):
            for field in one.fields:
                if field.encode_name == name:
                    yield from _flatten(field.type)
        elif isinstance(one, inspect.CollectionType | inspect.VarTupleType) and name is None:
            yield from _flatten(one.item_type)
        elif isinstance(one, inspect.DictType):
            yield from _flatten(one.value_type)


def _structs(held: Iterable[inspect.Type]) -> list[inspect.StructType]:
    return [one for one in held if isinstance(one, inspect.StructType)]


def _flatten(one: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(one, inspect.Metadata):
        yield from _flatten(one.type)
    elif isinstance(one, inspect.UnionType):
        for member in one.types:
            yield from _flatten(member)
    else:
        yield one


@lru_cache(maxsize=1)
def _remedies() -> dict[str, str]:
    """Build what people are told instead of a regular expression."""
    said = {
        base.LabelText: "must be without control characters",
        base.Name: "must be letters, digits, dots, underscores and hyphens, and begin with a "
        "letter or digit",
        accounts.Username: "must be letters, digits and . _ @ - , and begin with a letter or digit",
        kinds.AbsolutePath: "must be an absolute path, like /etc",
        kinds.Pattern: "must be one line",
        kinds.Tag: "must be one line without a comma",
        kinds.KeepWithin: "must be a duration like 7d or 1y5m, of y, m, d and h",
        kinds.ReadDataSubset: "must be a part like 1/7, or a percentage like 2.5%",
        ExactSnapshotId: "must be at least 8 hex digits of a snapshot's id",
        backup.FileSize: "must be a size like 500M or 2G: bytes, or with k, M, G or T",
        fleet.WholeSnapshotId: "must be the whole id of a snapshot: 64 hex digits",
        kinds.SnapshotId: "must be latest, or at least 8 hex digits of a snapshot's id",
        fleet.Location: "must be one line",
        fleet.RepositoryPassword: "must be one line",
        get_args(fleet.Environment)[0]: "must be the name of an environment variable",
    }
    return {
        repr(base.REQUEST_KEY_PATTERN): "must be printable ASCII without spaces",
        **{repr(_pattern_of(type_)): remedy for type_, remedy in said.items()},
    }


def _pattern_of(type_: Any) -> str | None:
    metas = [meta for meta in get_args(type_)[1:] if isinstance(meta, msgspec.Meta)]
    return next((meta.pattern for meta in metas if meta.pattern), None)
