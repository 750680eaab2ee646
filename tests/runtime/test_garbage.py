"""`freeze_gc`: a full collection visits only what is younger than the one before, and cycles are freed nevertheless."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime import garbage


@pytest.fixture(autouse=True)
def nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has just begun: no other code has frozen anything, as `tests/conftest.py` has."""
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    monkeypatch.setattr(garbage.FrozenHeap, "_left_alone", False)
    monkeypatch.setattr(garbage.FrozenHeap, "_held", False)
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()


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
    assert gc.get_freeze_count() > 1_000


async def test_frozen_objects_of_others_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test suites start thousands of managers, and counting a large heap takes a tenth of a second."""
    counted: list[int] = []
    count = gc.get_freeze_count

    def counting() -> int:
        counted.append(1)
        return count()

    async def start(managers: int) -> None:
        for _ in range(managers):
            manager = TaskManager()
            await manager.startup()
            await manager.shutdown()

    gc.freeze()
    monkeypatch.setattr(gc, "get_freeze_count", counting)
    await start(3)
    assert len(counted) == 1
    assert count() > 1_000


async def test_a_second_manager_leaves_alone_what_the_first_has_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = TaskManager(), TaskManager()
    await first.startup()
    with monkeypatch.context() as patched:
        patched.setattr(gc, "get_freeze_count", lambda: pytest.fail("counted"))
        await second.startup()
        await second.shutdown()
    assert gc.get_freeze_count() > 1_000
    await first.shutdown()
    assert gc.get_freeze_count() == 0
    await second.startup()
    assert gc.get_freeze_count() > 1_000
    await second.shutdown()


async def test_what_the_interpreter_has_frozen_is_no_decision_of_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython 3.12 starts with some hundred frozen objects."""
    manager = TaskManager()
    with monkeypatch.context() as patched:
        patched.setattr(gc, "get_freeze_count", lambda: 375)
        await manager.startup()
    assert gc.get_freeze_count() > 1_000
    await manager.shutdown()


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


class Cycle:
    """Only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def collect_fully_by_itself() -> None:
    """Allocate until the interpreter makes a full collection."""
    kept: list[list[int]] = []
    before = gc.get_stats()[2]["collections"]
    while gc.get_stats()[2]["collections"] == before:
        kept.append([])


@pytest.fixture
def eager() -> Iterator[None]:
    """Full collections after few objects."""
    threshold = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("eager")
async def test_what_survives_a_full_collection_is_not_visited_by_the_next_one() -> None:
    manager = TaskManager()
    await manager.startup()
    try:
        survivors = [Cycle() for _ in range(1_000)]
        known = set(map(id, survivors))
        collect_fully_by_itself()
        assert not known.intersection(map(id, gc.get_objects()))
        # Reference counts free what is frozen.
        frozen = gc.get_freeze_count()
        for one in survivors:
            one.__dict__.clear()
        one = survivors[0]
        survivors.clear()
        assert gc.get_freeze_count() <= frozen - 999
        assert one.__dict__ == {}
    finally:
        await manager.shutdown()


@pytest.mark.usefixtures("eager")
async def test_a_cycle_that_was_frozen_is_freed_when_the_program_asks_for_a_collection() -> None:
    manager = TaskManager()
    await manager.startup()
    try:
        gone = weakref.ref(cycle := Cycle())
        collect_fully_by_itself()
        del cycle
        collect_fully_by_itself()
        assert gone() is not None
        gc.collect()
        assert gone() is None
        assert gc.get_freeze_count() > 1_000
    finally:
        await manager.shutdown()


@pytest.mark.usefixtures("eager")
async def test_a_cycle_that_was_frozen_is_freed_when_the_heap_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_LEAST", 0)
    manager = TaskManager()
    await manager.startup()
    try:
        gone = weakref.ref(cycle := Cycle())
        collect_fully_by_itself()
        del cycle
        grown: list[list[int]] = []
        most = 5 * gc.get_freeze_count()
        while gone() is not None and len(grown) < most:
            # Since CPython 3.12, collections come between instructions, where the result of `gone()` may still be held.
            grown.extend([] for _ in range(100))
        assert gone() is None
    finally:
        await manager.shutdown()


@pytest.mark.usefixtures("eager")
async def test_frozen_objects_are_not_counted_while_the_heap_cannot_have_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_LEAST", 0)
    monkeypatch.setattr(garbage, "_GROWTH", 0.5)
    manager = TaskManager()
    await manager.startup()
    counted: list[int] = []
    count = gc.get_freeze_count
    most = count() // 2

    def counting() -> int:
        counted.append(1)
        return count()

    try:
        monkeypatch.setattr(gc, "get_freeze_count", counting)
        frozen = 0
        # Each survives one full collection, and is freed then: blocks of memory are reused.
        while frozen < 3 * most:
            survivors = [Cycle() for _ in range(most // 16)]
            collect_fully_by_itself()
            for one in survivors:
                one.__dict__.clear()
            frozen += len(survivors)
        assert counted == []
    finally:
        await manager.shutdown()


@pytest.mark.parametrize(
    ("before", "during"),
    [((700, 10, 10), (3_500, 0)), ((2_000, 10, 0), (3_500, 0)), ((900, 10, 10), (900, 10)), ((0, 10, 10), (0, 10))],
)
async def test_thresholds_that_the_program_has_set_stay_and_those_of_the_interpreter_come_back(
    before: tuple[int, int, int], during: tuple[int, int]
) -> None:
    threshold = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        manager = TaskManager()
        await manager.startup()
        now = gc.get_threshold()
        await manager.shutdown()
        assert gc.get_threshold() == before
        assert now[:2] == during
        assert now[2] <= 1
    finally:
        gc.set_threshold(*threshold)


def test_anything_but_a_truth_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="freeze_gc must be True or False"):
        TaskManager(freeze_gc="yes")  # type: ignore[arg-type]  # that is the test
