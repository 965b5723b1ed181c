"""Lines of text out of chunks of bytes.

asyncio's readline gives up at 64 KiB, and one line of `restic snapshots --json` holds a whole
repository.
"""

from __future__ import annotations

import codecs


class LineSplitter:
    """Turns chunks of bytes into lines of text, however long."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []

    def feed(self, chunk: bytes, *, is_last: bool = False) -> list[str]:
        """Give the lines that are whole now; with `is_last`, also a line without its end."""
        *whole, rest = self._decoder.decode(chunk, is_last).split("\n")
        if whole:
            whole[0] = "".join([*self._parts, whole[0]])
            self._parts = []
        self._parts.append(rest)
        if is_last and any(self._parts):
            whole.append("".join(self._parts))
            self._parts = []
        return [line.removesuffix("\r") for line in whole]
