"""What most of these tests begin with."""

from __future__ import annotations

import httpx
import pytest
from litestar import Litestar

from backhaul_api.services import Services
from tests.fakes.fleet import FakeAgent, add_agent, add_repository


@pytest.fixture
async def agent(services: Services, app: Litestar, operator: httpx.AsyncClient) -> FakeAgent:
    """A host `web1` whose agent has said hello, and a repository `nas`."""
    await add_repository(operator)
    agent = await add_agent(services, app)
    await agent.say_hello()
    return agent
