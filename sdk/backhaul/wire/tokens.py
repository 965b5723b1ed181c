"""Tokens: 256 random bits behind a readable prefix, with a checksum.

    bha_<43 characters of base 62><6 characters of CRC-32 in base 62>

The prefix tells people and secret scanners what they found; the checksum lets both sides refuse a
mistyped or cut token without asking anybody. Tokens are shown once and stored as SHA-256: 256 bits
of entropy need no slow hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from enum import StrEnum

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43  # 62**43 > 2**256
_CHECKSUM_LENGTH = 6  # 62**6 > 2**32

TOKEN_PATTERN = re.compile(r"\bbh[asteu]_[0-9A-Za-z]{49}\b")
"""Finds every Backhaul token in a text."""


class TokenKind(StrEnum):
    """What a token opens; the value is its prefix."""

    AGENT = "bha"
    SESSION = "bhs"
    API = "bht"
    ENROLLMENT = "bhe"
    SETUP = "bhu"


def build_token(kind: TokenKind) -> str:
    """Make a new random token."""
    secret = _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_LENGTH)
    return f"{kind}_{secret}{_checksum(kind, secret)}"


def parse_token_kind(token: str) -> TokenKind | None:
    """Tell which kind a token is, or None when it is cut, mistyped or not a token at all."""
    if TOKEN_PATTERN.fullmatch(token) is None:
        return None
    prefix, _, rest = token.partition("_")
    secret, checksum = rest[:_SECRET_LENGTH], rest[_SECRET_LENGTH:]
    kind = TokenKind(prefix)
    return kind if checksum == _checksum(kind, secret) else None


def hash_token(token: str) -> bytes:
    """Build the 32 bytes under which a token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def redact_tokens(text: str) -> str:
    """Replace the secret part of every token in a text."""
    return TOKEN_PATTERN.sub(lambda found: f"{found.group()[:4]}***", text)


def _checksum(kind: TokenKind, secret: str) -> str:
    return _base62(zlib.crc32(f"{kind}_{secret}".encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
