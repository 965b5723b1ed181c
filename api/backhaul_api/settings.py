"""The API's settings: defaults, then a TOML file, then `BACKHAUL_*` variables, then options.

Loaded once, by the program that starts the app; nobody else reads the environment.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from backhaul.wire.agents import DEFAULT_HOLD_S
from backhaul.wire.refusals import explain

_ENVIRONMENT_PREFIX = "BACKHAUL_API_"
_MAY_STAND_IN_A_FILE = {"database_url_file": "database_url", "tick_token_file": "tick_token"}

HOLD_JITTER = 0.1
"""A hold may be so much longer than the setting says: see `polling.poll.choose_hold`."""

ANSWER_MARGIN_S = 2.0
"""Between the end of a wait and the limit of an answer, for what comes before and after it: a cold
start, the look at its end, the way through a gateway."""


NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]
"""A variable that is set to nothing is a slip: the default would hide it, or open all addresses."""


class SettingsError(Exception):
    """A setting is not acceptable; the message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an instance needs to know. Durations are seconds."""

    data_dir: Path = Path("backhaul-data")
    """Holds the SQLite database and the key file, unless those are set."""
    database_url: NotEmpty | None = None
    """`sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`; default: SQLite in `data_dir`."""
    database_pooler: Literal["none", "transaction"] = "none"
    """Whether something like PgBouncer lends another connection to each transaction."""
    database_pool_size: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    """How many connections to PostgreSQL stay open; SQLite opens what it needs."""
    database_pool_overflow: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 10
    """How many more are opened while all of those are busy."""
    database_pool_patience: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    """How long a request waits for a connection."""
    database_connect_timeout: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    database_statement_timeout: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 30.0
    """How long a statement may take, waiting for locks included; 0 sets no limit."""
    database_idle_timeout: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0
    """After how long PostgreSQL ends a transaction in which nothing happens, as of a process that
    hangs; 0 sets no limit."""
    database_statement_cache: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 200
    """How many statements stay prepared in each connection."""
    key_file: Path | None = None
    """Default: `secret.key` in `data_dir`. Instances that share a database share it."""
    key: NotEmpty | None = None
    """The text of the key file, for where there is no disk."""
    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8440
    """0 takes any free one."""
    poll_hold: Annotated[float, msgspec.Meta(ge=0, le=600)] = DEFAULT_HOLD_S
    """The longest that a poll is held; 0 answers each at once, for functions that cannot wait."""
    poll_pause: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 15.0
    """How long an agent stays away between polls when polls are not held."""
    answer_limit: Annotated[float, msgspec.Meta(ge=5, le=3600)] | None = None
    """The longest that the platform lets an answer take, like the 29 s of an API gateway. Whatever
    waits ends before that."""
    background: bool = True
    """Whether the process works between requests: writes down later who polled, and does by itself
    what `POST /v1/tick` does. Off where a process may be frozen or killed after each answer."""
    tick_token: Annotated[str, msgspec.Meta(min_length=32)] | None = None
    """Opens `POST /v1/tick` to a timer, and nothing else. Without one, it opens to operators."""
    stall_after: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] = 1800.0
    """A running job that has not got on for so long is shown as stalled; nothing ends it."""
    lost_after: Annotated[float, msgspec.Meta(ge=60, le=366 * 86400)] = 3600.0
    """A job whose host has not been heard of for so long counts as lost, until it reports."""
    job_log_lifetime: Annotated[float, msgspec.Meta(ge=86400, le=50 * 366 * 86400)] | None = None
    """How long the log of a job is kept once the job is over. None keeps every line for ever."""
    session_lifetime: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] = 12 * 3600.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __repr__(self) -> str:
        return f"Settings(data_dir={self.data_dir}, host={self.host}, port={self.port}, …)"

    @property
    def effective_database_url(self) -> str:
        if self.database_url is not None:
            return self.database_url
        from sqlalchemy import URL  # here, because `backhaul --help` reads this file

        # Built, not written: a folder may have a ? or a % in its name.
        file = self.data_dir.resolve() / "backhaul.sqlite3"
        return URL.create("sqlite+aiosqlite", database=str(file)).render_as_string()

    @property
    def longest_hold(self) -> float:
        """How long a poll is held, before it is spread."""
        return min(self.poll_hold, self.cap_wait(math.inf) / (1 + HOLD_JITTER))

    def cap_wait(self, asked_s: float) -> float:
        """Give how long a request may wait that asks for so long."""
        if self.answer_limit is None:
            return asked_s
        return min(asked_s, self.answer_limit - ANSWER_MARGIN_S)

    @property
    def effective_key_file(self) -> Path:
        return self.key_file or self.data_dir / "secret.key"


def load_settings(
    environment: Mapping[str, str], *, file: Path | None = None, **options: object
) -> Settings:
    """Put the settings together. Options that are None count as not given.

    Raises:
        SettingsError: a value or a name is not acceptable.
    """
    values: dict[str, Any] = _read_file(file) if file else {}
    values |= _read_environment(environment)
    values |= {name: value for name, value in options.items() if value is not None}
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {_name_field(error)}") from error


def _decode_path(type_: type[Any], value: Any) -> Any:
    # The only type here that msgspec does not know by itself.
    if type_ is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError("must be a path")


def _name_field(error: msgspec.ValidationError) -> str:
    """Name the setting, and say what it takes: `port: must be at most 65535`."""
    found = explain(str(error), Settings)
    if found.message == "must have at least 1 character":
        return f"{found.field}: must not be empty"
    # Neither a file nor the environment can say null.
    return f"{found.field}: {found.message.replace(' or null', '')}"


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {file}: {error}") from error


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read `BACKHAUL_API_X`; a secret may stand in a file that `BACKHAUL_API_X_FILE` names."""
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(_ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(_ENVIRONMENT_PREFIX).lower()
        if name in _MAY_STAND_IN_A_FILE:
            values[_MAY_STAND_IN_A_FILE[name]] = _read_secret(variable, value)
        else:
            values[name] = value
    return values


def _read_secret(variable: str, file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {error}") from error
