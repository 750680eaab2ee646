"""The options of a task type: their names, types, defaults and ranges, in one table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, TypedDict, TypeVar, Unpack, get_type_hints

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.objective import SLO
from taskflow_otel.model.options import (
    Exceptions,
    ExecutorName,
    RetryPolicy,
    checked_priority,
    exact_number,
    flag,
    plain_name,
    seconds,
    whole,
)
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.vocabulary import ExecutorKind

F = TypeVar("F", bound=Callable[..., Any])

_MAX_NAME = 200
_MAX_BACKOFF = 1_000_000
_EXECUTORS: dict[str, ExecutorKind] = {kind.value: kind for kind in ExecutorKind}


class TaskOptions(TypedDict, total=False):
    """The options of `@task_manager.task(...)` except the name, for type checkers."""

    retries: int
    delay: float | timedelta
    backoff: float
    max_delay: float | timedelta | None
    jitter: float
    retry_on: Exceptions
    no_retry_on: Exceptions
    timeout: float | timedelta | None
    persist: bool
    requeue_on_interrupt: bool
    eager: bool
    priority: int | None
    queue: str | None
    executor: ExecutorName | ExecutorKind | None
    slo: SLO | None


def _backoff(name: str, value: object) -> float:
    number = exact_number(value)
    if number is None or not 0 < number <= _MAX_BACKOFF:
        raise ConfigurationError(
            f"{name} must be a number above 0 (1.0 keeps the wait constant) and at most {_MAX_BACKOFF:,}, "
            f"not {repr_of(value)}"
        )
    return float(number)


def _share(name: str, value: object) -> float:
    number = exact_number(value)
    if number is None or not 0 <= number <= 1:
        raise ConfigurationError(f"{name} must be a share between 0 and 1 (0.1 = ±10 %), not {repr_of(value)}")
    return float(number)


def _exceptions(name: str, value: Exceptions) -> tuple[type[BaseException], ...]:
    several = value if isinstance(value, tuple) else (value,)
    for item in several:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise ConfigurationError(f"{name} must be an exception class or a tuple of them, not {repr_of(item)}")
    return several


def _executor(name: str, value: object) -> ExecutorKind:
    kind = _EXECUTORS.get(value) if isinstance(value, str) else None
    if kind is None:
        raise ConfigurationError(f"{name} must be one of {', '.join(_EXECUTORS)}, not {repr_of(value)}")
    return kind


def _slo(name: str, value: object) -> SLO:
    if not isinstance(value, SLO):
        raise ConfigurationError(f"{name} must be an SLO, such as SLO(success=0.999, within=30), not {repr_of(value)}")
    return value


@dataclass(frozen=True, slots=True)
class TaskOption:
    """The default of an option, and the check of a value: it returns what the configuration holds, or raises."""

    default: Any
    check: Callable[[str, Any], Any]
    optional: bool = False
    """`None` is a value, which no check sees."""

    def checked(self, name: str, options: TaskOptions) -> Any:
        """The value of this option; raises `ConfigurationError`."""
        value = options.get(name, self.default)
        return None if value is None and self.optional else self.check(name, value)


TASK_OPTIONS: dict[str, TaskOption] = {
    "retries": TaskOption(0, lambda name, value: whole(name, value, minimum=0)),
    "delay": TaskOption(0.0, seconds),
    "backoff": TaskOption(1.0, _backoff),
    "max_delay": TaskOption(None, seconds, optional=True),
    "jitter": TaskOption(0.0, _share),
    "retry_on": TaskOption(Exception, _exceptions),
    "no_retry_on": TaskOption((), _exceptions),
    "timeout": TaskOption(None, lambda name, value: seconds(name, value, exclusive=True), optional=True),
    "persist": TaskOption(default=False, check=flag),
    "requeue_on_interrupt": TaskOption(default=False, check=flag),
    "eager": TaskOption(default=False, check=flag),
    "priority": TaskOption(None, lambda _, value: checked_priority(value), optional=True),
    # The manager knows its queues.
    "queue": TaskOption(None, lambda _, value: value, optional=True),
    # Without one it is inferred from the function.
    "executor": TaskOption(None, _executor),
    "slo": TaskOption(None, _slo, optional=True),
}


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """The options of one task type, as `@task_manager.task(...)` has checked them. Durations are seconds."""

    retries: int = 0
    delay: float = 0.0
    backoff: float = 1.0
    persist: bool = False
    name: str = ""
    requeue_on_interrupt: bool = False
    eager: bool = False
    priority: int | None = None
    executor: ExecutorKind = ExecutorKind.ASYNC
    queue: str | None = None
    max_delay: float | None = None
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()
    timeout: float | None = None
    slo: SLO | None = None
    retry: RetryPolicy = field(init=False, repr=False, compare=False)
    """The options about retries, together."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "retry", RetryPolicy(**{name: getattr(self, name) for name in _RETRY}))


_RETRY = tuple(one.name for one in fields(RetryPolicy))


def make_task_config(*, name: str, **options: Unpack[TaskOptions]) -> TaskConfig:
    """Check every option and return the configuration; raises `ConfigurationError`.

    `executor` must be given: it is inferred where the function is known.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ConfigurationError(f"a task name must be 1 to {_MAX_NAME} printable characters, not {repr_of(name)}")
    refuse_unknown(options)
    checked = {key: option.checked(key, options) for key, option in TASK_OPTIONS.items()}
    return TaskConfig(name=plain_name(name), **checked)


def refuse_unknown(options: TaskOptions) -> None:
    """Raise `TypeError`, as for every keyword argument that a function does not have."""
    unknown = sorted(options.keys() - TASK_OPTIONS.keys())
    if unknown:
        raise TypeError(f"a task has no option {', '.join(unknown)}; it has {', '.join(TASK_OPTIONS)}")


def shows_task_options(method: F) -> F:
    """Let the signature of a method that takes `**options` show each option with its default, as `help()` prints it."""
    signature = inspect.signature(method)
    hints = get_type_hints(TaskOptions)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=hints[name])
        for name, option in TASK_OPTIONS.items()
    ]
    method.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return method
