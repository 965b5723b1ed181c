"""A host for tests of the agent: an identity, a journal, a spool, and a clock to move by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backhaul_agent.journal import Journal
from backhaul_agent.journal_file import JournalFile, open_journal_file
from backhaul_agent.spool import Spool
from tests.unit.agent.hosts import ManualClock


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def journal_file(state_dir: Path) -> Iterator[JournalFile]:
    file = open_journal_file(state_dir)
    yield file
    file.close()


@pytest.fixture
def journal(journal_file: JournalFile) -> Journal:
    return Journal(journal_file)


@pytest.fixture
def spool(journal_file: JournalFile, clock: ManualClock) -> Spool:
    return Spool(journal_file, now=clock.now)
