"""What this process remembers of hosts, so that a poll which finds nothing new asks no database.

After a look that found nothing, and left nothing to wait for that time alone could change, the host
counts as quiet: the next poll that says the same is parked at once. A wake-up of the host, which
every change that concerns it makes, takes the memory away, and the next poll looks again. So the
memory can be lost at any moment, and must never be older than the last wake-up:

    look = memory.begin(host_id)      # a wake-up from now on makes the look worthless
    ... read ...
    memory.remember(look, quiet)      # nothing, if there was one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backhaul.wire.agents import HeldJob, PollRequest
from backhaul_api.db.changes import identity_topic
from backhaul_api.identity import AgentIdentity


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


class Introduction:
    """A look under way for the host of a token, whose id is not known before it."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken: set[UUID] = set()
        """The topics that were woken since it began."""


class Memory:
    """The quiet hosts of one process, who its agents are, and when it heard of them."""

    def __init__(self) -> None:
        self._agents: dict[bytes, AgentIdentity] = {}
        self._hashes_of: dict[UUID, tuple[bytes, ...]] = {}
        self._introductions: set[Introduction] = set()
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
        return self._agents.get(token_hash) if self.is_trusted else None

    @contextmanager
    def introduce(self) -> Iterator[Callable[[AgentIdentity], None]]:
        """Begin a look for the host of a token; gives what remembers the host that is found, unless
        it was woken since."""
        look = Introduction()
        self._introductions.add(look)

        def remember(agent: AgentIdentity) -> None:
            topic = identity_topic(agent.host_id)
            is_new = look in self._introductions and topic not in look.woken
            if is_new and not agent.is_removed and agent.token_hash not in self._agents:
                self._agents[agent.token_hash] = agent
                self._hashes_of[topic] = (*self._hashes_of.get(topic, ()), agent.token_hash)

        try:
            yield remember
        finally:
            self._introductions.discard(look)

    @property
    def introducing(self) -> int:
        """How many tokens are being looked up."""
        return len(self._introductions)

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
        for token_hash in self._hashes_of.pop(topic, ()):
            self._agents.pop(token_hash, None)
        for look in self._introductions:
            look.woken.add(topic)

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._looks.clear()
        self._quiet.clear()
        self._token_of.clear()
        self._agents.clear()
        self._hashes_of.clear()
        self._introductions.clear()

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
