"""What a handler takes from the address and the headers, under the names that callers use.

A handler may call a parameter otherwise than the address does (`kinds` for `?kind=`): the document,
the refusals and the check for unknown names all ask here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

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


def refuse_unknown_query(handler: Any, asked: Iterable[str]) -> None:
    """Refuse parameters of the query that the handler does not take.

    A mistyped filter that was ignored would answer with everything.

    Raises:
        InvalidError: names each of them, and what there is instead.
    """
    known = [item.name for item in find_parameters(handler) if item.place == "query"]
    unknown = [name for name in dict.fromkeys(asked) if name not in known]
    if unknown:
        instead = f"; there are {', '.join(sorted(known))}" if known else ""
        message = f"is not a parameter of this address{instead}"
        raise InvalidError(*(FieldError(field=name, message=message) for name in unknown))
