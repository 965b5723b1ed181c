"""backhaul version."""

from __future__ import annotations

from backhaul import __version__
from backhaul.cli.output import AsJson, Quiet, print_json, say
from backhaul.wire.base import SPOKEN_PROTOCOLS


def version(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Show the version."""
    if as_json:
        print_json({"version": __version__, "protocol": SPOKEN_PROTOCOLS})
    else:
        say(__version__ if quiet else f"backhaul {__version__}")
