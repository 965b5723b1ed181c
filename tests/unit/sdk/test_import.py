"""What the import costs, counted in modules: time would depend on the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

import backhaul

HEAVY = {
    "alembic",
    "croniter",
    "httpx",
    "litestar",
    "nacl",
    "pandas",
    "rich",
    "sqlalchemy",
    "typer",
}


def _list_imported(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    added = _list_imported("import backhaul") - _list_imported("pass")

    assert not added & HEAVY
    assert len(added) < 40


def test_errors_and_requests_need_no_network_library() -> None:
    imported = _list_imported("from backhaul import BackupRequest, NotFoundError")

    assert not imported & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["version"], ["jobs", "run", "--help"], ["schedules", "preview", "--help"]],
    ids=" ".join,
)
def test_help_needs_neither_network_nor_server_nor_agent(arguments: list[str]) -> None:
    imported = _list_imported(
        f"import contextlib, io\nfrom backhaul.cli import main\nsys.argv[1:] = {arguments!r}\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()"
    )

    assert not imported & (HEAVY - {"typer"})


def test_public_names_are_sorted_and_all_there() -> None:
    assert backhaul.__all__ == sorted(backhaul.__all__)
    assert all(getattr(backhaul, name) is not None for name in backhaul.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        backhaul.nonsense  # noqa: B018 -- looking is the test
