"""What a handler takes from the address and the headers, under the names that callers use.

A handler may call a parameter otherwise than the address does (`kinds` for `?kind=`): the document,
the refusals and the check for unknown names all ask here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from litestar.handlers import HTTPRouteHandler
from litestar.params import HeaderParameter, ParameterKwarg, PathParameter
from litestar.typing import FieldDefinition

from backhaul.wire.problems import FieldError
from backhaul_api.errors import InvalidError

_NOT_PARAMETERS = {"request", "services", "data", "state", "scope", "headers", "body"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a handler."""

    argument: str
    """What the handler's function calls it."""
    name: str
    """What the caller calls it."""
    place: Literal["path", "query", "header"]
    kwarg: ParameterKwarg
    field: FieldDefinition


def find_parameters(handler: HTTPRouteHandler) -> Iterator[Parameter]:
    """Find the parameters of a handler, in the order of its function's."""
    for argument, field in handler.parsed_fn_signature.parameters.items():
        if argument in _NOT_PARAMETERS:
            continue
        declared = field.kwarg_definition
        kwarg = declared if isinstance(declared, ParameterKwarg) else ParameterKwarg()
        place: Literal["path", "query", "header"] = "query"
        if isinstance(kwarg, PathParameter):
            place = "path"
        elif isinstance(kwarg, HeaderParameter):
            place = "header"
        yield Parameter(argument, kwarg.name or argument, place, kwarg, field)


def find_name(handler: Any, argument: str) -> str:
    """Give what callers call an argument of a handler; itself when it is none."""
    if not isinstance(handler, HTTPRouteHandler):
        return argument
    names = {parameter.argument: parameter.name for parameter in find_parameters(handler)}
    return names.get(argument, argument)


def find_type(handler: Any, argument: str) -> Any:
    """Give the type of an argument of a handler; None when it is none."""
    if not isinstance(handler, HTTPRouteHandler):
        return None
    types = {one.argument: one.field.annotation for one in find_parameters(handler)}
    return types.get(argument)


def check_query(handler: Any, asked: Iterable[tuple[str, str]]) -> None:
    """Refuse a query whose filters would not be those that were meant: one that was mistyped and
    ignored, that was left empty, or of which the last one won, would answer with something else.

    Raises:
        InvalidError: names each of them, and what there is instead.
    """
    known = {item.name: item for item in find_parameters(handler) if item.place == "query"}
    given = list(asked)
    times = Counter(name for name, _ in given)
    refused: dict[str, str] = {}
    for name, value in given:
        parameter = known.get(name)
        if parameter is None:
            instead = f"; there are {', '.join(sorted(known))}" if known else ""
            refused[name] = f"is not a parameter of this address{instead}"
        elif not value or (value == "null" and not _has(parameter, str)):
            refused[name] = "must have a value; leave it out for none"
        elif not _has(parameter, list) and times[name] > 1:
            refused[name] = "must be given once"
    if refused:
        raise InvalidError(*(FieldError(field=name, message=why) for name, why in refused.items()))


def _has(parameter: Parameter, type_: type) -> bool:
    """Tell whether a parameter can be of a type, beside others."""
    annotation = parameter.field.annotation
    members = get_args(annotation) if parameter.field.is_union else (annotation,)
    return any((get_origin(member) or member) is type_ for member in members)
