"""What a repository may say to restic: which variables it may set, and which locations it may name.

The API checks both when a repository is recorded, so that people are told at once. An agent checks
them again before each job and believes nobody: restic runs there, often as root, and some of what
restic and the libraries in it read from their environment starts programs or opens files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_ACCOUNT_KEY",
        "AZURE_ACCOUNT_NAME",
        "AZURE_ACCOUNT_SAS",
        "AZURE_ENDPOINT_SUFFIX",
        "B2_ACCOUNT_ID",
        "B2_ACCOUNT_KEY",
        "GOOGLE_ACCESS_TOKEN",
        "GOOGLE_PROJECT_ID",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "OS_APPLICATION_CREDENTIAL_ID",
        "OS_APPLICATION_CREDENTIAL_NAME",
        "OS_APPLICATION_CREDENTIAL_SECRET",
        "OS_AUTH_TOKEN",
        "OS_AUTH_URL",
        "OS_PASSWORD",
        "OS_PROJECT_DOMAIN_ID",
        "OS_PROJECT_DOMAIN_NAME",
        "OS_PROJECT_NAME",
        "OS_REGION_NAME",
        "OS_STORAGE_URL",
        "OS_TENANT_ID",
        "OS_TENANT_NAME",
        "OS_TRUST_ID",
        "OS_USERNAME",
        "OS_USER_DOMAIN_ID",
        "OS_USER_DOMAIN_NAME",
        "OS_USER_ID",
        "RESTIC_AWS_ASSUME_ROLE_ARN",
        "RESTIC_AWS_ASSUME_ROLE_EXTERNAL_ID",
        "RESTIC_AWS_ASSUME_ROLE_POLICY",
        "RESTIC_AWS_ASSUME_ROLE_REGION",
        "RESTIC_AWS_ASSUME_ROLE_SESSION_NAME",
        "RESTIC_AWS_ASSUME_ROLE_STS_ENDPOINT",
        "RESTIC_COMPRESSION",
        "RESTIC_KEY_HINT",
        "RESTIC_PACK_SIZE",
        "RESTIC_READ_CONCURRENCY",
        "RESTIC_REST_PASSWORD",
        "RESTIC_REST_USERNAME",
        "ST_AUTH",
        "ST_KEY",
        "ST_USER",
        "SWIFT_DEFAULT_CONTAINER_POLICY",
    }
)
"""The variables that a repository may set: keys, accounts and tuning, all of them plain values.

None names a file or a profile of the host: GOOGLE_APPLICATION_CREDENTIALS and
AWS_SHARED_CREDENTIALS_FILE name programs to run, through such a file. Whoever needs one of those
sets it on the host, and lists it in the agent's policy.
"""

# A remote of rclone's configuration, and nothing else: rclone reads what begins with a hyphen as
# one of its options, and a backend in place, `:sftp,ssh="…":`, can name a program.
_RCLONE_REMOTE = re.compile(r"\w[\w.+@ -]*:")


def location_refusal(location: str) -> str | None:
    """Say why a location could make the host run a program, or None when it could not."""
    backend, _, rest = location.partition(":")
    if location.startswith("-"):
        return "begins with a hyphen, so that it would be read as an option"
    if backend == "rclone" and _RCLONE_REMOTE.match(rest) is None:
        return (
            "must name a remote of rclone's configuration on the host, like rclone:nas:restic; "
            "a remote defined in the location itself could make the host run a program"
        )
    if backend == "sftp" and any(part.startswith("-") for part in _read_sftp_host(rest)):
        return "names an SFTP host that begins with a hyphen, which ssh would read as an option"
    return None


def _read_sftp_host(rest: str) -> tuple[str, ...]:
    """Give what restic may take for the host, with and without what stands before the last @."""
    # restic takes the brackets off that IPv6 addresses have in a URL.
    authority = rest.removeprefix("//")
    return tuple(part.lstrip("[") for part in (authority, *authority.split("@")))


def find_conflicts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Find the variables that two environments set to different values."""
    return sorted(name for name in one.keys() & other.keys() if one[name] != other[name])
