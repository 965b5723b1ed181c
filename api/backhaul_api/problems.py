"""From errors to problem documents: the one table, and the one place that catches everything."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ExceptionHandlersMap
from sqlalchemy.exc import IntegrityError

from backhaul.wire.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem, ProblemType
from backhaul.wire.refusals import explain
from backhaul_api.bodies import HUNG_UP, MAX_BODY_BYTES
from backhaul_api.db.references import parse_id
from backhaul_api.errors import DomainError, InvalidError, LostRaceError, NotAuthenticatedError
from backhaul_api.logs import facts
from backhaul_api.parameters import find_name, find_type

log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]


def _respond(
    request: AnyRequest, problem: Problem, *, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    problem = msgspec.structs.replace(problem, instance=request.state.get("request_id"))
    all_headers = dict(headers or {})
    if problem.status == NotAuthenticatedError.status:
        all_headers["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=all_headers,
    )


def _on_domain_error(request: AnyRequest, error: DomainError) -> Response[bytes]:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return _respond(request, error.problem(), headers=headers)


def _on_validation_error(request: AnyRequest, error: ValidationException) -> Response[bytes]:
    return _respond(request, InvalidError(*_field_errors(request, error)).problem())


def _field_errors(request: AnyRequest, error: ValidationException) -> list[FieldError]:
    extra = error.extra if isinstance(error.extra, list) else []
    handler = request.scope.get("route_handler")
    found = [_field_error(handler, item) for item in extra if isinstance(item, dict)]
    if not found and (missing := _MISSING.match(error.detail)):
        return [FieldError(field=find_name(handler, missing["name"]), message="is required")]
    return found or [FieldError(field="", message=error.detail)]


# Litestar's words.
_MISSING = re.compile(r"Missing required \w+ parameter '(?P<name>\w+)'")


def _field_error(handler: object, item: dict[str, Any]) -> FieldError:
    key, message = str(item.get("key") or ""), str(item.get("message") or "")
    if key == "data":
        # Litestar's way of saying that there was no body to decode.
        return FieldError(field="", message="a body is required: send JSON")
    return explain(message, find_type(handler, key), prefix=find_name(handler, key))


def _on_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    types: dict[int, tuple[ProblemType, str]] = {
        400: (ProblemType.INVALID_REQUEST, "Invalid request"),
        404: (ProblemType.NOT_FOUND, "Not found"),
        405: (ProblemType.METHOD_NOT_ALLOWED, "Method not allowed"),
        413: (ProblemType.TOO_LARGE, "Too large"),
        415: (ProblemType.INVALID_REQUEST, "Unsupported media type"),
        HUNG_UP: (ProblemType.INVALID_REQUEST, "Client hung up"),
    }
    type_, title = types.get(error.status_code, (ProblemType.INTERNAL, "Error"))
    match error:
        case NotFoundException():
            detail = _explain_missing(request.url.path)
        case MethodNotAllowedException():
            detail = f"{request.url.path} does not answer to {request.method}. See /docs."
        case RequestEntityTooLarge():
            detail = f"The body is larger than {MAX_BODY_BYTES} bytes. Send less at a time."
        case _:
            detail = error.detail
    problem = Problem(type=type_, title=title, status=error.status_code, detail=detail)
    return _respond(request, problem, headers=error.headers)


def _explain_missing(path: str) -> str:
    """Say what is not there. A route that wants an id does not even see one that is none."""
    version, collection, reference = (*path.split("/")[1:4], "", "", "")[:3]
    if version == "v1" and collection in _NAMED_BY_ID and parse_id(reference) is None and reference:
        what = _NAMED_BY_ID[collection]
        return f"There is no {what} {reference!r}: it is named by its id, a UUID."
    return f"There is nothing at {path}. See /docs for what there is."


_NAMED_BY_ID = {
    "jobs": "job",
    "schedules": "schedule",
    "api-tokens": "API token",
    "enrollment-tokens": "enrollment token",
}


def _on_integrity_error(request: AnyRequest, error: IntegrityError) -> Response[bytes]:
    # Stores look before they write; only two requests at the same moment get this far.
    log.warning("request.lost_race", extra=facts(reason=type(error.orig).__name__))
    lost = LostRaceError(
        "Another request changed the same thing at the same moment. Look at it, then try again."
    )
    return _respond(request, lost.problem())


def _on_unexpected_error(request: AnyRequest, error: Exception) -> Response[bytes]:
    log.error(
        "request.failed",
        exc_info=error,
        extra=facts(method=request.method, path=request.url.path, error=type(error).__name__),
    )
    problem = Problem(
        type=ProblemType.INTERNAL,
        title="Internal error",
        status=500,
        detail="The server failed. Its log has the reason under this request's id.",
    )
    return _respond(request, problem)


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    DomainError: _on_domain_error,
    ValidationException: _on_validation_error,
    HTTPException: _on_http_exception,
    IntegrityError: _on_integrity_error,
    Exception: _on_unexpected_error,
}
