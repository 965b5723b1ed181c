"""The OpenAPI 3.1 document, built from the routes and from the types that they speak.

Built here rather than by Litestar: msgspec knows the schema of its own types (tagged unions,
constraints), and what every operation must have is added in one place, so no route can forget it:
an example, its error responses, the token that it needs, what its agents must send.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.params import ParameterKwarg
from litestar.routes import HTTPRoute

from backhaul.wire.agents import Batch, BatchReply, PollReply, PollRequest
from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.problems import PROBLEM_MEDIA_TYPE, FieldError, Problem, ProblemType
from backhaul_api.access_log import REQUEST_ID_HEADER
from backhaul_api.examples import build_example
from backhaul_api.parameters import find_parameters
from backhaul_api.schemas import REFERENCE, Schemas

_DESCRIPTION = """\
A control plane that backs up a fleet of machines with restic, over plain HTTP.

Everything is JSON. Times are RFC 3339 in UTC, durations are seconds, ids are UUIDs; wherever a
host, a repository or a source is meant, its name serves as well as its id. Lists come in pages:
ask again with `next_cursor` as `cursor` until it is null. The API says no with problem documents
(RFC 9457) whose `type` is stable; each answer carries the id of its request in `X-Request-Id`.

To begin: `POST /v1/bootstrap` with the setup token that `backhaul serve` printed, or
`POST /v1/login`; then send the token as `Authorization: Bearer …`.
"""

TAGS = {
    "account": "The first operator, signing in and out.",
    "api-tokens": "Tokens for scripts. They are shown once and stored as a hash.",
    "users": "Operators, all equal. The last one who can sign in stays.",
    "hosts": "The machines that agents run on.",
    "enrollment-tokens": "Tokens with which hosts join.",
    "repositories": "restic repositories, and the secrets that open them.",
    "sources": "What to back up: named paths, excludes, retention.",
    "schedules": "When a kind of job fires on a host. Hosts follow changes at once.",
    "jobs": "Runs of restic on a host, their states, and their logs.",
    "snapshots": "What restic said is in the repositories.",
    "audit": "Who changed what, and when.",
    "events": "What happens, as a feed that can be followed; kept for 30 days.",
    "tick": "What a timer asks for.",
    "agent protocol": "What agents ask: enrolment, the poll, and the batch.",
    "health": "Whether an instance lives, and whether it should be sent requests.",
}

# Read by hand in their handlers, so the signature does not tell.
_BODIES: dict[str, Any] = {"/v1/agent/poll": PollRequest, "/v1/agent/envelopes": Batch}
_ANSWERS: dict[str, Any] = {"/v1/agent/poll": PollReply, "/v1/agent/envelopes": BatchReply}

# Filters that name something; there is a 404 when there is no such thing.
_REFERENCES = {"host", "repository", "schedule"}

_ERRORS: dict[str, tuple[int, ProblemType, str, str]] = {
    "MalformedBody": (
        400,
        ProblemType.INVALID_REQUEST,
        "Invalid request",
        "The body is not JSON: JSON is malformed: expected ',' (byte 7)",
    ),
    "NotAuthenticated": (
        401,
        ProblemType.NOT_AUTHENTICATED,
        "Not authenticated",
        "This needs a token: send the header 'Authorization: Bearer <token>'.",
    ),
    "NotFound": (404, ProblemType.NOT_FOUND, "Not found", "There is no host 'web-1'."),
    "Conflict": (
        409,
        ProblemType.CONFLICT,
        "Conflict",
        "There is a source 'etc' already. Choose another name.",
    ),
    "HostRemoved": (
        410,
        ProblemType.HOST_REMOVED,
        "Host removed",
        "Host 01932f5e-7c00-7000-8000-000000000001 was removed from this server. Enrol it again "
        "to use it.",
    ),
    "LogDeleted": (
        410,
        ProblemType.LOG_DELETED,
        "Log deleted",
        "The log of job 01932f5e-7c00-7000-8000-000000000001 was deleted: this server keeps logs "
        "for a limited time after the end of their job (job_log_lifetime). What became of the job "
        "is still there.",
    ),
    "PreconditionFailed": (
        412,
        ProblemType.PRECONDITION_FAILED,
        "Precondition failed",
        "The schedule 01932f5e-7c00-7000-8000-000000000001 was changed by somebody else. Read it "
        "again, and repeat the change.",
    ),
    "TooLarge": (
        413,
        ProblemType.TOO_LARGE,
        "Too large",
        "The body is larger than 2097152 bytes. Send less at a time.",
    ),
    "UnsupportedMediaType": (
        415,
        ProblemType.INVALID_REQUEST,
        "Unsupported media type",
        "The body is text/plain. Send JSON: Content-Type: application/json",
    ),
    "Invalid": (422, ProblemType.INVALID_REQUEST, "Invalid request", "name: is required"),
    "UnsupportedProtocol": (
        426,
        ProblemType.UNSUPPORTED_PROTOCOL,
        "Unsupported protocol",
        "The agent speaks protocol '9'; this server speaks 1 to 1. Install a matching version of "
        "backhaul on the host.",
    ),
    "RateLimited": (
        429,
        ProblemType.RATE_LIMITED,
        "Rate limited",
        "Too many sign in at this moment. Try again in a few seconds.",
    ),
    "Internal": (
        500,
        ProblemType.INTERNAL,
        "Internal error",
        "The server failed. Its log has the reason under this request's id.",
    ),
    "HostSilent": (
        504,
        ProblemType.HOST_SILENT,
        "Host silent",
        "Host 'web-1' was last seen at 2026-11-23 18:00 UTC. Is its agent running?",
    ),
    "NotReady": (503, ProblemType.NOT_READY, "Not ready", "This instance is about to stop."),
}


def build_document(app: Litestar) -> dict[str, Any]:
    """Build the document of an app's routes."""
    schemas = Schemas()
    paths: dict[str, Any] = {}
    for path, method, handler in find_operations(app):
        operation = _build_operation(path, method, handler, schemas)
        paths.setdefault(path, {})[method.lower()] = operation
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Backhaul",
            "version": version("backhaul"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas.build_components(),
            "responses": {name: _build_error(name) for name in _ERRORS},
            "headers": {
                REQUEST_ID_HEADER: {
                    "description": "The id under which the server's log tells of the request.",
                    "schema": {"type": "string"},
                },
                PROTOCOL_HEADER: {
                    "description": "The protocol version that the server spoke.",
                    "schema": {"type": "string", "const": str(PROTOCOL_VERSION)},
                },
                "Retry-After": {
                    "description": "After how many seconds another try may go better.",
                    "schema": {"type": "integer"},
                },
                "ETag": {
                    "description": "Names this state of the thing; send it back as If-Match.",
                    "schema": {"type": "string", "examples": ['"3"']},
                },
            },
            "securitySchemes": {
                "operator": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A session token (`bhs_…`) or an API token (`bht_…`).",
                },
                "agent": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A host's agent token (`bha_…`).",
                },
                "timer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The server's setting `tick_token`.",
                },
            },
        },
    }
    # Through JSON, so that whoever looks at it here sees what is served.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return plain


def find_operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Find every operation that is documented: path, method, handler."""
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        # Litestar keeps methods in no order; the document must be the same in every process.
        for method in sorted(route.route_handler_map):
            handler, _ = route.route_handler_map[method]
            # HEAD is what GET is, without the body.
            if method not in {"OPTIONS", "HEAD"} and handler.resolve_include_in_schema():
                yield route.path_format, method, handler


def find_answer_type(handler: HTTPRouteHandler) -> Any:
    """Find what an operation answers with; a `Response` is only its envelope."""
    annotation = handler.parsed_fn_signature.return_type.annotation
    return get_args(annotation)[0] if get_origin(annotation) is Response else annotation


def _build_operation(
    path: str, method: str, handler: HTTPRouteHandler, schemas: Schemas
) -> dict[str, Any]:
    speaks_protocol = bool(handler.opt.get("speaks_protocol"))
    operation: dict[str, Any] = {
        "operationId": handler.operation_id,
        "summary": handler.summary,
        "tags": sorted(handler.resolve_tags()),
        "security": _security(handler),
    }
    if handler.description:
        operation["description"] = handler.description
    if parameters := list(_build_parameters(handler, schemas)):
        operation["parameters"] = parameters
    if (body := _body_type(path, handler)) is not None:
        operation["requestBody"] = {"required": True, "content": _json(body, schemas)}
    operation["responses"] = {
        str(handler.status_code): _build_answer(path, handler, schemas),
        **{
            str(_ERRORS[name][0]): {"$ref": f"#/components/responses/{name}"}
            for name in sorted(_list_errors(path, method, handler, body), key=_status_of)
        },
    }
    if speaks_protocol:
        operation["parameters"] = [*parameters, _protocol_parameter()]
    return operation


def _build_parameters(handler: HTTPRouteHandler, schemas: Schemas) -> Iterator[dict[str, Any]]:
    for found in find_parameters(handler):
        field, is_in_path = found.field, found.place == "path"
        parameter: dict[str, Any] = {
            "name": found.name,
            "in": found.place,
            "required": is_in_path or not field.has_default,
            "schema": _parameter_schema(field.annotation, found.kwarg, schemas),
        }
        default = f"The {found.name}'s name or id." if is_in_path else None
        if description := found.kwarg.description or default:
            parameter["description"] = description
        if field.has_default and field.default not in (None, ()):
            parameter["schema"]["default"] = field.default
        yield parameter


def _parameter_schema(annotation: Any, kwarg: ParameterKwarg, schemas: Schemas) -> dict[str, Any]:
    schema = dict(schemas.reference(annotation))
    # A parameter that is left out is not sent as null.
    if "anyOf" in schema:
        present = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
        schema = dict(present[0]) if len(present) == 1 else {"anyOf": present}
    limits = {
        "minimum": kwarg.ge,
        "maximum": kwarg.le,
        "exclusiveMinimum": kwarg.gt,
        "exclusiveMaximum": kwarg.lt,
        "minLength": kwarg.min_length,
        "maxLength": kwarg.max_length,
        "pattern": kwarg.pattern,
        "format": kwarg.format,
    }
    return schema | {name: limit for name, limit in limits.items() if limit is not None}


def _protocol_parameter() -> dict[str, Any]:
    return {
        "name": PROTOCOL_HEADER,
        "in": "header",
        "required": True,
        "description": "The protocol version that the agent speaks.",
        "schema": {"type": "string", "enum": [str(PROTOCOL_VERSION)]},
        "example": str(PROTOCOL_VERSION),
    }


def _body_type(path: str, handler: HTTPRouteHandler) -> Any:
    field = handler.parsed_data_field
    if field is None or field.annotation is bytes:
        return _BODIES.get(path)
    return field.annotation


def _build_answer(path: str, handler: HTTPRouteHandler, schemas: Schemas) -> dict[str, Any]:
    headers = {REQUEST_ID_HEADER: {"$ref": f"#/components/headers/{REQUEST_ID_HEADER}"}}
    if handler.opt.get("speaks_protocol"):
        headers[PROTOCOL_HEADER] = {"$ref": f"#/components/headers/{PROTOCOL_HEADER}"}
    if handler.status_code == 204:
        return {"description": "Done.", "headers": headers}
    type_ = _ANSWERS.get(path, find_answer_type(handler))
    if get_origin(handler.parsed_fn_signature.return_type.annotation) is Response:
        # Nothing but an entity tag makes a handler build the response itself.
        headers["ETag"] = {"$ref": "#/components/headers/ETag"}
    return {
        "description": "Made." if handler.status_code == 201 else "As asked.",
        "headers": headers,
        "content": _json(type_, schemas),
    }


def _json(type_: Any, schemas: Schemas) -> dict[str, Any]:
    media = {"schema": schemas.reference(type_), "example": build_example(type_)}
    return {"application/json": media}


def _security(handler: HTTPRouteHandler) -> list[dict[str, list[str]]]:
    match handler.opt.get("authenticates", "operator"):
        case "nobody":
            return []
        case "agent":
            return [{"agent": []}]
        case "timer":
            return [{"timer": []}, {"operator": []}]
        case _:
            return [{"operator": []}]


def _list_errors(path: str, method: str, handler: HTTPRouteHandler, body: Any) -> set[str]:
    """Tell which errors an operation can answer with, from what it is made of."""
    if path == "/health/live":
        return {"Internal"}
    if path == "/health/ready":
        return {"Internal", "NotReady"}
    errors = {"NotAuthenticated", "Invalid", "Internal", "NotReady"}
    if body is not None:
        errors |= {"MalformedBody", "TooLarge", "UnsupportedMediaType"}
    if "{" in path or _REFERENCES & {found.name for found in find_parameters(handler)}:
        errors.add("NotFound")
    if method != "GET":
        errors.add("Conflict")
    if _takes_if_match(handler):
        errors.add("PreconditionFailed")
    errors |= {error for name, found in _BY_OPT.items() if handler.opt.get(name) for error in found}
    if handler.opt.get("speaks_protocol"):
        errors.add("UnsupportedProtocol")
    if handler.opt.get("authenticates") == "agent":
        errors.add("HostRemoved")
    return errors


# What handlers say of themselves, and what they can answer with for that.
_BY_OPT = {
    "asks_host": ("Conflict", "HostSilent"),
    "is_rate_limited": ("RateLimited",),
    "can_be_deleted": ("LogDeleted",),
}


def _status_of(error: str) -> int:
    return _ERRORS[error][0]


def _takes_if_match(handler: HTTPRouteHandler) -> bool:
    return any(found.name == "If-Match" for found in find_parameters(handler))


def _build_error(name: str) -> dict[str, Any]:
    status, type_, title, detail = _ERRORS[name]
    errors = (FieldError(field="name", message="is required"),) if status == 422 else ()
    example = Problem(
        type=type_,
        title=title,
        status=status,
        detail=detail,
        instance="01932f5e7c00700080000000000000ff",
        errors=errors,
    )
    headers = [REQUEST_ID_HEADER, *(["Retry-After"] if status in {429, 503, 504} else [])]
    return {
        "description": title,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {
            PROBLEM_MEDIA_TYPE: {
                "schema": {"$ref": REFERENCE.format(name="Problem")},
                "example": msgspec.to_builtins(example),
            }
        },
    }
