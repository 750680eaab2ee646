"""Who runs next: slots, and the one place that hands ready tasks to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from taskflow_otel.engine.clock import Clock
from taskflow_otel.engine.executors import Executor
from taskflow_otel.engine.live import LiveTask, Phase
from taskflow_otel.engine.queues import Queue, Queues


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

    Within a queue the highest priority goes first and equals in order of arrival; among queues that compete for
    the same executor's slots they take turns. Every way in (request, retry, requeue, schedule) ends in `ready`.
    """

    def __init__(
        self, queues: Queues, executors: Mapping[str, Executor], clock: Clock, start: Callable[[LiveTask], None]
    ) -> None:
        self._queues = queues
        self._clock = clock
        self._start = start
        self._turns = queues.all()
        self._open = False
        self._pumping = False
        self.slots = {name: Slots(executor.capacity) for name, executor in executors.items()}

    def open(self) -> None:
        """Start handing out slots."""
        self._open = True
        self.pump()

    def close(self) -> None:
        """Start nothing from now on; what is ready stays in its queue."""
        self._open = False

    def ready(self, task: LiveTask) -> None:
        """Put a task in line."""
        task.phase = Phase.READY
        task.ready_at = self._clock.monotonic()
        self._queues.of(task).push(task)
        self.pump()

    def withdraw(self, task: LiveTask) -> None:
        """Take a ready task out of the line (its heap entry is skipped when it comes up)."""
        self._queues.of(task).ready -= 1

    def release(self, task: LiveTask) -> None:
        """Give the slot of an ended attempt back."""
        self._queues.of(task).running -= 1
        self.slots[task.record.executor].used -= 1
        self.pump()

    def pump(self) -> None:
        """Start whatever may start."""
        if not self._open or self._pumping:
            return
        self._pumping = True
        try:
            progress = True
            while progress:
                progress = False
                for queue in self._turns:
                    if queue.ready and self._start_one(queue):
                        progress = True
                if progress and len(self._turns) > 1:
                    self._turns.append(self._turns.pop(0))
        finally:
            self._pumping = False

    def _start_one(self, queue: Queue) -> bool:
        if not queue.has_room:
            return False
        best: tuple[int, int, LiveTask] | None = None
        for name, slots in self.slots.items():
            if slots.free:
                head = queue.head(name)
                if head is not None and (best is None or head < best):
                    best = head
        if best is None:
            return False
        task = queue.pop(best[2].record.executor)
        queue.running += 1
        self.slots[task.record.executor].used += 1
        queue.leave_place(task)
        task.phase = Phase.STARTING
        self._start(task)
        return True
