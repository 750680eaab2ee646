"""A unit test of a task function: it is called directly, inside a context of the test's."""

from __future__ import annotations

import asyncio
import logging

import pytest

from taskflow_otel import ConfigurationError, TaskCancelledError, TaskContext, TaskManager, get_task_context, task_log
from taskflow_otel.model.record import Progress
from taskflow_otel.testing import RecordedLog, task_context

manager = TaskManager()


@manager.task(retries=3)
async def export(pages: int) -> str:
    context = get_task_context()
    if context is None:
        return "called directly"
    for page in range(pages):
        context.raise_if_cancelled()
        context.progress(page + 1, pages, "page")
    task_log("exported", level="warning", pages=pages)
    return f"attempt {context.attempt} of {context.tags['tenant']}"


async def test_a_function_that_asks_for_its_context_gets_the_one_of_the_test() -> None:
    with task_context(attempt=2, tags={"tenant": 7}, task_id="a", func_name="export") as context:
        assert await export(2) == "attempt 2 of 7"
    assert (context.task_id, context.func_name) == ("a", "export")
    assert context.marks == [Progress(1, 2, "page"), Progress(2, 2, "page")]
    assert context.logs == [RecordedLog("exported", "warning", {"pages": 2})]
    assert context.messages == ["exported"]


async def test_a_function_can_be_asked_to_stop() -> None:
    with task_context() as context:
        context.request_cancel()
        with pytest.raises(TaskCancelledError):
            await export(1)
    assert context.marks == []


async def test_outside_of_the_block_there_is_no_context(caplog: pytest.LogCaptureFixture) -> None:
    with task_context() as outer:
        with task_context(), pytest.raises(KeyError):
            await export(0)
        assert get_task_context() is outer
    assert get_task_context() is None
    with caplog.at_level(logging.INFO, "taskflow_otel.task"):
        assert await export(0) == "called directly"
        task_log("nobody's")
    assert caplog.messages == ["nobody's"]
    assert outer.logs == []


async def test_threads_and_tasks_started_in_the_block_see_its_context() -> None:
    async def look() -> TaskContext | None:
        return get_task_context()

    with task_context() as context:
        assert await asyncio.to_thread(get_task_context) is context
        assert await asyncio.create_task(look()) is context


def test_tags_are_checked_as_at_the_call() -> None:
    with pytest.raises(ConfigurationError, match="tags"), task_context(tags=[1]):  # type: ignore[arg-type]
        pass  # pragma: no cover
