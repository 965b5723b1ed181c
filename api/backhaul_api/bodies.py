"""Reading the body of a request straight into the type that its handler asks for.

The handler says `data: CreateSource`; what comes in is JSON of that or is refused with the field
that is wrong and what would be accepted. msgspec's messages are turned into such words here.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, get_args

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException

from backhaul.wire import accounts, base, fleet, kinds
from backhaul.wire.problems import FieldError
from backhaul_api.errors import InvalidError

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Twice what the largest batch of an agent has."""

_WHERE = re.compile(r"(?P<message>.*?)( - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_TYPE = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>.*)", re.DOTALL)
_LENGTH = re.compile(r"Expected `(?P<type>\w+)` of length (?P<sign>[<>]=?|==) (?P<length>\d+)")
_LIMIT = re.compile(r"Expected `(?:int|float)` (?P<sign>[<>]=?) (?P<limit>\S+)")
_UNKNOWN_VALUE = re.compile(r"Invalid (?:enum )?value (?P<value>.*)")

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
_SIGNS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than", "==": "exactly"}
_COUNTED = {"str": "character", "bytes": "byte"}
_NO_NUMBER = object()

HUNG_UP = 499
"""A status for the log, as nginx has it: nobody is there any more to be answered."""

TOO_DEEP = "is nested too deeply"


class ApiRequest(Request[Any, Any, State]):
    """A request whose JSON is decoded into what the handler's `data` is declared as."""

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            HTTPException: the client hung up before all of it was there (499).
        """
        try:
            return await super().body()
        except InternalServerException as error:
            raise HTTPException(status_code=HUNG_UP, detail="The client hung up.") from error

    async def json(self) -> Any:
        """Decode the body.

        Raises:
            InvalidError: it is JSON, but not what the handler takes.
            HTTPException: it is not JSON (400), or says that it is something else (415).
        """
        content_type, _ = self.content_type
        if content_type and content_type != "application/json" and content_type[-5:] != "+json":
            raise HTTPException(
                status_code=415,
                detail=f"The body is {content_type}. Send JSON: Content-Type: application/json",
            )
        wanted = self.route_handler.parsed_data_field
        return decode_body(await self.body(), wanted.annotation if wanted else Any)


def decode_body(body: bytes, type_: Any) -> Any:
    """Decode JSON into a type. Raises as `ApiRequest.json` does."""
    if b"\\u0000" in body:
        # PostgreSQL cannot store it, and no name, path or label means it.
        raise InvalidError.of("", r"a text contains the NUL character (\u0000); remove it")
    try:
        return _decoder(type_).decode(body)
    except msgspec.ValidationError as error:
        raise InvalidError(explain(str(error), type_)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if (field := _find_no_number(body)) is not None:
            raise InvalidError.of(
                field, "must be a number that JSON has, not NaN or Infinity"
            ) from error
        raise HTTPException(status_code=400, detail=f"The body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidError.of("", TOO_DEEP) from error


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
    return FieldError(field=field, message=("a key " if at_key else "") + _say(text, type_))


def _find_no_number(body: bytes) -> str | None:
    """Find the field of NaN or Infinity: Python's json writes them, though JSON has none."""
    try:
        decoded = json.loads(body, parse_constant=lambda _: _NO_NUMBER)
    except (ValueError, RecursionError):
        return None
    items = decoded.items() if isinstance(decoded, dict) else ()
    return next((name for name, value in items if value is _NO_NUMBER), None)


def _say(text: str, type_: Any) -> str:
    if found := _TYPE.fullmatch(text):
        wanted = " or ".join(_words(found["wanted"]))
        return f"must be {wanted}, not {' or '.join(_words(found['got']))}"
    if found := _PATTERN.fullmatch(text):
        return _remedies().get(found["pattern"], f"must match {found['pattern']}")
    if found := _LENGTH.fullmatch(text):
        counted = _COUNTED.get(found["type"], "item")
        plural = "" if found["length"] == "1" else "s"
        return f"must have {_SIGNS[found['sign']]} {found['length']} {counted}{plural}"
    if found := _LIMIT.fullmatch(text):
        return f"must be {_SIGNS[found['sign']]} {found['limit'].removesuffix('.0')}"
    if text == "Number out of range":
        return "is too large a number"
    if found := _UNKNOWN_VALUE.fullmatch(text):
        known = ", ".join(_tags(type_))
        return f"{found['value']} is not known here" + (f"; it can be {known}" if known else "")
    return text


def _words(types: str) -> list[str]:
    return [_WORDS.get(name, name) for name in types.split(" | ")]


def _tags(type_: Any) -> list[str]:
    """List the tags of a union of tagged structs, or the values of an enumeration."""
    configs = [getattr(member, "__struct_config__", None) for member in get_args(type_)]
    return [str(config.tag) for config in configs if config is not None and config.tag]


@lru_cache(maxsize=256)
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


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
        kinds.SnapshotId: "must be latest, or at least 8 hex digits of a snapshot's id",
        fleet.Location: "must be one line",
        fleet.RepositoryPassword: "must be one line",
        get_args(fleet.Environment)[0]: "must be the name of an environment variable",
    }
    return {repr(_pattern_of(type_)): remedy for type_, remedy in said.items()}


def _pattern_of(type_: Any) -> str | None:
    metas = [meta for meta in get_args(type_)[1:] if isinstance(meta, msgspec.Meta)]
    return next((meta.pattern for meta in metas if meta.pattern), None)
