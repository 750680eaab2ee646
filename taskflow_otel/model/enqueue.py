"""The options of one task, for `add_task` and `enqueue`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.plain import distinct_text, plain_tags, repr_of
from taskflow_otel.model.vocabulary import Reason

F = TypeVar("F", bound=Callable[..., Any])

_MAX_KEY = 255
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueOptions:
    """The options of a task when it is added; `None` means the option of its task type."""

    idempotency_key: str | None = None
    tags: Mapping[str, object] | None = None
    eager: bool | None = None
    priority: int | None = None
    queue: str | None = None
    delay: float | timedelta | None = None
    run_at: datetime | None = None
    session: Any | None = None
    """The SQLAlchemy session or connection in whose transaction the task is stored."""


NO_OPTIONS = EnqueueOptions()
ADD_TASK_OPTIONS = frozenset(field.name for field in fields(EnqueueOptions))
"""Keyword arguments of `add_task` itself; a parameter of a task cannot have one of these names."""


def split_options(kwargs: dict[str, Any]) -> tuple[EnqueueOptions, dict[str, Any]]:
    """Separate the options of `add_task` from the function's keyword arguments."""
    if ADD_TASK_OPTIONS.isdisjoint(kwargs):
        return NO_OPTIONS, kwargs
    options = {name: value for name, value in kwargs.items() if name in ADD_TASK_OPTIONS}
    return EnqueueOptions(**options), {name: value for name, value in kwargs.items() if name not in options}


def shows_add_options(method: F, *, without: Collection[str] = ()) -> F:
    """Let the signature of a method that takes `**kwargs` show the options of a task, as `help()` prints it."""
    signature = inspect.signature(method)
    own = list(signature.parameters.values())
    last = [own.pop()] if own[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    known = {one.name for one in own}
    options = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=one.type)
        for one in fields(EnqueueOptions)
        if one.name not in known and one.name not in without
    ]
    method.__signature__ = signature.replace(parameters=[*own, *options, *last])  # type: ignore[attr-defined]
    return method


def checked_moment(name: str, moment: object) -> datetime:
    """An aware moment of the years 1970 to 2199, in UTC; raises `ConfigurationError` for anything else."""
    if not isinstance(moment, datetime):
        raise ConfigurationError(f"{name} must be an aware datetime, not {repr_of(moment)}")
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"{name}={moment!r} has no time zone, so it could mean any of 38 moments. "
            "Use an aware datetime: datetime.now(UTC) + timedelta(...)"
        )
    try:
        utc = moment.astimezone(UTC)
    except (OverflowError, ValueError):  # `datetime.max` west of Greenwich is in the year 10000
        utc = None
    if utc is None or not _EARLIEST <= utc < _LATEST:
        raise ConfigurationError(f"{name} must be a moment of the years 1970 to 2199, not {repr_of(moment)}")
    return utc


def checked_tags(tags: object) -> dict[str, str]:
    """Tags as plain texts of bounded length; raises `ConfigurationError` if they are not a mapping."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise ConfigurationError(f"tags must be a mapping of names to values, not {type(tags).__name__}")
    return plain_tags(tags)


def checked_eager(eager: object) -> bool | None:
    """Whether a task starts at once; `None` if not given. Raises `ConfigurationError`."""
    if eager is None or isinstance(eager, bool):
        return eager
    raise ConfigurationError(f"eager must be True or False, not {eager!r:.80}")


def checked_key(key: object) -> str | None:
    """An idempotency key, or its digest if the key cannot be stored unchanged; raises `ConfigurationError`."""
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY:
        raise ConfigurationError(f"idempotency_key must be a text of 1 to {_MAX_KEY} characters, not {repr_of(key)}")
    return distinct_text(str.__str__(key))


def first_reason(run_at: datetime | None, created_at: datetime) -> str | None:
    """Why a new task does not start at once; `None` if it does."""
    return None if run_at is None or run_at <= created_at else Reason.DELAYED.value
