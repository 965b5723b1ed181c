"""The schemas of the types that the API speaks, as OpenAPI's components.

msgspec makes them; added here is what it does not see: the docstrings that stand below fields, and
what the envelopes are that travel as raw JSON.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from backhaul.wire.agents import DownEnvelope, UpEnvelope
from backhaul.wire.problems import Problem

REFERENCE = "#/components/schemas/{name}"

# Envelopes travel as raw JSON, so that a bad one spoils no other; here is what they are.
_ENVELOPES: dict[str, Any] = {"Batch": UpEnvelope, "PollReply": DownEnvelope}


class Schemas:
    """The schemas of the types that the operations speak, in one place."""

    def __init__(self) -> None:
        self._types: dict[Any, None] = dict.fromkeys([Problem, *_ENVELOPES.values()])

    def reference(self, type_: Any) -> dict[str, Any]:
        self._types[type_] = None
        return self._build([type_])[0][0]

    def build_components(self) -> dict[str, Any]:
        _, components = self._build(list(self._types))
        for name, envelopes in _ENVELOPES.items():
            if name in components:
                items = self.reference(envelopes)
                components[name]["properties"]["envelopes"]["items"] = items
        _describe_fields(components, self._structs())
        return dict(sorted(components.items()))

    def _build(self, types: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        built, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
        return list(built), components

    def _structs(self) -> dict[str, type]:
        return {struct.__name__: struct for struct in _walk_structs(list(self._types))}


def _walk_structs(found: list[Any]) -> Iterator[type]:
    """Find every struct that the types are made of."""
    seen: set[type] = set()
    infos = list(msgspec.inspect.multi_type_info(found))
    while infos:
        info = infos.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            yield info.cls
            infos.extend(field.type for field in info.fields)
        inner = [getattr(info, name, None) for name in ("type", "item_type", "value_type")]
        for name in ("types", "item_types"):
            inner.extend(getattr(info, name, ()))
        infos.extend(part for part in inner if isinstance(part, msgspec.inspect.Type))


def _describe_fields(components: dict[str, Any], structs: dict[str, type]) -> None:
    """Add the docstrings that stand below the fields, which msgspec does not see."""
    for name, schema in components.items():
        struct = structs.get(name)
        if struct is None:
            continue
        for field, text in _field_docstrings(struct).items():
            if field in schema.get("properties", {}):
                described = schema["properties"][field]
                schema["properties"][field] = {**described, "description": text}


def _field_docstrings(struct: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    if not isinstance(definition, ast.ClassDef):
        return {}
    texts: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = inspect.cleandoc(text)
    return texts
