"""Spans in a list."""

from __future__ import annotations

import sys

import pytest

from taskflow_otel import MissingExtraError, TaskManager
from taskflow_otel.testing import SpanRecorder, TaskTester
from tests.managers import started


async def test_the_spans_of_a_task_are_recorded_until_they_are_forgotten() -> None:
    recorder = SpanRecorder()
    async with started(TaskManager(telemetry=recorder.telemetry)) as manager:

        @manager.task()
        async def work() -> None: ...

        tasks = TaskTester(manager)
        await manager.enqueue(work)
        await tasks.run_pending()
    assert recorder.names == ["send work", "process work"]
    assert recorder.spans[1].attributes is not None
    recorder.clear()
    assert recorder.names == []


def test_without_the_sdk_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match="otel"):
        SpanRecorder()
