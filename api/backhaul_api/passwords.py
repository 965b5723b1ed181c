"""Operators' passwords: argon2id with RFC 9106's second recommended parameters.

64 MiB, 3 passes, 4 lanes, 32-byte hash, 16-byte salt. A hash costs tens of milliseconds and 64 MiB,
so it runs in a thread, and only a few at a time: a flood of logins must not eat the memory. Nor may
it make everybody wait: once some are waiting, the rest are sent away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from backhaul_api.errors import RateLimitedError

_CONCURRENT_HASHES = 2

MAX_WAITING = 16
"""The last of them waits about a second."""

RFC_9106_LOW_MEMORY = argon2.profiles.RFC_9106_LOW_MEMORY


class PasswordHasher:
    """Hashes and checks passwords off the event loop.

    Both raise RateLimitedError when too many wait for it already.
    """

    def __init__(self, parameters: argon2.Parameters = RFC_9106_LOW_MEMORY) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._slots = asyncio.Semaphore(_CONCURRENT_HASHES)
        self._waiting = 0
        # Checked against when there is no such user, so that both answers take the same time.
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        async with self._slot():
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Check a password in the same time whether or not there is a hash to check against."""
        if password_hash is None:
            self._nobody = self._nobody or await self.hash("nobody has this password")
        async with self._slot():
            is_right = await asyncio.to_thread(
                self._verify, password_hash or self._nobody or "", password
            )
        return is_right and password_hash is not None

    def needs_rehash(self, password_hash: str) -> bool:
        """Tell whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise RateLimitedError("Too many sign in at this moment. Try again in a few seconds.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
