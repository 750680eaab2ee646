"""`capture_logs`: standard logging inside a task becomes the log of that task."""

from __future__ import annotations

import logging

from taskflow_otel import (
    InMemoryLogger,
    TaskManager,
)
from tests.managers import finish, started


async def test_captured_logging_becomes_the_log_of_the_task_that_wrote_it() -> None:
    observer = InMemoryLogger()
    manager = TaskManager(capture_logs=True, loggers=[observer])

    async def chat() -> None:
        logging.getLogger("shop").warning("low on %s", "tea")

    async with started(manager):
        task_id = await manager.enqueue(chat)
        await finish(manager, task_id)
        logging.getLogger("shop").warning("nobody's")
    assert [(e.task_id, e.message, e.level) for e in observer.log_events] == [(task_id, "low on tea", "warning")]
