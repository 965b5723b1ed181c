"""Which server a command speaks to."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from backhaul import settings

if TYPE_CHECKING:
    from backhaul.client import Client

_selected: ContextVar[str | None] = ContextVar("selected_profile", default=None)


def select_profile(name: str | None) -> None:
    """Set the profile that `backhaul --profile` names."""
    _selected.set(name)


def profile_name(name: str | None = None) -> str:
    """Tell which profile is meant: the command's own option, the root's, the environment's."""
    config = settings.load_config(config_path())
    return settings.choose_profile_name(config, os.environ, name or _selected.get())


def named_profile() -> str | None:
    """Tell which profile was asked for by its name, if any was."""
    return settings.named_profile(os.environ, _selected.get())


def config_path() -> Path:
    """Tell where the configuration file is."""
    return settings.config_path(os.environ)


def find_profile(url: str | None = None) -> settings.Profile:
    """Find the server and the token that commands use; the server is `url`, if that is given.

    Raises:
        ConfigurationError: no server is configured.
    """
    return settings.find_profile(os.environ, url=url, profile=_selected.get())


def find_signed_in(url: str | None = None) -> settings.Profile:
    """Find them as `find_profile` does, with a token that can be an operator's.

    Raises:
        ConfigurationError: no server is configured, or nobody is signed in.
    """
    return settings.find_signed_in(os.environ, url=url, profile=_selected.get())


def open_client() -> Client:
    """Connect, signed in.

    Raises:
        ConfigurationError: no server is configured, or nobody is signed in.
    """
    return settings.connect(profile=_selected.get()).client


def open_timer_client() -> Client:
    """Connect with the server's own `tick_token`, if that is there, and signed in otherwise.

    Raises:
        ConfigurationError: no server is configured, or nobody is signed in.
    """
    token = os.environ.get("BACKHAUL_TICK_TOKEN")
    if not token:
        return open_client()
    from backhaul.client import Client

    found = find_profile()
    return Client(found.url, token=token, ca_file=found.ca_file)
