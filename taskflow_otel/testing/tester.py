"""What a test asks about the tasks of an application: `TaskTester`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow_otel.errors import ConfigurationError, TaskArgumentError
from taskflow_otel.manager import TaskManager
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.clock import FakeClock, settle

_STEP = 0.002
"""Seconds of real time between two looks."""
_LEAST = 0.001
"""Seconds of the fake clock: a timer may ring a moment after the time that a record shows."""


class TaskTester:
    """The tasks that were added to a manager since this object was made, or since `clear()`.

    `clock`: the `FakeClock` of the manager, if it has one; `run_pending` then advances it over delays and retry waits.
    The manager must be running, as inside `with TestClient(app)` or between `startup()` and `shutdown()`. The
    assertions may be made on any thread.
    """

    def __init__(self, task_manager: TaskManager, *, clock: FakeClock | None = None) -> None:
        self._manager = task_manager
        self._clock = clock
        self._before: set[str] = set()
        self.clear()

    def __enter__(self) -> Self:
        self.clear()
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def clear(self) -> None:
        """Forget the tasks that were added so far."""
        self._before = {record.task_id for record in self._manager.store.recent()}

    @property
    def added(self) -> list[TaskRecord]:
        """The tasks that were added, in order: those that live, and the last 1,000 that have finished."""
        return [record for record in self._manager.store.recent() if record.task_id not in self._before]

    def added_of(self, func: Callable[..., Any]) -> list[TaskRecord]:
        """The tasks of one function that were added, in order."""
        name = self._name_of(func)
        return [record for record in self.added if record.func_name == name]

    def assert_enqueued(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskRecord:
        """The newest task of this function with these arguments; raises `AssertionError` if none was added.

        Arguments are compared as the function sees them: by position or by name, and with its defaults. Without any,
        the arguments do not matter.
        """
        found = self.added_of(func)
        if not args and not kwargs:
            matching = found
        else:
            wanted = self._bound(func, args, kwargs)
            matching = [record for record in found if self._arguments(func, record) == wanted]
        if not matching:
            raise AssertionError(self._not_found(func, args, kwargs, found))
        return matching[-1]

    def assert_not_enqueued(self, func: Callable[..., Any]) -> None:
        """Raises `AssertionError` if a task of this function was added."""
        found = self.added_of(func)
        if found:
            raise AssertionError(f"{len(found)} tasks of {found[0].func_name} were added: {self._listed(func, found)}")

    async def run_pending(self, timeout: float = 10.0) -> list[TaskRecord]:
        """Return the added tasks once all of them have finished, also those that they add themselves.

        With a fake clock, delays and retry waits pass at once; without one they last as long as they do. Raises
        `TimeoutError`, which names what has not finished after `timeout` seconds. A synchronous test calls it with
        `asyncio.run(...)`.
        """
        try:
            async with asyncio.timeout(timeout):
                while waiting := [record for record in self.added if not record.status.finished]:
                    await self._let_pass(waiting)
        except TimeoutError:
            waiting = [record for record in self.added if not record.status.finished]
            rest = [f"{record.func_name} {record.status.value} ({record.reason})" for record in waiting]
            raise TimeoutError(f"not finished after {timeout:g} s: {', '.join(rest)}") from None
        return [await self._manager.get(record.task_id) for record in self.added]

    def inline(self, app: ASGIApp, *, timeout: float = 10.0) -> ASGIApp:
        """The application, whose requests end once all added tasks have finished, as native background tasks do.

        For `TestClient(tasks.inline(app))` and `httpx.ASGITransport(tasks.inline(app))`: after each request, the
        tasks have run, with their retries and delays and with the tasks that they added. `timeout`: as for
        `run_pending`. A task that failed does not make its request fail.
        """

        async def inline(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            if scope["type"] == "http":
                await self.run_pending(timeout)

        return inline

    async def _let_pass(self, waiting: list[TaskRecord]) -> None:
        """Real time for what runs; the time of the fake clock once all that live wait for a moment."""
        await asyncio.sleep(_STEP)
        if self._clock is None:
            return
        await settle()
        due = [record.run_at for record in waiting if record.run_at is not None]
        if len(due) == len(waiting) and all(record.status is TaskStatus.PENDING for record in waiting):
            await self._clock.advance(max(_LEAST, (min(due) - self._clock.now()).total_seconds()))

    def _name_of(self, func: Callable[..., Any]) -> str:
        name = self._manager.engine.door.name_of(func)
        if name is None:
            raise ConfigurationError(f"{func!r} is not a task of this TaskManager")
        return name

    @staticmethod
    def _bound(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def _arguments(self, func: Callable[..., Any], record: TaskRecord) -> dict[str, Any] | None:
        try:
            given = self._manager.engine.door.arguments_of(func, record)
        except TaskArgumentError:
            return None
        return None if given is None else self._bound(func, *given)

    def _not_found(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], found: list[TaskRecord]
    ) -> str:
        name = self._name_of(func)
        if not found:
            others = sorted({record.func_name for record in self.added})
            return f"no task of {name} was added; added were tasks of {', '.join(others) or 'nothing'}"
        wanted = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        return f"no task {name}({wanted}) was added; added were {self._listed(func, found)}"

    def _listed(self, func: Callable[..., Any], found: list[TaskRecord]) -> str:
        shown = [
            f"{record.func_name}(<not stored>)"
            if (given := self._arguments(func, record)) is None
            else f"{record.func_name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
            for record in found[-10:]
        ]
        return ", ".join(shown)
