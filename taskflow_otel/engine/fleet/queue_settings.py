"""Queue limits changed at run time: stored in the backend, the same on every instance."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.queues import Queue, Queues
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import QueueConfig
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

logger = logging.getLogger("taskflow_otel.engine")

_PREFIX = "queue:"


class QueueSettings(Service):
    """Applies the changes of run time on top of the configuration of the queues.

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
        running: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__("queue-settings", interval, clock)
        self._backend = backend
        self._queues = queues
        self._running = running
        self._on_change = on_change
        self._configured = {queue.name: _state(queue) for queue in queues.all()}
        self._changes = 0

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
            self._apply(name, state)

    async def change(self, name: str, fields: Mapping[str, Any]) -> None:
        """Change fields (`concurrency`, `max_size`, `paused`) of one queue, on all instances, permanently.

        Raises `UnknownQueueError`, `ConfigurationError` for an invalid limit, and `BackendError` if the change could
        not be written; nothing is changed then.
        """
        state = {**_state(self._queues.get(name)), **fields}
        QueueConfig(concurrency=state["concurrency"], max_size=state["max_size"])
        if self._running():
            for field, value in fields.items():
                # A queue without a setting is not paused.
                text = None if field == "paused" and not value else json.dumps(value)
                await self._backend.put_setting(f"{_PREFIX}{field}:{name}", text)
        else:
            self._configured[name].update(fields)
        self._changes += 1
        self._apply(name, {**_state(self._queues.get(name)), **fields})

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
