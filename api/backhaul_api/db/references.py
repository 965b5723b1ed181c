"""References: operators name things by name or by id, whichever they have at hand."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

_HEX_DIGITS = 32


def parse_id(reference: str) -> UUID | None:
    """Read an id, or None when the reference is a name."""
    if len(reference) < _HEX_DIGITS:
        return None  # most often: a request can hold a thousand names
    try:
        return UUID(reference)
    except ValueError:
        return None


def build_key(reference: str) -> UUID | str:
    """Build what to look for: the id that the reference is, else the name."""
    return parse_id(reference) or reference


def matches_reference(table: sa.Table, reference: str) -> sa.ColumnElement[bool]:
    """Build the condition that finds the row with this name or id."""
    id_ = parse_id(reference)
    return table.c.name == reference if id_ is None else table.c.id == id_
