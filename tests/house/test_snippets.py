"""Nothing that the pages show to be typed is left untried."""

from __future__ import annotations

import re

from tests.house.modules import ROOT

RUN_BY = {
    ("README.md", "console"): "tests/system/test_console_pages.py",
    ("README.md", "python"): "tests/system/test_python_pages.py",
    ("README.md", "sh"): "tests/system/test_readme.py",
    ("docs/agent.md", "console"): "tests/system/test_console_pages.py",
    ("docs/agent.md", "ini"): "tests/system/test_console_pages.py",
    ("docs/agent.md", "toml"): "tests/system/test_console_pages.py",
    ("docs/cli.md", "console"): "tests/system/test_console_pages.py",
    ("docs/functions.md", "console"): "tests/system/test_functions_page.py",
    ("docs/instances.md", "nginx"): "tests/system/test_cluster.py",
    ("docs/job-states.md", "mermaid"): "tests/house/test_docs.py",
    ("docs/postgresql.md", "console"): "tests/system/test_postgresql.py",
    ("docs/repositories-and-kinds.md", "console"): "tests/system/test_repository_kinds.py",
    ("docs/schedules.md", "console"): "tests/system/test_schedules_page.py",
    ("docs/schedules.md", "python"): "tests/system/test_schedules_page.py",
    ("docs/schedules.md", "sh"): "tests/system/test_schedules_page.py",
    ("docs/sdk.md", "python"): "tests/system/test_python_pages.py",
    ("docs/server.md", "console"): "tests/system/test_console_pages.py",
    ("docs/sizing.md", "console"): "tests/system/test_simulate.py",
}
"""Executed notebooks have pages of their own, in docs/notebooks: see `tools.notebooks`."""


def test_every_block_of_code_is_run_by_a_test() -> None:
    found = set()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        languages = re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE)
        found |= {(str(page.relative_to(ROOT)), language) for language in languages}

    assert found == set(RUN_BY)


def test_the_tests_that_run_them_name_the_pages() -> None:
    for (page, _), test in RUN_BY.items():
        name = page.removeprefix("docs/").removesuffix(".md").replace("job-states", "draw_states")
        assert name in (ROOT / test).read_text(), f"{test} does not read {page}"
