"""PostgreSQL's LISTEN and NOTIFY: a word to other processes, without a promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from backhaul_api.db.engine import Database
from backhaul_api.errors import NotReadyError


@asynccontextmanager
async def open_channel(
    database: Database,
    name: str,
    *,
    on_heard: Callable[[str], None],
    on_lost: Callable[[], None],
) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Listen on a channel, with a connection for as long as the block; gives what says something
    there. `on_lost` is called when the connection is gone, and saying anything fails from then on.

    Raises:
        NotReadyError: the database does not answer now, or the connection is gone.
    """

    def hear(_connection: object, _pid: int, _channel: str, text: str) -> None:
        on_heard(text)

    def lose(_connection: object) -> None:
        on_lost()

    async with database.borrowing() as driver:

        async def say(text: str) -> None:
            # No arguments: the simple protocol leaves nothing behind on a pooler's connection.
            with _explaining():
                await driver.execute(f"NOTIFY {name}, '{text}'")

        with _explaining():
            await driver.add_listener(name, hear)
        driver.add_termination_listener(lose)
        try:
            yield say
        finally:
            driver.remove_termination_listener(lose)
            with suppress(NotReadyError), _explaining():
                await driver.remove_listener(name, hear)


@contextmanager
def _explaining() -> Iterator[None]:
    # Only here with PostgreSQL, whose driver is an extra.
    import asyncpg  # type: ignore[import-untyped]

    errors: Any = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
    try:
        yield
    except errors as error:
        raise NotReadyError("The connection to the database is gone.") from error
