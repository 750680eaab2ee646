"""`freeze_gc`: what a process has loaded by the start of its manager is not visited by later collections."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.errors import ConfigurationError


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


async def test_objects_are_frozen_from_the_start_to_the_last_shutdown_of_a_manager() -> None:
    manager = TaskManager()
    assert gc.get_freeze_count() == 0
    await manager.startup()
    await manager.startup()
    assert gc.get_freeze_count() > 1_000
    await manager.shutdown()
    assert gc.get_freeze_count() > 1_000
    await manager.shutdown()
    assert gc.get_freeze_count() == 0


async def test_nothing_is_frozen_if_that_is_not_wanted() -> None:
    manager = TaskManager(freeze_gc=False)
    await manager.startup()
    assert gc.get_freeze_count() == 0
    await manager.shutdown()


async def test_what_the_application_has_frozen_stays_so() -> None:
    gc.freeze()
    manager = TaskManager()
    await manager.startup()
    await manager.shutdown()
    assert gc.get_freeze_count() > 0


async def test_only_the_first_start_of_a_process_collects_first() -> None:
    collections: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            collections.append(1)

    first, *others = [TaskManager() for _ in range(5)]
    await first.startup()
    await first.shutdown()
    gc.collect()
    gc.callbacks.append(note)
    try:
        for manager in others:
            await manager.startup()
            assert gc.get_freeze_count() > 1_000
            await manager.shutdown()
    finally:
        gc.callbacks.remove(note)
    assert len(collections) < len(others)


def test_anything_but_a_truth_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="freeze_gc must be True or False"):
        TaskManager(freeze_gc="yes")  # type: ignore[arg-type]  # that is the test
