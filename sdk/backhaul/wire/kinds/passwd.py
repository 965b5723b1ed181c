"""`passwd`: give the repository a new password, and later take the old one from it.

Two jobs, each safe to repeat. Between them both passwords open the repository.
"""

from __future__ import annotations

from enum import StrEnum

from backhaul.wire.base import Wire


class PasswdStep(StrEnum):
    """Which half of a change of the password."""

    ADD = "add"
    """The new password is to open the repository."""
    REMOVE = "remove"
    """The old one is not to open it any more."""


class PasswdArguments(Wire, frozen=True, kw_only=True, tag_field="kind", tag="passwd"):
    """Do one half of a change. The passwords come with the credentials."""

    step: PasswdStep


class PasswdResult(Wire, frozen=True, kw_only=True, tag_field="kind", tag="passwd"):
    """The new password opens the repository; that was tried."""

    step: PasswdStep
    keys_added: int = 0
    """0 when the new password opened the repository before: an attempt came that far."""
    keys_removed: int = 0
