"""Fixtures of the SDK's unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import respx

from tests.unit.sdk.builders import URL
from tests.unit.sdk.command_line import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line, signed in at a server of which nothing is true yet."""
    return Cli(tmp_path)


@pytest.fixture
def signed_out(cli: Cli) -> Cli:
    """The command line, without a server or a token."""
    cli.environment |= {"BACKHAUL_URL": None, "BACKHAUL_TOKEN": None}
    return cli


@pytest.fixture
def server() -> Iterator[respx.MockRouter]:
    """The server that `cli` speaks to; a request that a test does not expect fails."""
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        yield router
