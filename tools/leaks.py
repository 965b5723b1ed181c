"""Looking for secrets in files, as strings(1) and grep would."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from backhaul.wire.tokens import TOKEN_PATTERN

_ANY_TOKEN = re.compile(TOKEN_PATTERN.pattern.encode())


class SecretLeakedError(Exception):
    """A secret stands in a file."""


def require_no_secrets(
    places: Iterable[Path], secrets: Mapping[str, str], *, credentials: Path
) -> int:
    """Look through every file in the places. Gives how many there were.

    Args:
        secrets: what each secret is called, and the secret.
        credentials: the agent's own file, the only one that may hold a token: the agent's.

    Raises:
        SecretLeakedError: names the secret and the file, never the secret itself.
    """
    files = [file for place in places for file in _list_files(place)]
    for file in files:
        content = file.read_bytes()
        for name, secret in secrets.items():
            if any(form in content for form in _forms(secret)):
                raise SecretLeakedError(f"the {name} stands in {file}")
        if file != credentials and _ANY_TOKEN.search(content):
            raise SecretLeakedError(f"a token stands in {file}")
    if credentials.stat().st_mode & 0o077:
        raise SecretLeakedError(f"others can read {credentials}")
    return len(files)


def _forms(secret: str) -> tuple[bytes, ...]:
    plain = secret.encode()
    return plain, plain.hex().encode(), base64.b64encode(plain), base64.urlsafe_b64encode(plain)


def _list_files(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file() and not file.is_symlink())
