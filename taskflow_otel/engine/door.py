"""How tasks are added, from requests and from anywhere else. The rooms above use this."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.intake import Intake, Taken
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.registry import TaskRegistry, has_parameter
from taskflow_otel.engine.transactions import Transactions
from taskflow_otel.model.enqueue import NO_OPTIONS, EnqueueOptions
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.owned_tasks import OwnedTasks


class Door:
    """Adds tasks. `background` owns the work that no caller awaits."""

    def __init__(
        self,
        builder: TaskBuilder,
        intake: Intake,
        lookup: Lookup,
        registry: TaskRegistry,
        life: Life,
        background: OwnedTasks,
        transactions: Transactions,
    ) -> None:
        self._builder = builder
        self._transactions = transactions
        self._intake = intake
        self._background = background
        self._lookup = lookup
        self._registry = registry
        self.life = life
        self.call_on_loop: Callable[..., None] = life.call_on_loop
        """Calls a function on the engine's thread."""

    @property
    def open(self) -> bool:
        """Whether the engine takes tasks."""
        return self.life.running

    def is_declared(self, func: Callable[..., Any]) -> bool:
        """Whether a function is a task, or leads to one."""
        return self._registry.leads_to(func) is not None

    def name_of(self, func: Callable[..., Any]) -> str | None:
        """The name of the task type that a function is, or leads to; `None` for an undeclared function."""
        definition = self._registry.leads_to(func)
        return None if definition is None else definition.name

    def arguments_of(
        self, func: Callable[..., Any], record: TaskRecord
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of a task of this function, as it gets them; `None` if they are not stored.

        Raises `TaskArgumentError` if they cannot be read.
        """
        definition = self._registry.leads_to(func)
        if definition is None or definition.codec is None or record.payload is None:
            return None
        return self._builder.decode_payload(definition.codec, record.payload)

    def add(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions = NO_OPTIONS,
    ) -> Taken:
        """Build a task and take it in. Callable from any thread.

        With `options.session` the task belongs to that transaction alone, and the caller gets only its id. Raises
        `NotStartedError`, and what `TaskBuilder.build`, `Intake.take` and `Transactions.add` raise.
        """
        if options.session is not None:
            if self.is_declared(func) or not has_parameter(func, "session"):
                return Taken(self._transactions.add(func, args, kwargs, options), None)
            # Natively, the value is for the function, and an undecorated one cannot be stored.
            kwargs, options = {**kwargs, "session": options.session}, replace(options, session=None)
        task_id, task = taken = self._take(func, args, kwargs, options)
        if task is not None and task.repeats is not None:
            # The caller now knows this id. If its task was deleted, the new task gets the id.
            task.record.task_id = task_id
        return taken

    def publish(self, tasks: Sequence[LiveTask]) -> bool:
        """Publish new tasks if none of them needs a commit; return whether that is so.

        `False` also away from the engine's event loop.
        """
        home = self.life.home
        return (home is None or home is asyncio.get_running_loop()) and self._intake.publish(tasks)

    @at_home
    async def make_known(self, tasks: Sequence[LiveTask]) -> None:
        """Commit new tasks and publish them; see `Intake.make_known`."""
        if self._transactions.open and any(task.durable for task in tasks):
            self._transactions.refuse_to_wait()
        await self._intake.make_known(tasks)

    def hand_over(self, tasks: Sequence[LiveTask]) -> None:
        """Let known tasks start."""
        self.life.call_on_loop(self._intake.hand_over, tasks)

    def withdraw(self, tasks: Sequence[LiveTask], reason: Reason) -> None:
        """End tasks whose request failed: they never run. Does not depend on the caller, who may be cancelled."""
        self.life.call_on_loop(self._withdraw, tasks, reason)

    def start_soon(self, task: LiveTask) -> None:
        """Make a task known and hand it over in the background. Callable from any thread."""
        self.life.call_on_loop(self._start, task)

    async def finished(self, task: LiveTask) -> None:
        """Return once a task has finished."""
        await self._lookup.wait(task.id)

    @at_home
    async def arrived(self, tasks: Sequence[LiveTask]) -> None:
        """Wait for the commits of tasks given to `start_soon`; raises `BackendError` when one failed."""
        for task in tasks:
            # A task of a shared queue has another one afterwards: its gift to the pool, for which nobody waits.
            if (arrival := task.arrival) is not None:
                await asyncio.wait({arrival})
                if not arrival.cancelled() and (exc := arrival.exception()) is not None:
                    raise exc

    async def enqueue_within(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> str:
        """Add a task in the transaction of `options.session`, on the event loop of the caller; return its id."""
        return await self._transactions.enqueue(func, args, kwargs, options)

    @at_home
    async def enqueue(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions = NO_OPTIONS,
    ) -> str:
        """Add a task and return its id once it is known; if another task holds its idempotency key, return that id."""
        task_id, task = self.enter(func, args, kwargs, options)
        return task_id if task is None else await self.commit(task)

    def enter(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> tuple[str, LiveTask | None]:
        """The part of `enqueue` that waits for nothing: the id, and the new task if it needs a commit.

        On the engine's event loop only.
        """
        if self._transactions.open:
            self._transactions.refuse_to_wait()
        task_id, task = self._take(func, args, kwargs, options)
        if task is None or task.durable:
            return task_id, task
        self._intake.enter(task)
        return task_id, None

    async def commit(self, task: LiveTask) -> str:
        """The other part of `enqueue`: commit a new task, let it start, and return its id or that of another one."""
        # `_enter` without its coroutine: every enqueued task that is persisted waits here.
        await self._intake.make_known([task])
        self._intake.hand_over([task])
        return task.repeats or task.record.duplicate_of or task.id

    def _take(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: EnqueueOptions
    ) -> Taken:
        self.life.require_running()
        return self._intake.take(self._builder.build(func, args, kwargs, options))

    def _withdraw(self, tasks: Sequence[LiveTask], reason: Reason) -> None:
        self._background.own(self._intake.withdraw(tasks, reason))

    def _start(self, task: LiveTask) -> None:
        if task.durable:
            task.arrival = self._background.own(self._enter(task))
        elif task.phase is Phase.BUILT:
            self._intake.enter(task)

    async def _enter(self, task: LiveTask) -> None:
        await self._intake.make_known([task])
        self._intake.hand_over([task])
