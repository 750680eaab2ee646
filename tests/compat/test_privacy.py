"""The internals of other packages are used in `compat` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "taskflow_otel"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "compat"]

PROMISED = {
    "opentelemetry._logs",  # the API of logs, which has no other name until it is declared stable
    "opentelemetry.sdk._logs",
    "opentelemetry.sdk._logs.export",
    "os._exit",  # documented; the underscore warns of what it does
    "uvicorn",  # its Config and Server are documented, for programs that start it
}
OF_NAMED_TUPLES = {"_asdict", "_make", "_replace"}
"""Documented methods: the underscore keeps them apart from the fields."""
UNPROMISED = {"fastapi.dependencies", "granian", "hypercorn", "uvicorn", "anyio.from_thread"}
"""Modules whose names look public, and which their documentation does not promise or an application may not have."""
HOOKED = {
    "build_middleware_stack",
    "id_generator",
    "interrupt_signal",
    "lifespan_context",
    "middleware_stack",
    "should_exit",
    "user_middleware",
}
"""Attributes of other packages' objects that `compat` uses."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def own_names(tree: ast.Module) -> set[str]:
    """The private names that a module gives itself: of its functions, classes, variables and attributes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names.add(node.attr)
    return names


def uses(source: str) -> Iterator[str]:
    """What a module uses of other packages that is theirs alone."""
    tree = ast.parse(source)
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _of_import(node)
        elif isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            if (
                node.attr in HOOKED or (is_private(node.attr) and node.attr not in own | OF_NAMED_TUPLES)
            ) and path not in PROMISED:
                yield path
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("fastapi_"):
            yield node.value


def _of_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    if module.split(".")[0] in {"taskflow_otel", "__future__"}:
        return
    for alias in node.names:
        path = f"{module}.{alias.name}" if module else alias.name
        if path in PROMISED or module in PROMISED:
            continue
        theirs = any(path == name or path.startswith(f"{name}.") for name in UNPROMISED)
        if theirs or any(is_private(part) for part in path.split(".")):
            yield path


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_but_those_of_compat_uses_what_another_package_keeps_to_itself(module: Path) -> None:
    assert list(uses(module.read_text())) == []


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("import anyio._core._eventloop", "anyio._core._eventloop"),
        ("from anyio._core._eventloop import threadlocals", "anyio._core._eventloop.threadlocals"),
        ("from argparse import _SubParsersAction", "argparse._SubParsersAction"),
        ("import fastapi.dependencies.utils as solving", "fastapi.dependencies.utils"),
        ("def f(connection): connection._execute()", "connection._execute"),
        ("def f(app): return getattr(app, '_is_instrumented', False)", "getattr(app, '_is_instrumented', False)"),
        ("def f(app): return app.middleware_stack", "app.middleware_stack"),
        ("def f(scope): return scope['fastapi_inner_astack']", "fastapi_inner_astack"),
    ],
)
def test_each_way_to_use_an_internal_is_found(source: str, used: str) -> None:
    assert list(uses(source)) == [used]
