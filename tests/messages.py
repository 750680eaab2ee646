"""The errors and warnings of the package by their texts, as the page about troubleshooting shows them.

What a text is given when it is shown (a name, a number) is `…` there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "taskflow_otel"
LEVELS = {"warning", "error", "exception", "critical"}
_PLACE = re.compile(r"%[-.\d]*[a-z]")
_RUN = re.compile(r"…(?:\s*…)+")


class Message(NamedTuple):
    """A text of the package."""

    where: str
    """The module of a log line, or the class of an error."""
    text: str


def logged() -> Iterator[Message]:
    """What the package logs at WARNING and above; a text that another place gives is `…`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _logs(node.func):
                given = node.args[0]
                given = constants.get(given.id, given) if isinstance(given, ast.Name) else given
                yield Message(path.relative_to(PACKAGE).as_posix(), shown(given))


def errors() -> Iterator[Message]:
    """The classes of errors, each with its text; empty where each raise has its own."""
    for node in ast.parse((PACKAGE / "errors.py").read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            calls = (
                one
                for one in ast.walk(node)
                if isinstance(one, ast.Call) and ast.unparse(one.func).startswith("super(")
            )
            given = next(((call.args[0] if call.args else None) for call in calls), None)
            text = "" if given is None or isinstance(given, ast.Name) else shown(given)
            yield Message(node.name, text)


def shown(text: ast.expr) -> str:
    """A text of the code as a page shows it."""
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return placed(text.value)
    if isinstance(text, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in text.values]
        return _RUN.sub("…", "".join(parts))
    return "…"


def placed(template: str) -> str:
    """A template of `logging` as a page shows it."""
    return _RUN.sub("…", _PLACE.sub("…", template))


def _is_super(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "super().__init__"


def _logs(called: ast.expr) -> bool:
    return isinstance(called, ast.Attribute) and called.attr in LEVELS and "log" in ast.unparse(called.value).lower()
