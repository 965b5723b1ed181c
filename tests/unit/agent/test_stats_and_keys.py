"""What `restic stats` and `restic key list` print, in each version."""

from __future__ import annotations

from pathlib import Path

import pytest

from backhaul_agent.redact import build_redactor
from backhaul_agent.restic.key import read_current
from backhaul_agent.restic.stats import Figures, read_figures
from backhaul_agent.secret_file import hold_secret
from tests.unit.agent.hosts import build_credentials


@pytest.mark.parametrize(
    ("line", "uncompressed_size"),
    [
        # 0.14.0, recorded
        (
            '{"total_size":71785130,"total_file_count":0,"total_blob_count":204,'
            '"snapshots_count":19}',
            None,
        ),
        # 0.15 and later
        (
            '{"total_size":71785130,"total_uncompressed_size":80000000,"compression_ratio":1.1,'
            '"total_blob_count":204,"snapshots_count":19}',
            80_000_000,
        ),
        # 0.19.0 alone
        (
            '[0:00] 100.00%  19 / 19 snapshots {"total_size":71785130,"total_blob_count":204,'
            '"total_uncompressed_size":80000000,"snapshots_count":19}',
            80_000_000,
        ),
    ],
    ids=["0.14", "0.15", "0.19.0"],
)
def test_figures_are_read(line: str, uncompressed_size: int | None) -> None:
    assert read_figures(["loading", line]) == Figures(
        total_size=71_785_130,
        files=0,
        snapshots=19,
        blobs=204,
        uncompressed_size=uncompressed_size,
    )


@pytest.mark.parametrize("lines", [[], ["nothing"], ["{}"], ["{"]])
def test_output_without_figures_is_none(lines: list[str]) -> None:
    assert read_figures(lines) is None


def test_key_that_the_password_opens_is_the_current_one() -> None:
    # 0.14.0, recorded
    line = (
        '[{"current":false,"id":"cbbb427f","userName":"ops","hostName":"vault","created":"2026"},'
        '{"current":true,"id":"2cfa9d9e","userName":"root","hostName":"web-1","created":"2026"}]'
    )

    assert read_current([line]) == "2cfa9d9e"
    assert read_current(["[]"]) is None
    assert read_current(["text"]) is None


def test_secret_is_read_through_its_path_and_gone_afterwards() -> None:
    with hold_secret("new secret") as path:
        assert Path(path).read_text() == "new secret"

    assert not Path(path).exists() or Path(path).read_text() != "new secret"


def test_passwords_of_a_change_are_masked() -> None:
    credentials = build_credentials(new_password="brand new", old_password="worn out")

    text = build_redactor(credentials).redact("from worn out to brand new")

    assert text == "from *** to ***"
    assert "new" not in repr(credentials)
