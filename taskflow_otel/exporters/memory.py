"""Events in lists, for tests: `InMemoryLogger`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from taskflow_otel.bus import Event, TaskObserver
from taskflow_otel.model.events import LifecycleEvent, LogEvent


class InMemoryLogger(TaskObserver):
    """Keeps every event, in order, and lets a test wait for one."""

    def __init__(self, min_level: str = "debug") -> None:
        self.min_level = min_level
        self.lifecycle: list[LifecycleEvent] = []
        self.logs: list[LogEvent] = []
        self._waiting: list[tuple[Callable[[Event], bool], asyncio.Future[Event]]] = []

    @property
    def messages(self) -> list[str]:
        """The messages of the log entries."""
        return [event.message for event in self.logs]

    async def on_events(self, events: Sequence[Event]) -> None:
        """Keep the events, and wake who waits for one of them."""
        for event in events:
            if isinstance(event, LogEvent):
                self.logs.append(event)
            else:
                self.lifecycle.append(event)
            for predicate, future in self._waiting:
                if not future.done() and predicate(event):
                    future.set_result(event)

    async def wait_for(self, predicate: Callable[[Event], bool], timeout: float = 5.0) -> Event:
        """The first event, past or coming, that satisfies `predicate`; `TimeoutError` after `timeout` seconds."""
        events: list[Event] = [*self.lifecycle, *self.logs]
        for event in events:
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
        self.lifecycle.clear()
        self.logs.clear()
