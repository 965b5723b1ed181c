"""From errors to problem documents: the one table, and the one place that catches everything."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE
from litestar.types import ExceptionHandlersMap

from backhaul.wire.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem, ProblemType
from backhaul_api.errors import DomainError, NotAuthenticatedError

log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]


def _respond(request: AnyRequest, problem: Problem) -> Response[bytes]:
    problem = msgspec.structs.replace(problem, instance=request.state.get("request_id"))
    headers = {"Cache-Control": "no-store"}
    if problem.status == NotAuthenticatedError.status:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers,
    )


def _on_domain_error(request: AnyRequest, error: DomainError) -> Response[bytes]:
    return _respond(request, error.problem())


def _on_validation_error(request: AnyRequest, error: ValidationException) -> Response[bytes]:
    errors = tuple(_field_errors(error))
    problem = Problem(
        type=ProblemType.INVALID_REQUEST,
        title="Invalid request",
        status=422,
        detail="; ".join(f"{e.field}: {e.message}" if e.field else e.message for e in errors),
        errors=errors,
    )
    return _respond(request, problem)


def _field_errors(error: ValidationException) -> list[FieldError]:
    extra = error.extra if isinstance(error.extra, list) else []
    found = [
        FieldError(field=str(item.get("key") or ""), message=str(item.get("message") or ""))
        for item in extra
        if isinstance(item, dict)
    ]
    return found or [FieldError(field="", message=error.detail)]


def _on_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    types: dict[int, tuple[ProblemType, str]] = {
        400: (ProblemType.INVALID_REQUEST, "Invalid request"),
        404: (ProblemType.NOT_FOUND, "Not found"),
        405: (ProblemType.METHOD_NOT_ALLOWED, "Method not allowed"),
        HTTP_413_REQUEST_ENTITY_TOO_LARGE: (ProblemType.TOO_LARGE, "Too large"),
    }
    type_, title = types.get(error.status_code, (ProblemType.INTERNAL, "Error"))
    detail = error.detail
    if isinstance(error, NotFoundException):
        detail = f"There is nothing at {request.url.path}. See /docs for what there is."
    elif isinstance(error, MethodNotAllowedException):
        detail = f"{request.url.path} does not answer to {request.method}. See /docs."
    return _respond(
        request, Problem(type=type_, title=title, status=error.status_code, detail=detail)
    )


def _on_unexpected_error(request: AnyRequest, error: Exception) -> Response[bytes]:
    log.error(
        "request.failed %s %s: %s",
        request.method,
        request.url.path,
        type(error).__name__,
        exc_info=error,
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
    Exception: _on_unexpected_error,
}
