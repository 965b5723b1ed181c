"""Cursors."""

from __future__ import annotations

import base64
from uuid import UUID

import pytest

from backhaul_api.errors import InvalidError
from backhaul_api.paging import decode_cursor, encode_cursor, split_page

DEEP = base64.urlsafe_b64encode(b"[" * 100_000).decode()


def test_cursor_with_the_nul_character_is_refused() -> None:
    with pytest.raises(InvalidError) as refused:
        decode_cursor(encode_cursor("a\x00b"), tuple[str])
    assert refused.value.errors[0].field == "cursor"


def test_cursor_is_read_back_as_it_was_made() -> None:
    key = ("näs/1?", UUID(int=7))

    cursor = encode_cursor(*key)

    assert decode_cursor(cursor, tuple[str, UUID]) == key
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?")


@pytest.mark.parametrize(
    "cursor",
    ["nonsense!", "", "W10", "WzFd", "eyJ9", encode_cursor("a", "b"), "Wy8", "ÿ", DEEP],
)
def test_what_is_no_cursor_of_the_list_is_refused_by_field(cursor: str) -> None:
    with pytest.raises(InvalidError) as refused:
        decode_cursor(cursor, tuple[UUID])
    assert refused.value.errors[0].field == "cursor"


def test_page_tells_whether_more_follows() -> None:
    assert split_page([1, 2, 3], 2) == ([1, 2], True)
    assert split_page([1, 2], 2) == ([1, 2], False)
