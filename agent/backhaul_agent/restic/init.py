"""`restic init`: creates the repository."""

from __future__ import annotations

import re
from collections.abc import Iterable

from backhaul.wire.kinds import InitResult
from backhaul_agent.restic.output import parse_object, read_text

_CREATED = re.compile(r"created restic repository ([0-9a-f]+) at ")


def build_arguments() -> list[str]:
    return ["init", "--json"]


def read_result(stdout: Iterable[str]) -> InitResult | None:
    """Find the repository's id: JSON since 0.15 (64 digits), text in 0.14 (10 digits)."""
    for line in stdout:
        found = parse_object(line)
        if found is not None and found.get("message_type") == "initialized":
            return InitResult(repository_id=read_text(found, "id"))
        match = _CREATED.search(line)
        if match:
            return InitResult(repository_id=match[1])
    return None
