"""The watch over the event loop: what it reports, whom it blames, and whom it does not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from taskflow_otel.runtime.block_watch import Block, BlockWatch
from taskflow_otel.testing.clock import FakeClock
from tests.waiting import eventually

AFTER = 0.5


class Scene:
    """A watch whose waits end at once, on a clock that they turn; the real waits are for the loop, without a time."""

    def __init__(self, *, late: float | None = None) -> None:
        self.clock = FakeClock()
        self.moment = 100.0
        self.clock.monotonic = lambda: self.moment  # type: ignore[method-assign]  # read in the thread of the watch
        self.blocks: list[Block[str]] = []
        self.blocked = threading.Event()
        """Set while the loop is kept."""
        self.release = threading.Event()
        self.late = late
        self.waits = 0
        self.watch = BlockWatch(AFTER, self.blocked.is_set, self.who, self.blocks.append, self.clock, wait=self.wait)

    def who(self, task: asyncio.Task[Any]) -> str:
        return task.get_name()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """The time passes at once; after a few the loop is free."""
        if not self.blocked.is_set():
            return event.wait(0.01)
        if event.is_set():
            return True
        self.waits += 1
        self.moment += 2 * seconds if seconds == self.late else seconds
        if self.waits >= 6:
            self.release.set()
            return event.wait(30)
        return False

    def keep_the_loop(self) -> None:
        self.blocked.set()
        assert self.release.wait(30)
        self.blocked.clear()


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def _run(scene: Scene, *, reports: int) -> None:
    async def blocker() -> None:
        scene.keep_the_loop()

    scene.watch.start()
    await asyncio.create_task(blocker(), name="the blocker")
    await eventually(lambda: len(scene.blocks) >= reports, "the report")
    scene.watch.stop()


async def test_a_task_that_keeps_the_loop_is_named_with_the_line_where_it_was(scene: Scene) -> None:
    await _run(scene, reports=1)
    (block,) = scene.blocks
    assert block.blamed == "the blocker"
    assert block.seconds >= 1.5 * AFTER
    assert [place.function for place in block.places if place.file == __file__][-2:] == ["blocker", "keep_the_loop"]


async def test_a_plain_callback_is_reported_without_a_task(scene: Scene) -> None:
    scene.watch.start()
    asyncio.get_running_loop().call_soon(scene.keep_the_loop)
    await eventually(lambda: bool(scene.blocks), "the report")
    scene.watch.stop()
    (block,) = scene.blocks
    assert block.blamed is None
    assert any(place.function == "keep_the_loop" for place in block.places)


@pytest.mark.parametrize("late", [AFTER, AFTER / 2], ids=["at the first look", "at the second look"])
async def test_nobody_is_blamed_while_the_watch_itself_does_not_get_to_run(late: float) -> None:
    scene = Scene(late=late)
    await _run(scene, reports=0 if late == AFTER else 1)
    assert [(block.blamed, block.places) for block in scene.blocks] == ([] if late == AFTER else [(None, ())])


async def test_many_short_steps_are_nobodys_fault(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    # At each look, another task of the loop runs.
    looks = iter([object() for _ in range(20)])
    monkeypatch.setattr(asyncio, "current_task", lambda loop=None: next(looks))
    await _run(scene, reports=1)
    assert [(block.blamed, block.places) for block in scene.blocks] == [(None, ())]


async def test_a_loop_that_answers_is_not_reported() -> None:
    asked: list[threading.Event] = []
    enough = threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        if seconds == AFTER and not asked:
            asked.append(event)
        if event is asked[0]:
            # Between two questions.
            return event.wait(0.001)
        asked.append(event)
        if len(asked) > 20:
            enough.set()
        return event.wait(30)

    blocks: list[Block[str]] = []
    watch = BlockWatch(AFTER, lambda: True, lambda task: task.get_name(), blocks.append, FakeClock(), wait=wait)
    watch.start()
    await eventually(enough.is_set, "twenty answers")
    watch.stop()
    assert blocks == []
