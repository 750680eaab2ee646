from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.stream import LiveStream, frame
from taskflow_otel.model.record import Progress
from taskflow_otel.model.status import TaskStatus, Transition
from tests.clocks import HandClock
from tests.exporters.story import Story, failure
from tests.waiting import eventually


class StreamMessage(NamedTuple):
    """One event of the stream, decoded."""

    id: str
    event: str
    data: dict[str, Any]


def decoded(piece: bytes) -> list[StreamMessage]:
    """The events in one piece of the stream."""
    messages = []
    for block in piece.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        messages.append(StreamMessage(fields["id"], fields["event"], json.loads(fields["data"])))
    return messages


class Reader:
    """A subscriber that collects what it gets."""

    def __init__(self, stream: LiveStream, last_event_id: str | None = None) -> None:
        self.messages: list[StreamMessage] = []
        self.pieces: list[bytes] = []
        self._stream = stream
        self.task = asyncio.create_task(self._read(stream.subscribe(last_event_id)))

    async def _read(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            self.pieces.append(piece)
            self.messages += decoded(piece)

    async def subscribed(self) -> None:
        """Return once it is one of the stream's subscribers, and waits."""
        await eventually(lambda: bool(self._stream._waiting), "the subscription")

    async def has(self, number: int) -> list[StreamMessage]:
        """The received messages, once there are `number` of them."""
        await eventually(lambda: len(self.messages) >= number, f"message {number}")
        assert len(self.messages) == number
        return self.messages


@pytest.fixture
def stream() -> LiveStream:
    return LiveStream(size=8, interval=0)


@pytest.fixture
def bus(stream: LiveStream) -> ObserverBus:
    return ObserverBus([stream])


async def test_a_subscriber_gets_deltas_of_what_changes_from_now_on(stream: LiveStream, bus: ObserverBus) -> None:
    Story(bus).created().enqueued()
    reader = Reader(stream)
    await reader.subscribed()
    story = Story(bus, tags={"tenant": "a"}).created().enqueued()
    (message,) = await reader.has(1)
    assert message.event == "task"
    assert message.data["task_id"] == story.record.task_id
    assert message.data["status"] == "pending"
    assert message.data["tags"] == {"tenant": "a"}
    assert message.data["created_at"] == "2026-01-02T03:04:05+00:00"
    story.started()
    log = story.log("halfway", "warning")
    messages = await reader.has(3)
    assert [m.event for m in messages[1:]] == ["task", "log"]
    assert messages[2].data == {
        "task_id": story.record.task_id,
        "seq": 0,
        "timestamp": log.timestamp.isoformat(),
        "level": "warning",
        "message": "halfway",
        "attempt": 0,
        "extra": {},
    }
    stream.close()
    await reader.task


async def test_only_the_latest_of_several_waiting_changes_of_a_task_is_sent(
    stream: LiveStream, bus: ObserverBus
) -> None:
    reader = Reader(stream)
    await reader.subscribed()
    story = Story(bus).created().enqueued().started()
    story.log("one")
    story.succeeded()
    Story(bus).created().enqueued()
    messages = await reader.has(3)
    assert [(m.event, m.data.get("status")) for m in messages] == [
        ("log", None),
        ("task", "success"),
        ("task", "pending"),
    ]
    stream.close()


async def test_an_error_is_sent_as_its_first_line(stream: LiveStream, bus: ObserverBus) -> None:
    reader = Reader(stream)
    await reader.subscribed()
    Story(bus).created().enqueued().started().failed(error="first\nsecond")
    (message,) = await reader.has(1)
    assert (message.data["error"], message.data["error_type"]) == ("first…", "ConnectionError")
    stream.close()


async def test_a_reconnect_misses_nothing(stream: LiveStream, bus: ObserverBus) -> None:
    first = Reader(stream)
    await first.subscribed()
    Story(bus).created().enqueued()
    seen = await first.has(1)
    first.task.cancel()
    missed = [Story(bus).created().enqueued().record.task_id for _ in range(3)]
    second = Reader(stream, seen[-1].id)
    assert [m.data["task_id"] for m in await second.has(3)] == missed
    stream.close()


async def test_a_page_read_at_the_cursor_is_continued_without_a_gap(stream: LiveStream, bus: ObserverBus) -> None:
    Story(bus).created().enqueued()
    cursor = stream.cursor
    task_id = Story(bus).created().enqueued().record.task_id
    reader = Reader(stream, cursor)
    assert [m.data["task_id"] for m in await reader.has(1)] == [task_id]
    stream.close()


async def test_the_cursor_of_an_empty_stream_can_be_resumed(stream: LiveStream, bus: ObserverBus) -> None:
    cursor = stream.cursor
    Story(bus).created().enqueued()
    reader = Reader(stream, cursor)
    assert [m.event for m in await reader.has(1)] == ["task"]
    stream.close()


@pytest.mark.parametrize("last", ["", "x", "other-3", "{epoch}-99", "{epoch}-", "{epoch}-1²", "{epoch}-0"], ids=repr)
async def test_an_id_that_cannot_be_resumed_is_answered_by_a_reset(
    stream: LiveStream, bus: ObserverBus, last: str
) -> None:
    for _ in range(12):
        Story(bus).created().enqueued()
    reader = Reader(stream, last.format(epoch=stream.cursor.partition("-")[0]))
    (reset,) = await reader.has(1)
    assert (reset.event, reset.data, stream.resets) == ("reset", {}, 1)
    Story(bus).created().enqueued()
    assert [m.event for m in await Reader(stream, reset.id).has(1)] == ["task"], "its id can be resumed from"
    stream.close()


async def test_a_subscriber_that_falls_behind_is_reset_and_continues(stream: LiveStream, bus: ObserverBus) -> None:
    messages = stream.subscribe()
    waiting = asyncio.ensure_future(anext(messages))
    await eventually(lambda: stream.subscribers == 1, "the subscription")
    Story(bus).created().enqueued()
    await waiting
    for _ in range(20):
        Story(bus).created().enqueued()
    (reset,) = decoded(await anext(messages))
    assert reset.event == "reset"
    task_id = Story(bus).created().enqueued().record.task_id
    assert [m.data["task_id"] for m in decoded(await anext(messages))] == [task_id]
    assert stream.resets == 1
    await messages.aclose()
    assert stream.subscribers == 0


async def test_what_no_subscriber_can_get_any_more_is_not_encoded(stream: LiveStream, bus: ObserverBus) -> None:
    readers = [Reader(stream) for _ in range(3)]
    await eventually(lambda: len(stream._waiting) == 3, "the subscriptions")
    for _ in range(50):
        Story(bus).created().enqueued()
    for reader in readers:
        assert [message.event for message in await reader.has(1)] == ["reset"]
    assert stream.encoded == 0
    late = Reader(stream, f"{stream._epoch}-{stream._first + 3}")
    assert [message.event for message in await late.has(4)] == ["task"] * 4, "one that resumes is given what is kept"
    stream.close()


async def test_each_change_is_encoded_once_for_two_hundred_subscribers() -> None:
    stream = LiveStream(interval=0)
    bus = ObserverBus([stream])
    readers = [Reader(stream) for _ in range(200)]
    await eventually(lambda: len(stream._waiting) == 200, "the subscriptions")
    for number in range(100):
        Story(bus).log(str(number))
    for reader in readers:
        assert [m.data["message"] for m in await reader.has(100)] == [str(number) for number in range(100)]
    assert stream.encoded == 100
    assert {id(piece) for reader in readers for piece in reader.pieces} == {id(piece) for piece in readers[0].pieces}
    late = Reader(stream, f"{readers[0].messages[49].id}")
    assert len(await late.has(50)) == 50
    assert stream.encoded == 100, "one that resumes is given the same bytes"
    stream.close()


async def test_an_unwatched_stream_encodes_nothing(stream: LiveStream, bus: ObserverBus) -> None:
    reader = Reader(stream)
    await reader.subscribed()
    reader.task.cancel()
    await eventually(reader.task.done, "the end of the subscriber")
    Story(bus).created().enqueued().started().succeeded()
    assert (stream.encoded, stream._frames, stream._publisher) == (0, {}, None)


async def test_what_is_sent_at_once_is_cut_into_pieces_of_bounded_size() -> None:
    stream = LiveStream(interval=0)
    bus = ObserverBus([stream])
    reader = Reader(stream)
    await reader.subscribed()
    for _ in range(50):
        Story(bus).log("x" * 10_000)
    await reader.has(50)
    assert max(map(len, reader.pieces)) < 80_000
    stream.close()


def test_data_cannot_forge_a_field_of_the_stream() -> None:
    sent = frame("e-1", "task", {"error": "x\n\nevent: forged\r\ndata: {}\u2028"})
    assert sent.count(b"\n") == 4
    assert json.loads(sent.partition(b"data: ")[2])["error"] == "x\n\nevent: forged\r\ndata: {}\u2028"


def test_text_that_is_not_unicode_and_numbers_that_are_not_json_are_valid_json_nevertheless() -> None:
    assert json.loads(frame("e-1", "log", {"message": "\ud800"}).partition(b"data: ")[2]) == {"message": "\\ud800"}
    assert frame("e-1", "log", {"x": float("nan")}).endswith(b'data: {"x":null}\n\n')


async def test_progress_is_sent_sparingly_but_the_end_always() -> None:
    clock = HandClock()
    stream = LiveStream(interval=0, clock=clock)
    bus = ObserverBus([stream])
    story = Story(bus).created().enqueued().started()
    reader = Reader(stream)
    await reader.subscribed()
    for done in range(101):
        clock.seconds += 0.01
        story.record.progress = Progress(done, 100)
        bus.progress(story.record)
    # Log entries are all sent: what was kept before this one has arrived when it has.
    story.log("the end")
    await eventually(lambda: bool(reader.messages) and reader.messages[-1].event == "log", "the last change")
    assert [m.data["progress"]["done"] for m in reader.messages[:-1]] == [100]
    assert 5 <= len([m for m in stream._ring if type(m).__name__ == "_ProgressOf"]) < 10
    story.succeeded()
    assert stream._progress_at == {}
    stream.close()


async def test_tasks_of_other_instances_are_shown_as_records(stream: LiveStream, bus: ObserverBus) -> None:
    reader = Reader(stream)
    await reader.subscribed()
    record = Story(bus).record
    stream.inject(replace(record, status=TaskStatus.RUNNING, progress=Progress(1, 4, "copying")))
    (message,) = await reader.has(1)
    assert message.data["status"] == "running"
    assert message.data["progress"] == {"done": 1, "total": 4, "message": "copying"}
    stream.close()


async def test_closing_ends_every_subscription_and_starting_allows_new_ones(
    stream: LiveStream, bus: ObserverBus
) -> None:
    readers = [Reader(stream) for _ in range(3)]
    await eventually(lambda: stream.subscribers == 3, "three subscribers")
    await bus.close(1)
    await asyncio.wait_for(asyncio.gather(*(reader.task for reader in readers)), 30)
    assert stream.subscribers == 0
    await bus.start()
    reader = Reader(stream)
    await reader.subscribed()
    Story(bus).created().enqueued()
    assert len(await reader.has(1)) == 1
    stream.close()


async def test_a_cancelled_subscriber_leaves_nothing_behind(stream: LiveStream) -> None:
    reader = Reader(stream)
    await reader.subscribed()
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


async def test_changes_are_kept_as_long_as_an_id_can_lead_to_them_and_then_only_counted(
    stream: LiveStream, bus: ObserverBus
) -> None:
    Story(bus).created().enqueued()
    assert len(stream._ring) == 0, "no id was given out"
    cursor = stream.cursor
    for _ in range(8):
        Story(bus).created().enqueued()
    resumed = Reader(stream, cursor)
    assert [m.event for m in await resumed.has(8)] == ["task"] * 8
    resumed.task.cancel()
    await eventually(resumed.task.done, "the end of the subscriber")
    for _ in range(9):
        Story(bus).created().enqueued()
    assert len(stream._ring) == 0, "an id from before is too old now"
    for last in (cursor, resumed.messages[-1].id):
        late = Reader(stream, last)
        assert [m.event for m in await late.has(1)] == ["reset"]
        late.task.cancel()
    stream.close()
