"""Which task runs next: the slots, and the one place that gives them to ready tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from taskflow_otel.engine.executors.base import Executor
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.phase import Step
from taskflow_otel.engine.queues import Queue, Queues
from taskflow_otel.runtime.clock import Clock

_SLICE = 200
"""Attempts started in one callback of the event loop before others get their turn."""
_MAX_STARTING = 1_000
"""How many starts may wait for their commit. More would only wait longer, and tasks of higher priority behind them."""
# Module-level names: until Python 3.12, the lookup of an enum member takes as long as a call.
_LINE_UP, _GET_SLOT = Step.LINE_UP, Step.GET_SLOT


class Slots:
    """The attempts that one executor may run at once."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.used = 0

    @property
    def free(self) -> bool:
        """Whether one more attempt may start."""
        return self.capacity is None or self.used < self.capacity


class Dispatcher:
    """Starts ready tasks while their queue has room and their executor a free slot.

    Within a queue, higher priority goes first, then order of arrival. Queues that share an executor take turns.
    Every task (from a request, retry, requeue or schedule) arrives through `ready`.
    """

    def __init__(self, queues: Queues, executors: Mapping[str, Executor], clock: Clock) -> None:
        self._queues = queues
        self._clock = clock
        self._start: Callable[[LiveTask], None] = _not_connected
        self._share: Callable[[LiveTask], None] = _not_connected
        self._freed: Callable[[], None] = _do_nothing
        self._lines: dict[Queue, None] = {}
        """The queues with ready tasks, in turn. A queue that has none left is removed at its turn."""
        self._open = False
        self._set_aside: Callable[[LiveTask], None] | None = None
        self._pumping = False
        self._pump_due = False
        self._starting: set[LiveTask] = set()
        self.started: int = 0
        """Attempts that got a slot, since this process began."""
        self.slots: dict[str, Slots] = {name: Slots(executor.capacity) for name, executor in executors.items()}

    def connect(self, start: Callable[[LiveTask], None]) -> None:
        """Set the function that starts an attempt."""
        self._start = start

    def connect_pool(self, share: Callable[[LiveTask], None], freed: Callable[[], None]) -> None:
        """Set what gives a ready task to the other instances, and what is called when a shared queue has room again."""
        self._share = share
        self._freed = freed

    def open(self) -> None:
        """Start handing out slots."""
        self._open = True
        self._set_aside = None
        self._pump_due = False
        self.pump()

    def close(self) -> None:
        """Start nothing from now on; ready tasks stay in their queues."""
        self._open = False

    def drain(self, set_aside: Callable[[LiveTask], None]) -> None:
        """Start no persisted task from now on: one that becomes ready is set aside."""
        self._set_aside = set_aside

    @property
    def draining(self) -> bool:
        """Whether only tasks that are not persisted are still started."""
        return self._open and self._set_aside is not None

    def ready(self, task: LiveTask, queue: Queue, since: float | None = None) -> None:
        """Add a ready task to its queue; one of a shared queue goes to the instance that claims it.

        `since`: the monotonic time at which it became ready, if that was elsewhere.
        """
        if queue.shared and not task.claimed and task.record.persisted and self._set_aside is None:
            self._share(task)
            return
        task.advance(_LINE_UP)
        task.ready_at = self._clock.monotonic() if since is None else since
        if self._set_aside is not None and task.record.persisted:
            self._line_up(queue, task)
            self._set_aside(task)
            return
        slots = self.slots[task.record.executor]
        # It starts at once if it would be the next to start anyway: nothing waits before it, and there is room for it.
        # Ready tasks of other queues wait for room in their own queue: otherwise they would have the free slot.
        if (
            not queue.ready
            and self._open
            and not self._pumping
            and not self._pump_due
            and len(self._starting) < _MAX_STARTING
            # `has_room` and `free` without their calls: most tasks take this way.
            and not queue.paused
            and (queue.concurrency is None or queue.running < queue.concurrency)
            and (slots.capacity is None or slots.used < slots.capacity)
        ):
            task.advance(_GET_SLOT)
            self._take(queue, slots, task)
            return
        self._line_up(queue, task)
        # Only this queue has anything new to start.
        self._pump((queue,))

    def _line_up(self, queue: Queue, task: LiveTask) -> None:
        queue.push(task)
        self._lines.setdefault(queue)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Add several tasks before the first of them starts, so that their priorities decide the order."""
        outer, self._pumping = self._pumping, True
        try:
            yield
        finally:
            self._pumping = outer
            self.pump()

    def remove(self, task: LiveTask) -> None:
        """Take a ready task out of its queue."""
        self._queues.of(task).remove(task)

    def entered(self, task: LiveTask) -> None:
        """The start of an attempt is committed: one more start may wait for its commit."""
        saturated = len(self._starting) >= _MAX_STARTING
        self._starting.discard(task)
        if saturated:
            self.pump()

    def give_back(self, task: LiveTask) -> None:
        """Give the slot of an ended attempt back, and start what waited for it."""
        saturated = len(self._starting) >= _MAX_STARTING
        self._starting.discard(task)
        queue, slots = self._queues.of(task), self.slots[task.record.executor]
        queue.running -= 1
        slots.used -= 1
        if queue.shared:
            self._freed()
        if saturated or slots.capacity is not None:
            self.pump()
        elif queue.ready:
            # No other queue can have waited for this.
            self._pump((queue,))

    def pump(self) -> None:
        """Start all tasks that may start; if they are many, the rest in later turns of the event loop."""
        self._pump(self._lines)

    def _pump(self, queues: Iterable[Queue]) -> None:
        if not self._open or self._pumping or self._pump_due or len(self._starting) >= _MAX_STARTING:
            return
        self._pumping = True
        try:
            budget = _SLICE
            progress = True
            while progress and budget > 0:
                progress = False
                for queue in tuple(queues):
                    if not queue.ready:
                        self._lines.pop(queue, None)
                    elif self._start_one(queue):
                        progress = True
                        budget -= 1
                        # The queue that got a slot is the last in turn for the next one.
                        self._lines[queue] = self._lines.pop(queue, None)
            if progress:
                self._pump_due = True
                asyncio.get_running_loop().call_soon(self._pump_on)
        finally:
            self._pumping = False

    def _pump_on(self) -> None:
        self._pump_due = False
        self.pump()

    def _start_one(self, queue: Queue) -> bool:
        if not queue.has_room or len(self._starting) >= _MAX_STARTING:
            return False
        best: tuple[int, int, LiveTask] | None = None
        for name in queue.executors:
            if self.slots[name].free:
                head = queue.head(name)
                if head is not None and (best is None or head < best):
                    best = head
        if best is None:
            return False
        executor = best[2].record.executor
        self._take(queue, self.slots[executor], queue.pop(executor))
        return True

    def _take(self, queue: Queue, slots: Slots, task: LiveTask) -> None:
        self.started += 1
        queue.running += 1
        slots.used += 1
        queue.leave_place(task)
        self._starting.add(task)
        self._start(task)


def _do_nothing() -> None:
    pass


def _not_connected(task: LiveTask) -> None:
    raise RuntimeError(f"task {task.id} was dispatched before the dispatcher was connected")
