"""The options of one task, as `add_task` and `enqueue` take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueOptions:
    """What can be said of one task when it is added; `None` takes the task type's own."""

    idempotency_key: str | None = None
    tags: Mapping[str, object] | None = None
    eager: bool | None = None
    priority: int | None = None
    queue: str | None = None
    delay: float | timedelta | None = None
    run_at: datetime | None = None


NO_OPTIONS = EnqueueOptions()
ADD_TASK_OPTIONS = frozenset(field.name for field in fields(EnqueueOptions))
"""Keyword arguments that `add_task` takes for itself; a task's parameter cannot bear one of these names."""


def split_options(kwargs: dict[str, Any]) -> tuple[EnqueueOptions, dict[str, Any]]:
    """Part the options of `add_task` from the function's own keyword arguments."""
    if ADD_TASK_OPTIONS.isdisjoint(kwargs):
        return NO_OPTIONS, kwargs
    options = {name: value for name, value in kwargs.items() if name in ADD_TASK_OPTIONS}
    return EnqueueOptions(**options), {name: value for name, value in kwargs.items() if name not in options}
