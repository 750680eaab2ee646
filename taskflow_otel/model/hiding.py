"""How data with a task's arguments is shown: a `repr` gets into logs and tracebacks, where no one deletes it."""

from __future__ import annotations

from typing import Any

HIDDEN = "<hidden>"


def repr_without(value: Any, *hidden: str) -> str:
    """The `repr` of a struct or a named tuple, with `<hidden>` for the fields of these names that have a value."""
    names = type(value).__match_args__
    fields = (
        f"{name}={HIDDEN if name in hidden and getattr(value, name) else repr(getattr(value, name))}" for name in names
    )
    return f"{type(value).__name__}({', '.join(fields)})"
