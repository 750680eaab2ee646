"""The task types of one manager: name, function, options and argument codec."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from taskflow_otel.errors import ConfigurationError, DuplicateTaskNameError, UnknownTaskError
from taskflow_otel.model.enqueue import ADD_TASK_OPTIONS, EnqueueOptions
from taskflow_otel.model.options import ExecutorName, TaskConfig, make_task_config
from taskflow_otel.model.payload import Codec


@dataclass(frozen=True, slots=True, eq=False)
class TaskDefinition:
    """One task type."""

    config: TaskConfig
    func: Callable[..., Any]
    codec: Codec | None
    """`None` for an undecorated function, whose arguments are never stored."""

    @property
    def name(self) -> str:
        """The one identity of the task type."""
        return self.config.name


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling `func` gives an awaitable: coroutine functions, partials of them, async `__call__`."""
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def infer_executor(func: Callable[..., Any]) -> ExecutorName:
    """`async` for coroutine functions, `thread` for plain ones."""
    return "async" if is_async(func) else "thread"


def function_name(func: Callable[..., Any]) -> str:
    """The name a function goes by when none was given."""
    while isinstance(func, functools.partial):
        func = func.func
    return getattr(func, "__name__", None) or type(func).__name__


def describe(func: Callable[..., Any]) -> str:
    """Where a function lives, for messages."""
    while isinstance(func, functools.partial):
        func = func.func
    return f"{getattr(func, '__module__', '?')}.{getattr(func, '__qualname__', type(func).__name__)}"


def _identity(func: Callable[..., Any]) -> Hashable:
    """What tells one function from another; a bound method is a new object each time it is looked up."""
    if isinstance(func, MethodType):
        return id(func.__self__), id(func.__func__)
    return id(func)


class TaskRegistry:
    """Task definitions by name, and by the function that users hold in their hands."""

    def __init__(self) -> None:
        self._by_name: dict[str, TaskDefinition] = {}
        self._by_func: dict[Hashable, TaskDefinition] = {}
        self._on_added: list[Callable[[TaskDefinition], None]] = []

    def on_added(self, listener: Callable[[TaskDefinition], None]) -> None:
        """Call `listener` with every definition, those already there included."""
        self._on_added.append(listener)
        for definition in self._by_name.values():
            listener(definition)

    def add(self, func: Callable[..., Any], config: TaskConfig) -> TaskDefinition:
        """Register a task type.

        Raises `DuplicateTaskNameError` when the name is taken, `ConfigurationError` when the function cannot be
        run by the executor or a parameter collides with an option of `add_task`.
        """
        self._check(func, config)
        taken = self._by_name.get(config.name)
        if taken is not None:
            raise DuplicateTaskNameError(config.name, describe(taken.func), describe(func))
        definition = TaskDefinition(config, func, Codec(func))
        self._by_name[config.name] = definition
        self._by_func.setdefault(_identity(func), definition)
        for listener in self._on_added:
            listener(definition)
        return definition

    def get(self, name: str) -> TaskDefinition:
        """The definition of this name; raises `UnknownTaskError`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownTaskError(name) from None

    def names(self) -> frozenset[str]:
        """All registered names."""
        return frozenset(self._by_name)

    def all(self) -> list[TaskDefinition]:
        """All registered definitions."""
        return list(self._by_name.values())

    def find(self, func: Callable[..., Any]) -> TaskDefinition | None:
        """The definition of a decorated function."""
        return self._by_func.get(_identity(func))

    def resolve(self, func: Callable[..., Any]) -> TaskDefinition:
        """The definition of a decorated function, else one made for this call with default options."""
        found = self.find(func)
        if found is not None:
            return found
        if not callable(func):
            raise ConfigurationError(f"add_task needs a function, not {func!r}")
        _refuse_generator(func)
        config = make_task_config(name=function_name(func), executor=infer_executor(func))
        return TaskDefinition(config, func, None)

    @staticmethod
    def placeholder(name: str) -> TaskDefinition:
        """A definition for a stored task of an unknown name, which can be ended but not run."""

        async def unknown(*_: object, **__: object) -> None:
            raise UnknownTaskError(name)

        return TaskDefinition(make_task_config(name=name, executor="async"), unknown, None)

    @staticmethod
    def _check(func: Callable[..., Any], config: TaskConfig) -> None:
        _refuse_generator(func)
        if config.executor == "async" and not is_async(func):
            raise ConfigurationError(
                f"{describe(func)} is not an async function, so executor='async' cannot run it. "
                "Leave executor out, or use 'thread' or 'process'."
            )
        if config.executor != "async" and is_async(func):
            raise ConfigurationError(
                f"{describe(func)} is an async function, so executor={config.executor!r} cannot run it. "
                "Leave executor out, or make it a plain function."
            )
        taken = _collisions(func)
        if taken:
            raise ConfigurationError(
                f"{describe(func)} has a parameter {taken[0]!r}, which add_task takes for itself. Rename the parameter."
            )


def require_no_arguments(func: Callable[..., Any]) -> None:
    """Raise `ConfigurationError` for a function that cannot be called without arguments, as a schedule does."""
    try:
        inspect.signature(func).bind()
    except TypeError as exc:
        raise ConfigurationError(
            f"{describe(func)} cannot be scheduled: a schedule calls it without arguments ({exc}). "
            "Give its parameters defaults, or schedule a function that calls it."
        ) from None
    except ValueError:  # some functions written in C do not tell
        return


def refuse_ambiguous(func: Callable[..., Any], options: EnqueueOptions) -> None:
    """Raise `ConfigurationError` where an undecorated function has a parameter of an option's name, and it was given.

    Natively the value went to the function; here `add_task` takes it. Nobody would notice.
    """
    for name in _collisions(func):
        if getattr(options, name) is not None:
            raise ConfigurationError(
                f"{describe(func)} has a parameter {name!r}, which add_task takes for itself. Rename the parameter, "
                "or give its value by position."
            )


def _refuse_generator(func: Callable[..., Any]) -> None:
    if inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func):
        raise ConfigurationError(
            f"{describe(func)} is a generator; a task must be a function that runs to its end. "
            "Call the generator from a plain or async function, and make that the task."
        )


def _collisions(func: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(func).parameters
    except ValueError:  # some functions written in C do not tell
        return []
    return sorted(ADD_TASK_OPTIONS.intersection(parameters))
