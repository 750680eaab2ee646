"""The public surface of fastapi-taskflow, item by item, held against ours.

An item is one name, parameter, field, endpoint or field of an answer, written as a reader would: `TaskManager(queues)`,
`TaskRecord.logs`, `GET /tasks/{task_id} → error`.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

import taskflow_otel
from taskflow_otel import TaskAdmin, TaskManager
from taskflow_otel.engine.live import TaskStore

LISTED = Path(__file__).with_name("fastapi_taskflow.json")
Surface = dict[str, Any]
_MISSING = object()


class Item(NamedTuple):
    """One item, and what is different here; `None` if nothing is."""

    text: str
    difference: str | None


@cache
def listed() -> Surface:
    """The committed list."""
    surface: Surface = json.loads(LISTED.read_text())
    return surface


@cache
def items() -> list[Item]:
    """All items, in the order of the list."""
    manager = TaskManager()
    found = [item for name, surface in listed()["names"].items() for item in _of_name(name, surface)]
    found += [_has("TaskManager.", manager, name) for name in listed()["manager"]]
    found += [_has("TaskManager.store.", TaskStore, name) for name in listed()["store"]]
    return found + list(_of_endpoints(manager))


def _has(prefix: str, thing: object, name: str) -> Item:
    return Item(prefix + name, None if hasattr(thing, name) else "absent")


def _of_name(name: str, surface: Surface) -> Iterator[Item]:
    ours: Any = getattr(taskflow_otel, name, _MISSING)
    yield Item(name, "absent" if ours is _MISSING else None)
    if ours is _MISSING:
        return
    if surface["kind"] == "function":
        yield from _of_call(name, surface, ours)
        return
    bases = {base.__name__ for base in ours.__mro__}
    for base in surface["errors"]:
        yield Item(f"{name} is a {base}", None if base in bases else "not one")
    for member, value in surface.get("members", {}).items():
        assert issubclass(ours, enum.Enum)
        here = ours.__members__.get(member)
        yield Item(f"{name}.{member}", None if here is not None and here.value == value else "absent")
    if "members" in surface or surface["errors"]:
        return
    yield from _of_call(name, surface, ours)
    for field in dict.fromkeys([*surface["fields"], *surface["properties"]]):
        yield _has(f"{name}.", ours, field)
    for method, call in surface["methods"].items():
        here = getattr(ours, method, _MISSING)
        label = f"{name}.{method}"
        if here is _MISSING:
            yield Item(f"{label}()", "absent")
            continue
        awaited = inspect.iscoroutinefunction(here)
        assert not isinstance(here, property)
        yield Item(f"{label}()", None if awaited == call["async"] else "awaited" if awaited else "not awaited")
        yield from _of_call(label, call, here)


def _of_call(label: str, surface: Surface, ours: Any) -> Iterator[Item]:
    """The parameters of a function, of a method or of a class."""
    parameters = [one for one in inspect.signature(ours).parameters.values() if one.name != "self"]
    known = {one["name"] for one in surface["parameters"]}
    needed = [
        one.name
        for one in parameters
        if one.name not in known and one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    if needed:
        yield Item(f"{label}(…)", f"needs {', '.join(needed)}")
    for position, there in enumerate(surface["parameters"]):
        yield Item(f"{label}({there['name']})", _of_parameter(there, position, parameters))


def _of_parameter(there: Surface, position: int, parameters: list[inspect.Parameter]) -> str | None:
    if there["kind"] in ("var_positional", "var_keyword"):
        return None
    here = next((one for one in parameters if one.name == there["name"]), None)
    if here is None:
        return "absent"
    if there["kind"] == "positional_or_keyword" and not (
        here.kind is here.POSITIONAL_OR_KEYWORD and parameters.index(here) == position
    ):
        return "in another place" if here.kind is here.POSITIONAL_OR_KEYWORD else "by keyword only"
    if "default" not in there:
        return None
    if here.default is here.empty:
        return "required"
    # A default that is made for each call, such as an empty dictionary, has no text of its own.
    if there["default"] != here.default and not str(there["default"]).startswith("<"):
        return f"{_text(here.default)}, there {_text(there['default'])}"
    return None


def _text(value: object) -> str:
    return "NO_DEFAULT" if type(value).__module__.startswith("msgspec") else str(value)


def _of_endpoints(manager: TaskManager) -> Iterator[Item]:
    app = FastAPI()
    TaskAdmin(app, manager, auth=("admin", "secret"))
    document = app.openapi()
    documented = {
        (method.upper(), _shape(path)): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    served = {(method, _shape(route.path)) for route in _routes(app.routes) for method in route.methods or ()}
    there = listed()
    for endpoint in there["endpoints"]:
        label = f"{endpoint['method']} /tasks{endpoint['path']}"
        key = endpoint["method"], _shape(f"/tasks{endpoint['path']}")
        yield Item(label, None if key in served else "absent")
        operation = documented.get(key)
        if operation is None:
            continue
        known = {one["name"] for one in operation.get("parameters", ())}
        for name in endpoint["query"]:
            yield Item(f"{label}?{name}", None if name in known else "absent")
        fields = _fields(document, operation)
        for name in there["answers"].get(f"{endpoint['method']} {endpoint['path']}", ()):
            yield Item(f"{label} → {name}", None if name in fields else "absent")


def _routes(routes: Sequence[BaseRoute]) -> Iterator[Route]:
    for route in routes:
        nested = getattr(route, "original_router", None)
        if nested is not None:
            yield from _routes(nested.routes)
        elif isinstance(route, Route):
            yield route


def _shape(path: str) -> str:
    return re.sub(r"\{[\w:]+\}", "{}", path)


def _fields(document: Surface, operation: Surface) -> set[str]:
    """The fields of the JSON that an operation answers with."""
    found: set[str] = set()
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            schema = schema.get("items", schema)
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            found |= set(schema.get("properties", ()))
    return found
