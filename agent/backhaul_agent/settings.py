"""The agent's settings: defaults, then a TOML file, then `BACKHAUL_AGENT_*`, then options.

    # /etc/backhaul/agent.toml
    poll_hold = 20
    proxy = "http://proxy.example.com:3128"

    [policy]
    kinds = ["backup", "snapshots"]
    backup_paths = ["/etc", "/srv"]
    restore_paths = ["/var/restore"]

    [dumps.postgres]
    command = ["pg_dumpall", "--clean"]
    file_name = "postgres.sql"
    timeout = 3600

Loaded once, by the command line; nobody else reads the environment. What the agent may do is
decided in `[policy]` and `[dumps]` and nowhere else: neither the environment nor the server changes
it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from backhaul.wire.agents import DEFAULT_HOLD_S
from backhaul.wire.base import Name
from backhaul.wire.kinds import AbsolutePath, JobKind
from backhaul.wire.refusals import explain
from backhaul_agent.errors import SettingsError
from backhaul_agent.journal import DEFAULT_SPOOL_LIMIT

DEFAULT_CONFIG = Path("/etc/backhaul/agent.toml")
_ENVIRONMENT_PREFIX = "BACKHAUL_AGENT_"

LogLevel = Literal["debug", "info", "warning", "error"]


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server may ask of this host. A path allows everything below it."""

    kinds: tuple[JobKind, ...] = tuple(JobKind)
    backup_paths: tuple[AbsolutePath, ...] = ("/",)
    restore_paths: tuple[AbsolutePath, ...] = ("/",)
    restore_in_place: bool = False
    """Whether a restore may put files back to where they were, over what is there: below the
    folders that `restore_paths` names, and / is no such name."""
    browse: bool | None = None
    """Whether operators may list and search the files of snapshots through this host; without it,
    they may where `kinds` has `snapshots`."""
    environment: tuple[str, ...] = ()
    """Further variables that a repository may set for restic; see `restic.environment`."""


_Argument = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$(?!\n)")]
_FileName = Annotated[
    str, msgspec.Meta(max_length=255, pattern=r"^(?!\.{1,2}$)[^/\x00\r\n]+$(?!\n)")
]


class DumpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command whose output a backup can be. The server knows no more than its name."""

    command: Annotated[tuple[_Argument, ...], msgspec.Meta(min_length=1)]
    """The program, absolute or to be found on PATH, and its arguments. No shell reads it."""
    file_name: _FileName | None = None
    """What the file in the snapshot is called; without it, as the dump is."""
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Seconds that the command may take."""

    def __post_init__(self) -> None:
        if "/" in self.command[0] and not self.command[0].startswith("/"):
            raise ValueError(f"{self.command[0]!r}: write an absolute path, or a name on PATH")

    def __repr__(self) -> str:
        # Whoever writes a password into a command line finds it in no log of ours.
        return f"DumpSettings(command=({self.command[0]!r}, …))"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent needs to know. Durations are seconds."""

    state_dir: Path
    restic: str = "restic"
    """A path, or a name to be found on PATH."""
    log_level: LogLevel = "info"
    poll_hold: Annotated[float, msgspec.Meta(ge=0, le=600)] = DEFAULT_HOLD_S
    """The longest that a poll may be held."""
    proxy: str | None = None
    """For the API. Without it, HTTP_PROXY, HTTPS_PROXY and NO_PROXY count."""
    no_proxy: str | None = None
    """Hosts that the proxy is not for, with commas between."""
    ca_file: Path | None = None
    """Certificates in PEM to trust, besides the system's; without it, those given at enrolment."""
    cache_dir: Path | None = None
    """restic's cache; default: `cache` in the state folder."""
    scratch_dir: Path | None = None
    """Where drills restore to, each into a folder of its own that is removed afterwards; default:
    `drill` in the state folder."""
    settle: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    """How long after its start, or after a suspend, the agent waits before it catches up on what
    it missed: the network and the disks of a machine that wakes up need a moment."""
    offline_after: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0
    """How long a fire waits for a server that cannot be reached before its backup runs without it,
    where the schedule says so."""
    max_jobs: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """How many jobs run at the same time on this host."""
    spool_limit: Annotated[int, msgspec.Meta(ge=2**20)] = DEFAULT_SPOOL_LIMIT
    """Bytes that may wait on the disk for a server that cannot be reached. Beyond it log lines are
    left out, and the log says so; fires and results always have room."""
    policy: PolicySettings = PolicySettings()
    dumps: dict[Name, DumpSettings] = {}
    """By the names that jobs and sources call them."""
    file: Path | None = None
    """Where these were read from; known to `load_settings`, and set by nobody else."""

    def __repr__(self) -> str:
        # A proxy's URL can hold a password.
        return f"Settings(state_dir={self.state_dir}, restic={self.restic!r}, …)"

    @property
    def effective_cache_dir(self) -> Path:
        return self.cache_dir or self.state_dir / "cache"

    @property
    def effective_scratch_dir(self) -> Path:
        return self.scratch_dir or self.state_dir / "drill"

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """What the agent itself lives by: its state, its settings, its program."""
        own = [self.state_dir, self.effective_cache_dir, self.effective_scratch_dir]
        own += [DEFAULT_CONFIG.parent, Path(__file__).parent]
        if self.file is not None:
            own.append(self.file)
        if sys.prefix != sys.base_prefix:
            own.append(Path(sys.prefix))
        return tuple(own)


def load_settings(
    environment: Mapping[str, str], *, file: Path | None = None, **options: object
) -> Settings:
    """Put the settings together. Options that are None count as not given.

    Without `file`, /etc/backhaul/agent.toml is read where it exists.

    Raises:
        SettingsError: a value or a name is not acceptable.
    """
    if file is None and _is_there(DEFAULT_CONFIG):
        file = DEFAULT_CONFIG
    values: dict[str, Any] = {"state_dir": _default_state_dir(environment)}
    values |= _read_file(file) if file else {}
    values |= _read_environment(environment)
    values |= {name: value for name, value in options.items() if value is not None}
    if "file" in values:
        raise SettingsError("settings: file: is not a field of this")
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {explain(str(error), Settings).describe()}") from error
    # Found once, here: restic itself starts in / and with an environment that is not ours.
    restic = shutil.which(settings.restic, path=environment.get("PATH"))
    return msgspec.structs.replace(
        settings,
        restic=str(Path(restic).absolute()) if restic else settings.restic,
        file=file.absolute() if file else None,
    )


def _read_path(type_: type, value: object) -> Path:
    """Read a path. msgspec names the field when this raises a ValueError."""
    if type_ is not Path:
        raise NotImplementedError(type_)
    if not isinstance(value, str | Path) or not str(value) or "\x00" in str(value):
        raise ValueError("must be a path")
    return Path(value).expanduser().absolute()


def _is_there(file: Path) -> bool:
    """Tell whether a file exists; one that this user may not see does, and its policy counts."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _default_state_dir(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/backhaul-agent")
    state_home = environment.get("XDG_STATE_HOME") or str(
        Path(environment.get("HOME") or "/") / ".local/state"
    )
    return Path(state_home) / "backhaul-agent"


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {file}: {error}") from error


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {
        variable.removeprefix(_ENVIRONMENT_PREFIX).lower(): value
        for variable, value in environment.items()
        if variable.startswith(_ENVIRONMENT_PREFIX)
    }
    for name, what in (("policy", "the policy is"), ("dumps", "dumps are")):
        if name in values:
            raise SettingsError(
                f"{_ENVIRONMENT_PREFIX}{name.upper()}: {what} set in the settings file only"
            )
    return values
