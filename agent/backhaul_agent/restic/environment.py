"""The environment that restic gets: built from nothing, never inherited.

What the agent's own environment has of RESTIC_* or AWS_* would reach another repository than the
job's, or make restic refuse to start (RESTIC_REPOSITORY beside RESTIC_REPOSITORY_FILE).

The server says where a repository is and what opens it, and nothing more: whatever could start a
program or open a file of the host (LD_PRELOAD, RESTIC_PASSWORD_COMMAND, a file of AWS
credentials) is refused here, unless the host's own policy allows the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from backhaul.wire.commands import Credentials
from backhaul.wire.environment import VARIABLES, location_refusal
from backhaul_agent.errors import CredentialsError

INHERITED = (
    "PATH",
    "HOME",
    "TZ",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""What restic may have from the agent's own environment."""

PROGRESS_PER_SECOND = "1"
"""restic writes up to 60 lines a second when nobody tells it otherwise."""


def build_environment(
    credentials: Credentials,
    *,
    inherited: Mapping[str, str],
    cache_dir: Path,
    also_allowed: Iterable[str] = (),
) -> dict[str, str]:
    """Build restic's environment, secrets included.

    What the host's policy allows beyond the known variables, a repository may set, and restic may
    have it from the agent's own environment.

    Raises:
        CredentialsError: the repository asks for a variable or a location that is not allowed.
    """
    allowed = frozenset(also_allowed)
    _check_names(credentials.environment, VARIABLES | allowed)
    refusal = location_refusal(credentials.location)
    if refusal is not None:
        raise CredentialsError(f"the repository's location {refusal}")
    texts = [credentials.location, credentials.password, *credentials.environment.values()]
    texts += filter(None, (credentials.new_password, credentials.old_password))
    if any("\x00" in text for text in texts):
        raise CredentialsError("the repository's credentials hold a NUL, which restic cannot take")
    kept = {name: inherited[name] for name in (*INHERITED, *sorted(allowed)) if name in inherited}
    return (
        {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}
        | kept
        | {"LANG": "C.UTF-8", "RESTIC_PROGRESS_FPS": PROGRESS_PER_SECOND}
        | credentials.environment
        | {
            "RESTIC_REPOSITORY": credentials.location,
            "RESTIC_PASSWORD": credentials.password,
            "RESTIC_CACHE_DIR": str(cache_dir),
        }
    )


def name_source(credentials: Credentials) -> dict[str, str]:
    """Name the repository that restic reads from while it writes to that of its environment."""
    # 0.14.0, 0.18.0, 0.19.1, for copy and for init. Other commands refuse or ignore them.
    return {
        "RESTIC_FROM_REPOSITORY": credentials.location,
        "RESTIC_FROM_PASSWORD": credentials.password,
    }


def _check_names(environment: Mapping[str, str], allowed: frozenset[str]) -> None:
    for name in sorted(environment):
        if name not in allowed:
            raise CredentialsError(
                f"the repository sets {name}, which this host does not pass to restic; the names "
                "in `environment` under [policy] in the agent's settings are allowed too"
            )
