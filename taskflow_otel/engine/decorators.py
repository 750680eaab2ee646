"""The decorators that declare task types and schedules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, Unpack
from zoneinfo import ZoneInfo

from taskflow_otel.engine.engine import Engine
from taskflow_otel.engine.registry import (
    TaskDefinition,
    TaskRegistry,
    function_name,
    infer_executor,
    require_no_arguments,
)
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import Exceptions, ExecutorName, TaskOptions, make_task_config
from taskflow_otel.model.schedule import CatchUp, Overlap, Schedule, make_rule

P = ParamSpec("P")
R = TypeVar("R")


class Declarations:
    """The decorators of a `TaskManager`."""

    def __init__(self, engine: Engine, registry: TaskRegistry) -> None:
        self.engine = engine
        self._registry = registry

    def task(
        self,
        *,
        retries: int = 0,
        delay: float | timedelta = 0.0,
        backoff: float = 1.0,
        max_delay: float | timedelta | None = None,
        jitter: float = 0.0,
        retry_on: Exceptions = Exception,
        no_retry_on: Exceptions = (),
        timeout: float | timedelta | None = None,
        persist: bool = False,
        requeue_on_interrupt: bool = False,
        name: str | None = None,
        eager: bool = False,
        priority: int | None = None,
        queue: str | None = None,
        executor: ExecutorName | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Declare a function as a task type. The function itself is returned unchanged.

        `retries`: further attempts after a failed one. `delay`: seconds before the first retry, multiplied by
        `backoff` for each further one, capped at `max_delay`, spread by `jitter` (0.1 = ±10 %). `retry_on`,
        `no_retry_on`: exceptions that are, or are not, retried; an exception group is retried if each exception in
        it is, or if `retry_on` names a class of groups. `timeout`: seconds for one attempt. `persist`: keep the task
        across a crash. `requeue_on_interrupt`: run it again even if it was running at the crash. `name`: its identity
        (default: the function's name). `eager`: start at `add_task()`. `priority`: higher runs first (default 5).
        `queue`: a named queue. `executor`: `async`, `thread` or `process`, inferred from the function.

        Methods, `functools.partial` and decorators around the function lead to it and have its options. The task runs
        the function itself: to make a decorator part of the task, write `task` above it.

        Raises `ConfigurationError`, `DuplicateTaskNameError` or `UnknownQueueError`.
        """
        options: TaskOptions = {
            "retries": retries,
            "delay": delay,
            "backoff": backoff,
            "max_delay": max_delay,
            "jitter": jitter,
            "retry_on": retry_on,
            "no_retry_on": no_retry_on,
            "timeout": timeout,
            "persist": persist,
            "requeue_on_interrupt": requeue_on_interrupt,
            "eager": eager,
            "priority": priority,
            "queue": queue,
            "executor": executor,
        }

        def declare(func: Callable[P, R]) -> Callable[P, R]:
            self._register(func, name, options)
            return func

        return declare

    def schedule(
        self,
        *,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str | ZoneInfo = "UTC",
        run_on_startup: bool = False,
        catch_up: CatchUp = "skip",
        overlap: Overlap = "allow",
        name: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Run a function without arguments by a rule, once for each firing time across all instances.

        `every`: seconds or a `timedelta`, counted from 1970 in UTC, so that a restart shifts nothing. `cron`: five
        fields, six with the seconds last, or an alias such as `@daily`, on the wall clock of `timezone` (IANA name;
        extra `scheduler`). `run_on_startup`: also once when the first instance starts. `catch_up`: which missed
        firings run later: none, the latest, or all (up to 1,000). A firing is missed if no instance ran at its time,
        or if it is late by more than a quarter of the interval (at least 1 s, at most 1 min). `overlap`: with `skip`,
        a firing does not run while an earlier run of this schedule has not ended. `name`: the name of the schedule,
        and of the task type if the function is not a task yet. The other options are those of `task`. The decorator
        may be used several times, and above `task`.

        Raises `ConfigurationError`, `DuplicateTaskNameError`, `UnknownQueueError` or `MissingExtraError`.
        """
        rule = make_rule(every, cron, timezone)
        schedules = self.engine.schedules

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
            self.engine.check_queue(queue)
        executor = options.get("executor")
        given: TaskOptions = {**options, "executor": infer_executor(func) if executor is None else executor}
        return self._registry.add(func, make_task_config(name=function_name(func) if name is None else name, **given))
