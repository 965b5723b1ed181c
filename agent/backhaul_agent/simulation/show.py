"""What a person sees of a simulation: a line that lives, and a table at the end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from backhaul import display
from backhaul.cli import output
from backhaul_agent.simulation.figures import Report
from backhaul_agent.simulation.run import Simulation

_LIVE_EVERY_S = 1.0
_PLAIN_EVERY_S = 10.0
"""Where nobody looks: a log wants few lines."""
_SHOWN = 10
"""Findings of a sort that are printed one by one."""


class Onlooker:
    """Says on stderr how a simulation gets on."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._is_live = sys.stderr.isatty()
        self._polls = 0

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look on for the length of the block."""
        task = asyncio.get_running_loop().create_task(self._look())
        try:
            yield
        finally:
            task.cancel()
            if self._is_live:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

    async def _look(self) -> None:
        every_s = _LIVE_EVERY_S if self._is_live else _PLAIN_EVERY_S
        while True:
            await asyncio.sleep(every_s)
            line = self._describe(every_s)
            if self._is_live:
                sys.stderr.write(f"\r{line}\x1b[K")
                sys.stderr.flush()
            else:
                output.note(line)

    def _describe(self, passed_s: float) -> str:
        phase, figures = self._simulation.phase, self._simulation.figures
        polls_per_s = (figures.polls - self._polls) / passed_s
        self._polls = figures.polls
        whole = f" {phase.done:,} of {phase.whole:,}" if phase.whole and phase.done else ""
        parts = [f"{phase.name}{whole}"]
        if figures.agents:
            parts += [
                f"connected {figures.parked:,}",
                f"polls {polls_per_s:,.0f}/s",
                f"fires {figures.fires:,}",
                f"jobs {figures.begun:,} begun, {figures.ended:,} ended",
            ]
        errors = figures.errors.total()
        return "  ".join([*parts, f"errors {errors:,}"] if errors else parts)


def print_report(report: Report) -> None:
    """Print what came of it."""
    jobs = ", ".join(f"{count:,} {state}" for state, count in sorted(report.jobs.items()))
    fields = [
        ("Agents", f"{report.agents:,}, of which {report.connected:,} were connected"),
        ("Took", ", ".join(f"{one} {s:,.0f} s" for one, s in report.phases_s.items())),
        ("Lived", f"{display.render_duration(report.seconds)}, {report.speed:g} times as fast"),
        ("Polls", f"{report.polls_per_s:,.1f} a second"),
        ("Fires", f"{report.fires:,}, {report.fires_per_s:,.2f} a second"),
        ("Jobs", jobs or "none"),
    ]
    fields += [
        (
            name[0].upper() + name[1:],
            f"p50 {one.p50_ms:,.1f} ms, p99 {one.p99_ms:,.1f} ms, of {one.count:,}",
        )
        for name, one in report.latencies.items()
    ]
    if report.bytes_per_day is not None:
        day = report.bytes_per_day
        fields.append(
            (
                "Per agent and day",
                f"{display.render_bytes(day.sent)} sent, {display.render_bytes(day.received)} "
                f"received, with {day.jobs:g} jobs",
            )
        )
    errors = ", ".join(f"{kind} ({count:,})" for kind, count in sorted(report.errors.items()))
    fields += [
        ("Errors", errors or "none"),
        (
            "Simulator",
            f"{report.simulator_cores:.2f} cores, {report.simulator_memory_mib:,.0f} MiB",
        ),
    ]
    output.print_fields(fields)
    for name in ("lost", "doubled", "stuck"):
        findings: tuple[str, ...] = getattr(report, name)
        output.say(f"{name}={len(findings)}")
        for finding in findings[:_SHOWN]:
            output.say(f"  {finding}")
