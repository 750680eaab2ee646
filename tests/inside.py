"""For functions of tests that run as tasks."""

from __future__ import annotations

from taskflow_otel import TaskContext, get_task_context


def own_context() -> TaskContext:
    """The context of the task that calls this."""
    context = get_task_context()
    assert context is not None
    return context
