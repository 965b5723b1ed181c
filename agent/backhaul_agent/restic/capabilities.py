"""What restic can do since which version: the one table, asked before restic is started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from backhaul_agent.errors import NotSupportedError
from backhaul_agent.restic.version import ResticVersion


class Feature(StrEnum):
    """What a job can need, named as people know it."""

    EXCLUDE_LARGER_THAN = "backup --exclude-larger-than"
    DRY_RUN_OF_BACKUP = "backup --dry-run"
    COMPRESSION = "--compression"


SINCE: Mapping[Feature, tuple[int, int, int]] = MappingProxyType(
    {
        # Source: restic's changelog, the release and the issue that is named.
        Feature.EXCLUDE_LARGER_THAN: (0, 10, 0),  # 0.10.0, issue 2569
        Feature.DRY_RUN_OF_BACKUP: (0, 13, 0),  # 0.13.0, issue 1542
        Feature.COMPRESSION: (0, 14, 0),  # 0.14.0, issue 21
    }
)


def require(version: ResticVersion, features: Iterable[Feature]) -> None:
    """Refuse what the installed restic is too old for.

    Raises:
        NotSupportedError: names the first such thing, and the version that has it.
    """
    for feature in features:
        if not version.is_at_least(*SINCE[feature]):
            major, minor, patch = SINCE[feature]
            raise NotSupportedError(
                f"restic {version} does not know {feature}: this needs restic "
                f"{major}.{minor}.{patch} or newer"
            )
