"""Limits of queues that were changed while they run: kept in the backend, and the same on every instance."""

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
    """Applies what was changed at run time over what the queues were configured with.

    A change is written first, one setting for each field, and applied here at once; the other instances see it
    with their next round, this one's successors when they start. Before the engine starts there is nowhere to
    write to: a change then is one of the configuration.
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
            # Read before a change that has been applied here meanwhile.
            return
        states = {name: dict(state) for name, state in self._configured.items()}
        for key, text in stored.items():
            field, _, name = key.removeprefix(_PREFIX).partition(":")
            if name in states and field in states[name]:
                states[name][field] = _read(key, text)
        for name, state in states.items():
            self._apply(name, state)

    async def change(self, name: str, fields: Mapping[str, Any]) -> None:
        """Change fields (`concurrency`, `max_size`, `paused`) of one queue, everywhere and for good.

        Raises `UnknownQueueError`, `ConfigurationError` for a limit that is none, and `BackendError` when the change
        could not be written: then nothing is changed here.
        """
        state = {**_state(self._queues.get(name)), **fields}
        QueueConfig(concurrency=state["concurrency"], max_size=state["max_size"])
        if self._running():
            for field, value in fields.items():
                # "Not paused" is what every queue is without a word about it.
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
        # Refused below, like any other value that is no limit.
        logger.error("the setting %s is no JSON: %.80r", key, text)
        return text
