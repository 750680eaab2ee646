"""The ranges of options, the policy of retries, and the limits of a queue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, get_args

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.plain import repr_of

ExecutorName = Literal["async", "thread", "process"]
"""The values of `ExecutorKind`, for type checkers."""
RunName = Literal["here", "pool", "celery"]
"""Where the tasks of a queue run; see `QueueConfig`."""
ON_CELERY: Final = "celery"
ScopeName = Literal["instance", "fleet"]
"""Whose tasks the concurrency of a queue limits."""
ProcessRunName = Literal["here", "pool", "none"]
"""What a process runs; see `TaskManager`."""

_MAX_NAME = 200
LONGEST_SECONDS = 36_525 * 86_400.0
"""A hundred years, the longest duration. A moment that far ahead can still be written in every format."""
GREATEST = 2**31 - 1
"""The greatest whole number of an option: the limit of a 32-bit column."""

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


def seconds(
    name: str,
    value: float | timedelta | None,
    *,
    minimum: float = 0.0,
    maximum: float = LONGEST_SECONDS,
    exclusive: bool = False,
    unit: str = "seconds",
) -> float:
    """Return a duration in seconds, or raise a `ConfigurationError` that names the option."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    plain = exact_number(number)
    if plain is None or plain != plain:
        raise ConfigurationError(f"{name} must be a number of {unit} or a timedelta, not {repr_of(value)}")
    if plain < minimum or (exclusive and plain == minimum):
        bound = "more than" if exclusive else "at least"
        raise ConfigurationError(f"{name} must be {bound} {minimum:g} {unit}, not {repr_of(value)}")
    if plain > maximum:
        raise ConfigurationError(f"{name} must be at most {maximum:,.0f} {unit}, not {repr_of(value)}")
    return float(plain)


def exact_number(value: object) -> Any:
    """A number as its built-in type, without the methods of a subclass; `None` for a `bool` or another type."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else None


def whole(name: str, value: object, *, minimum: int, maximum: int = GREATEST) -> int:
    """Return a whole number, or raise a `ConfigurationError` that names the option."""
    number = exact_number(value)
    if not isinstance(number, int) or number < minimum:
        raise ConfigurationError(f"{name} must be a whole number of at least {minimum}, not {repr_of(value)}")
    if number > maximum:
        raise ConfigurationError(f"{name} must be a whole number of at most {maximum:,}, not {repr_of(value)}")
    return number


def flag(name: str, value: object) -> bool:
    """Return a `bool`, or raise a `ConfigurationError` that names the option."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {repr_of(value)}")
    return value


def checked_priority(value: object) -> int:
    """Return a priority, or raise `ConfigurationError`."""
    number = exact_number(value)
    if not isinstance(number, int) or not -GREATEST <= number <= GREATEST:
        raise ConfigurationError(
            f"priority must be a whole number from {-GREATEST:,} to {GREATEST:,} (higher runs first), "
            f"not {repr_of(value)}"
        )
    return number


def plain_name(name: str) -> str:
    """A name as a plain `str`, and no longer as a member of an enum, which some texts would show as `Queues.MAIL`."""
    return str.__str__(name)


def checked_queue_name(name: object) -> str:
    """Return the name of a queue, or raise `ConfigurationError`. Backends index the name, and pages show it."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ConfigurationError(
            f"the name of a queue must be 1 to {_MAX_NAME} printable characters, not {repr_of(name)}"
        )
    return plain_name(name)


def checked_release(release: object) -> str:
    """Return the release of an application, empty for `None`, or raise `ConfigurationError`. It is a label."""
    if release is None:
        return ""
    if not isinstance(release, str) or not 0 < len(release) <= _MAX_NAME or not release.isprintable():
        raise ConfigurationError(f"release must be 1 to {_MAX_NAME} printable characters, not {repr_of(release)}")
    return plain_name(release)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether a failed attempt is retried, and after which wait."""

    retries: int = 0
    delay: float = 0.0
    backoff: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()

    def allows(self, exc: BaseException, retries_used: int) -> bool:
        """Whether an attempt that raised `exc` is retried after `retries_used` retries.

        An exception group is retried if each exception in it would be. If `retry_on` names a class of groups, a group
        of that class is retried, unless it holds an exception of `no_retry_on`.
        """
        return retries_used < self.retries and self._is_worth_another(exc)

    def _is_worth_another(self, exc: BaseException) -> bool:
        if _is_one_of(exc, self.no_retry_on):
            return False
        if not issubclass(type(exc), BaseExceptionGroup):
            return _is_one_of(exc, self.retry_on)
        leaves = _leaves(exc)
        named = tuple(one for one in self.retry_on if issubclass(one, BaseExceptionGroup))
        if _is_one_of(exc, named):
            return not any(_is_one_of(leaf, self.no_retry_on) for leaf in leaves)
        return all(_is_one_of(leaf, self.retry_on) and not _is_one_of(leaf, self.no_retry_on) for leaf in leaves)

    def wait(self, retries_used: int, draw: float) -> float:
        """Seconds before the next attempt: `delay * backoff ** retries_used`, capped, then spread by jitter.

        `draw` is a uniform random number in [0, 1); it selects the wait within ± `jitter` of its nominal length.
        """
        try:
            nominal = self.delay * self.backoff**retries_used
        except OverflowError:
            nominal = math.inf
        ceiling = self.max_delay if self.max_delay is not None else max(_LONGEST_GROWN, self.delay)
        nominal = min(nominal, ceiling)
        return min(max(0.0, nominal * (1.0 + self.jitter * (2.0 * draw - 1.0))), LONGEST_SECONDS)


_LONGEST_GROWN = 30 * 86_400.0  # an uncapped exponential must not leave the calendar


def _is_one_of(exc: BaseException, classes: tuple[type[BaseException], ...]) -> bool:
    """Like `isinstance`; if a user's class raises during the check, the inheritance of the exception decides."""
    for one in classes:
        try:
            if isinstance(exc, one):
                return True
        except BaseException:  # an `__instancecheck__` or `__class__` of the user's
            if one in type.mro(type(exc)):
                return True
    return False


def _leaves(group: BaseException) -> list[BaseException]:
    """The exceptions of a group and of the groups in it."""
    leaves: list[BaseException] = []
    groups = [group]
    while groups:
        one = groups.pop()
        if issubclass(type(one), BaseExceptionGroup):
            # Not `one.exceptions`, which a subclass may compute.
            groups.extend(BaseExceptionGroup.exceptions.__get__(one))
        else:
            leaves.append(one)
    return leaves


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The limits of one queue, and where its tasks run.

    `concurrency`: tasks of this queue that run at once in one process; `None` means that only the global limits apply.
    `max_size`: tasks that may wait in one process; a further `add_task` raises `QueueFullError`. `None` is no limit.
    `run`: with `"here"`, a task runs in the process that enqueued it, and elsewhere only after that has died. With
    `"pool"`, a persisted task that is ready belongs to nobody until an instance with a free slot claims it: the
    highest priority first, then the oldest. With `"celery"`, it waits in the same way for a worker of Celery, which
    gets a message (`taskflow_otel.celery`). A task that is not persisted runs in its process in any case.
    `concurrency_scope`: `"fleet"` makes `concurrency` the number of persisted tasks that run at once on all instances
    together, for a queue with `run="pool"`.
    `celery_queue`: with `run="celery"`, the Celery queue of the messages; `None` leaves it to the routes of Celery.
    """

    concurrency: int | None = None
    max_size: int | None = None
    run: RunName = "here"
    concurrency_scope: ScopeName = "instance"
    celery_queue: str | None = None

    def __post_init__(self) -> None:
        if self.run not in get_args(RunName):
            raise ConfigurationError(f"QueueConfig.run must be 'here', 'pool' or 'celery', not {repr_of(self.run)}")
        if self.concurrency is not None:
            whole("QueueConfig.concurrency", self.concurrency, minimum=1)
        if self.max_size is not None:
            whole("QueueConfig.max_size", self.max_size, minimum=0)
        if self.concurrency_scope not in get_args(ScopeName):
            raise ConfigurationError(
                f"QueueConfig.concurrency_scope must be 'instance' or 'fleet', not {repr_of(self.concurrency_scope)}"
            )
        if self.concurrency_scope == "fleet" and (self.run != "pool" or self.concurrency is None):
            raise ConfigurationError(
                "QueueConfig.concurrency_scope='fleet' needs run='pool' and a concurrency: the pool counts the tasks"
            )
        if self.celery_queue is not None:
            checked_queue_name(self.celery_queue)
            if self.run != ON_CELERY:
                raise ConfigurationError("QueueConfig.celery_queue needs run='celery'")
