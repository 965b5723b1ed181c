"""The API in the hands of somebody else's server: see `asgi` and `aws_lambda`.

Configured by the environment alone. The database and the keys have to be there: unlike `backhaul
serve`, it migrates nothing and makes no key file, for several of it may start at once, on disks
that do not last. It works when it is asked and not between requests, unless
`BACKHAUL_API_BACKGROUND` says that its process is left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import msgspec

from backhaul.wire.base import PROTOCOL_HEADER, PROTOCOL_VERSION
from backhaul.wire.problems import PROBLEM_MEDIA_TYPE
from backhaul_api.access_log import Api
from backhaul_api.app import create_app
from backhaul_api.db.engine import Database, open_database
from backhaul_api.db.revisions import fetch_revision, head_revision, is_fit
from backhaul_api.errors import NotReadyError
from backhaul_api.logs import facts
from backhaul_api.opening import open_services
from backhaul_api.preparation import StartError, check_settings, explaining, hold_database
from backhaul_api.services import Services
from backhaul_api.settings import Settings, load_settings

log = logging.getLogger(__name__)


class SchemaBehindError(StartError):
    """The database has to be upgraded first."""


class App:
    """The API, opened when the server starts it, or where none does, with the first request.

    What keeps it from being opened is told to whoever asks, and tried again for the next one.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._api: Api | None = None
        self._opening: asyncio.Lock | None = None
        self._held = ExitStack()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            api = await self.open()
        except (StartError, NotReadyError) as error:
            log.error("start.failed", extra=facts(reason=str(error)))
            return await _refuse(scope, receive, send, error)
        return await api(scope, receive, send)

    async def open(self) -> Api:
        """Open the API, once.

        Raises:
            StartError: the settings, the keys or the database's revision do not allow it.
            NotReadyError: the database does not answer.
        """
        if self._api is not None:
            return self._api
        # Not in the constructor: it belongs to the loop that requests come in.
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if self._api is None:
                self._api = create_app(await self._open_services())
        return self._api

    async def close(self) -> None:
        """Let go of the database. The next request opens it again."""
        if self._api is not None:
            await self._api.state.services.database.close()
        self._api = None
        self._held.close()

    async def _open_services(self) -> Services:
        settings = check_settings(self.settings)
        _require_keys(settings)
        with ExitStack() as stack:
            # For as long as the process lives: a second one on SQLite is refused.
            stack.enter_context(hold_database(settings))
            database = open_database(settings)
            try:
                with explaining(settings):
                    await _require_revision(database)
                    services = await open_services(settings, database)
            except BaseException:
                await database.close()
                raise
            self._held = stack.pop_all()
        return services


def build_app(environment: Mapping[str, str], *, background: bool | None = None) -> App:
    """Build the app that the environment describes. Touches neither disk nor network.

    Raises:
        SettingsError: a value or a name is not acceptable.
    """
    environment = {"BACKHAUL_API_BACKGROUND": "false", **environment}
    return App(load_settings(environment, background=background))


def _require_keys(settings: Settings) -> None:
    """Refuse to make a key file, of which other instances would know nothing."""
    if settings.key is None and not settings.effective_key_file.exists():
        raise StartError(
            f"there is no key file {settings.effective_key_file}; set BACKHAUL_API_KEY_FILE, or "
            "BACKHAUL_API_KEY to its text"
        )


async def _require_revision(database: Database) -> None:
    """Refuse a database that this version cannot serve; one that is ahead may be fit for it: see
    `revisions.is_fit`."""
    async with database.reading() as connection:
        found, fits = await fetch_revision(connection), await is_fit(connection)
    wanted = head_revision()
    if not fits:
        raise SchemaBehindError(
            f"The database is at revision {found or 'none'}; this version of Backhaul needs "
            f"{wanted}. Run: backhaul db upgrade"
        )
    if found != wanted:
        log.warning("database.ahead", extra=facts(found=found, known=wanted))


async def _refuse(scope: Any, receive: Any, send: Any, error: Exception) -> None:
    """Tell the server that starts the app, or answer a request, that it could not be opened."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    # What else went wrong names files and databases, and is for the log.
    is_public = isinstance(error, SchemaBehindError | NotReadyError)
    detail = str(error) if is_public else "This instance cannot start; its log says why."
    refusal = NotReadyError(detail)
    headers = {
        "content-type": PROBLEM_MEDIA_TYPE,
        "cache-control": "no-store",
        "retry-after": str(refusal.retry_after_s),
        PROTOCOL_HEADER.lower(): str(PROTOCOL_VERSION),
    }
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": msgspec.json.encode(refusal.problem())})
