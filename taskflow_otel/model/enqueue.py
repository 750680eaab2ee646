"""The options of one task, as `add_task` and `enqueue` take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from taskflow_otel.errors import ConfigurationError

_MAX_KEY = 255


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


def checked_moment(name: str, moment: object) -> datetime:
    """An aware moment in UTC; raises `ConfigurationError` for a naive one, and for what is no datetime."""
    if not isinstance(moment, datetime):
        raise ConfigurationError(f"{name} must be an aware datetime, not {moment!r}")
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"{name}={moment!r} has no time zone, so it could mean any of 38 moments. "
            "Use an aware datetime: datetime.now(UTC) + timedelta(...)"
        )
    return moment.astimezone(UTC)


def checked_tags(tags: object) -> dict[str, str]:
    """Tags as texts; raises `ConfigurationError`."""
    if not tags:
        return {}
    if not isinstance(tags, Mapping):
        raise ConfigurationError(f"tags must be a mapping of names to values, not {type(tags).__name__}")
    return {str(name): str(value) for name, value in tags.items()}


def checked_key(key: object) -> str | None:
    """An idempotency key; raises `ConfigurationError`."""
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY:
        raise ConfigurationError(f"idempotency_key must be a text of 1 to {_MAX_KEY} characters, not {key!r:.80}")
    return key
