"""Where restic can keep a repository: what the servers beside this module have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class ServerMissingError(Exception):
    """The program of a server is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A place for repositories, while its server runs."""

    location: str
    """As restic writes it, for one repository; its password, if any, is in it."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the repository's record sets for restic."""
