"""What restic's exit means: by its code, its version, and for old versions its words.

| code | 0.14 to 0.16 | later |
|---|---|---|
| 0 | success | |
| 1 | every error, told apart by the text on stderr | every error without a code of its own |
| 3 | backup: a snapshot exists, something could not be read | same; 0.19.0: forget left some |
| 10, 11 | | 0.17.0: no repository, locked |
| 12 | | 0.17.1: wrong password |
| 130 | SIGINT | SIGINT, SIGTERM; 0.18.0 may exit with 1 |

Sources: restic manual, "Exit codes", at each version; recordings of 0.14.0, 0.18.0 and 0.19.1.
Unknown codes fail: restic's manual announces that new ones will come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from backhaul.wire.jobs import FailureClass, Outcome
from backhaul.wire.kinds import JobKind
from backhaul_agent.restic.output import read_message
from backhaul_agent.restic.version import ResticVersion

_INTERRUPTED = 130

_CODES_SINCE: dict[int, tuple[tuple[int, int, int], FailureClass]] = {
    10: ((0, 17, 0), FailureClass.REPOSITORY_MISSING),
    11: ((0, 17, 0), FailureClass.LOCKED),
    12: ((0, 17, 1), FailureClass.WRONG_PASSWORD),
}

# The first that matches counts. Each was recorded, from restic 0.14.0 where nothing else is said.
# "unable to open config file" alone says nothing: it stands before a missing repository and before
# a dead network alike.
_WORDS: Sequence[tuple[str, FailureClass]] = (
    # 0.18.0 may exit with 1 all the same; what fails besides fails because of the signal.
    ("signal interrupt received", FailureClass.INTERRUPTED),
    ("signal terminated received", FailureClass.INTERRUPTED),
    ("config file already exists", FailureClass.REPOSITORY_EXISTS),
    ("wrong password or no key found", FailureClass.WRONG_PASSWORD),
    ("repository is already locked", FailureClass.LOCKED),
    ("no space left on device", FailureClass.NO_SPACE),
    ("all target directories/files do not exist", FailureClass.SOURCE_MISSING),
    ("all source directories/files do not exist", FailureClass.SOURCE_MISSING),  # 0.18.0
    ("/config: no such file or directory", FailureClass.REPOSITORY_MISSING),
    ("<config/> does not exist", FailureClass.REPOSITORY_MISSING),
    ("open config file: Lstat: file does not exist", FailureClass.REPOSITORY_MISSING),
    ("open config file: Stat: The specified key does not exist", FailureClass.REPOSITORY_MISSING),
    (
        "open config file: Stat: The specified bucket does not exist",
        FailureClass.REPOSITORY_MISSING,
    ),
    ("ciphertext verification failed", FailureClass.DAMAGED),
    ("Pack ID does not match", FailureClass.DAMAGED),
    ("packs from index missing in repo", FailureClass.DAMAGED),
    ("invalid data returned", FailureClass.DAMAGED),
    ("config file has zero size", FailureClass.DAMAGED),
    ("connection refused", FailureClass.NETWORK),
    ("connection reset", FailureClass.NETWORK),
    ("use of closed network connection", FailureClass.NETWORK),
    ("no such host", FailureClass.NETWORK),
    ("no route to host", FailureClass.NETWORK),
    ("network is unreachable", FailureClass.NETWORK),
    ("i/o timeout", FailureClass.NETWORK),
    ("TLS handshake", FailureClass.NETWORK),
    ("x509:", FailureClass.NETWORK),
    ("no matching ID found", FailureClass.SNAPSHOT_MISSING),
    ("no snapshot found", FailureClass.SNAPSHOT_MISSING),
    # Last, because check says this of a network that failed it, too.
    ("repository contains errors", FailureClass.DAMAGED),
)

# A storage that takes no deletes: a REST server or S3 (0.14.0, 0.18.0, 0.19.1), a folder of files.
_DELETE_REFUSED = re.compile(
    r"Remove\(<(?!lock/).*(?:server response: 403|response \(403\)|Access ?Denied|Forbidden"
    r"|not allowed|permission denied|operation not permitted|read-only file system)",
    re.IGNORECASE,
)

# Go prints each retry as a line of its own; what was retried may have worked in the end.
_RETRY = "returned error, retrying after"
# In Go's stack traces the name of a function stands alone, before a line with its place.
_FUNCTION = re.compile(r"\S+\.\S+")
_MESSAGE_LINES = 3
_MESSAGE_LENGTH = 1000


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of restic ended, before anyone decides that this is bad."""

    outcome: Outcome
    failure_class: FailureClass | None = None


def interpret(
    exit_code: int,
    *,
    version: ResticVersion | None,
    kind: JobKind,
    stderr: Sequence[str] = (),
) -> Verdict:
    """Say what an exit means. A negative code is the signal that ended restic.

    Without a version only the codes that all versions share are believed.
    """
    if exit_code == 0:
        return Verdict(outcome=Outcome.SUCCEEDED)
    if exit_code == 3 and kind is JobKind.BACKUP:
        return Verdict(outcome=Outcome.INCOMPLETE)
    return Verdict(outcome=Outcome.FAILED, failure_class=_classify(exit_code, version, stderr))


def _classify(exit_code: int, version: ResticVersion | None, stderr: Sequence[str]) -> FailureClass:
    if exit_code < 0 or exit_code == _INTERRUPTED:
        return FailureClass.INTERRUPTED
    if version is not None and exit_code in _CODES_SINCE:
        since, failure_class = _CODES_SINCE[exit_code]
        if version.is_at_least(*since):
            return failure_class
    return FailureClass.REFUSED if are_deletes_refused(stderr) else classify_words(stderr)


def are_deletes_refused(stderr: Iterable[str]) -> bool:
    """Tell whether the repository's storage takes no deletes, as an append-only one does."""
    return any(_DELETE_REFUSED.search(line) for line in stderr)


def classify_words(stderr: Sequence[str]) -> FailureClass:
    """Say what restic's words mean. Some commands go on without what they complain of, and exit
    with 0."""
    # JSON as it is, too: what an item failed with stands deeper in it than a message.
    said = [text for line in stderr for text in (line, *read_message(line))]
    final = [line for line in said if _RETRY not in line]
    for lines in (final, said):
        for words, failure_class in _WORDS:
            if any(words in line for line in lines):
                return failure_class
    return FailureClass.OTHER


def pick_message(stderr: Iterable[str]) -> str | None:
    """Choose the few lines of stderr that say why restic failed."""
    texts = [text for line in stderr for text in read_message(line) if text.strip()]
    lines = _without_stack(texts)
    told = [line for line in lines if _RETRY not in line]
    for index, line in enumerate(told):
        if line.startswith("Fatal:"):
            return _join(told[index:])
    return _join(told) if told else (_join(lines[-1:]) or None)


def _without_stack(lines: Sequence[str]) -> list[str]:
    return [
        line
        for line, next_line in zip(lines, [*lines[1:], ""], strict=False)
        if not line.startswith("\t")
        and not (next_line.startswith("\t") and _FUNCTION.fullmatch(line))
    ]


def _join(lines: Sequence[str]) -> str:
    return "\n".join(lines[:_MESSAGE_LINES])[:_MESSAGE_LENGTH]
