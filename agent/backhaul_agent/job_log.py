"""The log of one job on its way to the spool: cleaned, masked, in stretches, with an end."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from backhaul.wire.jobs import LogLine
from backhaul.wire.wording import render_count
from backhaul_agent.clock import Clock
from backhaul_agent.errors import DiskFullError
from backhaul_agent.journal import Journal
from backhaul_agent.redact import Redactor
from backhaul_agent.restic.output import clean_line
from backhaul_agent.spool import Spool

FLUSH_LINES = 100
FLUSH_EVERY_S = 1.0
MAX_LINES = 20_000
"""A million unreadable files make a million lines; nobody reads more than the first of them."""


class JobLog:
    """Writes log lines. What is written is flushed by `flush`, or at 100 lines."""

    def __init__(
        self,
        job_id: UUID,
        *,
        attempt: int,
        journal: Journal,
        spool: Spool,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._journal = journal
        self._spool = spool
        self._clock = clock
        self.redactor = redactor
        self._waiting: list[LogLine] = []
        self._written = 0
        self.left_out = 0
        """How many lines there was no room for, since the last one that was kept."""

    def write(self, stream: Literal["stdout", "stderr", "agent"], text: str) -> None:
        """Add a line. Beyond the limit only what the agent itself says is kept."""
        self._written += 1
        if self._written == MAX_LINES:
            stream, text = "agent", f"more than {MAX_LINES} lines; what follows is left out"
        elif self._written > MAX_LINES and stream != "agent":
            return
        # Cleaned first: an escape sequence in the middle of a secret would hide it.
        line = clean_line(self.redactor.redact(clean_line(text)))
        self._waiting.append(LogLine(at=self._clock.now(), stream=stream, text=line))
        if len(self._waiting) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Put what waits into the spool."""
        if not self._waiting:
            return
        lines, self._waiting = self._waiting, []
        if self.left_out:
            text = (
                f"({render_count(self.left_out, 'line')} left out here: the agent's disk was full)"
            )
            lines.insert(0, LogLine(at=lines[0].at, stream="agent", text=text))
        try:
            self._journal.append_log(self._job_id, attempt=self._attempt, lines=lines)
        except DiskFullError:
            # A backup is worth more than its log.
            self.left_out += len(lines) - bool(self.left_out)
            return
        self.left_out = 0
        self._spool.notify()

    async def flush_forever(self) -> None:
        """Put what waits into the spool once a second. Ends by cancellation."""
        while True:
            await self._clock.sleep(FLUSH_EVERY_S)
            self.flush()
