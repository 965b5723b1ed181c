"""/health: whether the process lives, and whether it should be sent requests."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version

import sqlalchemy as sa
from litestar import HttpMethod, Router, route

from backhaul.wire.fleet import Health
from backhaul_api.auth import NOBODY
from backhaul_api.db.engine import Database
from backhaul_api.db.revisions import fetch_revision, head_revision, is_fit
from backhaul_api.errors import NotReadyError
from backhaul_api.logs import facts
from backhaul_api.services import Needs

log = logging.getLogger(__name__)

_DATABASE_PATIENCE_S = 5.0  # load balancers ask every few seconds and want an answer


@route(
    "/live",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],  # some load balancers ask with HEAD
    opt=NOBODY,
    operation_id="get_liveness",
    summary="Tell whether the process answers",
    description="Restart an instance that fails this.",
)
async def get_liveness() -> Health:
    return Health(status="ok", version=version("backhaul"))


@route(
    "/ready",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    opt=NOBODY,
    operation_id="get_readiness",
    summary="Tell whether this instance should be sent requests",
    description=(
        "Not ready while the instance stops, or when the database does not answer or is at a "
        "revision that this version of Backhaul cannot serve: an older one, or a newer one that "
        "has taken away what this version needs."
    ),
)
async def get_readiness(services: Needs) -> Health:
    if services.wakeups.is_draining:
        raise NotReadyError("This instance is about to stop.")
    found, fits = await _look_at_revision(services.database)
    if not fits:
        raise NotReadyError(
            f"The database is at revision {found or 'none'}; this version of Backhaul needs "
            f"{head_revision()}. Run: backhaul db upgrade"
        )
    return Health(status="ok", version=version("backhaul"))


async def _look_at_revision(database: Database) -> tuple[str | None, bool]:
    try:
        async with asyncio.timeout(_DATABASE_PATIENCE_S), database.reading() as connection:
            return await fetch_revision(connection), await is_fit(connection)
    except (sa.exc.SQLAlchemyError, TimeoutError) as error:
        log.warning("database.unreachable", extra=facts(reason=type(error).__name__))
        raise NotReadyError("The database does not answer.") from error


router = Router("/health", route_handlers=[get_liveness, get_readiness], tags=["health"])
