"""Which snapshots are honest: by where they come from, and by a time that can be true."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from backhaul.wire.honesty import TOLERANCE, Doubt
from backhaul_api.snapshots.rules import build_origin, find_doubt

ACCEPTED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FINISHED = ACCEPTED + timedelta(hours=1)
NOW = ACCEPTED + timedelta(days=1)
SECOND = timedelta(seconds=2)
"""Windows are told in whole seconds, rounded outwards."""


def row(**fields: Any) -> SimpleNamespace:
    values = {
        "id": "ab" * 32,
        "time": ACCEPTED,
        "hostname": "web-1",
        "vouched_at": None,
        "told": "abababab",
        "job_created_at": ACCEPTED - timedelta(days=1),
        "job_accepted_at": ACCEPTED,
        "job_finished_at": FINISHED,
        "is_anothers": False,
    }
    return SimpleNamespace(**{**values, **fields})


@pytest.mark.parametrize(
    ("fields", "doubt"),
    [
        ({}, None),
        ({"told": "ab" * 32}, None),
        ({"time": ACCEPTED - TOLERANCE}, None),
        ({"time": FINISHED + TOLERANCE}, None),
        ({"job_accepted_at": None, "time": ACCEPTED - timedelta(days=1)}, None),
        ({"time": ACCEPTED - TOLERANCE - SECOND}, Doubt.TIME),
        ({"time": FINISHED + TOLERANCE + SECOND}, Doubt.TIME),
        ({"time": NOW + TOLERANCE + SECOND}, Doubt.FUTURE),
        ({"time": NOW + timedelta(days=900), "told": None}, Doubt.FUTURE),
        ({"time": datetime(9999, 12, 31, tzinfo=UTC)}, Doubt.FUTURE),
        ({"time": datetime(1, 1, 1, tzinfo=UTC)}, Doubt.TIME),
        ({"told": None}, Doubt.UNKNOWN),
        ({"told": "cdcdcdcd"}, Doubt.UNKNOWN),
        ({"told": ""}, Doubt.UNKNOWN),
        ({"told": "ab"}, Doubt.UNKNOWN),
        ({"job_finished_at": None}, Doubt.UNKNOWN),
        ({"is_anothers": True}, Doubt.HOST),
        ({"told": None, "vouched_at": NOW}, None),
        ({"time": ACCEPTED - timedelta(days=900), "vouched_at": NOW}, None),
    ],
)
def test_snapshot_is_doubted_for_what_cannot_be_true(
    fields: dict[str, Any], doubt: Doubt | None
) -> None:
    assert find_doubt(row(**fields), NOW) == doubt


def test_origin_names_its_snapshot_by_more_than_can_be_searched_for() -> None:
    origin = build_origin(row())

    assert origin is not None
    assert origin.id == "ab" * 8
