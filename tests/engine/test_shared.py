"""Small values that all instances share."""

from __future__ import annotations

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.errors import NotStartedError
from tests.managers import started


async def test_what_one_part_writes_the_backend_keeps_for_all() -> None:
    backend = MemoryBackend()
    manager = TaskManager(snapshot_backend=backend)
    async with started(manager):
        shared = manager.engine.shared
        await shared.write("session:one", "1")
        await shared.write("session:two", "2")
        await shared.write("session:one", None)
        assert await shared.read("session:") == {"session:two": "2"} == await backend.settings("session:")


async def test_before_the_start_there_is_nothing_to_read() -> None:
    shared = TaskManager().engine.shared
    with pytest.raises(NotStartedError):
        await shared.read("session:")
    with pytest.raises(NotStartedError):
        await shared.write("session:one", "1")
