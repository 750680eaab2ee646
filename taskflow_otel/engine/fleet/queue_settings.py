"""The queues as people see and change them; a change is stored in the backend, the same on every instance."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

import msgspec

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.queues import Queue, Queues, QueueStats
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.board import Pause
from taskflow_otel.model.options import QueueConfig
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_PREFIX = "queue:"


class QueueSettings(Service):
    """Shows the queues, and applies the changes of run time on top of the configuration of the queues.

    A change is written first, one setting for each field, and then applied here. The other instances see it in their
    next round, later processes when they start. Before the engine starts, a change is only a change of the
    configuration, because there is no backend to write to.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        queues: Queues,
        life: Life,
        on_change: Callable[[], None],
    ) -> None:
        super().__init__("queue-settings", interval, clock)
        self._backend = backend
        self._clock = clock
        self._queues = queues
        self.life = life
        self._on_change = on_change
        self._configured = {queue.name: _state(queue) for queue in queues.all()}
        self._changes = 0
        self._pauses: dict[str, Pause] = {}

    async def tick(self) -> None:
        """Apply what is stored."""
        seen = self._changes
        stored = await self._backend.settings(_PREFIX)
        if seen != self._changes:
            # The stored values were read before a change that was applied here since.
            return
        states = {name: dict(state) for name, state in self._configured.items()}
        for key, text in stored.items():
            field, _, name = key.removeprefix(_PREFIX).partition(":")
            if name in states and field in states[name]:
                states[name][field] = _read(key, text)
        for name, state in states.items():
            self._note_pause(name, state["paused"])
            self._apply(name, {**state, "paused": bool(state["paused"])})

    def pauses(self) -> dict[str, Pause]:
        """Who paused the queues that are paused, and when."""
        return dict(self._pauses)

    def _note_pause(self, name: str, stored: object) -> None:
        if not stored:
            self._pauses.pop(name, None)
            return
        try:
            # Earlier versions stored `true`.
            self._pauses[name] = msgspec.convert(stored, Pause) if isinstance(stored, dict) else Pause()
        except msgspec.ValidationError:
            self._pauses[name] = Pause()

    def stats(self) -> dict[str, QueueStats]:
        """The queues of this process now."""
        now = self._clock.monotonic()
        return {queue.name: queue.stats(now) for queue in self._queues.all()}

    def check(self, name: str) -> None:
        """Raise `UnknownQueueError` unless there is such a queue."""
        self._queues.get(name)

    @at_home
    async def update(
        self, name: str, *, concurrency: int | EllipsisType | None = ..., max_size: int | EllipsisType | None = ...
    ) -> None:
        """Change the limits of a queue on all instances, permanently: `...` keeps a limit, `None` lifts it.

        Raises `UnknownQueueError`, `ConfigurationError` for an invalid limit, and `BackendError` if the change could
        not be written; nothing is changed then.
        """
        given = {"concurrency": concurrency, "max_size": max_size}
        await self._change(name, {field: value for field, value in given.items() if value is not ...})

    @at_home
    async def pause(self, name: str, by: str | None = None, reason: str | None = None) -> None:
        """Start no further task of a queue, on all instances and after a restart too; running tasks end as usual.

        `by` and `reason`: who wants it and why, for the people who wonder.
        """
        await self._change(name, {"paused": True}, msgspec.to_builtins(Pause(by, self._clock.now(), reason)))

    @at_home
    async def resume(self, name: str) -> None:
        """Start the tasks of a queue again."""
        await self._change(name, {"paused": False})

    async def _change(self, name: str, fields: Mapping[str, Any], pause: dict[str, Any] | None = None) -> None:
        queue = self._queues.get(name)
        name, state = queue.name, {**_state(queue), **fields}
        QueueConfig(concurrency=state["concurrency"], max_size=state["max_size"])
        if self.life.running:
            for field, value in fields.items():
                text: str | None = json.dumps(value)
                if field == "paused":
                    # A queue without a setting is not paused.
                    text = None if pause is None else json.dumps(pause)
                await self._backend.put_setting(f"{_PREFIX}{field}:{name}", text)
        else:
            self._configured[name].update(fields)
        self._changes += 1
        if "paused" in fields:
            self._note_pause(name, pause)
        self._apply(name, {**_state(queue), **fields})

    def _apply(self, name: str, state: Mapping[str, Any]) -> None:
        queue = self._queues.get(name)
        if _state(queue) == state:
            return
        try:
            limits = QueueConfig(concurrency=state["concurrency"], max_size=state["max_size"])
        except ConfigurationError as exc:
            logger.error("the stored limits of the queue %r cannot be used: %s", name, exc)
            return
        queue.concurrency, queue.max_size = limits.concurrency, limits.max_size
        queue.paused = bool(state["paused"])
        self._on_change()


def _state(queue: Queue) -> dict[str, Any]:
    return {"concurrency": queue.concurrency, "max_size": queue.max_size, "paused": queue.paused}


def _read(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Refused below, like any other invalid limit.
        logger.error("the setting %s is not JSON: %.80r", key, text)
        return text
