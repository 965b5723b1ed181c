"""The app: the only place that wires things together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from litestar import Litestar
from litestar.di import Provide
from litestar.middleware import DefineMiddleware

from backhaul_api.access_log import Api
from backhaul_api.audit.routes import router as audit_router
from backhaul_api.auth import AuthenticationMiddleware
from backhaul_api.bodies import MAX_BODY_BYTES, ApiRequest
from backhaul_api.clock import Clock, SystemClock
from backhaul_api.db.engine import Database
from backhaul_api.docs import router as docs_router
from backhaul_api.errors import NotReadyError
from backhaul_api.events.routes import router as events_router
from backhaul_api.front import Front
from backhaul_api.health import router as health_router
from backhaul_api.hosts.routes import routers as host_routers
from backhaul_api.jobs.routes import router as jobs_router
from backhaul_api.keys import KeyRing
from backhaul_api.passwords import PasswordHasher
from backhaul_api.polling import heartbeats
from backhaul_api.polling.routes import routers as agent_routers
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.polling.watching import Watcher
from backhaul_api.problems import EXCEPTION_HANDLERS
from backhaul_api.queries.routes import router as queries_router
from backhaul_api.repositories.password_routes import router as password_router
from backhaul_api.repositories.routes import router as repositories_router
from backhaul_api.schedules.routes import routers as schedule_routers
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from backhaul_api.snapshots.routes import router as snapshots_router
from backhaul_api.sources.routes import router as sources_router
from backhaul_api.tick import timer
from backhaul_api.tick.routes import router as tick_router
from backhaul_api.users.operators import router as operators_router
from backhaul_api.users.routes import routers as user_routers

_LAST_WORDS_S = 2.0


def build_services(
    settings: Settings, *, database: Database, keys: KeyRing, clock: Clock | None = None
) -> Services:
    """Put the parts of an instance together: see `server_identity.open_keys` for the keys."""
    return Services(
        settings=settings,
        clock=clock or SystemClock(),
        database=database,
        keys=keys,
        passwords=PasswordHasher(),
        wakeups=Wakeups(),
    )


def create_app(services: Services) -> Api:
    """Build the app over an upgraded database."""

    app = Api(
        route_handlers=[
            health_router,
            *user_routers,
            operators_router,
            *host_routers,
            repositories_router,
            password_router,
            sources_router,
            *schedule_routers,
            jobs_router,
            snapshots_router,
            queries_router,
            audit_router,
            events_router,
            tick_router,
            *agent_routers,
            docs_router,
        ],
        dependencies={"services": Provide(lambda: app.state.services, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[DefineMiddleware(AuthenticationMiddleware)],
        request_class=ApiRequest,
        request_max_body_size=MAX_BODY_BYTES,
        lifespan=[_live],
        # The document is our own: see `openapi`.
        openapi_config=None,
        logging_config=None,
    )
    put_into(app, services)
    return app


def put_into(app: Api, services: Services) -> None:
    """Let an app work with these services from now on: its routes are what takes long to build."""
    app.state.services = services
    app.front = Front(services)


@asynccontextmanager
async def _live(app: Litestar) -> AsyncIterator[None]:
    services: Services = app.state.services
    memory = services.wakeups.memory
    tasks: list[asyncio.Task[None]] = []
    if services.settings.background:
        loops = [heartbeats.write_forever(services), timer.tick_forever(services)]
        if services.database.is_sqlite:
            # A function has no time to write down later what it remembers.
            memory.is_trusted = services.settings.poll_hold > 0
        else:
            loops.append(Watcher(services).run_forever())
        tasks += [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        memory.is_trusted = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(NotReadyError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await heartbeats.write(services)
        await services.database.close()
