"""Names that operators may give, beyond the form that `backhaul.wire.base.Name` demands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from backhaul_api.db.references import parse_id
from backhaul_api.errors import InvalidError, NotFoundError

_MAX_LENGTH = 63
_UNACCEPTABLE = re.compile(r"[^A-Za-z0-9._-]+")


def check_name(name: object, *, field: str = "name") -> None:
    """Refuse a name that would be read as an id wherever a name or an id may stand.

    What is not a string (an UNSET or None) is no name and passes.

    Raises:
        InvalidError: it looks like an id.
    """
    if isinstance(name, str) and parse_id(name) is not None:
        raise InvalidError.of(field, "looks like an id; choose a name that cannot be mistaken")


@contextmanager
def named_in(field: str) -> Iterator[None]:
    """Blame a field of the body for what is not found within the block.

    A 404 would say that the address is wrong.

    Raises:
        InvalidError: names the field, what there is none of, and the remedy.
    """
    try:
        yield
    except NotFoundError as error:
        raise InvalidError.of(
            field,
            f"there is no {error.what} {error.reference!r}; name one that exists, by its name or "
            "its id, or create it first",
        ) from error


def make_acceptable(text: str) -> str:
    """Build a name from what a machine calls itself: `web 1.example` becomes `web-1.example`."""
    name = _UNACCEPTABLE.sub("-", text).strip("-._")[:_MAX_LENGTH]
    return name if name and parse_id(name) is None else "host"
