"""Operators: who may sign in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID

from backhaul import _requests
from backhaul._fields import UserFields
from backhaul.aio.collections import AsyncKeyed
from backhaul.wire.accounts import CreateUser, UpdateUser
from backhaul.wire.accounts import User as UserData

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet


class AsyncUser(UserFields):
    """An operator."""

    def __init__(self, fleet: AsyncFleet, data: UserData) -> None:
        super().__init__(data)
        self._fleet = fleet

    async def refresh(self) -> AsyncUser:
        """Ask the server how it stands now."""
        self.data = await self._fleet.client.get_user(self.id)
        return self

    async def set_password(self, password: str, *, keep_tokens: bool = False) -> AsyncUser:
        """Give a new password: it ends the operator's sessions, but for the one that asks, and
        revokes the API tokens unless they are kept.

        Raises:
            InvalidRequestError: the password is shorter than 12 characters.
        """
        fields = {"password": password, "keep_tokens": keep_tokens}
        return await self._update(_requests.convert(fields, UpdateUser))

    async def disable(self) -> AsyncUser:
        """Shut the operator out: sessions end, API tokens do not serve until `enable`.

        Raises:
            ConflictError: it is the last operator who can sign in.
        """
        return await self._update(UpdateUser(disabled=True))

    async def enable(self) -> AsyncUser:
        """Let the operator in again."""
        return await self._update(UpdateUser(disabled=False))

    async def remove(self) -> None:
        """Remove the operator, with the tokens. Hosts that joined with one of them stay.

        Raises:
            ConflictError: it is the last operator who can sign in.
        """
        await self._fleet.client.remove_user(self.id)

    async def _update(self, request: UpdateUser) -> AsyncUser:
        self.data = await self._fleet.client.update_user(self.id, request)
        return self


class AsyncUsers(AsyncKeyed[AsyncUser]):
    """The operators by username: iterate, or `fleet.users["ada"]`."""

    def __init__(self, fleet: AsyncFleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> AsyncIterator[UserData]:
            return fleet.client.list_users(limit=limit)

        super().__init__(fetch, self.wrap, noun="users")

    def wrap(self, data: UserData) -> AsyncUser:
        """Make an object of what the API said of an operator."""
        return AsyncUser(self._fleet, data)

    async def get(self, username: UUID | str, /) -> AsyncUser:
        """Get an operator by username or id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(await self._fleet.client.get_user(username))

    async def create(self, username: str, password: str) -> AsyncUser:
        """Create an operator; the password has at least 12 characters.

        Raises:
            ConflictError: the username is taken.
        """
        fields = {"username": username, "password": password}
        request = _requests.convert(fields, CreateUser)
        return self.wrap(await self._fleet.client.create_user(request))
