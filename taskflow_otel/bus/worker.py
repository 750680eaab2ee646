"""Delivers events to one observer, in order, from a bounded queue, without holding up the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from taskflow_otel.bus.contracts import Event, TaskObserver, ends_process, overrides
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.events import LogEvent
from taskflow_otel.model.vocabulary import LOG_LEVELS
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.throttled_report import ThrottledReport

logger: logging.Logger = logging.getLogger("taskflow_otel.bus")

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


class Worker:
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
        self.min_level: int = LOG_LEVELS[observer.min_level]
        batches = overrides(observer, TaskObserver, "on_events")
        self.wants_lifecycle: bool = observer.wants_lifecycle and (
            batches or overrides(observer, TaskObserver, "on_lifecycle")
        )
        self.wants_logs: bool = batches or overrides(observer, TaskObserver, "on_log")
        self.dropped: int = 0
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
        except BaseException as exc:
            if _is_of_others(exc):
                raise
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
        queue, observer = self._queue, self.observer
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
                except BaseException as exc:
                    if _is_of_others(exc):
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
        except BaseException as exc:
            if _is_of_others(exc):
                raise
            self._failures.counts[self.name] = self._failures.counts.get(self.name, 0) + 1
            logger.error("the observer %s failed to close", self.name, exc_info=exc)


def _is_of_others(exc: BaseException) -> bool:
    """Whether an exception is no failure of the observer: the end of the process, or of the asyncio task around it."""
    if issubclass(type(exc), asyncio.CancelledError):
        # If no one cancelled this asyncio task, the cancellation comes from inside the observer.
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return ends_process(exc) or issubclass(type(exc), GeneratorExit)


def _settle(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
