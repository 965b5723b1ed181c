"""Write docs/repositories-and-kinds.md from what was seen, so that it tells nothing else.

.venv/bin/python -m tools.draw_kinds

What became of each kind of job on each type of repository is recorded, for each restic, by
tests/system/repository_kinds.py; what a restic printed by tools/record_restic.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from backhaul.wire.kinds import JobKind

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "repositories-and-kinds.md"
RECORDINGS = ROOT / "tests" / "data"
CELLS = RECORDINGS / "repository-kinds.json"


class RepositoryType(StrEnum):
    """The columns of the table."""

    LOCAL = "local"
    SFTP = "sftp"
    REST = "REST"
    APPEND_ONLY = "REST, append-only"
    S3 = "S3"


Cells = Mapping[JobKind, Mapping[RepositoryType, str]]

OK = "ok"
REFUSED = "refused by the storage"

COMMANDS: Mapping[JobKind, str] = {JobKind.DRILL: "restore", JobKind.PASSWD: "key"}
"""Which command of restic does most of a kind, where it is not called the same."""


def load_cells() -> dict[str, Cells]:
    """Read what was seen, for each version of restic."""
    return msgspec.json.decode(CELLS.read_bytes(), type=dict[str, Cells]) if CELLS.exists() else {}


def draw() -> str:
    """Build the page."""
    seen = load_cells()
    versions = sorted(seen, key=_sort_key)
    return f"""<!-- Drawn by tools/draw_kinds.py: see there. -->
# Repositories and kinds of jobs

Whatever restic can reach can be a repository. These are the types that Backhaul's own tests back
up to, with real servers on loopback, and what became of each kind of job there, with restic
{_join(versions)}. It is done anew, with Debian's restic, whenever the code changes. What Backhaul
keeps of a repository, and who may delete in it, [another page](repositories.md) tells.

{_draw_table(seen, versions)}

`{REFUSED}`: an append-only server deletes nothing for anybody but locks. That is what
it is for: a host that was broken into cannot remove its backups. The job fails, and what was stored
stays; restic 0.14 tries for most of a minute first.

The last column names the versions of which the output is recorded besides, for all that can go
wrong there (a wrong password, a lock, damage, a full disk, an interrupt), and read by the tests.

## Types of repositories

| type | location | in the tests |
| --- | --- | --- |
| {RepositoryType.LOCAL} | `/srv/restic` | a folder |
| {RepositoryType.SFTP} | `sftp:backup@nas:/srv/restic` | OpenSSH's sshd |
| {RepositoryType.REST} | `rest:https://backup:password@nas:8000/` | `rclone serve restic` |
| {RepositoryType.APPEND_ONLY} | the same | the same, with `--append-only` |
| {RepositoryType.S3} | `s3:https://s3.example.com/bucket` | `rclone serve s3` |

An S3 repository has AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its record: `backhaul
repositories create … --env NAME`. The user and the password of a REST server stand in the
location, whose password is kept as a secret; RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD do the
same for restic 0.16.1 and newer.

A server that does not answer is asked again for a while: restic 0.14 gives up at once when it opens
the repository, and after most of a minute later on; from 0.18 on it goes on for a quarter of an
hour.

## What a host needs for SFTP

restic runs `ssh`. A host reaches an `sftp:` repository when this says nothing and ends with exit
code 0, as the user that the agent runs as:

```console
$ ssh -o BatchMode=yes backup@nas -s sftp </dev/null
```

- The key is in `~/.ssh` of that user, with `IdentityFile` in `~/.ssh/config` for one of another
  name, or held by an ssh-agent whose SSH_AUTH_SOCK is in the agent's own environment.
- The key of the server is in `~/.ssh/known_hosts` or `/etc/ssh/ssh_known_hosts`: nobody is there to
  be asked.
- `~` is the home in the user database, `/root` for root, whatever HOME says.
- Another port stands in the location, `sftp://backup@nas:2222//srv/restic`, or in `~/.ssh/config`.

None of it comes from the Backhaul server: a repository cannot name a command or an option for
`ssh`, so that whoever may change its record cannot run programs on the host.
"""


def _draw_table(seen: Mapping[str, Cells], versions: list[str]) -> str:
    recorded = find_recordings()
    rows = [
        f"| kind | {' | '.join(RepositoryType)} | output |",
        f"| --- | {'--- | ' * len(RepositoryType)}--- |",
    ]
    for kind in JobKind:
        cells = [_draw_cell(seen, versions, kind, type_) for type_ in RepositoryType]
        known = [version for version, kinds in recorded.items() if kind in kinds]
        output = f"recorded {', '.join(known)}" if known else "not recorded"
        rows.append(f"| `{kind}` | {' | '.join(cells)} | {output} |")
    return "\n".join(rows)


def _draw_cell(
    seen: Mapping[str, Cells], versions: list[str], kind: JobKind, type_: RepositoryType
) -> str:
    """Tell what was seen once when all agree, else for each restic."""
    told = {version: seen[version].get(kind, {}).get(type_, "not tried") for version in versions}
    if len(set(told.values())) == 1:
        return told[versions[0]]
    return "; ".join(f"{version}: {cell}" for version, cell in told.items())


def find_recordings() -> Mapping[str, frozenset[JobKind]]:
    """Find for which kinds there is output of restics newer than that of CI."""
    found = {}
    for folder in sorted(RECORDINGS.glob("restic-*"), key=lambda one: _sort_key(one.name)):
        commands = {file.read_text().split("\n")[1] for file in folder.glob("*/argv.txt")}
        found[folder.name.removeprefix("restic-")] = frozenset(
            kind for kind in JobKind if COMMANDS.get(kind, str(kind)) in commands
        )
    return found


def _sort_key(version: str) -> list[int]:
    return [int(number) for number in version.removeprefix("restic-").split(".")]


def _join(versions: list[str]) -> str:
    return f"{', '.join(versions[:-1])} and {versions[-1]}" if versions[1:] else "".join(versions)


if __name__ == "__main__":
    PAGE.write_text(draw())
    sys.stdout.write(f"{PAGE} is written\n")
