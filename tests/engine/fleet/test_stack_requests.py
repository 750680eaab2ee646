"""The stack of a task that another instance runs."""

from __future__ import annotations

from pathlib import Path

from taskflow_otel import TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.engine.stacks import STACK
from taskflow_otel.testing.clock import FakeClock
from tests.engine import stack_tasks
from tests.managers import started
from tests.waiting import eventually


async def test_the_instance_that_runs_the_task_answers_once_and_forgets_the_request(tmp_path: Path) -> None:
    clock, backend = FakeClock(), MemoryBackend(durable=True)
    owner, other = (TaskManager(snapshot_backend=backend, clock=clock) for _ in range(2))
    for manager in (owner, other):
        manager.task(name="waits", persist=True)(stack_tasks.waits_on_the_loop)
    marker = tmp_path / "entered"
    async with started(owner), started(other):
        task_id = await owner.enqueue(stack_tasks.waits_on_the_loop, str(marker))
        await eventually(marker.exists, "the task to run")
        await other.engine.stacks.ask(task_id, by="ops")
        await clock.advance(1)
        found = [line for line in await owner.logs(task_id) if STACK in line.extra]
        assert [line.message.rpartition(": ")[2] for line in found] == ["asked for by ops"]
        assert await backend.settings("stack:") == {}
        await clock.advance(2)
        assert len([line for line in await owner.logs(task_id) if STACK in line.extra]) == 1
        await owner.cancel(task_id)


async def test_what_was_asked_of_an_instance_that_is_gone_is_forgotten() -> None:
    clock, backend = FakeClock(), MemoryBackend(durable=True)
    manager = TaskManager(snapshot_backend=backend, clock=clock)
    async with started(manager):
        await backend.put_setting("stack:gone:some-task", "ops")
        own = f"stack:{manager.engine.instance_id}:ended-task"
        await backend.put_setting(own, "")
        await clock.advance(1)
        assert set(await backend.settings("stack:")) == {"stack:gone:some-task"}
        for _ in range(300):
            await manager.engine.stacks.tick()
        assert await backend.settings("stack:") == {}
