"""Mistakes that no type checker sees, because an option stands beside the arguments: each line marked `missed`.

PEP 612 allows no parameter between `*args: P.args` and `**kwargs: P.kwargs`, so a signature with options beside the
arguments of a function cannot compare these. `bad.py` has such mistakes in a `partial`, where both checkers see them.
"""
# pyright: strict

from __future__ import annotations

from datetime import UTC, datetime

from taskflow_otel import ManagedBackgroundTasks, TaskManager

task_manager = TaskManager()
soon = datetime(2026, 1, 1, tzinfo=UTC)


@task_manager.task(retries=1)
async def send_email(address: str, copies: int = 1) -> None: ...


async def refused_at_the_call(tasks: ManagedBackgroundTasks) -> None:
    tasks.add_task(send_email, priority=9)  # missed
    tasks.add_task(send_email, "a", coppies=2, delay=1.0)  # missed
    await task_manager.enqueue(send_email, "a", 1, 2, priority=9)  # missed
    await task_manager.schedule_once(send_email, run_at=soon)  # missed
    await task_manager.schedule_once(send_email, "a", coppies=2, run_at=soon)  # missed


async def seen_when_it_runs(tasks: ManagedBackgroundTasks) -> None:
    tasks.add_task(send_email, 3, priority=9)  # missed
    tasks.add_task(send_email, "a", copies="two", tags={"order": 7})  # missed
    await task_manager.schedule_once(send_email, 3, run_at=soon)  # missed
