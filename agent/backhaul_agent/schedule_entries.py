"""Reading a set of schedules, entry by entry: one that cannot be read spoils no other.

Pure: decides what this agent can run, and says why not. An entry stays the bytes that came, so that
an agent that is upgraded can read what an older one could not.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from backhaul.wire.schedules import EntryError, ScheduleEntry, ScheduleKind

LONGEST_JITTER_S = 86_400.0


class ReceivedSet(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="schedule.set"):
    """A `schedule.set` whose entries have not been read yet."""

    schedule_version: int
    schedules: tuple[msgspec.Raw, ...]


class ReceivedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: the bytes, and what they say or why they are of no use here."""

    schedule_id: UUID
    raw: bytes
    entry: ScheduleEntry | None
    error: str | None = None

    def with_error(self, message: str) -> ReceivedEntry:
        return msgspec.structs.replace(self, entry=None, error=message)

    def report(self) -> EntryError:
        return EntryError(schedule_id=self.schedule_id, message=self.error or "")


class _Named(msgspec.Struct, frozen=True):
    schedule_id: UUID


def read_entry(raw: bytes) -> ReceivedEntry:
    """Read one entry; its cron expression and its time zone are not looked at.

    Raises:
        msgspec.DecodeError: it does not even name its schedule.
    """
    schedule_id = msgspec.json.decode(raw, type=_Named).schedule_id
    try:
        entry = msgspec.json.decode(raw, type=ScheduleEntry)
    except msgspec.ValidationError as error:
        message = f"this agent cannot read the schedule: {error}"
        return ReceivedEntry(schedule_id=schedule_id, raw=bytes(raw), entry=None, error=message)
    error_text = _find_fault(entry)
    return ReceivedEntry(
        schedule_id=schedule_id,
        raw=bytes(raw),
        entry=entry if error_text is None else None,
        error=error_text,
    )


def _find_fault(entry: ScheduleEntry) -> str | None:
    if entry.kind not in set(ScheduleKind):
        return f"kind: this agent cannot run {entry.kind!r} by schedule"
    if not entry.jitter <= LONGEST_JITTER_S:
        return f"jitter: must be 0 to {LONGEST_JITTER_S:.0f} seconds"
    return None
