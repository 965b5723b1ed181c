"""Text that is no UTF-8, as Python has the name of a file that is in another encoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

NO_UTF8 = "must be UTF-8"
"""Said of a field, and never with the text: it may be a password."""


def find_no_utf8(value: Any, field: str = "") -> str | None:
    """Name the field whose text is not UTF-8, in a struct or what JSON is made of; None if all
    texts are."""
    if isinstance(value, str):
        return None if is_utf8(value) else field
    for name, part in _list_parts(value, field):
        if (found := find_no_utf8(part, name)) is not None:
            return found
    return None


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_parts(value: Any, field: str) -> Iterator[tuple[str, Any]]:
    prefix = f"{field}." if field else ""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f"{prefix}{name}", getattr(value, name)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield field, key
            is_name = isinstance(key, str) and key.isidentifier()
            yield f"{prefix}{key}" if is_name else f"{field}[...]", part
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        for number, part in enumerate(value):
            yield f"{field}[{number}]", part
