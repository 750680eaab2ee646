"""What a task can see and say: its context, its log, its progress."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

import pytest

from taskflow_otel import (
    TaskManager,
    get_task_context,
    task_log,
)
from tests.inside import own_context
from tests.managers import finish


async def test_a_task_sees_its_context_and_the_context_variables_of_its_caller(manager: TaskManager) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[Any] = []

    def look() -> None:
        context = own_context()
        seen.append((context.task_id, context.func_name, context.attempt, dict(context.tags), variable.get()))

    variable.set("from the caller")
    task_id = await manager.enqueue(look, tags={"n": 1})
    await finish(manager, task_id)
    assert seen == [(task_id, "look", 0, {"n": "1"}, "from the caller")]


def test_outside_a_task_there_is_no_context() -> None:
    assert get_task_context() is None


async def test_task_log_outside_a_task_goes_to_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "taskflow_otel.task"):
        task_log("no task here", level="warning", order=7)
    [record] = caplog.records
    assert (record.name, record.levelname, record.message) == ("taskflow_otel.task", "WARNING", "no task here")
    assert record.__dict__["taskflow"] == {"order": 7}
