"""The plugin of pytest: fixtures for tests of applications with tasks. It is installed with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskflow_otel.exporters.memory import InMemoryLogger
    from taskflow_otel.manager import TaskManager
    from taskflow_otel.testing.clock import FakeClock
    from taskflow_otel.testing.context import RecordedContext
    from taskflow_otel.testing.spans import SpanRecorder
    from taskflow_otel.testing.tester import TaskTester


# The library is imported by the fixtures alone: a run of tests that use none of them does not load it.
@pytest.fixture
def taskflow_clock() -> FakeClock:
    """A clock that the test controls: `TaskManager(clock=taskflow_clock)`."""
    from taskflow_otel.testing.clock import FakeClock

    return FakeClock()


@pytest.fixture
def taskflow_events() -> InMemoryLogger:
    """An observer that keeps every event: `TaskManager(loggers=[taskflow_events])`."""
    from taskflow_otel.exporters.memory import InMemoryLogger

    return InMemoryLogger()


@pytest.fixture
def taskflow_spans() -> SpanRecorder:
    """A recorder of spans: `TaskManager(telemetry=taskflow_spans.telemetry)`."""
    from taskflow_otel.testing.spans import SpanRecorder

    return SpanRecorder()


@pytest.fixture
def taskflow_context() -> Iterator[RecordedContext]:
    """The context of a task around the test: functions that ask for theirs get this one."""
    from taskflow_otel.testing.context import task_context

    with task_context() as context:
        yield context


@pytest.fixture
def taskflow_tester() -> Callable[[TaskManager], TaskTester]:
    """Makes the `TaskTester` of a manager: `tasks = taskflow_tester(task_manager)`."""
    from taskflow_otel.testing.tester import TaskTester

    return TaskTester
