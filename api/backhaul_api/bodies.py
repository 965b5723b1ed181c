"""Reading the body of a request straight into the type that its handler asks for.

The handler says `data: CreateSource`; what comes in is JSON of that or is refused with the field
that is wrong and what would be accepted.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, InternalServerException

from backhaul.wire.refusals import explain
from backhaul_api.errors import InvalidError

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Twice what the largest batch of an agent has."""

_NO_NUMBER = object()

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


def _find_no_number(body: bytes) -> str | None:
    """Find the field of NaN or Infinity: Python's json writes them, though JSON has none."""
    try:
        decoded = json.loads(body, parse_constant=lambda _: _NO_NUMBER)
    except (ValueError, RecursionError):
        return None
    items = decoded.items() if isinstance(decoded, dict) else ()
    return next((name for name, value in items if value is _NO_NUMBER), None)


@lru_cache(maxsize=256)
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)
