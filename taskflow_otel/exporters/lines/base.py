"""The base of observers that write lines: the selection of events, the format, and the thread that writes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from taskflow_otel.bus import Event, TaskObserver
from taskflow_otel.exporters.lines import text
from taskflow_otel.exporters.signals import LOGS
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.vocabulary import LOG_LEVELS, LogLevel

_LEVELS = {"WARN": LogLevel.WARNING, "ERROR": LogLevel.ERROR}


class LineLogger(TaskObserver, ABC):
    """Writes one line for each event, in batches, on its own thread: never on the event loop."""

    def __init__(self, *, log_lifecycle: bool, min_level: str, format: text.Format) -> None:
        super().__init__(min_level)
        text.check_format(format)
        self.wants_lifecycle = log_lifecycle
        self._format = format
        self._thread: ThreadPoolExecutor | None = None

    async def on_events(self, events: Sequence[Event]) -> None:
        """Write the lines of these events; the bus counts the exceptions of the write."""
        lines = [
            text.line(event, self._format) + "\n"
            for event in events
            if isinstance(event, LogEvent) or (self.wants_lifecycle and self._is_severe(event))
        ]
        if not lines:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"taskflow {type(self).__name__}")
        await asyncio.get_running_loop().run_in_executor(self._thread, self.write, lines)

    def _is_severe(self, event: LifecycleEvent) -> bool:
        """Whether `min_level` lets the line of a transition through; a usual one counts as `info`."""
        level = _LEVELS.get(LOGS[event.transition].severity, LogLevel.INFO)
        return LOG_LEVELS[level] >= LOG_LEVELS[self.min_level]

    async def close(self) -> None:
        """Close the output and the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self.release)
            thread.shutdown(wait=False)

    @abstractmethod
    def write(self, lines: list[str]) -> None:
        """Write lines, each with its line end. Called on the thread."""

    def release(self) -> None:
        """Close what `write` opened. Called on the thread."""
