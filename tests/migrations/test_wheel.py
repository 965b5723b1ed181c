"""The migrations travel inside the wheel, and are found there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.modules import ROOT


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel and unpack it: what an installation puts into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("backhaul-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_migration_and_nothing_of_the_tests(unpacked: Path) -> None:
    inside = {file.name for file in (unpacked / "backhaul_api/migrations/versions").glob("*.py")}
    written = {file.name for file in (ROOT / "migrations/versions").glob("*.py")}

    assert inside == written
    assert (unpacked / "backhaul_api/migrations/env.py").exists()
    assert not (unpacked / "tests").exists()
    packages = {folder.name for folder in unpacked.iterdir() if folder.suffix != ".dist-info"}
    assert packages == {"backhaul", "backhaul_api", "backhaul_agent"}


def test_an_installed_wheel_upgrades_a_database(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "import asyncio, backhaul_api.db.migrate as m, backhaul_api.db.revisions as r;"
        "print(r.find_migrations());"
        f"asyncio.run(m.upgrade('sqlite+aiosqlite:///{tmp_path}/x.sqlite3'));"
        f"print(asyncio.run(m.current_revision('sqlite+aiosqlite:///{tmp_path}/x.sqlite3')));"
        "print(r.head_revision())"
    )
    # Before everything else on the path, so that it hides the checkout.
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    found, current, head = run.stdout.splitlines()

    assert Path(found) == unpacked / "backhaul_api" / "migrations"
    assert current == head
