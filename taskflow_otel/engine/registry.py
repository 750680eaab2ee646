"""The task types of one manager: name, function, options and argument codec."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

from taskflow_otel.engine.markers import first_marker
from taskflow_otel.errors import ConfigurationError, DuplicateTaskNameError, UnknownTaskError
from taskflow_otel.model.enqueue import ADD_TASK_OPTIONS, EnqueueOptions
from taskflow_otel.model.hiding import repr_without
from taskflow_otel.model.payload import Codec
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.task_options import TaskConfig, make_task_config
from taskflow_otel.model.vocabulary import ExecutorKind


@dataclass(frozen=True, slots=True, eq=False)
class TaskDefinition:
    """One task type."""

    config: TaskConfig
    func: Callable[..., Any]
    codec: Codec | None
    """`None` for an undecorated function, whose arguments are never stored."""

    @property
    def name(self) -> str:
        """The identity of the task type."""
        return self.config.name


class Resolved(NamedTuple):
    """A task type, and the arguments of one call of its function."""

    definition: TaskDefinition
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        return repr_without(self, "args", "kwargs")


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling `func` only makes an awaitable: coroutine functions, partials of them, async `__call__`.

    Other functions may also return an awaitable, but after work that belongs in a thread.
    """
    while isinstance(func, functools.partial):
        func = func.func
    return any(inspect.iscoroutinefunction(one) or _is_generator_coroutine(one) for one in (func, type(func).__call__))


def _is_generator_coroutine(func: Callable[..., Any]) -> bool:
    """Whether `types.coroutine` made this function: a generator whose result can be awaited."""
    code = getattr(getattr(func, "__func__", func), "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def infer_executor(func: Callable[..., Any]) -> ExecutorKind:
    """`async` for coroutine functions, `thread` for plain ones."""
    if isinstance(func, staticmethod):
        func = func.__func__
    return ExecutorKind.ASYNC if is_async(func) else ExecutorKind.THREAD


def function_name(func: Callable[..., Any]) -> str:
    """The default name of a function."""
    while isinstance(func, functools.partial):
        func = func.func
    return getattr(func, "__name__", None) or type(func).__name__


def describe(func: Callable[..., Any]) -> str:
    """Module and name of a function, for messages."""
    while isinstance(func, functools.partial):
        func = func.func
    return f"{getattr(func, '__module__', '?')}.{getattr(func, '__qualname__', type(func).__name__)}"


def _identity(func: Callable[..., Any]) -> Hashable:
    """The identity of a function. A bound method needs this, because each lookup makes a new object."""
    if isinstance(func, MethodType):
        return id(func.__self__), id(func.__func__)
    return id(func)


_in_use: set[TaskRegistry] = set()
"""The registries of all running managers: the task of another manager is not a plain function."""

_MAX_HANDLES = 50
"""The most objects between a handle and its declaration; an object may claim to wrap itself."""


class TaskRegistry:
    """Task definitions by name, and by the function object that users have."""

    def __init__(self) -> None:
        self._by_name: dict[str, TaskDefinition] = {}
        self._by_func: dict[Hashable, TaskDefinition] = {}
        self._handles: list[object] = []
        self._on_added: list[Callable[[TaskDefinition], None]] = []

    def open(self) -> None:
        """Make the tasks of this registry known to the other registries of the process."""
        _in_use.add(self)

    def close(self) -> None:
        """Undo `open`."""
        _in_use.discard(self)

    def on_added(self, listener: Callable[[TaskDefinition], None]) -> None:
        """Call `listener` with every definition, including existing ones."""
        self._on_added.append(listener)
        for definition in self._by_name.values():
            listener(definition)

    def add(self, func: Callable[..., Any], config: TaskConfig) -> TaskDefinition:
        """Register a task type.

        Raises `DuplicateTaskNameError` if the name is taken, and `ConfigurationError` if the executor cannot run the
        function or a parameter has the name of an option of `add_task`.
        """
        handle = func
        if isinstance(func, staticmethod):
            # Callers get the inner function, through the class or an instance.
            func = func.__func__
        self._check(func, config)
        taken = self._by_name.get(config.name)
        if taken is not None:
            raise DuplicateTaskNameError(config.name, describe(taken.func), describe(func))
        definition = TaskDefinition(config, func, Codec(func))
        self._by_name[config.name] = definition
        self._by_func.setdefault(_identity(func), definition)
        if handle is not func:
            self._by_func.setdefault(_identity(handle), definition)
            # An object's id is valid only while the object lives.
            self._handles.append(handle)
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
        """The definition of a declared function, or of a handle that leads to it without arguments of its own."""
        found, args, kwargs = self._look_through(func, (), {})
        return None if args or kwargs else found

    def leads_to(self, func: Callable[..., Any]) -> TaskDefinition | None:
        """The definition that a handle leads to, with or without arguments of its own."""
        return self._look_through(func, (), {})[0]

    def declared(self, func: Callable[..., Any]) -> TaskDefinition | None:
        """The task type that was declared with just this function: what `resolve` finds first."""
        return self._by_func.get(_identity(func))

    def resolve(
        self, func: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Resolved:
        """The task type of a call; for an undeclared function, one with default options.

        Looks through bound methods, partials and decorators to the declared function, and adds their arguments to
        the call. Raises `ConfigurationError` for a task of another manager, and for an object that cannot be called.
        """
        kwargs = {} if kwargs is None else kwargs
        found = self._by_func.get(_identity(func))
        if found is not None:
            return Resolved(found, args, kwargs)
        definition, full_args, full_kwargs = self._look_through(func, args, kwargs)
        if definition is not None:
            return Resolved(definition, full_args, full_kwargs)
        if not callable(func):
            raise ConfigurationError(f"add_task needs a function, not {repr_of(func)}{_way_out(func)}")
        for other in tuple(_in_use):
            if other is not self and (declared := other.leads_to(func)):
                raise ConfigurationError(
                    f"{declared.name} is a task of another TaskManager, which has its options and its store. Add it to "
                    "the tasks of that manager: Depends(that_manager.get_tasks), or await that_manager.enqueue(...)."
                )
        _refuse_generator(func)
        config = make_task_config(name=function_name(func), executor=infer_executor(func))
        return Resolved(TaskDefinition(config, func, None), args, kwargs)

    def _look_through(
        self, handle: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[TaskDefinition | None, tuple[Any, ...], dict[str, Any]]:
        for _ in range(_MAX_HANDLES):
            found = self._by_func.get(_identity(handle))
            if found is not None:
                return found, args, kwargs
            if isinstance(handle, functools.partial):
                args, kwargs = (*handle.args, *args), {**handle.keywords, **kwargs}
                handle = handle.func
            elif isinstance(handle, MethodType):
                args, handle = (handle.__self__, *args), handle.__func__
            elif (wrapped := getattr(handle, "__wrapped__", None)) is not None:
                handle = wrapped
            else:
                break
        return None, args, kwargs

    @staticmethod
    def placeholder(name: str) -> TaskDefinition:
        """A definition for a stored task of an unknown name, which can be ended but not run."""

        async def unknown(*_: object, **__: object) -> None:
            raise UnknownTaskError(name)

        return TaskDefinition(make_task_config(name=name, executor=ExecutorKind.ASYNC), unknown, None)

    @staticmethod
    def _check(func: Callable[..., Any], config: TaskConfig) -> None:
        if not callable(func):
            raise ConfigurationError(
                f"a task must be a function, not a {type(func).__name__}. "
                "Write @classmethod or @property above @task_manager.task(), not below it."
            )
        _refuse_generator(func)
        marker = first_marker(func)
        if marker is not None:
            raise ConfigurationError(
                f"the parameter {marker[0]!r} of {describe(func)} is a {marker[1]}(...), which FastAPI fills in for "
                "routes but not for tasks. Take its value in the route and pass it as an argument, or get it inside "
                "the task."
            )
        if config.executor is ExecutorKind.ASYNC and not (is_async(func) or is_async(_innermost(func))):
            raise ConfigurationError(
                f"{describe(func)} is not an async function, so executor='async' cannot run it. "
                "Leave executor out, or use 'thread' or 'process'."
            )
        if config.executor is not ExecutorKind.ASYNC and is_async(func):
            raise ConfigurationError(
                f"{describe(func)} is an async function, so executor={config.executor.value!r} cannot run it. "
                "Leave executor out, or make it a plain function."
            )
        if config.executor is ExecutorKind.PROCESS and sys.platform == "win32":
            raise ConfigurationError(
                f"{describe(func)} has executor='process', which Windows cannot run: that needs Unix sockets and "
                "signals. Use 'thread' on Windows, or develop in a Linux container."
            )
        taken = _collisions(func)
        if taken:
            raise ConfigurationError(
                f"{describe(func)} has a parameter {taken[0]!r}, which is an option of add_task. Rename the parameter."
            )


def _innermost(func: Callable[..., Any]) -> Callable[..., Any]:
    try:
        innermost: Callable[..., Any] = inspect.unwrap(func)
        return innermost
    except ValueError:  # it claims to wrap itself
        return func


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
    """Raise `ConfigurationError` if an option was given that is also a parameter of an undecorated function.

    FastAPI gives the value to the function; here `add_task` takes it, which no one would notice.
    """
    for name in _collisions(func):
        if getattr(options, name) is not None:
            raise ConfigurationError(
                f"{describe(func)} has a parameter {name!r}, which is an option of add_task. Rename the parameter, "
                "or give its value by position."
            )


def has_parameter(func: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):  # not a function, or one written in C that does not tell
        return False


def _way_out(no_function: object) -> str:
    """What to do in place of giving this object to `add_task`."""
    if not inspect.isawaitable(no_function):
        return ""
    if inspect.iscoroutine(no_function):
        # Python would warn in addition that it was never awaited.
        no_function.close()
    return ". Give the function and its arguments apart: add_task(send, address), not add_task(send(address))"


def _refuse_generator(func: Callable[..., Any]) -> None:
    if _is_generator_coroutine(func):
        return
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
