"""The tree of the SDK's errors, and what they tell."""

from __future__ import annotations

import re

import pytest

from backhaul import errors
from backhaul.wire.jobs import JobState
from backhaul.wire.problems import FieldError, Problem, ProblemType
from tests.unit.sdk.builders import build_job


def _read_tree(text: str) -> dict[str, str | None]:
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for indent, name in re.findall(r"^( *)(\w+Error)\b", text, re.MULTILINE):
        depth = len(indent) // 2
        path = [*path[:depth], name]
        parents[name] = path[-2] if depth else None
    return parents


def test_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = _read_tree(errors.__doc__ or "")

    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.BackhaulError)
    }
    bases = {name: value.__bases__[0].__name__ for name, value in classes.items()}
    assert drawn == {**bases, "BackhaulError": None}


@pytest.mark.parametrize(
    ("status", "may_retry"),
    [(500, False), (501, False), (502, True), (503, True), (504, True)],
)
def test_server_fault_is_not_worth_another_try_but_absence_is(status: int, may_retry: bool) -> None:
    problem = Problem(type=ProblemType.INTERNAL, title="t", status=status, detail="d")

    assert errors.ServerFailedError(problem).may_retry is may_retry


def test_invalid_request_names_each_field() -> None:
    problem = Problem(
        type=ProblemType.INVALID_REQUEST,
        title="Invalid request",
        status=422,
        detail="2 fields",
        errors=(FieldError(field="name", message="is empty"), FieldError(field="", message="why")),
    )

    assert str(errors.InvalidRequestError(problem)) == "name: is empty; why"


def test_failed_job_says_which_where_and_why() -> None:
    job = build_job(JobState.FAILED, message="repository is locked")

    message = str(errors.JobFailedError(job))

    assert message == f"Job {job.id} (backup on web-1) is failed: repository is locked"
