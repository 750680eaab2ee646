"""Many tasks are read a few at a time: no backend keeps the event loop while it decodes them."""

from __future__ import annotations

import importlib

import pytest

from taskflow_otel.backends.base import Backend, Insert
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.backends.samples import make_task
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
        module, name = DECODERS.get(kind, ("taskflow_otel.backends.sql.backend", "to_record"))
        owner = importlib.import_module(module)
        async with Turns() as turns:
            monkeypatch.setattr(owner, name, turns.counted(getattr(owner, name)))
            page = await backend.page(TaskQuery(limit=len(tasks)))
        assert [record.task_id for record in page.records] == [task.task_id for task in tasks[::-1]]
        assert turns.calls >= len(tasks)
        assert turns.most <= AT_ONCE.get(kind, 100)
    finally:
        await backend.close()
