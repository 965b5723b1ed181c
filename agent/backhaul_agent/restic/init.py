"""`restic init`: creates the repository, where it is certain that there is none.

restic looks before it writes, but whether that tells a storage that cannot be reached from one
that is empty is each storage's own affair, and a wrong answer replaces the config of a repository.
So its config is asked for first. Since 0.17 exit code 10 says that there is none; before, only the
text does, in words of each storage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backhaul.wire.commands import Credentials
from backhaul.wire.jobs import FailureClass
from backhaul.wire.kinds import InitArguments, InitResult
from backhaul_agent.restic.environment import name_source
from backhaul_agent.restic.output import parse_object, read_text

_NOT_OPENED = "unable to open config file"
# The words of 0.14.0: local and REST recorded, the others from its source and its libraries'.
_ABSENT = (
    "/config: no such file or directory",
    "<config/> does not exist",
    "Lstat: file does not exist",  # sftp
    "The specified key does not exist",  # S3
    "The specified bucket does not exist",
    "storage: object doesn't exist",  # Google Cloud Storage
    "Object Not Found",  # OpenStack Swift
)

_CREATED = re.compile(r"created restic repository ([0-9a-f]+) at ")


def build_arguments(arguments: InitArguments) -> list[str]:
    line = ["init", "--json"]
    return line if arguments.chunker_of_id is None else [*line, "--copy-chunker-params"]


def build_environment(chunker_of: Credentials) -> dict[str, str]:
    """Build what comes on top of the environment of the new repository."""
    return {**chunker_of.environment, **name_source(chunker_of)}


def build_question() -> list[str]:
    """Build the command line that shows whether there is a repository, and leaves no lock."""
    return ["cat", "config", "--no-lock"]


def is_certainly_absent(failure_class: FailureClass | None, stderr: Iterable[str]) -> bool:
    """Tell whether there is no repository; that restic cannot reach one is no sign of that."""
    if failure_class is FailureClass.REPOSITORY_MISSING:
        return True
    opened = [line for line in stderr if _NOT_OPENED in line]
    return any(words in line for line in opened for words in _ABSENT)


def read_result(stdout: Iterable[str]) -> InitResult | None:
    """Find the repository's id: JSON since 0.15 (64 digits), text in 0.14 (10 digits)."""
    for line in stdout:
        found = parse_object(line)
        if found is not None and found.get("message_type") == "initialized":
            return InitResult(repository_id=read_text(found, "id"))
        match = _CREATED.search(line)
        if match:
            return InitResult(repository_id=match[1])
    return None
