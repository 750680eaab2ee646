"""Events in lists, for tests: `InMemoryLogger`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from taskflow_otel.bus import Event, TaskObserver
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.vocabulary import LogLevel


class InMemoryLogger(TaskObserver):
    """Keeps every event of at least `min_level`, and lets a test wait for one."""

    def __init__(self, min_level: str = LogLevel.DEBUG.value) -> None:
        super().__init__(min_level)
        self.events: list[Event] = []
        """Every event, in the order in which they happened."""
        self._waiting: list[tuple[Callable[[Event], bool], asyncio.Future[Event]]] = []

    @property
    def lifecycle_events(self) -> list[LifecycleEvent]:
        """The transitions among the events."""
        return [event for event in self.events if isinstance(event, LifecycleEvent)]

    @property
    def log_events(self) -> list[LogEvent]:
        """The log entries among the events."""
        return [event for event in self.events if isinstance(event, LogEvent)]

    @property
    def messages(self) -> list[str]:
        """The messages of the log entries."""
        return [event.message for event in self.log_events]

    async def on_events(self, events: Sequence[Event]) -> None:
        """Keep the events, and wake the callers that wait for one of them."""
        for event in events:
            self.events.append(event)
            for predicate, future in self._waiting:
                if not future.done() and predicate(event):
                    future.set_result(event)

    async def wait_for(self, predicate: Callable[[Event], bool], timeout: float = 5.0) -> Event:
        """The first event, past or coming, that satisfies `predicate`; `TimeoutError` after `timeout` seconds."""
        for event in self.events:
            if predicate(event):
                return event
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        entry = (predicate, future)
        self._waiting.append(entry)
        try:
            return await asyncio.wait_for(future, timeout)
        finally:
            self._waiting.remove(entry)

    def clear(self) -> None:
        """Forget everything so far."""
        self.events.clear()
