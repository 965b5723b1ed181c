"""The API behind the events that an AWS Lambda function gets.

Takes what an API Gateway (REST or HTTP), a function URL and an application load balancer send, by
way of Mangum, and the events of a schedule of EventBridge, on which it ticks. Whoever may invoke
the function may make it tick; from outside, none of the others lets such an event in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from mangum import Mangum

from backhaul.wire.problems import PROBLEM_MEDIA_TYPE
from backhaul_api.hosted import build_app
from backhaul_api.tick.work import tick

_TEXT = ["text/", "application/json", PROBLEM_MEDIA_TYPE]
"""What goes back as text; the rest is base64, which a REST API hands out as it is."""

_TIMERS = {"aws.events", "aws.scheduler"}
"""Who sends a `Scheduled Event`: a rule of EventBridge, and EventBridge Scheduler."""


class Handler:
    """The function. Its loop, and with it the connections to the database, outlive an event."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Between events the process is frozen, so nothing can go on in the background.
        self._app = build_app(environment, background=False)
        self.settings = self._app.settings
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # where Mangum looks for one
        self._gateway = Mangum(self._app, lifespan="off", text_mime_types=_TEXT)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        if event.get("source") in _TIMERS and "requestContext" not in event:
            return self._loop.run_until_complete(self._tick())
        asyncio.set_event_loop(self._loop)
        return self._gateway(event, context)

    def close(self) -> None:
        """Let go of the database and of the loop."""
        self._loop.run_until_complete(self._app.close())
        self._loop.close()
        asyncio.set_event_loop(None)

    async def _tick(self) -> dict[str, Any]:
        api = await self._app.open()
        done: dict[str, Any] = msgspec.to_builtins(await tick(api.state.services))
        return done
