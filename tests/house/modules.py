"""The project's own modules, read as syntax trees: nothing is imported to look at it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

SOURCES = {"sdk": "backhaul", "api": "backhaul_api", "agent": "backhaul_agent"}
"""The source roots, and the package that each holds."""


@dataclass(frozen=True)
class Module:
    """One file of Python."""

    name: str
    """Dotted, like `backhaul.wire.jobs`; for a script, its path."""
    file: Path
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Give every dotted name that the file imports, wherever in the file."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = self._resolve(node)
                yield from (f"{module}.{alias.name}" for alias in node.names)

    def _resolve(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        is_package = self.file.name == "__init__.py"
        base = parts[: len(parts) - node.level + is_package]
        return ".".join([*base, node.module] if node.module else base)


def load_package(source: str) -> list[Module]:
    """Read every module under a source root."""
    folder = ROOT / source
    return [_load(file, relative_to=folder) for file in sorted(folder.rglob("*.py"))]


def load_all() -> list[Module]:
    """Read everything that is written in Python here: packages, migrations, tests, tools."""
    scripts = [
        _load(file, relative_to=ROOT)
        for folder in ("migrations", "tests", "tools")
        for file in sorted((ROOT / folder).rglob("*.py"))
    ]
    return [module for source in SOURCES for module in load_package(source)] + scripts


def _load(file: Path, *, relative_to: Path) -> Module:
    parts = list(file.relative_to(relative_to).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Module(name=".".join(parts), file=file, tree=ast.parse(file.read_text(), str(file)))
