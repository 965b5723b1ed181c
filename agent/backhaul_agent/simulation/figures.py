"""What is counted and measured while a fleet is simulated, and the report that comes of it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

DAY_S = 86_400.0


class Traffic(NamedTuple):
    """Bytes on the sockets, as the agent sees them. TLS adds to them."""

    sent: int = 0
    received: int = 0

    def plus(self, other: Traffic) -> Traffic:
        return Traffic(self.sent + other.sent, self.received + other.received)

    def minus(self, other: Traffic) -> Traffic:
        return Traffic(self.sent - other.sent, self.received - other.received)


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    longest_ms: float


class BytesPerDay(msgspec.Struct, frozen=True, kw_only=True):
    """Of one agent in one day, extrapolated: its quiet polls by the time, the rest by its jobs."""

    sent: int
    received: int
    jobs: float
    """How many jobs of a day are in it."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The counters at a moment."""

    at_s: float
    at: datetime
    polls: int
    fires: int
    ended: int
    quiet: Traffic
    busy: Traffic


@dataclass
class Figures:
    """The counters of a fleet. Latencies are in seconds."""

    agents: int = 0
    """That have been started."""
    parked: int = 0
    """Polls that are under way."""
    most_parked: int = 0
    polls: int = 0
    """That were answered."""
    fires: int = 0
    begun: int = 0
    ended: int = 0
    """Whose end the server has."""
    quiet: Traffic = field(default_factory=Traffic)
    """Of polls that brought nothing."""
    busy: Traffic = field(default_factory=Traffic)
    errors: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def count_error(self, where: str, kind: str) -> None:
        self.errors[f"{where}: {kind}"] += 1

    def note_parked(self) -> None:
        """A poll is on its way."""
        self.parked += 1
        self.most_parked = max(self.most_parked, self.parked)

    def note_poll(self, traffic: Traffic, *, is_quiet: bool) -> None:
        self.polls += 1
        if is_quiet:
            self.quiet = self.quiet.plus(traffic)
        else:
            self.note_busy(traffic)

    def note_busy(self, traffic: Traffic) -> None:
        self.busy = self.busy.plus(traffic)

    def note_latency(self, name: str, seconds: float) -> None:
        self.latencies.setdefault(name, []).append(seconds)

    def mark(self) -> Mark:
        return Mark(
            at_s=time.monotonic(),
            at=datetime.now(UTC),
            polls=self.polls,
            fires=self.fires,
            ended=self.ended,
            quiet=self.quiet,
            busy=self.busy,
        )

    def summarise_latencies(self) -> dict[str, Quantiles]:
        return {name: _summarise(seconds) for name, seconds in sorted(self.latencies.items())}


def _summarise(seconds: list[float]) -> Quantiles:
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
    return Quantiles(
        count=len(seconds),
        p50_ms=round(statistics.median(seconds) * 1000, 2),
        p99_ms=round(min(cuts[98], max(seconds)) * 1000, 2),
        longest_ms=round(max(seconds) * 1000, 2),
    )


def extrapolate(begin: Mark, end: Mark, *, agents: int, jobs_per_day: float) -> BytesPerDay | None:
    """Extrapolate to a day; None when nothing was seen in between.

    Without a job that ended in between, the jobs are left out.
    """
    passed_s, ended = end.at_s - begin.at_s, end.ended - begin.ended
    if passed_s <= 0 or not agents:
        return None
    quiet, busy = end.quiet.minus(begin.quiet), end.busy.minus(begin.busy)
    jobs = jobs_per_day if ended else 0.0
    by_time, by_job = DAY_S / passed_s / agents, jobs / ended if ended else 0.0
    return BytesPerDay(
        sent=round(quiet.sent * by_time + busy.sent * by_job),
        received=round(quiet.received * by_time + busy.received * by_job),
        jobs=round(jobs, 2),
    )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a simulation."""

    agents: int
    connected: int
    """The most agents whose polls the server held at one moment."""
    speed: float
    seed: int
    phases_s: dict[str, float]
    """How long each step took: to prepare the fleet, to start it, to live, and to look at it."""
    seconds: float
    """From the end of the ramp until the fires ended: what rates are counted over."""
    ended_at: datetime
    """When these seconds were over."""
    ended: int
    """The jobs whose end came in them."""
    jobs_per_day: float
    """Of an agent at a speed of 1, without upkeep."""
    polls_per_s: float
    fires: int
    fires_per_s: float
    jobs: dict[str, int]
    """By their states at the end."""
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    stuck: tuple[str, ...]
    latencies: dict[str, Quantiles]
    bytes_per_day: BytesPerDay | None
    errors: dict[str, int]
    simulator_cores: float
    """CPU of the simulator itself, over the same seconds."""
    simulator_memory_mib: float
    was_interrupted: bool

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.stuck)
