from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from taskflow_otel.bus import Event, Exporter, ObserverBus, TaskObserver
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.memory import InMemoryLogger
from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.model.events import LifecycleEvent, LogEvent, lifecycle_event
from taskflow_otel.model.record import Progress, TaskRecord
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.runtime.clock import SystemClock
from taskflow_otel.testing.backends.admin import make_entry
from tests.exporters.story import Story
from tests.waiting import eventually, stubbornly


class Recorder(Exporter):
    name = "recorder"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_created(self, record: TaskRecord) -> None:
        self.heard.append("created")

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        self.heard.append(event.transition)

    def on_log(self, event: LogEvent) -> None:
        self.heard.append(event.message)

    def on_progress(self, record: TaskRecord) -> None:
        self.heard.append("progress")

    def on_refused(self, record: TaskRecord, deleted: bool) -> None:
        self.heard.append("refused")

    def on_audit(self, entry: AuditEntry) -> None:
        self.heard.append("audit")

    def start(self) -> None:
        self.heard.append("start")

    def flush(self, timeout: float) -> None:
        self.heard.append("flush")

    def close(self) -> None:
        self.heard.append("close")


class PanicError(BaseException):
    """As extensions in Rust raise it: no `Exception`."""


class Broken(Exporter):
    name = "broken"

    def __init__(self, kind: type[BaseException] = RuntimeError) -> None:
        self.kind = kind

    def on_created(self, record: TaskRecord) -> None:
        raise self.kind("created")

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        raise self.kind("lifecycle")

    def on_log(self, event: LogEvent) -> None:
        raise self.kind("log")

    def on_progress(self, record: TaskRecord) -> None:
        raise self.kind("progress")

    def on_refused(self, record: TaskRecord, deleted: bool) -> None:
        raise self.kind("refused")

    def on_audit(self, entry: AuditEntry) -> None:
        raise self.kind("audit")

    def start(self) -> None:
        raise self.kind("start")

    def flush(self, timeout: float) -> None:
        raise self.kind("flush")

    def close(self) -> None:
        raise self.kind("close")


async def tell_everything(bus: ObserverBus) -> None:
    await bus.start()
    story = Story(bus).created().enqueued().started()
    story.log("hello")
    story.record.progress = Progress(1, 2)
    bus.progress(story.record)
    bus.refused(story.record)
    bus.audit(make_entry())
    await bus.close(5)


EVERYTHING = ["start", "created", "enqueued", "started", "hello", "progress", "refused", "audit", "close", "flush"]


async def test_an_exporter_hears_everything_in_order() -> None:
    recorder = Recorder()
    await tell_everything(ObserverBus([recorder]))
    assert recorder.heard == EVERYTHING


@pytest.mark.parametrize("kind", [RuntimeError, PanicError, asyncio.CancelledError, GeneratorExit])
async def test_a_broken_exporter_is_counted_and_harms_no_other(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    bus = ObserverBus([Broken(kind), recorder])
    with caplog.at_level(logging.ERROR, "taskflow_otel.bus"):
        await tell_everything(bus)
    assert recorder.heard == EVERYTHING
    assert bus.errors == {"broken": 9, "flush": 1}
    assert len(caplog.records) == 2, "the same failure is not logged again within the minute"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_a_signal_that_ends_the_process_during_an_exporter_does_so(kind: type[BaseException]) -> None:
    bus = ObserverBus([Broken(kind)])
    with pytest.raises(kind):
        Story(bus).created()
    assert bus.errors == {}


async def test_an_observer_gets_its_events_in_order_and_only_from_its_level_on() -> None:
    class Quiet(TaskObserver):
        min_level = "warning"

        def __init__(self) -> None:
            self.heard: list[str] = []

        async def on_lifecycle(self, event: LifecycleEvent) -> None:
            self.heard.append(event.transition)

        async def on_log(self, event: LogEvent) -> None:
            self.heard.append(event.message)

    quiet = Quiet()
    bus = ObserverBus(observers=[quiet])
    story = Story(bus).created().enqueued().started()
    for level in ("debug", "info", "warning", "error", "critical"):
        story.log(level, level)
    story.succeeded()
    await bus.start()
    assert await bus.flush(5)
    assert quiet.heard == ["enqueued", "started", "warning", "error", "critical", "succeeded"]
    await bus.close(5)


async def test_what_an_observer_does_not_override_is_not_queued_for_it() -> None:
    class OnlyLogs(TaskObserver):
        async def on_log(self, event: LogEvent) -> None:
            raise AssertionError("not started")

    bus = ObserverBus(observers=[OnlyLogs()], queue_size=1)
    Story(bus).created().enqueued().started().succeeded()
    assert bus.dropped == {"OnlyLogs": 0}


async def test_a_sleeping_observer_delays_nobody_and_its_overflow_is_counted() -> None:
    asleep = asyncio.Event()

    class Sleeper(TaskObserver):
        async def on_lifecycle(self, event: LifecycleEvent) -> None:
            asleep.set()
            await asyncio.Event().wait()

    memory = InMemoryLogger()
    bus = ObserverBus(observers=[Sleeper(), memory], queue_size=10)
    await bus.start()
    Story(bus).created().enqueued()
    await asleep.wait()
    for _ in range(3):
        Story(bus).created().enqueued().started().succeeded()
        await bus.flush(0.01)
    Story(bus).created().enqueued().started().succeeded()
    assert bus.dropped["Sleeper"] == 2, "ten of the twelve further events fit"
    await memory.wait_for(lambda _: len(memory.lifecycle_events) == 13)
    assert not await bus.flush(0.01)
    await bus.close(0.01)
    assert bus.dropped == {"Sleeper": 13, "InMemoryLogger": 0}, "what was still queued or in hand counts too"


async def test_a_raising_observer_is_counted_and_continues(caplog: pytest.LogCaptureFixture) -> None:
    class Raiser(TaskObserver):
        name = "raiser"
        heard = 0

        async def on_lifecycle(self, event: LifecycleEvent) -> None:
            self.heard += 1
            raise (ValueError, asyncio.CancelledError, PanicError)[self.heard - 1]

    raiser = Raiser()
    bus = ObserverBus(observers=[raiser])
    await bus.start()
    Story(bus).created().enqueued().started().succeeded()
    assert await bus.flush(5)
    assert (raiser.heard, bus.errors) == (3, {"raiser": 3})
    assert [record.name for record in caplog.records] == ["taskflow_otel.bus"]
    await bus.close(5)


class Listener(TaskObserver):
    """Keeps the messages of its log entries; raises on those for which `broken` holds."""

    name = "listener"

    def __init__(self, broken: Callable[[str], bool] = lambda message: False) -> None:
        self.heard: list[str] = []
        self.broken = broken

    async def on_log(self, event: LogEvent) -> None:
        self.heard.append(event.message)
        if self.broken(event.message):
            raise ValueError(event.message)


class BatchListener(Listener):
    async def on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event, LogEvent)
            self.heard.append(event.message)
        if self.broken(self.heard[-1]):
            raise ValueError("no")


@pytest.mark.parametrize("kind", [Listener, BatchListener])
async def test_an_observer_that_raises_on_ten_thousand_events_is_reported_once(
    kind: type[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    observer = kind(broken=lambda _: True)
    bus = ObserverBus(observers=[observer])
    await bus.start()
    story = Story(bus)
    expected = [str(number) for number in range(10_000)]
    for message in expected:
        story.log(message)
    assert await bus.flush(60)
    assert observer.heard == expected
    assert (bus.errors, bus.dropped) == ({"listener": 10_000}, {"listener": 0})
    assert [record.name for record in caplog.records] == ["taskflow_otel.bus"]
    assert caplog.records[0].exc_info is not None
    await bus.close(5)


async def test_an_observer_that_recovers_gets_the_later_events() -> None:
    observer = Listener(broken=lambda message: int(message) < 3_000)
    bus = ObserverBus(observers=[observer])
    await bus.start()
    story = Story(bus)
    for number in range(4_000):
        story.log(str(number))
    assert await bus.flush(60)
    assert observer.heard == [str(number) for number in range(4_000)]
    assert bus.errors == {"listener": 3_000}
    await bus.close(5)


class Hours(SystemClock):
    """A clock on which an observer takes `per_event` seconds for each event, and nothing else takes time."""

    def __init__(self, observer: Listener, per_event: float) -> None:
        self._observer = observer
        self._per_event = per_event
        self.rested = 0.0

    def monotonic(self) -> float:
        return self.rested + len(self._observer.heard) * self._per_event


@pytest.mark.parametrize(("kind", "batch"), [(Listener, 1), (BatchListener, 256)])
@pytest.mark.parametrize("broken", [False, True], ids=["succeeds", "raises"])
@pytest.mark.parametrize("flushing", [False, True], ids=["in its own time", "in a flush"])
@pytest.mark.parametrize(("rest", "allowed"), [(0.0, 100), (1.0, 500)], ids=["a busy loop", "an idle loop"])
async def test_the_loop_turns_after_one_to_five_milliseconds_of_what_waits_for_an_observer(
    kind: type[Listener], batch: int, broken: bool, flushing: bool, rest: float, allowed: int
) -> None:
    observer = kind(broken=lambda _: broken)
    clock = Hours(observer, per_event=1e-5)
    bus = ObserverBus(observers=[observer], queue_size=5_000, clock=clock)
    await bus.start()
    event = Story(bus).log("the first")
    for _ in range(4_999):
        bus.log(event)
    heard = [0]
    flush = asyncio.create_task(bus.flush(60)) if flushing else None
    while heard[-1] < 5_000:
        await asyncio.sleep(0)
        heard.append(len(observer.heard))
        clock.rested += rest
    longest = max(later - before for before, later in itertools.pairwise(heard))
    assert allowed <= longest <= allowed + batch
    assert flush is None or await flush
    await bus.close(5)


async def test_the_loop_turns_after_each_event_of_an_observer_that_blocks_it() -> None:
    observer = Listener()
    bus = ObserverBus(observers=[observer], clock=Hours(observer, per_event=0.006))
    await bus.start()
    story = Story(bus)
    for number in range(20):
        story.log(str(number))
    heard = [0]
    while heard[-1] < 20:
        await asyncio.sleep(0)
        heard.append(len(observer.heard))
    assert max(later - before for before, later in itertools.pairwise(heard)) == 1
    await bus.close(5)


async def test_an_observer_that_awaits_and_then_fails_continues(caplog: pytest.LogCaptureFixture) -> None:
    class Remote(Listener):
        async def on_log(self, event: LogEvent) -> None:
            await asyncio.sleep(0)
            await super().on_log(event)

    observer = Remote(broken=lambda message: message == "1")
    bus = ObserverBus(observers=[observer])
    await bus.start()
    story = Story(bus)
    for number in range(3):
        story.log(str(number))
    await eventually(lambda: observer.heard == ["0", "1", "2"], "the third event")
    story.log("3")
    await eventually(lambda: observer.heard[-1] == "3", "an event after a rest")
    assert bus.errors == {"listener": 1}
    await bus.close(5)


def test_a_bus_that_nobody_closes_does_not_keep_the_loop_from_ending() -> None:
    class Hangs(Listener):
        async def on_log(self, event: LogEvent) -> None:
            await super().on_log(event)
            await asyncio.Event().wait()

    hanging, idle = Hangs(), Listener()

    async def run() -> None:
        bus = ObserverBus(observers=[hanging, idle])
        await bus.start()
        Story(bus).log("hello")
        await eventually(lambda: hanging.heard == idle.heard == ["hello"], "the event")

    asyncio.run(run())


@pytest.mark.parametrize("how", ["raises", "panics", "cancels itself", "hangs"])
async def test_an_observer_that_cannot_start_stays_off_and_is_reported(
    how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_otel.bus.worker.STARTUP_TIMEOUT", 0.01)

    class Late(InMemoryLogger):
        closed = False

        async def startup(self) -> None:
            if how == "raises":
                raise ConnectionError("nobody there")
            if how == "panics":
                raise PanicError
            if how == "cancels itself":
                raise asyncio.CancelledError
            await asyncio.Event().wait()

        async def close(self) -> None:
            self.closed = True

    late, memory = Late(), InMemoryLogger()
    bus = ObserverBus(observers=[late, memory])
    await bus.start()
    Story(bus).created().enqueued()
    await bus.close(5)
    assert (len(late.lifecycle_events), len(memory.lifecycle_events)) == (0, 1)
    assert bus.dropped == {"Late": 1, "InMemoryLogger": 0}
    assert "the observer Late could not start" in caplog.text
    assert not late.closed


async def test_startup_comes_first_and_close_last() -> None:
    heard: list[str] = []

    class Proper(TaskObserver):
        async def startup(self) -> None:
            heard.append("startup")

        async def on_events(self, events: Sequence[Event]) -> None:
            heard.append(f"{len(events)} events")

        async def close(self) -> None:
            heard.append("close")

    bus = ObserverBus(observers=[Proper()])
    Story(bus).created().enqueued().started().succeeded()
    await bus.start()
    await bus.close(5)
    assert heard == ["startup", "3 events", "close"]


async def test_a_bus_can_be_started_again() -> None:
    memory = InMemoryLogger()
    bus = ObserverBus(observers=[memory])
    for _ in range(2):
        await bus.start()
        Story(bus).created().enqueued()
        await bus.close(5)
    assert len(memory.lifecycle_events) == 2


def test_a_bus_can_be_started_again_on_another_loop() -> None:
    memory = InMemoryLogger()
    bus = ObserverBus(observers=[memory])

    async def run() -> None:
        await bus.start()
        for _ in range(1_000):
            Story(bus).created().enqueued()
        assert await bus.flush(30)
        await bus.close(5)

    for _ in range(2):
        asyncio.run(run())
    assert (len(memory.lifecycle_events), bus.errors) == (2_000, {})


def test_what_an_exporter_gave_up_counts_as_dropped() -> None:
    class Lossy(Exporter):
        name = "lossy"

        def dropped(self) -> int:
            return 3

    assert ObserverBus([Lossy(), Recorder()], [InMemoryLogger()]).dropped == {"lossy": 3, "InMemoryLogger": 0}


def test_an_observer_named_like_an_exporter_is_told_apart() -> None:
    class Namesake(InMemoryLogger):
        name = "recorder"

    assert list(ObserverBus([Recorder()], [Namesake()]).dropped) == ["recorder-2"]


async def test_an_observer_that_fails_to_close_or_ignores_its_end_holds_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()

    class Stubborn(TaskObserver):
        async def on_lifecycle(self, event: LifecycleEvent) -> None:
            await stubbornly(release)

        async def close(self) -> None:
            raise RuntimeError("no")

    bus = ObserverBus(observers=[Stubborn()])
    await bus.start()
    Story(bus).created().enqueued()
    await bus.close(0.01)
    assert "ignores its cancellation" in caplog.text
    assert "failed to close" in caplog.text
    release.set()
    await eventually(
        lambda: not [t for t in asyncio.all_tasks() if "Stubborn" in t.get_name()], "the end of the worker"
    )


async def test_a_flush_that_blocks_is_left_behind_at_the_deadline() -> None:
    release = threading.Event()

    class Hung(Exporter):
        def flush(self, timeout: float) -> None:
            release.wait(30)

    bus = ObserverBus([Hung()])
    assert not await bus.flush(0.01)
    release.set()


def test_observers_of_one_name_are_told_apart() -> None:
    bus = ObserverBus(observers=[InMemoryLogger(), InMemoryLogger(), InMemoryLogger()])
    assert list(bus.dropped) == ["InMemoryLogger", "InMemoryLogger-2", "InMemoryLogger-3"]


@pytest.mark.parametrize("observer", [InMemoryLogger, object()], ids=["a class", "no observer"])
def test_what_is_no_observer_is_refused(observer: object) -> None:
    with pytest.raises(ConfigurationError, match="instance of a TaskObserver"):
        ObserverBus(observers=[observer])  # type: ignore[list-item]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="debug, info, warning"):
        ObserverBus(observers=[InMemoryLogger(min_level="loud")])


def test_every_transition_reaches_exporters_of_a_bus_without_a_loop() -> None:
    recorder = Recorder()
    Story(ObserverBus([recorder])).created().tell(Transition.REJECTED, reason="queue_full")
    assert recorder.heard == ["created", "rejected"]


async def test_an_observer_gets_an_event_without_its_exception_and_an_exporter_with_it() -> None:
    seen: list[BaseException | None] = []

    class Exporting(Exporter):
        def on_lifecycle(self, event: LifecycleEvent) -> None:
            seen.append(event.exception)

    class Observing(TaskObserver):
        async def on_lifecycle(self, event: LifecycleEvent) -> None:
            seen.append(event.exception)

    bus = ObserverBus([Exporting()], [Observing()])
    await bus.start()
    record = TaskRecord("id", "name", TaskStatus.FAILED, datetime(2026, 1, 1, tzinfo=UTC))
    error = ValueError()
    bus.publish(lifecycle_event(record, Transition.FAILED, TaskStatus.RUNNING, record.created_at, exception=error))
    assert await bus.flush(5)
    assert seen == [error, None]
    await bus.close(5)


async def test_an_exporter_that_gets_work_while_it_is_left_out_misses_no_event() -> None:
    class Sleeper(Exporter):
        name = "sleeper"

        def __init__(self) -> None:
            self.works = False
            self.got: list[str] = []

        def idle_until(self, now: datetime) -> datetime | None:
            return None if self.works else now + timedelta(days=1)

        def on_lifecycle(self, event: LifecycleEvent) -> None:
            self.got.append(event.transition.value)

        def on_log(self, event: LogEvent) -> None:
            self.got.append("log")

        def on_progress(self, record: TaskRecord) -> None:
            self.got.append("progress")

    for first in ("lifecycle", "log", "progress"):
        sleeper = Sleeper()
        bus = ObserverBus([sleeper])
        story = Story(bus).created().enqueued()
        assert not sleeper.got
        sleeper.works = True
        sleeper.wake()
        match first:
            case "lifecycle":
                story.started()
            case "log":
                story.log("line")
            case _:
                bus.progress(story.record)
        assert len(sleeper.got) == 1, first
        # Also if the work came just while the bus asked.
        sleeper.works = False
        bus._look_again = datetime.min.replace(tzinfo=UTC)
        asked = sleeper.idle_until

        def idle_until(now: datetime, asked: Callable[[datetime], datetime | None] = asked) -> datetime | None:
            answer = asked(now)
            sleeper.works = True  # noqa: B023  # called before the next turn
            sleeper.wake()  # noqa: B023
            return answer

        sleeper.idle_until = idle_until  # type: ignore[method-assign]
        story.log("not for it")
        sleeper.got.clear()
        story.log("for it")
        assert sleeper.got == ["log"]
