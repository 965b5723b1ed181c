"""What this host says about itself."""

from __future__ import annotations

import platform
import socket

import backhaul
from backhaul.wire.agents import HostFacts
from backhaul.wire.base import SPOKEN_PROTOCOLS
from backhaul_agent.errors import ResticMissingError
from backhaul_agent.restic.version import ask_version
from backhaul_agent.settings import Settings


async def gather_facts(settings: Settings) -> HostFacts:
    """Look at the host. A missing restic is a fact, not an error."""
    try:
        restic_version: str | None = str(await ask_version(settings.restic))
    except ResticMissingError:
        restic_version = None
    return HostFacts(
        hostname=socket.gethostname(),
        os=_name_system(),
        architecture=platform.machine(),
        agent_version=backhaul.__version__,
        protocol=SPOKEN_PROTOCOLS,
        restic_version=restic_version,
        capabilities=tuple(settings.policy.kinds),
    )


def _name_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
