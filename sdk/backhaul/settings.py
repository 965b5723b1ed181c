"""Where the server is and what signs in there: arguments, environment, configuration file.

Each of them wins over what follows it: arguments; BACKHAUL_URL, BACKHAUL_TOKEN (or
BACKHAUL_TOKEN_FILE), BACKHAUL_CA_FILE, BACKHAUL_PROFILE; the profile in
`~/.config/backhaul/config.toml`, which `backhaul login` writes:

    default_profile = "default"

    [profiles.default]
    url = "https://backhaul.example.com"
    token = "bhs_…"
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from backhaul.errors import ConfigurationError
from backhaul.wire.tokens import TokenKind, parse_token_kind

if TYPE_CHECKING:
    from backhaul.aio.fleet import AsyncFleet
    from backhaul.objects.fleet import Fleet

DEFAULT_TIMEOUT_S = 30.0

DEFAULT_PROFILE = "default"

_OPERATOR_TOKENS = {TokenKind.SESSION, TokenKind.API}
_IN_TOML = {"an object": "a table", "a string": "text", " or null": "", "field of this": "setting"}
"""What TOML has for the words of JSON."""

_PROFILE_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server and what signs in there."""

    url: str
    token: str | None = None
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"Profile(url={self.url!r}, …)"


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of config.toml."""

    default_profile: str = DEFAULT_PROFILE
    profiles: dict[str, Profile] = {}


def connect(
    url: str | None = None,
    token: str | None = None,
    profile: str | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    ca_file: str | Path | None = None,
) -> Fleet:
    """Connect as the arguments, the environment or the configuration file say.

    `timeout` is in seconds; `ca_file` names the certificates to believe, in PEM. Nothing is asked
    of the server yet.

    Raises:
        ConfigurationError: no server is known, or nothing to sign in there with.
    """
    from backhaul.client import Client
    from backhaul.objects.fleet import Fleet

    found = find_signed_in(os.environ, url=url, token=token, profile=profile)
    chosen = ca_file or found.ca_file
    return Fleet(Client(found.url, token=found.token, timeout=timeout, ca_file=chosen))


def aconnect(
    url: str | None = None,
    token: str | None = None,
    profile: str | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    ca_file: str | Path | None = None,
) -> AsyncFleet:
    """Connect for asyncio as the arguments, the environment or the configuration file say.

    `timeout` is in seconds; `ca_file` names the certificates to believe, in PEM. Nothing is asked
    of the server yet.

    Raises:
        ConfigurationError: no server is known, or nothing to sign in there with.
    """
    from backhaul.aio.fleet import AsyncFleet
    from backhaul.async_client import AsyncClient

    found = find_signed_in(os.environ, url=url, token=token, profile=profile)
    chosen = ca_file or found.ca_file
    return AsyncFleet(AsyncClient(found.url, token=found.token, timeout=timeout, ca_file=chosen))


def find_profile(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    token: str | None = None,
    profile: str | None = None,
) -> Profile:
    """Find the server and the token.

    The token of a profile goes to the profile's own URL only.

    Raises:
        ConfigurationError: no server is known, or the profile or the file is not usable.
    """
    saved = _choose(load_config(config_path(environment)), environment, profile)
    # A profile that was asked for by name is not overruled by a variable that is always set.
    variables: Mapping[str, str] = {} if profile else environment
    found_url = url or variables.get("BACKHAUL_URL") or (saved.url if saved else None)
    found_token = token or _read_token(variables)
    ca_file = variables.get("BACKHAUL_CA_FILE") or None
    if found_url is None:
        raise ConfigurationError(
            "No server is configured. Run `backhaul login --url URL`, or set BACKHAUL_URL and "
            "BACKHAUL_TOKEN."
        )
    if saved is not None and _is_same_url(saved.url, found_url):
        found_token = found_token or saved.token
        ca_file = ca_file or saved.ca_file
    return Profile(url=found_url, token=found_token, ca_file=ca_file)


def find_signed_in(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    token: str | None = None,
    profile: str | None = None,
) -> Profile:
    """Find the server, as `find_profile` does, and a token that can be an operator's.

    Raises:
        ConfigurationError: as `find_profile` and `require_token` do.
    """
    found = find_profile(environment, url=url, token=token, profile=profile)
    return require_token(found, name=named_profile(environment, profile))


def require_token(profile: Profile, *, name: str | None = None) -> Profile:
    """Refuse to go on without a token, or with one that cannot be an operator's.

    Args:
        name: the profile's, if it was asked for by name.

    Raises:
        ConfigurationError: says which of these it is, never the token.
    """
    if profile.token is None:
        raise ConfigurationError(
            f"Not signed in to {profile.url}. Run `{build_login(name, url=profile.url)}`, or set "
            "BACKHAUL_TOKEN."
        )
    kind = parse_token_kind(profile.token)
    if kind is None:
        raise ConfigurationError(f"The token for {profile.url} is cut or mistyped.")
    if kind not in _OPERATOR_TOKENS:
        raise ConfigurationError(
            f"The token for {profile.url} is of the kind {kind.name.lower()}: operators use a "
            "session or an API token."
        )
    return profile


def build_login(name: str | None, *, url: str | None = None) -> str:
    """Build the command that signs in: into a profile of this name, at this server."""
    at = f" --url {url}" if url else ""
    into = f" --profile {name}" if name else ""
    return f"backhaul login{at}{into}"


def config_path(environment: Mapping[str, str]) -> Path:
    """Tell where the configuration file is, whether or not it exists."""
    base = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "backhaul" / "config.toml"


def load_config(path: Path) -> ConfigFile:
    """Read the configuration file; an absent one is empty.

    Raises:
        ConfigurationError: it cannot be read, is no TOML, or has unknown settings.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ConfigFile()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} is not usable: {error}.") from error
    try:
        return msgspec.convert(content, ConfigFile)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path} is not usable: {_explain(content, error)}.") from error


def _explain(content: Mapping[str, object], error: msgspec.ValidationError) -> str:
    """Name the setting that is wrong, with its profile, and say what it takes."""
    from backhaul.wire.refusals import explain

    profiles = content.get("profiles")
    found = explain(str(error), ConfigFile)
    for name, profile in profiles.items() if isinstance(profiles, dict) else ():
        try:
            msgspec.convert(profile, Profile)
        except msgspec.ValidationError as of_profile:  # the whole does not say which it is in
            found = explain(str(of_profile), Profile, prefix=f"profiles.{name}")
            break
    message = found.message
    for word, in_toml in _IN_TOML.items():
        message = message.replace(word, in_toml)
    return f"{found.field}: {message}"


def save_profile(path: Path, name: str, profile: Profile) -> None:
    """Write a profile, private to its user (0600) and in one step: a crash leaves the old file.

    The first profile becomes the default. Comments that somebody wrote into the file are lost.

    Raises:
        ConfigurationError: the name is not like `prod-1`, or the file cannot be written.
    """
    if _PROFILE_NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"The profile name {name!r} is not made of letters, digits, hyphens and underscores."
        )
    config = load_config(path)
    default = config.default_profile if config.profiles else name
    profiles = {**config.profiles, name: profile}
    _save_config(path, ConfigFile(default_profile=default, profiles=profiles))


def forget_token(path: Path, name: str) -> None:
    """Remove the token of a profile; its URL stays."""
    config = load_config(path)
    if name in config.profiles:
        profile = msgspec.structs.replace(config.profiles[name], token=None)
        _save_config(
            path, msgspec.structs.replace(config, profiles={**config.profiles, name: profile})
        )


def choose_profile_name(
    config: ConfigFile, environment: Mapping[str, str], name: str | None
) -> str:
    """Tell which profile is meant; it need not exist."""
    return named_profile(environment, name) or config.default_profile


def named_profile(environment: Mapping[str, str], name: str | None) -> str | None:
    """Tell which profile was asked for by its name, if any was."""
    return name or environment.get("BACKHAUL_PROFILE") or None


def _choose(config: ConfigFile, environment: Mapping[str, str], name: str | None) -> Profile | None:
    chosen = choose_profile_name(config, environment, name)
    if chosen not in config.profiles and chosen != config.default_profile:
        known = ", ".join(sorted(config.profiles)) or "none yet"
        raise ConfigurationError(
            f"There is no profile {chosen!r} (there is: {known}). "
            f"Make it with `{build_login(chosen)}`."
        )
    return config.profiles.get(chosen)


def _read_token(environment: Mapping[str, str]) -> str | None:
    file = environment.get("BACKHAUL_TOKEN_FILE")
    if environment.get("BACKHAUL_TOKEN") or not file:
        return environment.get("BACKHAUL_TOKEN") or None
    try:
        return Path(file).expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"BACKHAUL_TOKEN_FILE cannot be read: {error}.") from error


def _is_same_url(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _save_config(path: Path, config: ConfigFile) -> None:
    target = path.resolve()  # a link into somebody's dotfiles stays a link
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes it 0600, and nobody else can open it at any moment.
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".config-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_render(config))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}.") from error


def _render(config: ConfigFile) -> str:
    lines = [f"default_profile = {_quote(config.default_profile)}"]
    for name, profile in config.profiles.items():
        lines += ["", f"[profiles.{_quote(name)}]"]
        fields = msgspec.structs.asdict(profile).items()
        lines += [f"{field} = {_quote(value)}" for field, value in fields if value is not None]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
