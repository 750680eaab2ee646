"""Whether an engine runs, and the event loop that it runs on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from taskflow_otel.errors import NotStartedError, TaskStateError
from taskflow_otel.model.vocabulary import EngineState

# A name of this module, since looking a member up in its enum is a call, for each task.
_RUNNING = EngineState.RUNNING
_ACTIVE = frozenset({EngineState.RUNNING, EngineState.DRAINING})


class Life:
    """The state of an engine: its parts ask it before they take a task, and reach the engine's thread through it."""

    def __init__(self) -> None:
        self.state = EngineState.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def begin(self) -> None:
        """Bind to the event loop that runs now; raises `TaskStateError` while the engine runs already."""
        if self.state in _ACTIVE:
            raise TaskStateError(f"the engine is {self.state} already")
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def running(self) -> bool:
        """Whether the engine takes tasks."""
        return self.state is _RUNNING

    @property
    def lost_its_loop(self) -> bool:
        """Whether the event loop was closed without a stop."""
        return self.state in _ACTIVE and self._loop is not None and self._loop.is_closed()

    def require_running(self) -> None:
        """Raise `NotStartedError` unless the engine takes tasks."""
        if self.state is not _RUNNING:
            raise NotStartedError("not started" if self.state is EngineState.NEW else self.state.value)

    def call_on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        """Call on the engine's event loop: at once on its thread, else as soon as possible."""
        if threading.get_ident() == self._thread:
            callback(*args)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args, context=Context())
