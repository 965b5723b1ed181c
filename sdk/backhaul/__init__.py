"""Backhaul: back up a fleet of machines with restic, from Python."""

from __future__ import annotations

__version__ = "0.1.0"
