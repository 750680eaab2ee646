"""Helpers that users import in their own tests."""

from __future__ import annotations

from taskflow_otel.exporters.memory import InMemoryLogger
from taskflow_otel.testing.clock import FakeClock
from taskflow_otel.testing.context import RecordedContext, RecordedLog, task_context
from taskflow_otel.testing.crashes import CrashPoint, crash, crash_points
from taskflow_otel.testing.spans import SpanRecorder
from taskflow_otel.testing.tester import TaskTester

__all__ = [
    "CrashPoint",
    "FakeClock",
    "InMemoryLogger",
    "RecordedContext",
    "RecordedLog",
    "SpanRecorder",
    "TaskTester",
    "crash",
    "crash_points",
    "task_context",
]
