"""What of a repository's location may be shown: `***` in the place of each secret.

When it cannot be told whether something is a secret, it is one: a location that shows too little
is still found by its name, a password that was shown is lost.
"""

from __future__ import annotations

import re

MASK = "***"

_AUTHORITY = re.compile(r"(?P<scheme>://)(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)

# rclone takes a remote's settings in place: `rclone::s3,secret_access_key=…:bucket`. Any of them
# can be a secret, or an address with one in it.
_RCLONE_SETTING = re.compile(r"(,[^,=:]*=)(\"[^\"]*\"|'[^']*'|[^,:]*)")
_RCLONE_URL = re.compile(r"://.*", re.DOTALL)

# Nobody needs :// to put a password before a host.
_PLAIN_WITH_HOST = ("sftp", "rest", "s3")


def mask_location(location: str) -> str:
    """Build the form of a location that may be shown."""
    if location.startswith(("/", "local:")) or location[1:2] == ":":
        return location
    if location.startswith("rclone:"):
        return _RCLONE_URL.sub(f"://{MASK}", _RCLONE_SETTING.sub(rf"\1{MASK}", location))
    masked, count = _AUTHORITY.subn(_mask_authority, location, count=1)
    if not count:
        masked = _mask_plain(masked)
    return _mask_query(masked)


def _mask_authority(found: re.Match[str]) -> str:
    authority, rest = found["authority"], found["rest"]
    if "@" in rest and ":" in authority:
        # A password with a slash that nobody escaped: it reaches to the last @. One that begins
        # with digits looks like a port.
        head, _, rest = rest.rpartition("@")
        authority, rest = f"{authority}{head}@{rest}", ""
    user_information, at, host = authority.rpartition("@")
    if not at:
        return found.group()
    user, colon, _ = user_information.partition(":")
    shown = f"{user}:{MASK}" if colon else user
    return f"{found['scheme']}{shown}@{host}{rest}"


def _mask_plain(location: str) -> str:
    """Mask `user:password@` where no :// stands before it, like `sftp:user:password@host:/x`."""
    backend, _, rest = location.partition(":")
    user_information, at, _ = rest.partition("@")
    user, colon, password = user_information.partition(":")
    # An @ in it, like sftp:nas:/a@b; only, a server is named by an address, with slashes or not.
    is_path = backend != "rest" and ("/" in user or password.startswith("/"))
    if backend not in _PLAIN_WITH_HOST or not at or not colon or is_path:
        return location
    return f"{backend}:{user}:{MASK}@{rest.rpartition('@')[2]}"


def _mask_query(location: str) -> str:
    """Mask the values after `?` and `#`, and what has no name there."""
    begin = min((at for at in map(location.find, "?#") if at >= 0), default=len(location))
    pieces = re.split(r"([?#&;])", location[begin:])
    return location[:begin] + "".join(map(_mask_piece, pieces))


def _mask_piece(piece: str) -> str:
    if piece in {"", "?", "#", "&", ";"}:
        return piece
    name, equals, _ = piece.partition("=")
    return f"{name}={MASK}" if equals else MASK
