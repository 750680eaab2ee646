"""The observer bus: delivers every applied transition and every log entry once to all exporters and observers.

There are two kinds of delivery. An `Exporter` is synchronous, cheap and guarded: it is called at once, and its
exceptions are counted and logged, never raised. A `TaskObserver` is asynchronous: it has a bounded queue and its own
worker; order is kept, overflow is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.events import LifecycleEvent, LogEvent, without_exception
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import LOG_LEVELS, LogLevel
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.throttled_report import ThrottledReport

logger = logging.getLogger("taskflow_otel.bus")

Event = LifecycleEvent | LogEvent
_LONG_AGO, _NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

STARTUP_TIMEOUT = 10.0
"""Seconds that an observer's `startup` may take."""
_BATCH = 256
"""The most events that an observer with `on_events` gets in one call."""
_REST_PER_WORK = 4
"""An observer may use a fifth of the loop's time: after a slice of work, its worker rests four times as long."""
_SHORTEST_SLICE, _LONGEST_SLICE = 0.001, 0.005
"""Seconds of work before others get the loop: a quarter of the time since the last slice, within these bounds."""
_GATHER = 0.005
"""The shortest rest of a worker, in seconds, while fewer events than a batch wait."""


class Exporter:
    """Base of the synchronous exporters; override the methods you need: the others cost nothing.

    `on_created` is called on the thread that adds the task (possibly that of a sync route), `flush` on its own
    thread, everything else on the event loop's thread.
    """

    name = "exporter"

    def idle_until(self, now: datetime) -> datetime | None:
        """The time until which it needs no events, so it gets none; `None` while it works. Callable from any thread."""
        return None

    def on_created(self, record: TaskRecord) -> None:
        """A task was built and will be committed: the only moment to give it a trace context that is stored."""

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """A transition was applied (and, for a persisted task, committed).

        `STARTED` is published inside the context of the attempt, just before the function is entered.
        """

    def on_log(self, event: LogEvent) -> None:
        """The task wrote a log entry."""

    def on_progress(self, record: TaskRecord) -> None:
        """The running task reported progress (`record.progress`)."""

    def on_refused(self, record: TaskRecord) -> None:
        """The ledger refused a write of this instance: another instance has taken the task over (fencing)."""

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


def _overrides(thing: object, base: type, method: str) -> bool:
    return getattr(type(thing), method) is not getattr(base, method)


def _hooks(exporters: Sequence[Exporter], method: str) -> tuple[tuple[str, Callable[..., None]], ...]:
    return tuple((e.name, getattr(e, method)) for e in exporters if _overrides(e, Exporter, method))


class _Worker:
    """The queue of one observer and the asyncio task that empties it."""

    def __init__(
        self,
        observer: TaskObserver,
        name: str,
        queue_size: int,
        failures: ThrottledReport,
        clock: Clock,
    ) -> None:
        if observer.min_level not in LOG_LEVELS:
            raise ConfigurationError(
                f"min_level of {name} must be one of {', '.join(LOG_LEVELS)}, not {observer.min_level!r}"
            )
        self.observer = observer
        self.name = name
        self.min_level = LOG_LEVELS[observer.min_level]
        batches = _overrides(observer, TaskObserver, "on_events")
        self.wants_lifecycle = observer.wants_lifecycle and (
            batches or _overrides(observer, TaskObserver, "on_lifecycle")
        )
        self.wants_logs = batches or _overrides(observer, TaskObserver, "on_log")
        self.dropped = 0
        self._batches = batches
        self._size = queue_size
        self._failures = failures
        self._clock = clock
        self._queue: deque[Event] = deque()
        self._in_hand = 0
        self._off = False
        self._stopping = asyncio.Event()
        self._wake: asyncio.Future[None] | None = None
        """What the resting worker awaits; without a timer, it waits for an event."""
        self._timer: asyncio.TimerHandle | None = None
        self._drains = 0
        self._worked_until = 0.0
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, event: Event) -> None:
        """Queue one event, or drop and count it."""
        if len(self._queue) >= self._size or self._off:
            self.dropped += 1
            return
        self._queue.append(event)
        if self._wake is not None and self._timer is None:
            _settle(self._wake)

    async def start(self) -> None:
        """Run the observer's `startup`, then serve it; switch it off if that fails."""
        try:
            await asyncio.wait_for(self.observer.startup(), STARTUP_TIMEOUT)
        except Exception as exc:
            self._turn_off()
            self._failures.counts[self.name] = self._failures.counts.get(self.name, 0) + 1
            logger.error(
                "the observer %s could not start and stays off until the next start of the manager; "
                "its events are dropped and counted, tasks are not affected",
                self.name,
                exc_info=exc,
            )
            return
        self._off = False
        # An `asyncio.Event` belongs to one event loop, and this start may be on another one.
        self._stopping, self._idle = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._serve(self._stopping), name=f"taskflow observer {self.name}")

    def _turn_off(self) -> None:
        self._off = True
        self.dropped += len(self._queue) + self._in_hand
        self._queue.clear()
        self._in_hand = 0
        self._idle.set()

    async def _serve(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            rest = await self._hand_on(stopping) if self._queue else None
            if not self._queue:
                self._idle.set()
            await self._rest(rest)

    async def _hand_on(self, stopping: asyncio.Event) -> float:
        """Give the observer a slice of its queue; return how many seconds to rest afterwards.

        Its failures are reported together at the end of the slice, so an observer that always raises costs little
        more than one that succeeds.
        """
        queue, observer, task = self._queue, self.observer, asyncio.current_task()
        turned: list[None] = []
        asyncio.get_running_loop().call_soon(turned.append, None)
        failed = 0
        failure: BaseException | None = None
        started = now = self._clock.monotonic()
        rested = (started - self._worked_until) / _REST_PER_WORK
        end = started + min(max(rested, _SHORTEST_SLICE), _LONGEST_SLICE)
        try:
            while queue:
                number = self._in_hand = min(len(queue), _BATCH) if self._batches else 1
                batch = [queue.popleft() for _ in range(number)]
                try:
                    if self._batches:
                        await observer.on_events(batch)
                    elif isinstance(batch[0], LogEvent):
                        await observer.on_log(batch[0])
                    else:
                        await observer.on_lifecycle(batch[0])
                except (Exception, asyncio.CancelledError) as exc:
                    # No one cancelled this worker, so the cancellation comes from inside the observer: a failure.
                    if isinstance(exc, asyncio.CancelledError) and (task is None or task.cancelling()):
                        raise
                    failed += number
                    failure = exc
                if stopping.is_set():
                    return 0.0
                self._in_hand = 0
                now = self._worked_until = self._clock.monotonic()
                if now > end:
                    break
        finally:
            if failed:
                self._failures.add(self.name, "failed on events; they are lost to it", failure, number=failed)
            # The traceback of the exception holds this frame.
            failure = None
        if turned:
            # The observer awaited something, so the loop served others: it needs no rest.
            return 0.0 if len(queue) >= (_BATCH if self._batches else 1) else _GATHER
        return max(_REST_PER_WORK * (now - started), _GATHER if len(queue) < _BATCH else 0.0)

    async def _rest(self, seconds: float | None) -> None:
        """Leave the loop to others for `seconds`, or (`None`) until there is an event. A drain ends the rest."""
        if seconds == 0.0 or (self._drains and self._queue):
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        if seconds is not None:
            self._timer = loop.call_later(seconds, _settle, self._wake)
        try:
            await self._wake
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._wake = self._timer = None

    async def drain(self) -> None:
        """Wait until everything queued so far has been handled."""
        if self._task is None:
            return
        self._drains += 1
        try:
            while self._queue or self._in_hand:
                if self._wake is not None:
                    _settle(self._wake)
                self._idle.clear()
                await self._idle.wait()
        finally:
            self._drains -= 1

    async def stop(self, grace: float) -> None:
        """End the worker, count what it did not handle, close the observer: each within `grace` seconds."""
        task, self._task = self._task, None
        self._stopping.set()
        if task is not None:
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=grace)
            if not done:
                logger.error("the observer %s ignores its cancellation and is abandoned", self.name)
        was_off = self._off
        self._turn_off()
        if was_off:
            return
        try:
            await asyncio.wait_for(self.observer.close(), grace)
        except Exception as exc:
            self._failures.counts[self.name] = self._failures.counts.get(self.name, 0) + 1
            logger.error("the observer %s failed to close", self.name, exc_info=exc)


class ObserverBus:
    """Delivers every event to all exporters and observers. Exporters are called in the given order.

    `queue_size` bounds the events that wait for one observer. `clock` measures how long observers use the
    loop. Raises `ConfigurationError` for an unknown `min_level`, or an object that is not a `TaskObserver`.
    """

    def __init__(
        self,
        exporters: Iterable[Exporter] = (),
        observers: Iterable[TaskObserver] = (),
        *,
        queue_size: int = 10_000,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._exporters = exporters = tuple(exporters)
        self._failures = ThrottledReport()
        self._give_to(exporters)
        self._look_again = _LONG_AGO
        """When an idle exporter is asked again whether it still is."""
        self._start = _hooks(exporters, "start")
        self._flush = _hooks(exporters, "flush")
        self._close = _hooks(exporters, "close")
        self._droppers = {e.name: e for e in exporters if _overrides(e, Exporter, "dropped")}
        self._workers: list[_Worker] = []
        names = {exporter.name for exporter in exporters}
        for observer in observers:
            if not isinstance(observer, TaskObserver):
                raise ConfigurationError(f"an observer must be an instance of a TaskObserver class, not {observer!r}")
            name = _unique(observer.name or type(observer).__name__, names)
            self._workers.append(_Worker(observer, name, queue_size, self._failures, clock))
        self._lifecycle_workers = [w for w in self._workers if w.wants_lifecycle]
        self._log_workers = [w for w in self._workers if w.wants_logs]

    @property
    def dropped(self) -> dict[str, int]:
        """How many events each observer did not get (queue full, off, closed), and how many items exporters dropped."""
        given_up = {name: exporter.dropped() for name, exporter in self._droppers.items()}
        return given_up | {worker.name: worker.dropped for worker in self._workers}

    @property
    def errors(self) -> dict[str, int]:
        """Exceptions of each exporter, and events lost to exceptions of each observer."""
        return dict(self._failures.counts)

    def _give_to(self, exporters: Sequence[Exporter]) -> None:
        self._busy = exporters
        self._created = _hooks(exporters, "on_created")
        self._lifecycle = _hooks(exporters, "on_lifecycle")
        self._log = _hooks(exporters, "on_log")
        self._progress = _hooks(exporters, "on_progress")
        self._refused = _hooks(exporters, "on_refused")

    def _part_idle(self, now: datetime) -> None:
        """Leave out the exporters that do nothing: without an SDK, half of the calls."""
        until = [exporter.idle_until(now) for exporter in self._exporters]
        busy = tuple(exporter for exporter, end in zip(self._exporters, until, strict=True) if end is None)
        if busy != self._busy:
            self._give_to(busy)
        self._look_again = min((end for end in until if end is not None), default=_NEVER)

    def created(self, record: TaskRecord) -> None:
        """A task was built and will be committed. Callable from any thread."""
        if record.created_at >= self._look_again:
            self._part_idle(record.created_at)
        for name, hook in self._created:
            try:
                hook(record)
            except Exception as exc:
                self._failures.add(name, "failed on a new task", exc)

    def publish(self, event: LifecycleEvent) -> None:
        """A transition was applied. Call it on the event loop's thread."""
        if event.timestamp >= self._look_again:
            self._part_idle(event.timestamp)
        for name, hook in self._lifecycle:
            try:
                hook(event)
            except Exception as exc:
                self._failures.add(name, f"failed on {event.transition}", exc)
        if self._lifecycle_workers:
            kept = without_exception(event)
            for worker in self._lifecycle_workers:
                worker.put(kept)

    def log(self, event: LogEvent) -> None:
        """A task wrote a log entry. Call it on the event loop's thread."""
        if event.timestamp >= self._look_again:
            self._part_idle(event.timestamp)
        for name, hook in self._log:
            try:
                hook(event)
            except Exception as exc:
                self._failures.add(name, "failed on a log entry", exc)
        if self._log_workers:
            level = LOG_LEVELS.get(event.level, 0)
            for worker in self._log_workers:
                if level >= worker.min_level:
                    worker.put(event)

    def progress(self, record: TaskRecord) -> None:
        """A running task reported progress. Call it on the event loop's thread."""
        for name, hook in self._progress:
            try:
                hook(record)
            except Exception as exc:
                self._failures.add(name, "failed on a progress report", exc)

    def refused(self, record: TaskRecord) -> None:
        """The ledger refused a write of this instance. Call it on the event loop's thread."""
        for name, hook in self._refused:
            try:
                hook(record)
            except Exception as exc:
                self._failures.add(name, "failed on a refused write", exc)

    async def start(self) -> None:
        """Start every observer; one that fails is logged and stays off, and does not stop the others."""
        for name, hook in self._start:
            try:
                hook()
            except Exception as exc:
                self._failures.add(name, "failed to start", exc)
        self._look_again = _LONG_AGO
        await asyncio.gather(*(worker.start() for worker in self._workers))

    async def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until all events so far are delivered; return whether they were."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(worker.drain()) for worker in self._workers]
        waits += [_on_a_thread(name, hook, timeout) for name, hook in self._flush]
        if not waits:
            return True
        done, late = await asyncio.wait(waits, timeout=timeout)
        for wait in late:
            wait.cancel()
        for wait in done:
            if not wait.cancelled() and (exc := wait.exception()) is not None:
                self._failures.add("flush", "of an exporter failed", exc)
        return not late

    async def close(self, timeout: float) -> None:
        """Flush for up to `timeout` seconds, count the rest as dropped, then close (in a second or two)."""
        for name, hook in self._close:
            try:
                hook()
            except Exception as exc:
                self._failures.add(name, "failed to close", exc)
        await self.flush(timeout)
        await asyncio.gather(*(worker.stop(1.0) for worker in self._workers))


def _settle(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken.add(candidate)
    return candidate


def _on_a_thread(name: str, hook: Callable[[float], None], timeout: float) -> asyncio.Future[None]:
    """Run a blocking flush on a thread. It is a daemon thread: a collector that hangs cannot delay the exit."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[None] = loop.create_future()

    def settle(exc: BaseException | None) -> None:
        if result.done():
            return
        if exc is None:
            result.set_result(None)
        else:
            result.set_exception(exc)

    def run() -> None:
        failure: BaseException | None = None
        try:
            hook(timeout)
        except Exception as exc:
            failure = exc
        # If the loop has been closed since, no one waits for the answer.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, name=f"taskflow flush {name}", daemon=True).start()
    return result
