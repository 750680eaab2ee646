"""Which task keeps the event loop for itself."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from taskflow_otel.compat.coroutines import code_of, context_of
from taskflow_otel.engine.context import task_context_in
from taskflow_otel.engine.executors.awaiting import below_awaited, below_code
from taskflow_otel.engine.live import LiveTask, LiveTasks
from taskflow_otel.engine.phase import Phase
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

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class Suspect(NamedTuple):
    """For whom an asyncio task runs."""

    task: LiveTask
    code: CodeType | None
    """That of an asyncio task that the function of the task has made; `None`: it is the attempt itself."""


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

    def _who(self, running: asyncio.Task[Any]) -> Suspect | None:
        """The task for which an asyncio task runs: its attempt, or one that its function has made."""
        attempt = next((task for task in self._tasks if task.attempt is running), None)
        if attempt is not None:
            return Suspect(attempt, None)
        context, code = context_of(running), code_of(running)
        found = None if context is None else task_context_in(context)
        if found is None or code is None or code.co_filename.startswith(_PACKAGE):
            # The engine starts work of its own in the context of its caller.
            return None
        made_by = self._tasks.live(found.task_id)
        if made_by is None or made_by.task_context is not found or made_by.phase is not Phase.RUNNING:
            # It has outlived the attempt that made it.
            return None
        return Suspect(made_by, code)

    def _blocked(self, block: Block[Suspect]) -> None:
        seconds, suspect = block.seconds, block.blamed
        made = suspect.code if suspect is not None else None
        inside = below_awaited(block.places) if made is None else below_code(block.places, made)
        # What the engine does around the function is not the fault of the task.
        task = suspect.task if suspect is not None and inside else None
        self._count(NO_TASK if task is None else task.record.func_name, seconds)
        what = "it" if made is None else "an asyncio task that it has made"
        if task is not None:
            self._stacks.write(task, inside, f"{what} blocked the event loop for {seconds:.2f} s", LogLevel.WARNING)
        if not block.places:
            return
        place = own_place(block.places).short
        if self._throttle.passes(place):
            named = "something that is no task" if task is None else f"task {task.id} ({task.record.func_name})"
            logger.warning(
                "%s blocked the event loop for %.2f s at %s; await there, or make it a plain function, which gets a "
                "thread",
                named,
                seconds,
                place,
            )
