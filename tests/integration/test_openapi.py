"""The OpenAPI document is complete, and the routes are as closed as it says."""

from __future__ import annotations

import inspect
import re
from types import FunctionType
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from openapi_spec_validator import validate

from backhaul import _calls
from backhaul._calls import Call
from backhaul.wire.problems import PROBLEM_MEDIA_TYPE, Problem
from backhaul_api.app import create_app
from backhaul_api.auth import AGENT
from backhaul_api.clock import SystemClock
from backhaul_api.db.engine import Database
from backhaul_api.keys import KeyRing
from backhaul_api.openapi import TAGS, build_document, find_answer_type, find_operations
from backhaul_api.passwords import PasswordHasher
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from tests.conftest import FAST_ARGON2

Operation = dict[str, Any]


def _build_app() -> Litestar:
    """Build an app that is looked at, never asked: its database is nowhere."""
    return create_app(
        Services(
            settings=Settings(),
            clock=SystemClock(),
            database=Database("sqlite+aiosqlite:////nowhere/at/all"),
            keys=KeyRing([bytes(32)]),
            passwords=PasswordHasher(FAST_ARGON2),
            wakeups=Wakeups(),
        )
    )


APP = _build_app()
DOCUMENT = build_document(APP)
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
HANDLERS = {f"{method} {path}": handler for path, method, handler in find_operations(APP)}


def _resolve(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = DOCUMENT
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def test_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_every_route_is_in_the_document() -> None:
    served = {
        f"{method} {route.path_format}"
        for route in APP.routes
        for method in getattr(route, "route_handler_map", {})
        if method not in {"OPTIONS", "HEAD"}
    }

    assert served - set(OPERATIONS) == {"GET /openapi.json", "GET /docs", "GET /docs/{file}"}


def _build_calls() -> dict[str, Call[Any]]:
    """Build each call of the SDK with whatever it demands."""
    built = {}
    for name, function in vars(_calls).items():
        if not isinstance(function, FunctionType) or name.startswith("_"):
            continue
        if function.__module__ == _calls.__name__:
            needed = [
                parameter
                for parameter in inspect.signature(function).parameters.values()
                if parameter.default is inspect.Parameter.empty
            ]
            built[name] = function(*("x" for _ in needed))
    return built


SAME_AS_ANOTHER = {"GET /v1/hosts/{host}/schedules"}
"""`list_schedules(host=…)` asks GET /v1/schedules."""

OF_OPERATORS = [
    name
    for name, operation in OPERATIONS.items()
    if not {"agent protocol", "health"} & set(operation["tags"]) and name not in SAME_AS_ANOTHER
]


@pytest.mark.parametrize("name", OF_OPERATORS)
def test_operation_has_its_call_in_the_package(name: str) -> None:
    method, path = name.split(" ")
    pattern = re.sub(r"\{[^}]+\}", "[^/]+", path).rstrip("/")

    found = [
        call
        for call in _build_calls().values()
        if call.method == method and re.fullmatch(pattern, call.path)
    ]

    assert found, f"the SDK has nothing for {name}"


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]

    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_described(name: str) -> None:
    operation = OPERATIONS[name]

    assert re.fullmatch(r"[a-z][a-z_]+", operation["operationId"])
    assert operation["summary"]
    assert operation["tags"]
    assert set(operation["tags"]) <= set(TAGS)
    for parameter in operation.get("parameters", ()):
        assert parameter["description"], parameter["name"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_examples(name: str) -> None:
    operation = OPERATIONS[name]
    contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
    contents += [
        _resolve(response)["content"]
        for response in operation["responses"].values()
        if "content" in _resolve(response)
    ]

    assert contents
    for content in contents:
        for media in content.values():
            assert media["example"] is not None
            assert media["schema"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_its_error_responses(name: str) -> None:
    operation = OPERATIONS[name]
    errors = {status for status in operation["responses"] if int(status) >= 400}

    assert "500" in errors
    if operation["security"]:
        assert "401" in errors
    if "requestBody" in operation:
        assert errors >= {"400", "413", "415", "422"}
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    if "{" in name or parameters & {"host", "repository", "schedule"}:
        assert "404" in errors
    for status in errors:
        content = _resolve(operation["responses"][status])["content"]
        problem = msgspec.convert(content[PROBLEM_MEDIA_TYPE]["example"], Problem)
        assert problem.status == int(status)


@pytest.mark.parametrize("name", OPERATIONS)
def test_documented_parameters_are_those_that_the_handler_takes(name: str) -> None:
    method, _, path = name.partition(" ")
    models = {
        f"{method} {route.path_format}": model
        for route in APP.routes
        for method, (_, model) in getattr(route, "route_handler_map", {}).items()
    }
    taken = {found.field_alias for found in models[f"{method} {path}"].expected_query_params}

    documented = {
        parameter["name"]
        for parameter in OPERATIONS[name].get("parameters", ())
        if parameter["in"] == "query"
    }

    assert documented == taken


def _value_of(parameter: dict[str, Any]) -> str:
    schema = _resolve(parameter["schema"])
    schema = _resolve(schema["items"]) if schema.get("type") == "array" else schema
    if "enum" in schema:
        return str(schema["enum"][0])
    by_format = {"uuid": "01932f5e-7c00-7000-8000-000000000001", "date-time": "2026-11-23T12:00Z"}
    wanted = {"cron": "0 3 * * *", "timezone": "UTC", "label": "a=b", "cursor": "WzFd"}
    if parameter["name"] in wanted:
        return wanted[parameter["name"]]
    return by_format.get(schema.get("format", ""), "1")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("GET /v1")])
async def test_documented_parameters_are_taken_and_no_others(
    operator: httpx.AsyncClient, name: str
) -> None:
    path = re.sub(r"{\w+}", "01932f5e-7c00-7000-8000-000000000001", name.removeprefix("GET "))
    parameters = [p for p in OPERATIONS[name].get("parameters", ()) if p["in"] == "query"]
    query = {parameter["name"]: _value_of(parameter) for parameter in parameters}

    known = await operator.get(path, params=query)
    unknown = await operator.get(path, params=query | {"zap": "1"})

    assert "is not a parameter" not in known.text
    assert unknown.status_code == 422
    (error,) = unknown.json()["errors"]
    assert error["field"] == "zap"
    assert all(name in error["message"] for name in query)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "name",
    [
        f"{name}?{parameter['name']}"
        for name, operation in OPERATIONS.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
        # These are refused for want of another one first.
        and not {"cron", "pattern"} & {other["name"] for other in operation["parameters"]}
    ],
)
async def test_refused_parameter_is_named_as_it_was_sent(
    operator: httpx.AsyncClient, name: str
) -> None:
    operation, _, parameter = name.partition("?")
    method, address = operation.split()
    path = re.sub(r"{\w+}", "01932f5e-7c00-7000-8000-000000000001", address)

    answer = await operator.request(method, path, params={parameter: "!"})

    fields = [error["field"] for error in answer.json().get("errors", ())]
    assert (answer.status_code, fields) in ((422, [parameter]), (404, []))
    assert str(answer.status_code) in OPERATIONS[operation]["responses"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_example_is_what_the_handler_takes_and_gives(name: str) -> None:
    handler, operation = HANDLERS[name], OPERATIONS[name]
    body = handler.parsed_data_field
    answer = operation["responses"][str(handler.status_code)]

    if body is not None:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        msgspec.json.decode(msgspec.json.encode(example), type=body.annotation)
    if "content" in answer:
        type_ = find_answer_type(handler)
        example = answer["content"]["application/json"]["example"]
        msgspec.json.decode(msgspec.json.encode(example), type=type_)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, handler in HANDLERS.items()
        if handler.opt.get("authenticates", "operator") == "operator"
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_operation_refuses_whoever_has_not_signed_in(
    api: httpx.AsyncClient, name: str
) -> None:
    method, _, path = name.partition(" ")

    answer = await api.request(
        method, re.sub(r"{\w+}", "01932f5e-7c00-7000-8000-000000000001", path)
    )

    assert answer.status_code == 401
    assert OPERATIONS[name]["security"] == [{"operator": []}]


def test_only_these_operations_need_no_token() -> None:
    opened = {name for name, operation in OPERATIONS.items() if not operation["security"]}

    assert opened == {
        "GET /health/live",
        "GET /health/ready",
        "POST /v1/agents/enroll",
        "POST /v1/bootstrap",
        "POST /v1/login",
    }


def test_operations_of_agents_demand_the_protocol_header() -> None:
    demanding = {
        name
        for name, operation in OPERATIONS.items()
        if any(p["name"] == "Backhaul-Protocol" for p in operation.get("parameters", ()))
    }
    agents = {name for name, handler in HANDLERS.items() if handler.opt.get("speaks_protocol")}

    assert AGENT["speaks_protocol"]
    assert demanding == agents
    assert {name for name in OPERATIONS if "/v1/agent" in name} == agents


def test_fields_are_described_where_their_types_describe_them() -> None:
    location = DOCUMENT["components"]["schemas"]["Repository"]["properties"]["location"]

    assert location["description"] == "With `***` in the place of a password."


def test_envelopes_are_shown_as_what_they_are() -> None:
    items = DOCUMENT["components"]["schemas"]["Batch"]["properties"]["envelopes"]["items"]

    assert "job.finished" in items["discriminator"]["mapping"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_documentation_page_needs_nothing_from_elsewhere(api: httpx.AsyncClient) -> None:
    page = await api.get("/docs")

    assert page.status_code == 200
    assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]
    assert "://" not in page.text
    assert not re.findall(r"<script>|<style>|\son\w+=", page.text)
    for file in re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text):
        answer = await api.get(f"/{file}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/")
        assert answer.content


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("file", ["nothing.js", "..%2f__init__.py", "swagger-editor.js"])
async def test_documentation_serves_no_other_file(api: httpx.AsyncClient, file: str) -> None:
    assert (await api.get(f"/docs/{file}")).status_code == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_document_is_served(api: httpx.AsyncClient) -> None:
    answer = await api.get("/openapi.json")

    assert answer.json() == DOCUMENT
