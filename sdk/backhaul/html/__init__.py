"""What notebooks show of a fleet: cards, tables, errors. Nothing secret is in any of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backhaul._moments import find_now
from backhaul.errors import BackhaulError, JobFailedError
from backhaul.html.cards import render_card, render_job
from backhaul.html.markup import Markup, escape, mark, page, tag
from backhaul.html.tables import build_rows, render_rows
from backhaul.wire.jobs import Job

if TYPE_CHECKING:
    from backhaul._view import Scene


def render(data: Any, *, now: datetime | None = None) -> str:
    """Render one thing of the fleet as a card."""
    moment = now or find_now()
    return render_job(data, moment) if isinstance(data, Job) else render_card(data, moment)


def render_table(
    noun: str, rows: Sequence[Any], *, has_more: bool = False, now: datetime | None = None
) -> str:
    """Render things of one kind as a table."""
    return render_rows(noun, rows, now or find_now(), has_more=has_more)


def render_scene(scene: Scene, *, now: datetime | None = None) -> str:
    """Render what a live view shows."""
    moment = now or find_now()
    parts = [
        tag("div", title, class_="bh-title") + build_rows(noun, rows, moment)
        for title, noun, rows in (
            ("Jobs", "jobs", scene.jobs),
            ("Hosts that are away", "hosts", scene.away),
            ("What happened last", "events", list(reversed(scene.events))),
        )
        if rows or noun == "jobs"
    ]
    notes = []
    if scene.has_more:
        notes.append("There are more. ")
    if scene.trouble is not None:
        notes.append(f"The server cannot be asked now: {scene.trouble} ")
    state = "Stopped" if scene.is_over else "Live"
    notes.append(f"{state}; as of {moment:%H:%M:%S} UTC.")
    return page(*map(Markup, parts), tag("div", *notes, class_="bh-note"), label="the fleet")


def render_note(text: str) -> str:
    """Render a sentence."""
    return page(tag("div", text, class_="bh-mute"), label="note")


def render_error(error: BackhaulError) -> str:
    """Render an error as a short panel: what happened, and what to do."""
    lines = error.last_lines if isinstance(error, JobFailedError) else ()
    message = str(error).split("\n", 1)[0]
    return page(
        mark("bad", "✖", type(error).__name__),
        tag("div", message),
        tag("pre", Markup("\n".join(map(escape, lines)))) if lines else Markup(""),
        label="error",
    )
