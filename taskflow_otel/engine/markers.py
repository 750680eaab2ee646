"""Parameters that FastAPI fills in for routes: `Depends`, `Query`, `Header`, `Body` and similar markers."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from fastapi import params

_MARKERS = (params.Param, params.Body, params.Depends)


def first_marker(func: Callable[..., Any]) -> tuple[str, str] | None:
    """The first parameter with such a marker (as its default or in `Annotated`), and the marker's name."""
    try:
        parameters = inspect.signature(func).parameters
    except ValueError:  # some functions written in C have no signature
        return None
    hints: dict[str, Any] | None = None
    for name, parameter in parameters.items():
        found = _marker_in(parameter.default)
        annotation = parameter.annotation
        if found is None and isinstance(annotation, str) and "Annotated" in annotation:
            if hints is None:
                hints = _hints(func)
            annotation = hints.get(name, annotation)
        if found is None and get_origin(annotation) is Annotated:
            found = next((marker for item in get_args(annotation)[1:] if (marker := _marker_in(item))), None)
        if found is not None:
            return name, found
    return None


def _marker_in(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, _MARKERS) else None


def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(func), include_extras=True)
    except Exception:  # names that are defined later, or for the type checker only
        return {}
