"""Who may import whom: the arrows of the architecture, and no others."""

from __future__ import annotations

import sys

import pytest

from tests.house.modules import SOURCES, Module, load_package

OURS = frozenset(SOURCES.values())

SHARED_WITH_API = ("backhaul.wire", "backhaul.cron")
"""What the API may use of the SDK's distribution: the contract, and the meaning of cron."""

BARE_INSTALL = frozenset({"httpx", "msgspec", "rich", "typer", "click"})
"""What the SDK may import from outside; typer brings click."""

OPTIONAL = {"backhaul.charts": {"altair"}, "backhaul.frames": {"pandas"}}
"""What the extra `notebook` brings, and where it may be needed."""

ONLY_WITH_CRON = frozenset({"croniter"})
"""What `backhaul.cron` needs, which comes with the extras of those who use it."""

HEAVY = frozenset({"sqlalchemy", "alembic", "litestar", "uvicorn", "argon2", "swagger_ui"})
"""What a host that only runs an agent must not need."""


def _top(name: str) -> str:
    return name.partition(".")[0]


def _is_in(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _refuse(modules: list[Module], *, unless: object) -> list[str]:
    assert callable(unless)
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in module.imports()
        if not unless(module, name)
    ]


def test_the_sdk_imports_neither_the_api_nor_the_agent() -> None:
    def is_allowed(_: Module, name: str) -> bool:
        return _top(name) not in OURS - {"backhaul"}

    assert _refuse(load_package("sdk"), unless=is_allowed) == []


def test_the_sdk_needs_nothing_but_the_bare_install() -> None:
    def is_allowed(module: Module, name: str) -> bool:
        top = _top(name)
        if module.name == "backhaul.cron" and top in ONLY_WITH_CRON:
            return True
        if top in OPTIONAL.get(module.name, ()):
            return True
        return top in sys.stdlib_module_names or top == "backhaul" or top in BARE_INSTALL

    assert _refuse(load_package("sdk"), unless=is_allowed) == []


def test_the_contract_imports_only_the_standard_library_and_msgspec() -> None:
    contract = [m for m in load_package("sdk") if _is_in(m.name, ("backhaul.wire",))]

    def is_allowed(_: Module, name: str) -> bool:
        top = _top(name)
        return (
            top in sys.stdlib_module_names or top == "msgspec" or _is_in(name, ("backhaul.wire",))
        )

    assert len(contract) > 5
    assert _refuse(contract, unless=is_allowed) == []


@pytest.mark.parametrize("source", ["api", "migrations"])
def test_the_api_uses_only_the_contract_and_cron_of_the_sdk(source: str) -> None:
    def is_allowed(_: Module, name: str) -> bool:
        top = _top(name)
        return top not in OURS or top == "backhaul_api" or _is_in(name, SHARED_WITH_API)

    assert _refuse(load_package(source), unless=is_allowed) == []


def test_the_agent_uses_only_public_names_of_the_sdk() -> None:
    def is_allowed(_: Module, name: str) -> bool:
        if _top(name) == "backhaul_agent":
            return True
        if _top(name) == "backhaul":
            return not any(
                part.startswith("_") for part in name.split(".") if part != "__version__"
            )
        return _top(name) not in OURS

    assert _refuse(load_package("agent"), unless=is_allowed) == []


def test_the_agent_needs_no_database_and_no_server() -> None:
    def is_allowed(_: Module, name: str) -> bool:
        return _top(name) not in HEAVY

    assert _refuse(load_package("agent"), unless=is_allowed) == []


def test_the_routes_of_one_domain_do_not_import_those_of_another() -> None:
    routes = [m for m in load_package("api") if m.name.endswith(".routes")]

    def is_allowed(_: Module, name: str) -> bool:
        return not (_top(name) == "backhaul_api" and "routes" in name.split("."))

    assert _refuse(routes, unless=is_allowed) == []


def test_stores_and_rules_know_nothing_of_http() -> None:
    inner = [m for m in load_package("api") if m.name.rpartition(".")[2] in {"store", "rules"}]

    def is_allowed(_: Module, name: str) -> bool:
        return _top(name) != "litestar"

    assert inner
    assert _refuse(inner, unless=is_allowed) == []


def test_no_module_of_the_api_needs_itself_to_be_imported() -> None:
    """A cycle works until somebody imports the other end first."""
    modules = {module.name: module for module in load_package("api")}
    edges = {
        name: {
            target
            for imported in module.imports()
            if (target := _find_module(imported, modules)) is not None and target != name
        }
        for name, module in modules.items()
    }

    assert _find_cycle(edges) is None


def _find_module(imported: str, modules: dict[str, Module]) -> str | None:
    """Tell which module an imported name is, or lives in."""
    if imported in modules:
        return imported
    parent = imported.rpartition(".")[0]
    return parent if parent in modules else None


def _find_cycle(edges: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(edges[name]):
            if cycle := visit(target, [*path, name]):
                return cycle
        done.add(name)
        return None

    return next((cycle for name in sorted(edges) if (cycle := visit(name, []))), None)
