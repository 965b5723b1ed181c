# Written by tools/write_sync.py from backhaul/aio/tokens.py: change that.
"""Tokens: with which scripts sign in, and with which hosts join."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from backhaul import _moments, _requests
from backhaul._fields import ApiTokenFields, EnrollmentTokenFields
from backhaul.objects.collections import Collection
from backhaul.wire.accounts import (
    ApiToken as ApiTokenData,
)
from backhaul.wire.accounts import (
    CreateApiToken,
    CreateEnrollmentToken,
    NewApiToken,
    NewEnrollmentToken,
)
from backhaul.wire.accounts import (
    EnrollmentToken as EnrollmentTokenData,
)

if TYPE_CHECKING:
    from backhaul.objects.fleet import Fleet


class ApiToken(ApiTokenFields):
    """A token for scripts, without its secret."""

    def __init__(self, fleet: Fleet, data: ApiTokenData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def revoke(self) -> None:
        """End it."""
        self._fleet.client.revoke_api_token(self.id)


class ApiTokens(Collection[ApiToken]):
    """Your tokens for scripts, oldest first."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> Iterator[ApiTokenData]:
            return fleet.client.list_api_tokens(limit=limit)

        super().__init__(fetch, self.wrap, noun="api_tokens")

    def wrap(self, data: ApiTokenData) -> ApiToken:
        """Make an object of what the API said of a token."""
        return ApiToken(self._fleet, data)

    def create(self, name: str, *, expires_in: timedelta | str | None = None) -> NewApiToken:
        """Make a token for scripts; its secret is the field `token` of what this gives, this once.

        It lasts until it is revoked, or for a timedelta or a text like `90d`.
        """
        fields = {"name": name, "expires_in": _moments.find_seconds("expires_in", expires_in)}
        return self._fleet.client.create_api_token(_requests.convert(fields, CreateApiToken))


class EnrollmentToken(EnrollmentTokenFields):
    """A token with which hosts can join, without its secret."""

    def __init__(self, fleet: Fleet, data: EnrollmentTokenData) -> None:
        super().__init__(data)
        self._fleet = fleet

    def revoke(self) -> None:
        """End it. Hosts that joined with it stay."""
        self._fleet.client.revoke_enrollment_token(self.id)


class EnrollmentTokens(Collection[EnrollmentToken]):
    """The tokens with which hosts can join."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

        def fetch(limit: int | None) -> Iterator[EnrollmentTokenData]:
            return fleet.client.list_enrollment_tokens(limit=limit)

        super().__init__(fetch, self.wrap, noun="enrollment_tokens")

    def wrap(self, data: EnrollmentTokenData) -> EnrollmentToken:
        """Make an object of what the API said of a token."""
        return EnrollmentToken(self._fleet, data)

    def create(
        self,
        *,
        host_name: str | None = None,
        labels: dict[str, str] | None = None,
        uses: int = 1,
        expires_in: timedelta | str = "1h",
    ) -> NewEnrollmentToken:
        """Make a token with which hosts can join: by default one host, within an hour.

        Its secret is the field `token` of what this gives, this once.
        """
        fields = {
            "host_name": host_name,
            "labels": labels or {},
            "uses": uses,
            "expires_in": _moments.find_seconds("expires_in", expires_in),
        }
        request = _requests.convert(fields, CreateEnrollmentToken)
        return self._fleet.client.create_enrollment_token(request)
