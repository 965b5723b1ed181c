"""`backhaul serve`: one instance, from its settings to its clean end.

1. make the data folder, private to the user, if there is none;
2. on SQLite, make sure that no other process serves the same database;
3. bring the database to this version's revision, and open the keys that belong to it;
4. print a setup token while there is no operator;
5. listen, say so, and answer until SIGTERM or SIGINT;
6. then end all held polls first, and stop when the last answer is out.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import uvicorn

from backhaul.wire.tokens import TokenKind, build_token, hash_token
from backhaul_api.app import create_app
from backhaul_api.db.engine import open_database
from backhaul_api.http_protocol import build_protocol, choose_connection_limit
from backhaul_api.logs import facts, set_up_logging
from backhaul_api.opening import open_services
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.preparation import (
    StartError,
    check_settings,
    hold_database,
    is_folder_shared,
    keep_files_private,
    make_folder,
    upgrade_database,
)
from backhaul_api.services import Services
from backhaul_api.settings import Settings
from backhaul_api.users import store as users

log = logging.getLogger(__name__)

_SETUP_TOKEN_LIFETIME = timedelta(hours=24)
_BACKLOG = 2048
_LOOK_GRACE_S = 1.0  # how long polls may still wait for the database once the server stops
_GRACE_S = 10  # how long answers that are under way may still take once the server stops

# A server that parks thousands of polls holds many objects that live long. Looking through them
# often finds nothing; uvicorn itself makes no cycles per request.
_GC_THRESHOLDS = (50_000, 25, 100)


def serve_forever(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        StartError: it cannot start like this.
    """
    keep_files_private()
    settings = check_settings(settings)
    make_folder(settings)
    set_up_logging(settings.log_level)
    with (
        hold_database(settings),
        _listen(settings) as listener,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve(settings, listener))


class Server(uvicorn.Server):
    """uvicorn's server, which ends held polls before it waits for answers."""

    def __init__(self, config: uvicorn.Config, wakeups: Wakeups, *, announcement: str) -> None:
        super().__init__(config)
        self._wakeups = wakeups
        self._announcement = announcement
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        _say(self._announcement)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second SIGINT does not wait for anybody.

        uvicorn's own version also raises the signal again at the end, which would make a clean
        stop look like a crash.
        """
        if self._loop is not None:
            # The loop may be asleep; a plain call from here would not wake it.
            self._loop.call_soon_threadsafe(self._drain)
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    def _drain(self) -> None:
        self._wakeups.drain()
        assert self._loop is not None  # noqa: S101 (it is what calls this)
        self._loop.call_later(_LOOK_GRACE_S, self._wakeups.cut_looks)


async def _serve(settings: Settings, listener: socket.socket) -> None:
    await upgrade_database(settings)
    database = open_database(settings)
    try:
        services = await open_services(settings, database)
    except StartError:
        await database.close()
        raise
    await _offer_setup_token(services)
    log_surroundings(settings)
    app = create_app(services)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=build_protocol(app.front),
        limit_concurrency=choose_connection_limit(),
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=_GRACE_S,
    )
    announcement = f"Backhaul API on {_url_of(listener)}"
    await Server(config, services.wakeups, announcement=announcement).serve([listener])


async def _offer_setup_token(services: Services) -> None:
    """Print a token for the first operator, in place of any that was printed before; but what other
    instances have printed serves as well."""
    now = services.clock.now()
    async with services.database.writing() as connection:
        if await users.has_any(connection):
            return
        token = build_token(TokenKind.SETUP)
        await users.insert_setup_token(
            connection,
            hash_token(token),
            now=now,
            expires_at=now + _SETUP_TOKEN_LIFETIME,
            # SQLite has no other instance; on PostgreSQL, they may be starting just now.
            is_only=services.database.is_sqlite,
        )
    _say(f"Setup token (use once): {token}")


def log_surroundings(settings: Settings) -> None:
    """Say what works less well here than its operator may expect."""
    if is_folder_shared(settings):
        log.warning("data_dir.shared", extra=facts(data_dir=settings.data_dir))


@contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=_BACKLOG
        )
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}. "
            "Choose another with --host and --port (0 takes a free one)"
        ) from error
    with listener:
        yield listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop


def _say(line: str) -> None:
    """Tell whoever started the server; flushed, because they may wait for it in a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
