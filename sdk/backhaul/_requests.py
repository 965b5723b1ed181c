"""From plain keyword arguments to the requests of the contract, with errors that name the field.

What the contract says of a field is checked here before anything is sent; what only the server can
know, it checks itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from backhaul import _decoding
from backhaul._fields import Record
from backhaul.errors import InvalidRequestError, refuse
from backhaul.wire.kinds import JobKind, JobRequest, ScheduleOptions, find_options_type
from backhaul.wire.refusals import explain
from backhaul.wire.utf8 import NO_UTF8, find_no_utf8

T = TypeVar("T")


def convert(fields: Mapping[str, Any], type_: type[T]) -> T:
    """Build a request of its fields.

    Raises:
        InvalidRequestError: one is not acceptable, or there is no such field.
    """
    plain = {name: _flatten(value) for name, value in fields.items()}
    if (field := find_no_utf8(plain)) is not None:
        raise refuse(field, NO_UTF8)
    try:
        return _decoding.convert(plain, type_)
    except msgspec.ValidationError as error:
        raise _refuse_as(error, type_) from None


def build_job(
    kind: JobKind | str, *, host: str, repository: str, arguments: Mapping[str, Any]
) -> JobRequest:
    """Build the request for a job of any kind.

    Raises:
        InvalidRequestError: there is no such kind, or an argument is not acceptable.
    """
    if "host" in arguments:
        raise refuse("host", f"is {host} already")
    fields = {**arguments, "kind": str(kind), "host": host, "repository": repository}
    request: JobRequest = convert(fields, JobRequest)  # type: ignore[arg-type]  # a union
    return request


def gather_options(
    kind: JobKind | str, fields: Mapping[str, Any], *, known: ScheduleOptions | None = None
) -> dict[str, Any]:
    """Put what is an option of a schedule's kind, like `read_data_parts=7`, among its options.

    With `known` options, those that are not named stay.
    """
    type_ = find_options_type(str(kind))
    names = type_.__struct_fields__ if type_ else ()
    named = {name: _flatten(fields[name]) for name in names if name in fields}
    rest = {name: value for name, value in fields.items() if name not in named}
    if not named and not rest.get("options"):
        return rest
    base = msgspec.to_builtins(rest.get("options", known)) or {}
    if not isinstance(base, Mapping):
        return rest
    return {**rest, "options": {"kind": str(kind), **base, **named}}


def find_key(field: str, thing: object) -> str | None:
    """Give the name or id that was given, or that of the object that was given instead.

    Raises:
        InvalidRequestError: it is neither.
    """
    if thing is None or isinstance(thing, str):
        return thing
    if isinstance(thing, UUID):
        return str(thing)
    data = getattr(thing, "data", None)
    key = getattr(data, "name", None) or getattr(data, "id", None)
    if key is None:
        raise refuse(field, f"{thing!r} is neither a name nor an object that has one")
    return str(key)


def require_key(field: str, thing: object) -> str:
    """Give the name or id of what must be there.

    Raises:
        InvalidRequestError: it is not, or it is neither.
    """
    key = find_key(field, thing)
    if key is None:
        raise refuse(field, f"name the {field}")
    return key


def list_texts(field: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Make a tuple of texts; a single text is a slip, not a list of its letters.

    Raises:
        InvalidRequestError: it is one text.
    """
    if isinstance(texts, str):
        raise refuse(field, f"takes a list, like [{texts!r}]")
    return tuple(str(text) for text in texts)


def choose_only(names: list[str]) -> str:
    """Give the only name of a repository.

    Raises:
        InvalidRequestError: there is none, or there are several.
    """
    match names:
        case [only]:
            return only
        case []:
            raise refuse("repository", "there is none yet: make one with fleet.repositories.create")
        case _:
            raise refuse("repository", f"name one of {', '.join(sorted(names))}")


def _flatten(value: Any) -> Any:
    if isinstance(value, str | UUID | msgspec.UnsetType) or value is None:
        return value
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    # An object of the fleet stands for its name.
    return find_key("", value) if isinstance(value, Record) else value


def _refuse_as(error: msgspec.ValidationError, type_: Any) -> InvalidRequestError:
    found = explain(str(error), type_)
    return refuse(found.field, found.message)
