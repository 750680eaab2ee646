"""The export of one signal to a collector that may be slow, hung or gone: bounded, counted, rarely logged.

Knows nothing of the SDK: `taskflow_otel.exporters.otel.batching` connects it to the SDK's batch processors.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.runtime.throttled_report import Throttle, ThrottledReport

T = TypeVar("T")

PAUSE = 5.0
"""Seconds between two attempts to export to a collector that has failed repeatedly."""
_LOST = "are dropped and counted in taskflow_events_dropped_total"
_PATIENCE = 2
"""Failures in a row after which there are pauses. The SDK's exporter has retried each of them."""
_FIRST_ANSWER = 2.0
"""Seconds that a flush or the exit waits for a collector that has never taken anything."""
_LAST_ANSWER = 5.0
"""Seconds that the exit waits for a collector that has taken something before, for all signals together."""
_AFTER_FAILURE = 1.0
"""Seconds that the exit waits for a thread that was told to end its retries."""
_exporting = threading.local()
"""The `BoundedExport` that calls an exporter on this thread, as `bounded`."""


class LastWait:
    """The wait for the collector when the process ends: begun by the first signal, and shared by all of them."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._began: float | None = None

    def left(self, limit: float) -> float:
        """What is left of `limit` seconds."""
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
        return max(0.0, limit - (now - self._began))


class BoundedExport:
    """Bounds what waits for the collector, counts what is dropped, and makes few attempts while exports fail.

    At most `size` items wait; further ones are dropped and counted. While exports fail, one batch is tried every
    `pause` seconds: the others are neither serialised nor sent.

    A batch whose export fails is dropped and counted as well: the SDK's exporter has already retried it. `lost` says
    what that means, for the log. `last_wait` is shared by the signals of one process.
    """

    def __init__(
        self, what: str, size: int, *, pause: float = PAUSE, lost: str = _LOST, last_wait: LastWait | None = None
    ) -> None:
        self.size = size
        self._lost = lost
        self._what = what
        self._pause = pause
        self._report = ThrottledReport()
        self._last_wait = last_wait or LastWait()
        self._renew()
        if hasattr(os, "register_at_fork"):
            # A forked child starts with a fresh state: a thread that the child lacks may hold the lock.
            os.register_at_fork(after_in_child=_if_alive(weakref.WeakMethod(self._renew)))

    def _renew(self) -> None:
        self.dropped: int = 0
        """How many items were lost: never exported."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._failures = 0
        self._attempts = 0
        self._pausing = False
        self._hurried = False
        self._answered = False
        self._in_trouble = False
        self._give_up: Callable[[], None] | None = None

    @property
    def _closed(self) -> bool:
        return self._give_up is not None

    @property
    def failing(self) -> bool:
        """Whether the latest export failed, or the present one has failed once or kept a flush waiting for too long."""
        return self._failures > 0 or self._in_trouble

    def enter(self) -> bool:
        """Take one item in if there is room, else count it as dropped. Callable from any thread."""
        with self._lock:
            if self._waiting < self.size and not self._closed:
                self._waiting += 1
                return True
            self.dropped += 1
            return False

    def send(self, batch: Sequence[T], export: Callable[[Sequence[T]], bool]) -> bool:
        """Give a batch of entered items to `export`; return whether it succeeded.

        Called on the batch processor's thread, which waits here while the collector is failing.
        """
        with self._lock:
            self._waiting -= len(batch)
            worth_it = self._may_try()
        if not worth_it:
            self._note(len(batch), taken=False, tried=False)
            return False
        failure: Exception | None = None
        _exporting.bounded = self
        try:
            taken = export(batch)
        except Exception as exc:
            taken, failure = False, exc
        finally:
            _exporting.bounded = None
        self._note(len(batch), taken=taken, tried=True)
        if not taken:
            self._report.add(
                "telemetry",
                f"could not be exported: {self._what} {self._lost}; tasks are not affected",
                failure,
            )
        return taken

    def _may_try(self) -> bool:
        """Wait until the next attempt is due; return `False` if there will be none. Called with the lock held."""
        if self._failures >= _PATIENCE:
            self._pausing = True
            self._changed.wait_for(lambda: self._hurried or self._closed, self._pause)
            self._pausing = self._hurried = False
        # After `close`, one attempt is worth making unless the last one failed.
        return not (self._closed and self.failing)

    def _note(self, number: int, *, taken: bool, tried: bool) -> None:
        with self._lock:
            if not taken:
                self.dropped += number
            if tried:
                self._failures = 0 if taken else self._failures + 1
                self._answered = self._answered or taken
                self._in_trouble = False
                self._attempts += 1
                self._changed.notify_all()

    def retry(self, timeout: float) -> bool:
        """End a pause and wait up to `timeout` seconds for the next attempt; return whether a flush makes sense now."""
        with self._lock:
            if not self._pausing:
                return True
            attempts, self._hurried = self._attempts, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._attempts > attempts or self._closed, timeout)
            return self._attempts > attempts and not self._failures

    def trouble(self) -> None:
        """Note that the exporter is going to repeat a failed attempt; at the end, let it give up instead."""
        with self._lock:
            self._in_trouble = True
            give_up = self._give_up
            self._changed.notify_all()
        if give_up is not None:
            give_up()

    def wait(self, flush: threading.Event, timeout: float) -> bool:
        """Wait for a flush: until `flush` is set (and `flushed` is called), an attempt fails, or `timeout` has passed.

        Returns whether the flush has ended. A collector that has never taken anything gets two seconds.
        """
        with self._lock:
            limit = timeout if self._answered else min(timeout, _FIRST_ANSWER)
            if not self._changed.wait_for(lambda: flush.is_set() or self._in_trouble, limit):
                self._in_trouble = True
            return flush.is_set()

    def flushed(self) -> None:
        """Wake up who waits for a flush."""
        with self._lock:
            self._changed.notify_all()

    def close(self, give_up: Callable[[], None] = lambda: None) -> float:
        """Refuse further items, and return for how many seconds the exit may wait for the collector.

        A failing collector gets no further attempt. `give_up` ends the retries of the exporter: it is called now or as
        soon as an attempt fails.
        """
        with self._lock:
            self._give_up = give_up
            failing = self.failing
            limit = _LAST_ANSWER if self._answered else _FIRST_ANSWER
            self._changed.notify_all()
        if failing:
            give_up()
        return self._last_wait.left(_AFTER_FAILURE if failing else limit)


def _if_alive(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        if (alive := method()) is not None:
            alive()

    return call


_by_provider: weakref.WeakKeyDictionary[object, BoundedExport] = weakref.WeakKeyDictionary()


def remember(provider: object, bounded: BoundedExport) -> None:
    """Note which export the items of a provider pass through."""
    _by_provider[provider] = bounded


def dropped_by(provider: object) -> int:
    """How many items of a provider were dropped; 0 for a provider that is not known here."""
    bounded = None if provider is None else _by_provider.get(provider)
    return 0 if bounded is None else bounded.dropped


class OncePerMinute(logging.Filter):
    """Lets a log message pass once a minute, whatever its arguments: an exporter repeats it at every retry."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._throttle = Throttle(clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record passes. A warning of an exporter at work also says that its attempt failed."""
        bounded: BoundedExport | None = getattr(_exporting, "bounded", None)
        if bounded is not None and record.levelno >= logging.WARNING:
            bounded.trouble()
        return self._throttle.passes(str(record.msg))


def quieten(exporter: object) -> None:
    """Limit the loggers of an exporter's modules to the same message once a minute."""
    for cls in type(exporter).__mro__:
        if cls.__module__.startswith("opentelemetry.exporter."):
            log = logging.getLogger(cls.__module__)
            if not any(isinstance(known, OncePerMinute) for known in log.filters):
                log.addFilter(OncePerMinute())
