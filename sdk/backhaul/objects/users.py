# Written by tools/write_sync.py from backhaul/aio/users.py: change that.
"""Operators: who may sign in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from backhaul import _requests
from backhaul._fields import UserFields
from backhaul.objects.collections import Keyed
from backhaul.wire.accounts import CreateUser, UpdateUser
from backhaul.wire.accounts import User as UserData

if TYPE_CHECKING:
    from backhaul.objects.fleet import Fleet


class User(UserFields):
    """An operator."""

    def __init__(self, fleet: Fleet, data: UserData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def refresh(self) -> User:
        """Ask the server how it stands now."""
        self.data = self._fleet.client.get_user(self.id)
        return self

    def set_password(self, password: str, *, keep_tokens: bool = False) -> User:
        """Give a new password: it ends the operator's sessions, but for the one that asks, and
        revokes the API tokens unless they are kept.

        Raises:
            InvalidRequestError: the password is shorter than 12 characters.
        """
        fields = {"password": password, "keep_tokens": keep_tokens}
        return self._update(_requests.convert(fields, UpdateUser))

    def disable(self) -> User:
        """Shut the operator out: sessions end, API tokens do not serve until `enable`.

        Raises:
            ConflictError: it is the last operator who can sign in.
        """
        return self._update(UpdateUser(disabled=True))

    def enable(self) -> User:
        """Let the operator in again."""
        return self._update(UpdateUser(disabled=False))

    def remove(self) -> None:
        """Remove the operator, with the tokens. Hosts that joined with one of them stay.

        Raises:
            ConflictError: it is the last operator who can sign in.
        """
        self._fleet.client.remove_user(self.id)

    def _update(self, request: UpdateUser) -> User:
        self.data = self._fleet.client.update_user(self.id, request)
        return self


class Users(Keyed[User]):
    """The operators by username: iterate, or `fleet.users["ada"]`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> Iterator[UserData]:
            return fleet.client.list_users(limit=limit)

        super().__init__(fetch, self.wrap, noun="users")

    def wrap(self, data: UserData) -> User:
        """Make an object of what the API said of an operator."""
        return User(self._fleet, data)

    def get(self, username: UUID | str, /) -> User:
        """Get an operator by username or id.

        Raises:
            NotFoundError: there is none.
        """
        return self.wrap(self._fleet.client.get_user(username))

    def create(self, username: str, password: str) -> User:
        """Create an operator; the password has at least 12 characters.

        Raises:
            ConflictError: the username is taken.
        """
        fields = {"username": username, "password": password}
        request = _requests.convert(fields, CreateUser)
        return self.wrap(self._fleet.client.create_user(request))
