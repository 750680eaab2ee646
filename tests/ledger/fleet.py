"""Several managers on one storage, of which a test can let one die."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Self

from taskflow_otel import TaskManager, TaskRecord, Telemetry
from taskflow_otel.backends import Backend
from taskflow_otel.backends.base import APPENDED, Change
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import Transition
from tests.waiting import eventually

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
"""Where the clock of a manager stands whose delayed tasks are due for all others, and never for itself."""


class Wire:
    """A backend whose connection can be cut: then nothing reaches it any more, as from a host that has died."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.durable = backend.durable
        self.cut = False
        self.last_words: Transition | None = None
        """The wire is cut when a change to this has been applied, before the answer comes back."""
        self.slow_words: Transition | None = None
        """The answer to a change to this waits for `answer`."""
        self.late_words: Transition | None = None
        """A change to this is on its way until `answer`, and arrives even if the wire is cut by then."""
        self.waiting, self.answer = asyncio.Event(), asyncio.Event()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        """The names of all calls so far, with the arguments of those that carry no tasks."""
        self.before_store: Callable[[str, tuple[Any, ...]], Awaitable[None] | None] = lambda method, args: None
        """Called before each call of a store beside the tasks; a test may cut the wire then."""

    async def close(self) -> None:
        await self.backend.close()

    @property
    def audit_store(self) -> Any:
        """The audit, through this wire."""
        return _Store(self, "audit_store")

    @property
    def operation_store(self) -> Any:
        """The bulk operations, through this wire."""
        return _Store(self, "operation_store")

    @property
    def pool_store(self) -> Any:
        """The pool, through this wire."""
        return _Store(self, "pool_store")


class _Store:
    """A store beside the tasks, reached through a wire."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self._name = name

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if (waiting := self._wire.before_store(method, args)) is not None:
                await waiting
            if self._wire.cut:
                raise BackendUnavailableError("the wire is cut")
            return await getattr(getattr(self._wire.backend, self._name), method)(*args, **kwargs)

        return call


def _passing_on(name: str) -> Callable[..., Any]:
    async def call(self: Wire, *args: Any, **kwargs: Any) -> Any:
        if self.cut:
            raise BackendUnavailableError("the wire is cut")
        self.calls.append((name, () if name == "apply" else args))
        if name == "apply" and any(_moves_to(change, self.late_words) for change in args[0]):
            self.late_words = None
            self.waiting.set()
            await self.answer.wait()
        answer = await getattr(self.backend, name)(*args, **kwargs)
        if name == "apply" and any(_moves_to(change, self.last_words) for change in args[0]):
            self.cut, self.last_words = True, None
            raise BackendUnavailableError("the wire was cut before the answer came")
        if name == "apply" and any(_moves_to(change, self.slow_words) for change in args[0]):
            self.slow_words = None
            self.waiting.set()
            await self.answer.wait()
        return answer

    return call


def _moves_to(change: Change, transition: Transition | None) -> bool:
    return not isinstance(change, APPENDED) and change.record.timeline[-1].transition is transition


for _name, _ in inspect.getmembers(Backend, inspect.iscoroutinefunction):
    if not hasattr(Wire, _name):
        setattr(Wire, _name, _passing_on(_name))


class Fleet:
    """Makes managers, each with a backend object of its own, and stops them at the end."""

    def __init__(self, factory: Callable[[], Backend]) -> None:
        self._factory = factory
        self._managers: list[TaskManager] = []
        self.wires: dict[TaskManager, Wire] = {}
        self.storage = factory()
        """Looks at the storage from outside."""

    async def __aenter__(self) -> Self:
        await self.storage.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.gather(*(manager.shutdown() for manager in self._managers))
        await self.storage.close()

    def manager(self, **options: Any) -> TaskManager:
        """A manager that is not started."""
        wire = Wire(self._factory())
        settings: dict[str, Any] = {"snapshot_interval": 0.05, "shutdown_timeout": 0.2, "cancel_grace": 0.2}
        # As workers behind one port, of which each answers for all.
        settings["telemetry"] = Telemetry(metrics_target="fleet")
        manager = TaskManager(snapshot_backend=wire, **{**settings, **options})  # type: ignore[arg-type]  # completed below it
        self.wires[manager] = wire
        return manager

    async def start(self, *managers: TaskManager) -> None:
        """Start managers; they are stopped at the end of the test."""
        for manager in managers:
            await manager.startup()
            self._managers.append(manager)

    async def stop(self, manager: TaskManager) -> None:
        """Stop a manager in order."""
        self._managers.remove(manager)
        await manager.shutdown()

    async def die(self, manager: TaskManager) -> None:
        """Let a manager die: nothing that it does from now on reaches the storage, and everyone knows it is dead."""
        self.wires[manager].cut = True
        dead = manager.engine.instance_id

        async def is_declared_dead() -> bool:
            # A heartbeat may have been on its way.
            for instance in await self.storage.instances():
                if instance.instance_id == dead:
                    return await self.storage.declare_dead(dead, instance.heartbeat_at)
            return False

        await eventually(is_declared_dead, "the funeral")

    async def records(self, query: TaskQuery) -> list[TaskRecord]:
        """All stored tasks that match, newest first."""
        found: list[TaskRecord] = []
        cursor: str | None = None
        while True:
            page = await self.storage.page(
                TaskQuery(status=query.status, func_name=query.func_name, limit=500, cursor=cursor)
            )
            found += page.records
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def number(self, query: TaskQuery) -> int:
        """How many stored tasks match."""
        return (await self.storage.counts(query)).total
