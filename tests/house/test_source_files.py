"""What every file of Python here has, and what none has."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.modules import ROOT, SOURCES, Module, load_all, load_package

MODULES = load_all()

# Put together here, so that this file does not hold them.
UNFINISHED = re.compile(
    r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b"
)


def _name(module: Module) -> str:
    return str(module.file.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_says_what_it_owns(module: Module) -> None:
    if module.file.name == "__init__.py" and not module.tree.body:
        pytest_folder = module.file.is_relative_to(ROOT / "tests")
        assert pytest_folder or module.name == "tools", "an empty package needs a docstring"
        return
    assert ast.get_docstring(module.tree), "the module docstring is missing"


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_public_names_are_sorted(module: Module) -> None:
    names = _read_all(module.tree)
    assert names is None or names == sorted(names)


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_nothing_is_left_unfinished(module: Module) -> None:
    assert UNFINISHED.findall(module.file.read_text()) == []


@pytest.mark.parametrize(
    "module", [m for source in ("api", "agent") for m in load_package(source)], ids=_name
)
def test_only_command_lines_print(module: Module) -> None:
    if "cli" in module.name.split("."):
        return
    prints = [
        node.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert prints == []


@pytest.mark.parametrize(("source", "package"), SOURCES.items())
def test_a_package_says_that_it_is_typed(source: str, package: str) -> None:
    assert (ROOT / source / package / "py.typed").exists()


def _read_all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return list(ast.literal_eval(node.value))
    return None
