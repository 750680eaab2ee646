"""The decorators that declare task types and schedules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from taskflow_otel.engine.engine import Engine
from taskflow_otel.engine.registry import (
    TaskDefinition,
    TaskRegistry,
    function_name,
    infer_executor,
    require_no_arguments,
)
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.schedule import CatchUp, Overlap, Rule, Schedule
from taskflow_otel.model.task_options import TaskOptions, make_task_config, refuse_unknown

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def takes_options_by_name(decorator: F) -> F:
    """Refuse a decorator without its parentheses, and options without their names: it would be a bare `TypeError`."""
    name = decorator.__name__

    @functools.wraps(decorator)
    def checked(self: object, *given: object, **options: object) -> object:
        if not given:
            return decorator(self, **options)
        if callable(given[0]):
            example = "task()" if name == "task" else f"{name}(every=60)"
            raise ConfigurationError(f"the decorator needs its parentheses: @task_manager.{example}")
        raise ConfigurationError(f"{name}() takes options by name, such as name=, not {repr_of(given[0])} alone")

    return cast("F", checked)


class TaskDecorators:
    """What the decorators of a `TaskManager` do: they register functions."""

    def __init__(self, engine: Engine, registry: TaskRegistry) -> None:
        self._engine = engine
        self._registry = registry

    def task(self, name: str | None, options: TaskOptions) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """See `TaskManager.task`."""
        refuse_unknown(options)

        def declare(func: Callable[P, R]) -> Callable[P, R]:
            self._register(func, name, options)
            return func

        return declare

    def schedule(
        self,
        rule: Rule,
        name: str | None,
        options: TaskOptions,
        *,
        run_on_startup: bool,
        catch_up: CatchUp,
        overlap: Overlap,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """See `TaskManager.schedule`."""
        refuse_unknown(options)
        schedules = self._engine.schedules

        def declare(func: Callable[P, R]) -> Callable[P, R]:
            require_no_arguments(func)
            definition = self._registry.find(func)
            own_name = name or (definition.name if definition is not None else function_name(func))
            if name is None and own_name in schedules.names():
                own_name = f"{own_name} {rule.text}"
            schedule = Schedule(
                name=own_name, rule=rule, run_on_startup=run_on_startup, catch_up=catch_up, overlap=overlap
            )
            if definition is None:
                definition = self._register(func, name, options)
            elif options:
                raise ConfigurationError(
                    f"{definition.name} is a task already, so schedule() cannot give it {', '.join(sorted(options))}. "
                    "Give it to the decorator that is nearest to the function."
                )
            schedules.add(schedule, definition)
            return func

        return declare

    def _register(self, func: Callable[..., Any], name: str | None, options: TaskOptions) -> TaskDefinition:
        queue = options.get("queue")
        if queue is not None:
            self._engine.queues.check(queue)
        executor = options.get("executor")
        given: TaskOptions = {**options, "executor": infer_executor(func) if executor is None else executor}
        return self._registry.add(func, make_task_config(name=function_name(func) if name is None else name, **given))
