"""Tables of pandas: a proper type for each column, with rows and without."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import get_args

import pytest

pandas = pytest.importorskip("pandas")

from backhaul import frames  # noqa: E402
from backhaul.errors import MissingPackageError  # noqa: E402
from backhaul.wire.jobs import JobState  # noqa: E402
from backhaul.wire.kinds import BackupResult, DrillResult, PruneResult, Result  # noqa: E402
from tests.unit.sdk.builders import NOW, build_host, build_job  # noqa: E402
from tests.unit.sdk.test_html import THINGS  # noqa: E402
from tests.unit.test_wire_formats import MESSAGES  # noqa: E402


@pytest.mark.parametrize("noun", frames.COLUMNS)
def test_empty_table_has_the_columns_and_types_of_a_full_one(noun: str) -> None:
    full, empty = frames.build(noun, [THINGS[noun]] * 3), frames.build(noun, [])

    assert (len(full), len(empty)) == (3, 0)
    assert list(full.dtypes.items()) == list(empty.dtypes.items())


def test_every_collection_has_a_table() -> None:
    assert set(frames.COLUMNS) == set(THINGS)


def test_jobs_have_times_durations_and_whole_bytes() -> None:
    done = build_job(
        JobState.SUCCEEDED,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=90, milliseconds=500),
        result=BackupResult(data_added=2**40, total_files_processed=7),
    )

    table = frames.build("jobs", [done, build_job()])

    assert str(table["created_at"].dtype) == "datetime64[us, UTC]"
    assert table["duration"][0] == pandas.Timedelta(seconds=90.5)
    assert pandas.isna(table["duration"][1])
    assert table["bytes_added"].tolist() == [2**40, pandas.NA]
    assert str(table["bytes_added"].dtype) == "Int64"
    assert table["state"].cat.categories.tolist() == [state.value for state in JobState]
    assert table["state"].tolist() == ["succeeded", "queued"]


def test_jobs_of_all_kinds_make_one_table() -> None:
    results = [message for message, _ in MESSAGES if isinstance(message, get_args(Result))]
    jobs = [build_job(JobState.SUCCEEDED, result=result) for result in results]

    table = frames.build("jobs", [*jobs, build_job()])

    assert {type(result) for result in results} == set(get_args(Result))
    assert list(table.dtypes.items()) == list(frames.build("jobs", []).dtypes.items())


def test_unreadable_files_are_counted_for_backups_and_drills() -> None:
    backup = build_job(result=BackupResult(unreadable=2))
    drill = build_job(
        result=DrillResult(
            snapshot_id="0a1b2c3d" * 8,
            snapshot_time=NOW,
            hostname="web-1",
            files_total=9,
            files_unreadable=101,
            unreadable=("/etc/a", "/etc/b"),  # the first ones only
        )
    )

    table = frames.build("jobs", [backup, drill, build_job(result=PruneResult())])

    assert table["unreadable"].tolist() == [2, 101, pandas.NA]


def test_host_that_was_never_backed_up_has_no_time() -> None:
    table = frames.build("hosts", [build_host()])

    assert pandas.isna(table["last_backup_at"][0])
    assert table["labels"][0] == {"env": "prod"}


def test_without_pandas_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(MissingPackageError, match=r"pip install 'backhaul\[notebook\]'"):
        frames.build("jobs", [])
