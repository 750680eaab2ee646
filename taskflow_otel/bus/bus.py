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
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from taskflow_otel.bus.contracts import Exporter, TaskObserver, ends_process, overrides
from taskflow_otel.bus.worker import Worker
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.model.events import LifecycleEvent, LogEvent, without_exception
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import LOG_LEVELS
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.throttled_report import ThrottledReport

logger: logging.Logger = logging.getLogger("taskflow_otel.bus")

_FLUSH = "flush"
"""The name under which failures of any flush are counted."""
_LONG_AGO, _NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


_Hooks = tuple[tuple[str, Callable[..., Any]], ...]


def _hooks(exporters: Sequence[Exporter], method: str) -> _Hooks:
    return tuple((e.name, getattr(e, method)) for e in exporters if overrides(e, Exporter, method))


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
        self._clock = clock
        self._failures = ThrottledReport()
        self._give_to(exporters)
        self._look_again = _LONG_AGO
        """When idle exporters are asked again whether they are still idle."""
        self._wakes = 0
        for exporter in exporters:
            exporter.wake = self._wake
        self._start = _hooks(exporters, "start")
        self._flush = _hooks(exporters, "flush")
        self._close = _hooks(exporters, "close")
        self._droppers = {e.name: e for e in exporters if overrides(e, Exporter, "dropped")}
        self._workers: list[Worker] = []
        names = {exporter.name for exporter in exporters}
        for observer in observers:
            if not isinstance(observer, TaskObserver):
                raise ConfigurationError(f"an observer must be an instance of a TaskObserver class, not {observer!r}")
            name = _unique(observer.name or type(observer).__name__, names)
            self._workers.append(Worker(observer, name, queue_size, self._failures, clock))
        self._lifecycle_workers = [w for w in self._workers if w.wants_lifecycle]
        self._log_workers = [w for w in self._workers if w.wants_logs]

    @property
    def dropped(self) -> dict[str, int]:
        """How many events each observer did not get (queue full, off, closed), and how many items exporters dropped."""
        given_up = {name: exporter.dropped() for name, exporter in self._droppers.items()}
        return given_up | {worker.name: worker.dropped for worker in self._workers}

    @property
    def parts(self) -> list[str]:
        """Every name that `errors` may have."""
        return [*(exporter.name for exporter in self._exporters), *(worker.name for worker in self._workers), _FLUSH]

    @property
    def errors(self) -> dict[str, int]:
        """Exceptions of each exporter, and events lost to exceptions of each observer."""
        return dict(self._failures.counts)

    def _give_to(self, exporters: Sequence[Exporter]) -> None:
        self._busy = exporters
        self._created = _hooks(exporters, "on_created")
        self._ending = _hooks(exporters, "on_ending")
        self._lifecycle = _hooks(exporters, "on_lifecycle")
        self._log = _hooks(exporters, "on_log")
        self._progress = _hooks(exporters, "on_progress")
        self._refused = _hooks(exporters, "on_refused")
        self._given = _hooks(exporters, "on_given")
        self._claimed = _hooks(exporters, "on_claimed")
        self._audit = _hooks(exporters, "on_audit")

    def _part_idle(self, now: datetime) -> None:
        """Leave out the exporters that do nothing: without an SDK, half of the calls."""
        wakes = self._wakes
        until = [exporter.idle_until(now) for exporter in self._exporters]
        busy = tuple(exporter for exporter, end in zip(self._exporters, until, strict=True) if end is None)
        if busy != self._busy:
            self._give_to(busy)
        self._look_again = min((end for end in until if end is not None), default=_NEVER)
        if self._wakes != wakes:
            # One of them got work since it was asked.
            self._look_again = _LONG_AGO

    def _wake(self) -> None:
        """Ask the idle exporters again at the next event."""
        self._wakes += 1
        self._look_again = _LONG_AGO

    def created(self, record: TaskRecord) -> None:
        """A task was built and will be committed. Callable from any thread."""
        if record.created_at >= self._look_again:
            self._part_idle(record.created_at)
        for name, hook in self._created:
            try:
                hook(record)
            except BaseException as exc:
                self._failed(name, "failed on a new task", exc)

    def ending(self, record: TaskRecord) -> str | None:
        """The function of an attempt is over: return what is stored beside its outcome. Call it on the loop thread."""
        kept: str | None = None
        for name, hook in self._ending:
            try:
                kept = kept or hook(record)
            except BaseException as exc:
                self._failed(name, "failed at the end of an attempt", exc)
        return kept

    def publish(self, event: LifecycleEvent) -> None:
        """A transition was applied. Call it on the event loop's thread."""
        if event.timestamp >= self._look_again:
            self._part_idle(event.timestamp)
        for name, hook in self._lifecycle:
            try:
                hook(event)
            except BaseException as exc:
                self._failed(name, f"failed on {event.transition}", exc)
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
            except BaseException as exc:
                self._failed(name, "failed on a log entry", exc)
        if self._log_workers:
            level = LOG_LEVELS.get(event.level, 0)
            for worker in self._log_workers:
                if level >= worker.min_level:
                    worker.put(event)

    def progress(self, record: TaskRecord) -> None:
        """A running task reported progress. Call it on the event loop's thread."""
        if self._look_again is _LONG_AGO:
            self._part_idle(self._clock.now())
        for name, hook in self._progress:
            try:
                hook(record)
            except BaseException as exc:
                self._failed(name, "failed on a progress report", exc)

    def refused(self, record: TaskRecord, deleted: bool = False) -> None:
        """The ledger refused a write: see `Exporter.on_refused`. Call it on the event loop's thread."""
        self._tell(self._refused, "failed on a refused write", record, deleted)

    def given(self, record: TaskRecord) -> None:
        """The task is in the pool. Call it on the event loop's thread."""
        self._tell(self._given, "failed on a task of the pool", record)

    def claimed(self, record: TaskRecord) -> None:
        """This instance has claimed the task from the pool. Call it on the event loop's thread."""
        self._tell(self._claimed, "failed on a claimed task", record)

    def _tell(self, hooks: _Hooks, what: str, *news: TaskRecord | AuditEntry | bool) -> None:
        """Call the hooks of a rare event. Those of each task have this loop in their methods, which saves a call."""
        for name, hook in hooks:
            try:
                hook(*news)
            except BaseException as exc:
                self._failed(name, what, exc)

    def audit(self, entry: AuditEntry) -> None:
        """Someone acted through the administration, or tried to. Call it on the event loop's thread."""
        if entry.at >= self._look_again:
            self._part_idle(entry.at)
        self._tell(self._audit, "failed on an entry of the audit", entry)

    def _failed(self, name: str, what: str, exc: BaseException) -> None:
        """Count what an exporter raised; a cancellation too, because no one can cancel a synchronous call."""
        if ends_process(exc):
            raise exc
        self._failures.add(name, what, exc)

    async def start(self) -> None:
        """Start every observer; one that fails is logged and stays off, and does not stop the others."""
        for name, hook in self._start:
            try:
                hook()
            except BaseException as exc:
                self._failed(name, "failed to start", exc)
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
                self._failures.add(_FLUSH, "of an exporter failed", exc)
        return not late

    async def close(self, timeout: float) -> None:
        """Flush for up to `timeout` seconds, count the rest as dropped, then close (in a second or two)."""
        for name, hook in self._close:
            try:
                hook()
            except BaseException as exc:
                self._failed(name, "failed to close", exc)
        await self.flush(timeout)
        await asyncio.gather(*(worker.stop(1.0) for worker in self._workers))


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
        except BaseException as exc:
            failure = exc
        # If the loop has been closed since, no one waits for the answer.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, name=f"taskflow flush {name}", daemon=True).start()
    return result
