"""Many tasks are read and deleted a few at a time: no backend keeps the event loop while it handles them."""

from __future__ import annotations

import asyncio
import functools
import importlib
from datetime import timedelta
from typing import Any

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Backend, Insert
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import BASE, make_task
from tests.backends.conftest import FACTORIES
from tests.turns import Turns

TASKS = 500
DECODERS = {
    "redis": ("taskflow_otel.backends.redis.codec", "load_record"),
    "memory": ("taskflow_otel.backends.memory", "_matches"),
}
"""What makes a record of a stored row; the memory backend only looks."""
AT_ONCE = {"memory": 1_000}


@pytest.mark.parametrize("kind", sorted(FACTORIES))
async def test_a_long_page_is_decoded_in_slices(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Backend = FACTORIES[kind](request)()
    await backend.open()
    try:
        tasks = [make_task() for _ in range(TASKS if kind != "memory" else 5 * TASKS)]
        for start in range(0, len(tasks), 100):
            await backend.apply([Insert(task) for task in tasks[start : start + 100]])
        module, name = DECODERS.get(kind, ("taskflow_otel.backends.sql.mapping", "to_record"))
        owner = importlib.import_module(module)
        async with Turns() as turns:
            monkeypatch.setattr(owner, name, turns.counted(getattr(owner, name)))
            page = await backend.page(TaskQuery(limit=len(tasks)))
        assert [record.task_id for record in page.records] == [task.task_id for task in tasks[::-1]]
        assert turns.calls >= len(tasks)
        assert turns.most <= AT_ONCE.get(kind, 100)
    finally:
        await backend.close()


async def test_a_read_of_a_long_page_in_memory_can_be_cancelled() -> None:
    backend = MemoryBackend()
    await backend.apply([Insert(make_task()) for _ in range(5 * TASKS)])
    reading = asyncio.create_task(backend.page(TaskQuery(limit=3 * TASKS)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


FORGETTERS = {"memory": ("taskflow_otel.backends.memory", "MemoryBackend._forget")}
"""What handles a task that is deleted; SQL decodes its row, to subtract it from the counts."""


# Redis deletes by a script, which the event loop only waits for.
@pytest.mark.parametrize("kind", sorted(set(FACTORIES) - {"redis"}))
async def test_a_long_history_is_deleted_in_slices(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Backend = FACTORIES[kind](request)()
    await backend.open()
    try:
        for _ in range(0, TASKS, 100):
            await backend.apply([Insert(make_task(status=TaskStatus.SUCCESS)) for _ in range(100)])
        module, name = FORGETTERS.get(kind, ("taskflow_otel.backends.sql.mapping", "to_record"))
        function: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        async with Turns() as turns:
            monkeypatch.setattr(f"{module}.{name}", turns.counted(function))
            assert await backend.delete_finished(BASE + timedelta(days=365), 2 * TASKS) == TASKS
        assert turns.calls == TASKS
        assert turns.most <= 100
        assert (await backend.page(TaskQuery())).records == []
    finally:
        await backend.close()


async def test_two_deletions_at_once_in_memory_delete_as_many_as_both_may() -> None:
    backend = MemoryBackend()
    await backend.apply([Insert(make_task(status=TaskStatus.SUCCESS)) for _ in range(2 * TASKS + 1)])
    ages = BASE + timedelta(days=365)
    assert await asyncio.gather(*(backend.delete_finished(ages, TASKS) for _ in range(2))) == [TASKS, TASKS]
    assert len((await backend.page(TaskQuery())).records) == 1
