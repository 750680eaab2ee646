"""Which task keeps the event loop for itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from taskflow_otel.engine.executors.awaiting import below_awaited
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.stacks import Stacks
from taskflow_otel.model.stack import own_place
from taskflow_otel.model.vocabulary import LogLevel
from taskflow_otel.runtime.block_watch import Block, BlockWatch
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.throttled_report import Throttle

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

NO_TASK = ""
"""In place of the name of a task type: something else blocked the event loop, such as a route."""


class Blocks(Service):
    """Counts the time in which the event loop was blocked, by task type, and writes into the task's log where it was.

    `after`: seconds from which a block counts; `None` watches nothing. `attempts`: the asyncio tasks of running
    attempts; without any, nobody watches. `count` gets the name of a task type, or `NO_TASK`, and seconds.
    """

    def __init__(
        self,
        tasks: LiveTasks,
        stacks: Stacks,
        attempts: Collection[asyncio.Task[None]],
        after: float | None,
        clock: Clock,
        count: Callable[[str, float], None],
    ) -> None:
        super().__init__("block-watch", 1.0, clock)
        self._tasks = tasks
        self._stacks = stacks
        self._count = count
        self._throttle = Throttle(clock)
        self._watch = (
            None if after is None else BlockWatch(after, lambda: bool(attempts), self._who, self._blocked, clock)
        )

    async def start(self) -> None:
        """Watch from a thread, not in rounds."""
        if self._watch is not None:
            self._watch.start()

    async def stop(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.stop()

    async def tick(self) -> None:
        """Nothing: the thread has its own rounds."""

    def _who(self, running: asyncio.Task[Any]) -> LiveTask | None:
        return next((task for task in self._tasks if task.attempt is running), None)

    def _blocked(self, block: Block[LiveTask]) -> None:
        seconds, inside = block.seconds, below_awaited(block.places)
        # What the engine does around the function is not the fault of the task.
        task = block.blamed if inside else None
        self._count(NO_TASK if task is None else task.record.func_name, seconds)
        if task is not None:
            self._stacks.write(task, inside, f"it blocked the event loop for {seconds:.2f} s", LogLevel.WARNING)
        if not block.places:
            return
        place = own_place(block.places).short
        if self._throttle.passes(place):
            what = "something that is no task" if task is None else f"task {task.id} ({task.record.func_name})"
            logger.warning(
                "%s blocked the event loop for %.2f s at %s; await there, or make it a plain function, which gets a "
                "thread",
                what,
                seconds,
                place,
            )
