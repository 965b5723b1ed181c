"""Which repository is meant when none is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backhaul.cli.failures import BadInputError

if TYPE_CHECKING:
    from backhaul.client import Client


def choose_repository(client: Client, name: str | None) -> str:
    """Give the repository that is named, or the only one that there is.

    Raises:
        BadInputError: none is named, and there is none or more than one.
    """
    if name is not None:
        return name
    names = [repository.name for repository in client.list_repositories(limit=10)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadInputError("There is no repository yet: `backhaul repositories create` first.")
    raise BadInputError(f"Which repository? Give --repository, like {', '.join(names)}.")
