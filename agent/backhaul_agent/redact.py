"""Takes secrets out of text before it is stored, logged or sent.

restic masks URL passwords itself (0.14.0 and later); nothing here relies on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

from backhaul.wire.commands import Credentials
from backhaul.wire.tokens import redact_tokens

MASK = "***"

_SHORT = 4
"""A shorter secret is masked as a whole word only: `1` must not blot out every number."""

_PARTS = re.compile(r"[/?#@:]")
"""Where a program that reads a URL cuts it, and with it a password that nobody escaped."""

_PORT_OR_PATH = re.compile(r"(\d{1,5})?/")
"""What follows a host, and hardly begins a password: masked as a whole only, to be safe."""

_WITH_HOST = frozenset({"sftp", "rest", "s3"})
"""What names a host, and with it perhaps a password, without a URL too."""

_QUERY_VALUE = re.compile(r"[?&][^=&#]*=([^&#]+)")

_GO_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "&<>\u2028\u2029"}
"""What Go's JSON escapes besides what every JSON does."""

_URL_PASSWORD = re.compile(r"(?P<before>\w+://[^\s/:@]*:)[^\s/]+(?=@)")


class Redactor:
    """Masks a set of secrets, in the forms in which programs print them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # Longest first, so that a secret which contains another goes whole.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(_expression, self._forms))) if forms else None

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)}>"

    def redact(self, text: str) -> str:
        """Build the text without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
            # A mask can complete a secret that consists of stars; then nothing is worth keeping.
            if any(len(form) >= _SHORT and form in text for form in self._forms):
                return MASK
        return redact_tokens(_URL_PASSWORD.sub(rf"\g<before>{MASK}", text))


def build_redactor(*credentials: Credentials) -> Redactor:
    """Build the redactor for all that a command's credentials hold."""
    return Redactor(secret for one in credentials for secret in _secrets_of(one))


def _secrets_of(credentials: Credentials) -> Iterator[str]:
    yield credentials.password
    yield from filter(None, (credentials.new_password, credentials.old_password))
    yield from _secrets_of_location(credentials.location)
    for value in credentials.environment.values():
        yield value
        # Keys in PEM or JSON have several lines, and text is masked line by line.
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) > _SHORT)


def _secrets_of_location(location: str) -> Iterator[str]:
    """Find the password in a location, and the pieces that a program may make of it.

    restic puts its backend in front of a URL, rest:https://user:password@host/. The password
    reaches to the last @, whatever stands in it: nobody is made to escape a slash.
    """
    backend, _, rest = location.partition(":")
    is_url = "://" in location
    if not is_url and backend not in _WITH_HOST:
        return
    before, _, _ = (location.partition("://")[2] if is_url else rest).rpartition("@")
    user, _, password = before.partition(":")
    is_doubtful = _PORT_OR_PATH.match(password) is not None
    if password and not ("@" in user and is_doubtful):
        yield from (location, rest, password, unquote(password))
        if not is_doubtful:
            yield from _PARTS.split(password)
    if is_url:
        yield from _QUERY_VALUE.findall(location)


def _forms(secret: str) -> Iterator[str]:
    if not secret:
        return
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    plain = json.dumps(secret, ensure_ascii=False)[1:-1]
    yield plain
    yield plain.translate(_GO_ESCAPES)


def _expression(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
