"""Helpers that users import in their own tests."""

from __future__ import annotations

from taskflow_otel.testing.context import RecordedContext, RecordedLog, task_context

__all__ = ["RecordedContext", "RecordedLog", "task_context"]
