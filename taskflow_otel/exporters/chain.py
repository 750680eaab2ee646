"""Several observers as one: `LoggerChain`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from taskflow_otel.bus import Event, TaskObserver
from taskflow_otel.model.events import LogEvent
from taskflow_otel.model.vocabulary import LOG_LEVELS

_log = logging.getLogger("taskflow_otel")


class LoggerChain(TaskObserver):
    """Passes each event to several observers, one after the other. An exception of one of them is logged.

    `TaskManager(loggers=[...])` does more: there, each observer has a queue and a worker of its own, so that a slow one
    delays no other. Each observer still gets only what its own `min_level` and `wants_lifecycle` let through.
    """

    def __init__(self, loggers: Sequence[TaskObserver]) -> None:
        super().__init__()
        self._loggers = tuple(loggers)

    async def startup(self) -> None:
        """Start each observer."""
        for observer in self._loggers:
            await self._guarded(observer, observer.startup)

    async def on_events(self, events: Sequence[Event]) -> None:
        """Pass the events on."""
        for observer in self._loggers:
            least = LOG_LEVELS[observer.min_level]
            wanted = [
                event
                for event in events
                if (LOG_LEVELS.get(event.level, least) >= least if isinstance(event, LogEvent) else True)
                and (observer.wants_lifecycle or isinstance(event, LogEvent))
            ]
            if wanted:
                await self._guarded(observer, partial(observer.on_events, wanted))

    async def close(self) -> None:
        """Close each observer."""
        for observer in self._loggers:
            await self._guarded(observer, observer.close)

    @staticmethod
    async def _guarded(observer: TaskObserver, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await call()
        except Exception:
            _log.exception("the observer %s raised", observer.name or type(observer).__name__)
