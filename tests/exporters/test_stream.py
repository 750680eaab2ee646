from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.stream import LiveStream, StreamMessage
from taskflow_otel.model.record import Progress
from taskflow_otel.model.status import TaskStatus, Transition
from tests.exporters.story import Story, failure
from tests.waiting import eventually


class Reader:
    """A subscriber that collects what it gets."""

    def __init__(self, stream: LiveStream, last_event_id: str | None = None) -> None:
        self.messages: list[StreamMessage] = []
        self.task = asyncio.create_task(self._read(stream.subscribe(last_event_id)))

    async def _read(self, messages: AsyncIterator[StreamMessage]) -> None:
        async for message in messages:
            self.messages.append(message)

    async def settled(self) -> list[StreamMessage]:
        """Everything that is there to read now."""
        for _ in range(10):
            await asyncio.sleep(0)
        return self.messages


@pytest.fixture
def stream() -> LiveStream:
    return LiveStream(size=8)


@pytest.fixture
def bus(stream: LiveStream) -> ObserverBus:
    return ObserverBus([stream])


async def test_a_subscriber_gets_deltas_of_what_changes_from_now_on(stream: LiveStream, bus: ObserverBus) -> None:
    Story(bus).created().enqueued()
    reader = Reader(stream)
    await reader.settled()
    story = Story(bus, tags={"tenant": "a"}).created().enqueued()
    (message,) = await reader.settled()
    assert message.event == "task"
    assert message.data["task_id"] == story.record.task_id
    assert message.data["status"] == "pending"
    assert message.data["tags"] == {"tenant": "a"}
    assert message.data["created_at"] == "2026-01-02T03:04:05+00:00"
    story.started()
    log = story.log("halfway", "warning")
    messages = await reader.settled()
    assert [m.event for m in messages[1:]] == ["task", "log"]
    assert messages[2].data == {
        "task_id": story.record.task_id,
        "seq": 0,
        "timestamp": log.timestamp.isoformat(),
        "level": "warning",
        "message": "halfway",
        "attempt": 0,
    }
    stream.close()
    await reader.task


async def test_only_the_latest_of_several_waiting_changes_of_a_task_is_sent(
    stream: LiveStream, bus: ObserverBus
) -> None:
    reader = Reader(stream)
    await reader.settled()
    story = Story(bus).created().enqueued().started()
    story.log("one")
    story.succeeded()
    Story(bus).created().enqueued()
    messages = await reader.settled()
    assert [(m.event, m.data.get("status")) for m in messages] == [
        ("log", None),
        ("task", "success"),
        ("task", "pending"),
    ]
    stream.close()


async def test_an_error_is_sent_as_its_first_line(stream: LiveStream, bus: ObserverBus) -> None:
    reader = Reader(stream)
    await reader.settled()
    Story(bus).created().enqueued().started().failed(error="first\nsecond")
    (message,) = await reader.settled()
    assert (message.data["error"], message.data["error_type"]) == ("first…", "ConnectionError")
    stream.close()


async def test_a_reconnect_misses_nothing(stream: LiveStream, bus: ObserverBus) -> None:
    first = Reader(stream)
    await first.settled()
    Story(bus).created().enqueued()
    seen = await first.settled()
    first.task.cancel()
    missed = [Story(bus).created().enqueued().record.task_id for _ in range(3)]
    second = Reader(stream, seen[-1].id)
    assert [m.data["task_id"] for m in await second.settled()] == missed
    stream.close()


async def test_a_page_read_at_the_cursor_is_continued_without_a_gap(stream: LiveStream, bus: ObserverBus) -> None:
    Story(bus).created().enqueued()
    cursor = stream.cursor
    task_id = Story(bus).created().enqueued().record.task_id
    reader = Reader(stream, cursor)
    assert [m.data["task_id"] for m in await reader.settled()] == [task_id]
    stream.close()


async def test_the_cursor_of_an_empty_stream_can_be_resumed(stream: LiveStream, bus: ObserverBus) -> None:
    cursor = stream.cursor
    Story(bus).created().enqueued()
    reader = Reader(stream, cursor)
    assert [m.event for m in await reader.settled()] == ["task"]
    stream.close()


@pytest.mark.parametrize("last", ["", "x", "other-3", "{epoch}-99", "{epoch}-", "{epoch}-1²", "{epoch}-0"], ids=repr)
async def test_an_id_that_cannot_be_resumed_is_answered_by_a_reset(
    stream: LiveStream, bus: ObserverBus, last: str
) -> None:
    for _ in range(12):
        Story(bus).created().enqueued()
    reader = Reader(stream, last.format(epoch=stream.cursor.partition("-")[0]))
    (reset,) = await reader.settled()
    assert (reset.event, reset.data, stream.resets) == ("reset", {}, 1)
    Story(bus).created().enqueued()
    assert [m.event for m in await Reader(stream, reset.id).settled()] == ["task"], "its id can be resumed from"
    stream.close()


async def test_a_subscriber_that_falls_behind_is_reset_and_goes_on(stream: LiveStream, bus: ObserverBus) -> None:
    messages = stream.subscribe()
    waiting = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    Story(bus).created().enqueued()
    await waiting
    for _ in range(20):
        Story(bus).created().enqueued()
    assert (await anext(messages)).event == "reset"
    task_id = Story(bus).created().enqueued().record.task_id
    assert (await anext(messages)).data["task_id"] == task_id
    assert stream.resets == 1
    await messages.aclose()  # type: ignore[attr-defined]
    assert stream.subscribers == 0


async def test_progress_is_sent_sparingly_but_the_end_always(bus: ObserverBus) -> None:
    now = [0.0]
    stream = LiveStream(clock=lambda: now[0])
    bus = ObserverBus([stream])
    story = Story(bus).created().enqueued().started()
    reader = Reader(stream)
    await reader.settled()
    for done in range(101):
        now[0] += 0.01
        story.record.progress = Progress(done, 100)
        bus.progress(story.record)
        await reader.settled()
    sent = [m.data["progress"]["done"] for m in reader.messages]
    assert sent[0] == 0
    assert sent[-1] == 100
    assert len(sent) < 10
    assert {m.event for m in reader.messages} == {"progress"}
    story.succeeded()
    assert stream._progress_at == {}
    stream.close()


async def test_tasks_of_other_instances_are_shown_as_records(stream: LiveStream, bus: ObserverBus) -> None:
    reader = Reader(stream)
    await reader.settled()
    record = Story(bus).record
    stream.inject(replace(record, status=TaskStatus.RUNNING, progress=Progress(1, 4, "copying")))
    (message,) = await reader.settled()
    assert message.data["status"] == "running"
    assert message.data["progress"] == {"done": 1, "total": 4, "message": "copying"}
    stream.close()


async def test_closing_ends_every_subscription_and_starting_allows_new_ones(
    stream: LiveStream, bus: ObserverBus
) -> None:
    readers = [Reader(stream) for _ in range(3)]
    await readers[0].settled()
    assert stream.subscribers == 3
    await bus.close(1)
    await asyncio.wait_for(asyncio.gather(*(reader.task for reader in readers)), 5)
    assert stream.subscribers == 0
    await bus.start()
    reader = Reader(stream)
    await reader.settled()
    Story(bus).created().enqueued()
    assert len(await reader.settled()) == 1
    stream.close()


async def test_a_cancelled_subscriber_leaves_nothing_behind(stream: LiveStream) -> None:
    reader = Reader(stream)
    await reader.settled()
    reader.task.cancel()
    await eventually(reader.task.done, "the end of the subscriber")
    assert (stream.subscribers, stream._waiting) == (0, [])


def test_the_ring_does_not_keep_the_exception_of_a_failed_task(stream: LiveStream, bus: ObserverBus) -> None:
    class Failure(Exception):
        pass

    exception = Failure()
    gone = weakref.ref(exception)
    Story(bus).created().enqueued().started().tell(Transition.FAILED, **(failure() | {"exception": exception}))
    del exception
    gc.collect()
    assert gone() is None
