"""Text of unknown origin on a terminal: escaped, and in one line where it is an error."""

from __future__ import annotations

import re
import unicodedata

_LONGEST_WORD, _LONGEST_LINE = 200, 4000
_LONG_WORD = re.compile(rf"(\S{{{_LONGEST_WORD}}})\S+")


def render_error(message: str) -> str:
    """Put a message into one line that can be read, however long a name is that it repeats."""
    # Words first: the remedy stands at the end of a message.
    line = render_printable(join_lines(_LONG_WORD.sub(r"\1…", message)))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def join_lines(text: str) -> str:
    """Put several lines of a message into one."""
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


def render_printable(text: str) -> str:
    """Escape what could steer a terminal or hide in it: file names and log lines are not ours."""
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    # Cc: control characters; Cf: invisible ones that turn the direction; Cs: half characters.
    if character == "\t" or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return character
    return character.encode("unicode_escape").decode("ascii")
