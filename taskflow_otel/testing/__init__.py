"""Helpers that users import in their own tests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "InMemoryLogger": "taskflow_otel.exporters.memory",
    "FakeClock": f"{__name__}.clock",
    "RecordedContext": f"{__name__}.context",
    "RecordedLog": f"{__name__}.context",
    "task_context": f"{__name__}.context",
    "CrashPoint": f"{__name__}.crashes",
    "crash": f"{__name__}.crashes",
    "crash_points": f"{__name__}.crashes",
    "SpanRecorder": f"{__name__}.spans",
    "TaskTester": f"{__name__}.tester",
}
"""Loaded when they are first used: pytest loads this package for its plugin, in every run of tests."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
