"""`InMemoryLogger`: events in lists, and a wait for one of them."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.memory import InMemoryLogger
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from tests.exporters.story import Story


async def test_wait_for_finds_events_of_the_past_and_of_the_future() -> None:
    memory = InMemoryLogger()
    bus = ObserverBus(observers=[memory])
    await bus.start()
    story = Story(bus).created().enqueued().started()
    await bus.flush(5)
    past = await memory.wait_for(lambda event: isinstance(event, LifecycleEvent) and event.transition == "enqueued")
    assert past is memory.lifecycle_events[0]
    waiting = asyncio.create_task(
        memory.wait_for(lambda event: isinstance(event, LogEvent) and event.message == "done")
    )
    await asyncio.sleep(0)
    story.log("done")
    assert await waiting is memory.log_events[0]
    with pytest.raises(TimeoutError):
        await memory.wait_for(lambda event: False, timeout=0.01)
    assert memory.messages == ["done"]
    assert memory.events == [*memory.lifecycle_events, *memory.log_events]
    memory.clear()
    assert (memory.events, memory.lifecycle_events, memory.log_events) == ([], [], [])
    await bus.close(5)
