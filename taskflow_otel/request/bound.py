"""Arguments that end with their request: a task that runs later would find them closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.background import BackgroundTask
from starlette.datastructures import FormData, UploadFile
from starlette.requests import HTTPConnection

from taskflow_otel.engine.registry import function_name
from taskflow_otel.errors import TaskArgumentError

_WAYS_OUT: dict[type, str] = {
    UploadFile: "Read it in the route and pass the bytes (await file.read()), or store it and pass the path.",
    FormData: "Take its values in the route and pass those; read uploads and pass the bytes.",
    HTTPConnection: "Take what the task needs from it in the route and pass that.",
    BackgroundTask: "Await task_manager.enqueue(...) in a task that adds another one.",
}
_BOUND = tuple(_WAYS_OUT)
_COLLECTIONS = (list, tuple, set, frozenset)


def refuse_request_bound(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], outlives: Callable[[], bool]
) -> None:
    """Raise `TaskArgumentError` for an argument that ends with the request, if the task outlives the request.

    Also looks into lists, tuples, sets and dicts, one level deep.
    """
    if not args and not kwargs:
        return
    found = _bound_among(args) or _bound_among(kwargs.values())
    if found is not None and outlives():
        kind = next(base for base in _BOUND if isinstance(found, base))
        raise TaskArgumentError(
            f"{function_name(func)} runs after the request, when its argument of type {type(found).__name__} is gone. "
            f"{_WAYS_OUT[kind]}"
        )


def _bound_among(values: Iterable[Any], *, nested: bool = False) -> object | None:
    for value in values:
        if isinstance(value, _BOUND):
            return value
        if not nested and isinstance(value, (*_COLLECTIONS, dict)):
            within = _bound_among(value.values() if isinstance(value, dict) else value, nested=True)
            if within is not None:
                return within
    return None
