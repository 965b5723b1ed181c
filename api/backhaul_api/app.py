"""The app: the only place that wires things together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.di import Provide
from litestar.middleware import DefineMiddleware

from backhaul_api.audit.routes import router as audit_router
from backhaul_api.auth import AuthenticationMiddleware
from backhaul_api.clock import Clock, SystemClock
from backhaul_api.db.engine import Database
from backhaul_api.health import router as health_router
from backhaul_api.hosts.routes import routers as host_routers
from backhaul_api.jobs.routes import router as jobs_router
from backhaul_api.keys import KeyRing, load_or_create_keys, parse_keys
from backhaul_api.openapi import build_openapi_config
from backhaul_api.passwords import PasswordHasher
from backhaul_api.polling.routes import routers as agent_routers
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.problems import EXCEPTION_HANDLERS
from backhaul_api.repositories.routes import router as repositories_router
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from backhaul_api.snapshots.routes import router as snapshots_router
from backhaul_api.sources.routes import router as sources_router
from backhaul_api.users.routes import routers as user_routers


def build_services(settings: Settings, *, clock: Clock | None = None) -> Services:
    """Make the parts of an instance. Opens the key file; connects to nothing yet."""
    return Services(
        settings=settings,
        clock=clock or SystemClock(),
        database=Database(settings.effective_database_url),
        keys=_load_keys(settings),
        passwords=PasswordHasher(),
        wakeups=Wakeups(),
    )


def create_app(services: Services) -> Litestar:
    """Build the app over an upgraded database."""

    @asynccontextmanager
    async def close_at_the_end(_: Litestar) -> AsyncIterator[None]:
        yield
        await services.database.close()

    app = Litestar(
        route_handlers=[
            health_router,
            *user_routers,
            *host_routers,
            repositories_router,
            sources_router,
            jobs_router,
            snapshots_router,
            audit_router,
            *agent_routers,
        ],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[DefineMiddleware(AuthenticationMiddleware)],
        lifespan=[close_at_the_end],
        openapi_config=build_openapi_config(),
        logging_config=None,
    )
    app.state.services = services
    return app


def _load_keys(settings: Settings) -> KeyRing:
    if settings.key is not None:
        return parse_keys(settings.key)
    settings.effective_key_file.parent.mkdir(parents=True, exist_ok=True)
    return load_or_create_keys(settings.effective_key_file)
