"""From settings to the services of an instance, over a database that is at its revision."""

from __future__ import annotations

from backhaul_api.app import build_services
from backhaul_api.db.engine import Database
from backhaul_api.events import store as events
from backhaul_api.keys import KeyFileError
from backhaul_api.preparation import StartError
from backhaul_api.server_identity import follow_keys, open_keys
from backhaul_api.services import Services
from backhaul_api.settings import Settings


async def open_services(settings: Settings, database: Database) -> Services:
    """Open what belongs to an upgraded database, and make it follow the keys.

    Raises:
        StartError: the keys are missing, damaged, or those of another database.
        NotReadyError: the database does not answer.
    """
    try:
        keys = await open_keys(settings, database)
    except (KeyFileError, OSError) as error:
        raise StartError(str(error)) from error
    services = build_services(settings, database=database, keys=keys)
    await follow_keys(database, keys, now=services.clock.now())
    async with database.writing() as connection:
        await events.settle(connection)
    return services
