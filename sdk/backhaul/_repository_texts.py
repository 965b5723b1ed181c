"""How a repository stands, in the words of the command line and of notebooks alike."""

from __future__ import annotations

from datetime import datetime

from backhaul.display import render_age, render_bytes
from backhaul.wire.fleet import LastCheck, LastJob, Repository
from backhaul.wire.jobs import FailureClass, JobState
from backhaul.wire.kinds import PasswdStep
from backhaul.wire.wording import render_count


def describe_upkeep(one: Repository) -> str:
    """Tell who may delete from it."""
    if one.upkeep_host is None:
        return "any host, with the everyday credential"
    return f"{one.upkeep_host}, with {'an admin' if one.has_admin else 'the everyday'} credential"


def describe_size(one: Repository, now: datetime) -> str:
    """Tell how large it is, since when that is known, and what it grew by."""
    size, growth = one.size, one.growth_30d
    if size is None:
        return "not measured yet"
    text = (
        f"{render_bytes(size.total_size)} in "
        f"{render_count(size.snapshots_count, 'snapshot')}, measured "
        f"{render_age(size.measured_at, now)}"
    )
    if growth is None:
        return text
    sign = "+" if growth.bytes >= 0 else "-"
    days = round((size.measured_at - growth.since).total_seconds() / 86_400)
    return f"{text}; {sign}{render_bytes(abs(growth.bytes))} in {render_count(days, 'day')}"


def describe_lock(one: Repository, now: datetime) -> str:
    """Tell since when jobs fail of its lock, and whose that is."""
    if one.lock is None:
        return "no"
    holder = f", by {one.lock.holder}" if one.lock.holder else ""
    return f"jobs fail of it, since {render_age(one.lock.since, now)}{holder}"


def render_last(job: LastJob | None, now: datetime) -> str:
    """Tell when a job of a kind ended, and how."""
    if job is None:
        return "never"
    text = f"{job.state} {render_age(job.finished_at, now)} on {job.host}"
    if isinstance(job, LastCheck) and _has_read(job):
        text += f", read {job.read_data_subset or 'the structure'}"
    return text


def _has_read(check: LastCheck) -> bool:
    """A check that failed for another reason than what it found may have read nothing."""
    return check.state is JobState.SUCCEEDED or check.failure_class is FailureClass.DAMAGED


def describe_password_change(one: Repository) -> str:
    """Tell how far a change of the password is; empty when there is none."""
    change = one.password_change
    if change is None:
        return ""
    if change.step is PasswdStep.ADD:
        return f"a new one is being added by job {change.job_id}"
    if change.job_id is not None:
        return f"the old one is being removed by job {change.job_id}"
    who = ", ".join(change.waits_for) or "a host that can do it"
    return f"the old one still opens it: its removal waits for {who}"
