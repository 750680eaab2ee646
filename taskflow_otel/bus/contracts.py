"""The base classes of receivers: exporters are called at once, observers through their own queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import LOG_LEVELS, LogLevel

Event = LifecycleEvent | LogEvent


class Exporter:
    """Base of the synchronous exporters; override the methods you need: the others cost nothing.

    `on_created` is called on the thread that adds the task (possibly that of a sync route), `flush` on its own
    thread, everything else on the event loop's thread.
    """

    name = "exporter"
    wake: Callable[[], None] = staticmethod(lambda: None)
    """Set by the bus. An exporter that gets work before the time of `idle_until` calls it first, from any thread."""

    def idle_until(self, now: datetime) -> datetime | None:
        """The time until which it needs no events, so it gets none; `None` while it works. Callable from any thread."""
        return None

    def on_created(self, record: TaskRecord) -> None:
        """A task was built and will be committed: the only moment to give it a trace context that is stored."""

    def on_ending(self, record: TaskRecord) -> str | None:
        """The function of an attempt is over, and its outcome will be committed: give what is stored beside it.

        It is in the form of `taskflow_otel.model.spans`.
        """
        return None

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """A transition was applied (and, for a persisted task, committed).

        `STARTED` is published inside the context of the attempt, just before the function is entered.
        """

    def on_log(self, event: LogEvent) -> None:
        """The task wrote a log entry."""

    def on_progress(self, record: TaskRecord) -> None:
        """The running task reported progress (`record.progress`)."""

    def on_refused(self, record: TaskRecord, deleted: bool) -> None:
        """The ledger refused a write: another instance has taken the task over (fencing), or it was `deleted`."""

    def on_given(self, record: TaskRecord) -> None:
        """The task is in the pool, and no longer this process's."""

    def on_claimed(self, record: TaskRecord) -> None:
        """This process has claimed the task from the pool, and will run it."""

    def on_audit(self, entry: AuditEntry) -> None:
        """Someone acted through the administration, or tried to."""

    def dropped(self) -> int:
        """How many items it has dropped so far, for `taskflow_events_dropped_total`. Called on any thread."""
        return 0

    def start(self) -> None:
        """The bus is starting, or starting again after a close."""

    def flush(self, timeout: float) -> None:
        """Export what is still buffered; may block for up to `timeout` seconds."""

    def close(self) -> None:
        """The bus is closing: no further events follow."""


class TaskObserver:
    """Base of the asynchronous observers; override the methods you need.

    Each observer has its own worker, which serves it in order from a bounded queue. Its exceptions are counted, and
    logged once a minute. A slow observer delays only itself.
    """

    name: str = ""
    """Its name in `taskflow_events_dropped_total` and in logs; empty means the class name."""
    min_level: str = LogLevel.DEBUG.value
    """Log entries below this level are not delivered: debug, info, warning, error or critical."""
    wants_lifecycle: bool = True
    """Whether transitions are delivered."""

    def __init__(self, min_level: str | None = None) -> None:
        """`min_level` sets that of this observer; raises `ConfigurationError` for an unknown level."""
        if min_level is not None:
            if min_level not in LOG_LEVELS:
                raise ConfigurationError(f"min_level must be one of {', '.join(LOG_LEVELS)}, not {min_level!r}")
            self.min_level = min_level

    async def startup(self) -> None:
        """Called once before the first event. If it raises, the observer stays off and that is logged."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """A transition was applied."""

    async def on_log(self, event: LogEvent) -> None:
        """The task wrote a log entry of at least `min_level`."""

    async def on_events(self, events: Sequence[Event]) -> None:
        """Several events in order. Override it to handle batches; by default it calls the other methods for each."""
        for event in events:
            if isinstance(event, LogEvent):
                await self.on_log(event)
            else:
                await self.on_lifecycle(event)

    async def close(self) -> None:
        """Called once after the last event."""


def overrides(thing: object, base: type, method: str) -> bool:
    return getattr(type(thing), method) is not getattr(base, method)


def ends_process(exc: BaseException) -> bool:
    """Whether an exception is a request to end the process, perhaps by a signal handler that ran in an exporter."""
    return issubclass(type(exc), (KeyboardInterrupt, SystemExit))
