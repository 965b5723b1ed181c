"""What is drawn from the code is current, and no link in the documentation leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import memory, page, results
from bench.__main__ import FILE
from tests.house.modules import ROOT
from tools import draw_kinds, draw_states

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog/**/*.md")])


def test_the_page_of_job_states_is_drawn_from_the_table_of_moves() -> None:
    assert draw_states.PAGE.read_text() == draw_states.draw(), (
        "run: .venv/bin/python -m tools.draw_states"
    )


def test_the_page_of_repositories_and_kinds_is_drawn_from_what_was_seen() -> None:
    assert draw_kinds.PAGE.read_text() == draw_kinds.draw(), (
        "run: .venv/bin/python -m tools.draw_kinds"
    )


def test_the_page_of_performance_tells_what_was_measured_last() -> None:
    text = page.PAGE.read_text()

    assert page.draw(text, results.read(FILE), results.read(memory.FILE)) == text, (
        "run: .venv/bin/python -m bench.page"
    )


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(file: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text())

    assert [link for link in links if not (file.parent / link).exists()] == []
