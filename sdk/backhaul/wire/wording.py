"""How many of something, in words: the same in messages, in logs and on the screen."""

from __future__ import annotations


def render_count(count: int, noun: str) -> str:
    """Render how many there are of something: `1 file`, `2,000 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
