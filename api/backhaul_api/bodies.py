"""Reading the body of a request straight into the type that its handler asks for.

The handler says `data: CreateSource`; what comes in is JSON of that or is refused with the field
that is wrong and what would be accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, get_type_hints

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException

from backhaul.wire.problems import FieldError
from backhaul.wire.refusals import OF_KEY, explain, shorten
from backhaul_api.errors import InvalidError

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Twice what the largest batch of an agent has."""

ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""Unless the backslash is itself escaped. PostgreSQL stores none in text or JSON."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_NUMBER = object()
_HALF = "must be whole characters, not one half of a surrogate pair"

_KEYS_TRIED = 1000
"""More than any mapping may have."""
_STEP_SHOWN = 100
"""Characters of a name on the way to what is refused."""

HUNG_UP = 499
"""A status for the log, as nginx has it: nobody is there any more to be answered."""

COMPLETED_BY = "body_completed_by"
"""The option of a route whose bodies may leave out what the server knows."""

TOO_DEEP = "is nested too deeply"


Completion = Callable[["ApiRequest", bytes], Awaitable[bytes]]
"""Adds to a body what may be left out; what it cannot read it gives back as it is."""


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
        body = await self.body()
        complete: Completion | None = self.route_handler.opt.get(COMPLETED_BY)
        if complete is not None:
            body = await complete(self, body)
        return decode_body(body, wanted.annotation if wanted else Any)


def decode_body(body: bytes, type_: Any) -> Any:
    """Decode JSON into a type. Raises as `ApiRequest.json` does."""
    if ESCAPED_NUL.search(body):
        # PostgreSQL cannot store it, and no name, path or label means it.
        raise InvalidError.of("", r"a text contains the NUL character (\u0000); remove it")
    try:
        return _decoder(type_).decode(body)
    except msgspec.ValidationError as error:
        raise InvalidError(_name_key(explain(str(error), type_), body, type_)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if (foreign := _find_foreign(body)) is not None:
            raise InvalidError(foreign) from error
        why = (
            "is not JSON in UTF-8"
            if isinstance(error, UnicodeDecodeError)
            else f"is not JSON: {error}"
        )
        raise HTTPException(status_code=400, detail=f"The body {why}") from error
    except RecursionError as error:
        raise InvalidError.of("", TOO_DEEP) from error


def _name_key(refused: FieldError, body: bytes, type_: Any) -> FieldError:
    """Name the key that is refused, or whose value is, of a mapping that is a field of the body."""
    name, of_mapping, rest = refused.field.partition("[...]")
    if rest or not (of_mapping or refused.message.startswith(OF_KEY)):
        return refused
    try:
        held = json.loads(body)[name]
        held_type = get_type_hints(type_, include_extras=True)[name]
    except (ValueError, RecursionError, LookupError, TypeError):
        return refused  # of what comes after the mistake, nobody has read anything yet
    for key, value in islice(held.items() if isinstance(held, dict) else (), _KEYS_TRIED):
        try:
            msgspec.convert({key: value}, held_type)
        except msgspec.ValidationError as error:
            if explain(str(error)).message == refused.message:
                # Who writes KEY=VALUE for a key has put a secret there.
                shown = shorten(key.partition("=")[0])
                return FieldError(field=f"{name}.{shown}".rstrip("."), message=refused.message)
    return refused


def _find_foreign(body: bytes) -> FieldError | None:
    """Find what JSON, or its texts, cannot have, though Python's json reads and writes it."""
    try:
        found = _look_into(json.loads(body, parse_constant=lambda _: _NO_NUMBER))
    except (ValueError, RecursionError):
        return None
    if found is None:
        return None
    steps, message = found
    return FieldError(field=shorten("".join(reversed(steps)).lstrip(".")), message=message)


def _look_into(value: object) -> tuple[list[str], str] | None:
    """Find the first thing that is foreign: the steps to it, the last one first, and the reason."""
    if value is _NO_NUMBER:
        return [], "must be a number that JSON has, not NaN or Infinity"
    if isinstance(value, str):
        return ([], _HALF) if _SURROGATE.search(value) else None
    parts: Iterator[tuple[str, object]] = iter(())
    if isinstance(value, dict):
        if any(map(_SURROGATE.search, value)):
            return [], OF_KEY + _HALF
        parts = ((f".{name[:_STEP_SHOWN]}", held) for name, held in value.items())
    elif isinstance(value, list):
        parts = ((f"[{number}]", held) for number, held in enumerate(value))
    for step, held in parts:
        if (found := _look_into(held)) is not None:
            found[0].append(step)
            return found
    return None


@lru_cache(maxsize=256)
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)
