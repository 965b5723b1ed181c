"""/openapi.json, and /docs: Swagger UI from the installed package, so that it works offline."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.datastructures import State
from litestar.params import FromPath

from backhaul_api.auth import NOBODY
from backhaul_api.errors import NotFoundError
from backhaul_api.openapi import build_document

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Backhaul API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START = """"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  displayOperationId: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""

# No inline script or style, nothing from elsewhere: a page that may hold a token runs only this.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_BUILT = "openapi_document"  # the routes of a running app do not change

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}


@get("/openapi.json", opt=NOBODY, include_in_schema=False)
async def get_document(state: State, request: Request[Any, Any, Any]) -> Response[bytes]:
    if (document := state.get(_BUILT)) is None:
        document = state[_BUILT] = msgspec.json.encode(build_document(request.app))
    return Response(document, media_type="application/json")


@get("/docs", opt=NOBODY, include_in_schema=False)
async def get_page() -> Response[bytes]:
    return Response(
        _PAGE.encode(),
        media_type="text/html",
        headers={
            "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
        },
    )


@get("/docs/{file:str}", opt=NOBODY, include_in_schema=False, sync_to_thread=True)
def get_page_file(file: FromPath[str]) -> Response[bytes]:
    media_type = _MEDIA_TYPES.get(file)
    if media_type is None:
        raise NotFoundError("file", file)
    content = _START.encode() if file == "start.js" else _read_static(file)
    return Response(content, media_type=media_type, headers={"Cache-Control": "max-age=3600"})


@lru_cache(maxsize=len(_MEDIA_TYPES))
def _read_static(file: FromPath[str]) -> bytes:
    # Found without importing the package, which would bring its own web frameworks along.
    package = importlib.util.find_spec("swagger_ui")
    if package is None or not package.submodule_search_locations:
        raise NotFoundError("file", file)
    return (Path(package.submodule_search_locations[0]) / "static" / file).read_bytes()


router = Router("/", route_handlers=[get_document, get_page, get_page_file])
