"""The two clients are the same but for waiting."""

from __future__ import annotations

import inspect
from types import FunctionType

import pytest

from backhaul import _calls
from backhaul.async_client import AsyncClient
from backhaul.client import Client


def _list_methods(kind: type) -> dict[str, FunctionType]:
    return {
        name: value
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType) and not name.startswith("_")
    }


def test_methods_are_the_same_in_the_same_order() -> None:
    assert list(_list_methods(Client)) == list(_list_methods(AsyncClient))


@pytest.mark.parametrize("name", ["__init__", *_list_methods(Client)])
def test_parameters_and_docstrings_are_the_same(name: str) -> None:
    one, other = getattr(Client, name), getattr(AsyncClient, name)

    mine, theirs = inspect.signature(one).parameters, inspect.signature(other).parameters
    assert [(p.name, p.kind) for p in mine.values()] == [(p.name, p.kind) for p in theirs.values()]
    assert inspect.getdoc(one) == inspect.getdoc(other)
    assert name == "__init__" or inspect.getdoc(one)


def test_answers_are_of_the_same_types() -> None:
    for name, method in _list_methods(Client).items():
        given = str(inspect.signature(getattr(AsyncClient, name)).return_annotation)
        assert given.replace("AsyncIterator", "Iterator") == str(
            inspect.signature(method).return_annotation
        ), name


def test_every_call_has_its_method() -> None:
    calls = {
        name
        for name, value in vars(_calls).items()
        if isinstance(value, FunctionType)
        and value.__module__ == _calls.__name__
        and not name.startswith("_")
    }

    # Of such pages the methods that give their lines and events are made.
    assert calls - {"get_job_log_page", "get_event_page"} <= set(_list_methods(Client))
