"""What this process remembers of hosts, so that a poll which finds nothing new asks no database;
whose token is whose, and what opens repositories.

After a look that found nothing, and left nothing to wait for that time alone could change, the host
counts as quiet: the next poll that says the same is parked at once. A wake-up of the host, which
every change that concerns it makes, takes the memory away, and the next poll looks again. So the
memory can be lost at any moment, and must never be older than the last wake-up:

    look = memory.begin(host_id)      # a wake-up from now on makes the look worthless
    ... read ...
    memory.remember(look, quiet)      # nothing, if there was one
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from backhaul.wire.agents import HeldJob, PollRequest
from backhaul_api.identity import Actor, AgentIdentity
from backhaul_api.known import Known, Remember
from backhaul_api.repositories.secrets import Closed

OPERATOR_KEPT_FOR = timedelta(seconds=1)
"""Whose token it is, is asked anew then: somebody may have changed the database by hand, and that a
token is in use is noted now and then."""

_MOST_OPERATORS = 1000
"""Tokens that were used once and never again are still in the memory until then."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """A host for which nothing is due, as long as it says this."""

    host_id: UUID
    name: str
    token_hash: bytes
    boot_id: UUID
    schedule_version: int
    jobs: tuple[HeldJob, ...]

    def is_same(self, body: PollRequest) -> bool:
        """Tell whether a poll says what the last one said."""
        return (
            self.boot_id == body.boot_id
            and self.schedule_version == body.schedule_version
            and self.jobs == body.jobs
        )


class Look:
    """A look under way. It is worth nothing any more once the host was woken."""

    __slots__ = ("host_id",)

    def __init__(self, host_id: UUID) -> None:
        self.host_id = host_id


@dataclass(frozen=True, slots=True)
class KnownOperator:
    """An operator as a token was found to be of, for as long as that is believed."""

    actor: Actor
    since: datetime
    until: datetime
    mark: int | None
    """The database's, when it was asked: see `Database.read_mark`."""

    @classmethod
    def build(cls, actor: Actor, now: datetime, mark: int | None) -> KnownOperator:
        """Build it for a token that was good at this moment."""
        until = now + OPERATOR_KEPT_FOR
        if actor.expires_at is not None:
            until = min(until, actor.expires_at)
        return cls(actor, now, until, mark)

    def is_believed(self, now: datetime, mark: int | None) -> bool:
        """Tell whether it must still be so; a clock that was set back says nothing."""
        return mark is not None and mark == self.mark and self.since <= now < self.until


@dataclass(frozen=True, slots=True)
class KnownRepository:
    """What opens a repository, as far as everyday access goes."""

    closed: Closed
    updated_at: datetime
    """When that was changed last, or earlier: what was read is as new, or newer."""


class Memory:
    """The quiet hosts of one process, when it heard of them, and what else it knows."""

    def __init__(self) -> None:
        self.agents: Known[bytes, AgentIdentity] = Known()
        self.operators: Known[bytes, KnownOperator] = Known()
        self.repositories: Known[UUID, KnownRepository] = Known()
        """Those on which no job keeps others waiting."""
        self._known = (self.agents, self.operators, self.repositories)
        self._quiet: dict[bytes, Quiet] = {}
        self._token_of: dict[UUID, bytes] = {}
        self._looks: dict[UUID, Look] = {}
        self._seen: dict[UUID, datetime] = {}
        self.is_trusted = False
        """Whether this process hears of every change, and somebody writes down who was heard of."""

    def find(self, token_hash: bytes) -> Quiet | None:
        """Find the host of a token, if it is quiet."""
        return self._quiet.get(token_hash)

    def find_agent(self, token_hash: bytes) -> AgentIdentity | None:
        """Find whose token this is, if that is known and cannot have changed."""
        return self.agents.find(token_hash) if self.is_trusted else None

    def find_operator(self, token_hash: bytes, now: datetime, mark: int | None) -> Actor | None:
        """Find whose session or API token this is, if that is known and cannot have changed."""
        known = self.operators.find(token_hash) if self.is_trusted else None
        return known.actor if known is not None and known.is_believed(now, mark) else None

    def introduce_operator(self) -> AbstractContextManager[Remember[bytes, KnownOperator]]:
        """Begin a look for the operator of a token: see `Known.introduce`."""
        if len(self.operators) >= _MOST_OPERATORS:
            self.operators.forget_all()
        return self.operators.introduce()

    def begin(self, host_id: UUID) -> Look:
        """Begin a look. Of several at a time, the one that began last is believed."""
        look = self._looks[host_id] = Look(host_id)
        return look

    def remember(self, look: Look, quiet: Quiet | None) -> None:
        """Keep what a look found, unless the host was woken since it began."""
        if self._looks.get(look.host_id) is not look:
            return
        del self._looks[look.host_id]
        self._forget(look.host_id)
        if quiet is not None:
            self._quiet[quiet.token_hash] = quiet
            self._token_of[quiet.host_id] = quiet.token_hash

    def wake(self, topic: UUID) -> None:
        """Something changed: whatever is known, or about to be, of this host is old, or who may
        speak for it."""
        self._looks.pop(topic, None)
        self._forget(topic)
        for known in self._known:
            known.wake(topic)

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._looks.clear()
        self._quiet.clear()
        self._token_of.clear()
        for known in self._known:
            known.forget_all()

    def hear(self, host_id: UUID, now: datetime) -> None:
        """Note that a quiet host polled: see `take_heard`."""
        self._seen[host_id] = now

    def take_heard(self) -> dict[UUID, datetime]:
        """Take the hosts that were heard of since the last call, to write that down."""
        heard, self._seen = self._seen, {}
        return heard

    @property
    def quiet_count(self) -> int:
        return len(self._quiet)

    def _forget(self, host_id: UUID) -> None:
        token_hash = self._token_of.pop(host_id, None)
        if token_hash is not None:
            del self._quiet[token_hash]
