"""`restic key`: the passwords of a repository. `restic cat config` tries one.

Each password has a key of its own in the repository; nothing is encrypted anew when one comes or
goes. The password to work with is in the environment, a new one in a file that the caller names.
"""

from __future__ import annotations

from collections.abc import Iterable

from backhaul_agent.restic.output import parse_array, read_text


def build_try_arguments() -> list[str]:
    """Build the command line that only opens the repository. It takes no lock."""
    return ["cat", "config", "--no-lock"]


def build_add_arguments(password_file: str) -> list[str]:
    """Build the command line that adds a key for the password in a file."""
    return ["key", "add", f"--new-password-file={password_file}"]


def build_list_arguments() -> list[str]:
    """Build the command line that tells, among others, which key the password opens."""
    return ["key", "list", "--json", "--no-lock"]


def build_remove_arguments(key_id: str) -> list[str]:
    """Build the command line that removes a key; restic refuses the one that it works with."""
    return ["key", "remove", "--", key_id]


def read_current(stdout: Iterable[str]) -> str | None:
    """Read the id of the key that was used: 8 digits, 64 since 0.17. None when there is none."""
    for line in stdout:
        for item in parse_array(line) or ():
            if isinstance(item, dict) and item.get("current") is True:
                return read_text(item, "id") or None
    return None
