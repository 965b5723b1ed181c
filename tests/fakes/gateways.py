"""What the gateways of AWS make of an HTTP request: the events that a Lambda function gets.

Each has all the fields, and the habits, of the documented one:

- API Gateway, REST: "Input format of a Lambda function for proxy integration", API Gateway
  Developer Guide, https://docs.aws.amazon.com/apigateway/latest/developerguide/
  set-up-lambda-proxy-integrations.html. Absent things are null; the path is without the stage.
- API Gateway, HTTP: "Payload format version" 1.0 and 2.0, in http-api-develop-integrations-lambda
  .html of the same guide. 2.0 joins repeated headers with a comma, and has the query as it came.
- Function URL: "Request and response payloads", Lambda Developer Guide,
  https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html. As 2.0, from another domain.
- Application Load Balancer: "Receive events from the load balancer", Elastic Load Balancing guide,
  https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html. Names
  of headers are in lower case, what stands in the query stays encoded, and "multi-value headers"
  is an attribute of the target group.
- A schedule: "Invoke a Lambda function on a schedule", https://docs.aws.amazon.com/lambda/latest/
  dg/with-eventbridge-scheduler.html.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote

import httpx

from backhaul_api.aws_events import Handler

_ACCOUNT = "123456789012"
_ADDRESS = "203.0.113.7"
_AGENT = "backhaul-agent/0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An HTTP request, as it comes to a gateway."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    is_binary: bool = False
    """Whether the gateway takes the body for binary, which depends on its settings."""

    def sent_body(self) -> dict[str, Any]:
        if self.body is None:
            return {"body": None, "isBase64Encoded": False}
        text = base64.b64encode(self.body).decode() if self.is_binary else self.body.decode()
        return {"body": text, "isBase64Encoded": self.is_binary}

    def sent_headers(self, domain: str) -> dict[str, str]:
        return {
            "Host": domain,
            "User-Agent": _AGENT,
            "X-Amzn-Trace-Id": "Root=1-5e66d96f-7491f09xmpl79d18acf3d050",
            "X-Forwarded-For": _ADDRESS,
            "X-Forwarded-Port": "443",
            "X-Forwarded-Proto": "https",
            **self.headers,
        }


def build_rest_event(asked: Asked) -> dict[str, Any]:
    """Build what a REST API sends, with a resource /{proxy+} and a stage `prod`."""
    domain = "70ixmpl4fl.execute-api.us-east-2.amazonaws.com"
    headers = asked.sent_headers(domain)
    query = parse_qs(asked.query, keep_blank_values=True)
    return {
        "resource": "/{proxy+}",
        "path": asked.path,
        "httpMethod": asked.method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "pathParameters": {"proxy": asked.path.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            "resourceId": "2gxmpl",
            "resourcePath": "/{proxy+}",
            "httpMethod": asked.method,
            "extendedRequestId": "JJbxmplHYosFVYQ=",
            "requestTime": "10/Mar/2020:00:03:59 +0000",
            "path": f"/prod{asked.path}",
            "accountId": _ACCOUNT,
            "protocol": "HTTP/1.1",
            "stage": "prod",
            "domainPrefix": "70ixmpl4fl",
            "requestTimeEpoch": 1583798639428,
            "requestId": "77375676-xmpl-4b79-853a-f982474efe18",
            "identity": {
                "cognitoIdentityPoolId": None,
                "accountId": None,
                "cognitoIdentityId": None,
                "caller": None,
                "sourceIp": _ADDRESS,
                "principalOrgId": None,
                "accessKey": None,
                "cognitoAuthenticationType": None,
                "cognitoAuthenticationProvider": None,
                "userArn": None,
                "userAgent": _AGENT,
                "user": None,
            },
            "domainName": domain,
            "apiId": "70ixmpl4fl",
        },
        **asked.sent_body(),
    }


def build_http_event_1(asked: Asked) -> dict[str, Any]:
    """Build what an HTTP API sends in payload format 1.0."""
    return {"version": "1.0", **build_rest_event(asked), "resource": "$default"}


def build_http_event_2(asked: Asked) -> dict[str, Any]:
    """Build what an HTTP API sends in payload format 2.0, with the stage `$default`."""
    return _build_version_2(asked, "r3pmxmplak.execute-api.us-east-2.amazonaws.com")


def build_function_url_event(asked: Asked) -> dict[str, Any]:
    """Build what a function URL without IAM sends."""
    event = _build_version_2(asked, "abcxmpl123.lambda-url.us-east-2.on.aws")
    event["requestContext"]["accountId"] = "anonymous"
    return event


def _build_version_2(asked: Asked, domain: str) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in asked.sent_headers(domain).items()}
    query = parse_qs(asked.query, keep_blank_values=True)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": asked.path,
        "rawQueryString": asked.query,
        "headers": headers,
        "requestContext": {
            "accountId": _ACCOUNT,
            "apiId": domain.partition(".")[0],
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": asked.method,
                "path": asked.path,
                "protocol": "HTTP/1.1",
                "sourceIp": _ADDRESS,
                "userAgent": _AGENT,
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "10/Mar/2020:05:16:23 +0000",
            "timeEpoch": 1583817383220,
        },
        **asked.sent_body(),
    }
    if asked.body is None:
        del event["body"]
    if query:
        joined = {name: ",".join(values) for name, values in query.items()}
        event["queryStringParameters"] = joined
    return event


def build_alb_event(asked: Asked) -> dict[str, Any]:
    """Build what a load balancer sends whose target group has no multi-value headers."""
    query = _split_raw(asked.query)
    return {
        **_build_alb(asked),
        "queryStringParameters": {name: values[-1] for name, values in query.items()},
        "headers": _lower(asked),
    }


def build_alb_event_multi(asked: Asked) -> dict[str, Any]:
    """Build what a load balancer sends whose target group has multi-value headers."""
    return {
        **_build_alb(asked),
        "multiValueQueryStringParameters": _split_raw(asked.query),
        "multiValueHeaders": {name: [value] for name, value in _lower(asked).items()},
    }


def _build_alb(asked: Asked) -> dict[str, Any]:
    group = f"arn:aws:elasticloadbalancing:us-east-2:{_ACCOUNT}:targetgroup/lambda-279XMPL/49e9d65c"
    sent = asked.sent_body()
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": asked.method,
        "path": quote(asked.path),
        **sent,
        "body": sent["body"] or "",
    }


def _lower(asked: Asked) -> dict[str, str]:
    sent = asked.sent_headers("lambda-alb-123578498.us-east-2.elb.amazonaws.com")
    return {name.lower(): value for name, value in sent.items()}


def _split_raw(query: str) -> dict[str, list[str]]:
    """Split a query and leave its parts as they are."""
    split: dict[str, list[str]] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        split.setdefault(name, []).append(value)
    return split


def build_scheduled_event(source: str = "aws.events") -> dict[str, Any]:
    """Build what a rule of EventBridge sends, or, as `aws.scheduler`, EventBridge Scheduler."""
    return {
        "version": "0",
        "account": _ACCOUNT,
        "region": "us-east-2",
        "detail": {},
        "detail-type": "Scheduled Event",
        "source": source,
        "time": "2019-03-01T01:23:45Z",
        "id": "cdc73f9d-aea9-11e3-9d5a-835b769c0d9c",
        "resources": [f"arn:aws:events:us-east-2:{_ACCOUNT}:rule/my-schedule"],
    }


GATEWAYS: Mapping[str, Callable[[Asked], dict[str, Any]]] = {
    "rest": build_rest_event,
    "http-1.0": build_http_event_1,
    "http-2.0": build_http_event_2,
    "function-url": build_function_url_event,
    "alb": build_alb_event,
    "alb-multi": build_alb_event_multi,
}


class GatewayTransport(httpx.BaseTransport):
    """Sends requests through a gateway to the function, in this thread."""

    def __init__(self, handler: Handler, gateway: str) -> None:
        self._handler = handler
        self._gateway = gateway
        self.is_binary = False
        """Whether the gateway encodes bodies from now on."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        names = {"authorization", "backhaul-protocol", "content-type", "idempotency-key"}
        asked = Asked(
            method=request.method,
            path=request.url.path,
            query=request.url.query.decode(),
            headers={
                name.title(): value for name, value in request.headers.items() if name in names
            },
            body=body or None,
            is_binary=self.is_binary and bool(body),
        )
        return self._read(self._handler(GATEWAYS[self._gateway](asked), None))

    def _read(self, answer: dict[str, Any]) -> httpx.Response:
        headers = [*answer.get("headers", {}).items()]
        for name, values in answer.get("multiValueHeaders", {}).items():
            headers += [(name, value) for value in values]
        body: str = answer["body"]
        if answer["isBase64Encoded"]:
            # Only with binaryMediaTypes, which nobody should need, does a REST API decode it.
            assert self._gateway not in {"rest", "http-1.0"}, answer
            content = base64.b64decode(body)
        else:
            content = body.encode()
        return httpx.Response(answer["statusCode"], headers=headers, content=content)
