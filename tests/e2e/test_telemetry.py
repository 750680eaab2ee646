"""Watching never harms the watched: receivers and observers that fail, hang or are slow change no task's outcome."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from taskflow_otel import (
    InMemoryLogger,
    LifecycleEvent,
    LogEvent,
    TaskAdmin,
    TaskManager,
    TaskObserver,
    TaskStatus,
    Telemetry,
    task_log,
)
from taskflow_otel.bus import Event
from tests.asgi import get, running
from tests.inside import own_context
from tests.otlp import OtlpReceiver
from tests.procs import AppProcess
from tests.waiting import eventually, wait_until

WAIT = 60.0
QUEUE_SIZE = 10_000
"""Events that wait for one observer at most."""


class HungReceiver:
    """Takes connections and what is sent on them, and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, name="hung-receiver")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def connections(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                self._connections.append(self._listener.accept()[0])
            except OSError:
                return


@pytest.fixture
def hung() -> Iterator[HungReceiver]:
    receiver = HungReceiver()
    yield receiver
    receiver.close()


def exporting_app(endpoint: str, directory: Path) -> AppProcess:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BLRP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "APP_DB": str(directory / "tasks.db"),
        "APP_RELEASE": str(directory / "release"),
    }
    return AppProcess("tests.apps.otlp_app:app", directory, env=env)


def sign_up(app: AppProcess, times: int) -> None:
    """Have the app run tasks, and wait until each has succeeded in its second attempt."""
    with httpx.Client(base_url=app.url) as client:
        ids = [client.post("/signup").raise_for_status().json()["task_id"] for _ in range(times)]

        def succeeded(task_id: str) -> bool:
            task = client.get(f"/tasks/{task_id}").raise_for_status().json()
            return (task["status"], task["retries_used"]) == ("success", 1)

        wait_until(lambda: all(succeeded(task_id) for task_id in ids), "the success of every task")


def test_a_receiver_that_takes_everything_and_never_answers_holds_up_neither_tasks_nor_the_exit(
    hung: HungReceiver, tmp_path: Path
) -> None:
    with exporting_app(hung.url, tmp_path) as app:
        sign_up(app, 5)
        wait_until(lambda: hung.connections > 0, "the first export")
        sign_up(app, 5)
        app.terminate(timeout=60)
    assert "Traceback" not in app.output


def test_a_receiver_that_dies_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver, exporting_app(receiver.url, tmp_path) as app:
        sign_up(app, 3)
        wait_until(lambda: len(receiver.named("process send_email")) == 6, "the spans of the first tasks")
        receiver.close()
        sign_up(app, 3)
        app.terminate(timeout=60)


class Raises(TaskObserver):
    """Fails on every event."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        raise RuntimeError("the observer is broken")

    async def on_log(self, event: LogEvent) -> None:
        raise RuntimeError("the observer is broken")


class RaisesAtStart(TaskObserver):
    """Cannot even start."""

    async def startup(self) -> None:
        raise RuntimeError("no connection to the log server")

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        raise AssertionError("it must be off")


class RaisesAtEnd(TaskObserver):
    """Cannot be closed."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Take it."""

    async def close(self) -> None:
        raise RuntimeError("nothing to close")


class Hangs(TaskObserver):
    """Never comes back from its first event, until it is released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def on_events(self, events: Sequence[Event]) -> None:
        await self.release.wait()


class CancelsItself(TaskObserver):
    """Lets a cancellation out, as a library that is closed elsewhere does."""

    async def on_lifecycle(self, event: LifecycleEvent) -> None:
        raise asyncio.CancelledError


async def run_some(manager: TaskManager) -> list[TaskStatus]:
    """Run tasks of every kind of ending, and return how they ended."""

    @manager.task(name="works")
    async def works() -> None:
        task_log("at work")

    @manager.task(name="recovers", retries=1)
    async def recovers() -> None:
        if own_context().attempt == 0:
            raise ValueError("again")

    @manager.task(name="fails")
    def fails() -> None:
        raise ValueError("never")

    ids = [await manager.enqueue(task) for _ in range(10) for task in (works, recovers, fails)]
    return [(await manager.wait(task_id, WAIT)).status for task_id in ids]


EXPECTED = [TaskStatus.SUCCESS, TaskStatus.SUCCESS, TaskStatus.FAILED] * 10


async def metric(app: FastAPI, name: str) -> dict[str, float]:
    """The samples of one metric of the page, by their label part."""
    page = (await get(app, "/tasks/metrics")).body.decode()
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if line.startswith(name + "{")]
    return {labels.removeprefix(name): float(value) for labels, value in lines}


@pytest.mark.parametrize("observer", [Raises, RaisesAtStart, RaisesAtEnd, Hangs, CancelsItself])
async def test_an_observer_in_trouble_changes_no_outcome_and_no_other_observer(observer: type[TaskObserver]) -> None:
    troubled, healthy = observer(), InMemoryLogger()
    manager = TaskManager(loggers=[troubled, healthy])
    await manager.startup()
    # A hanging observer hangs during all of this: the tasks end nevertheless.
    assert await run_some(manager) == EXPECTED
    if isinstance(troubled, Hangs):
        troubled.release.set()
    await manager.shutdown()
    assert len([event for event in healthy.lifecycle_events if event.status.finished]) == len(EXPECTED)
    assert healthy.messages == ["at work"] * 10


async def test_errors_of_an_observer_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    app, manager = FastAPI(), TaskManager(loggers=[Raises()])
    TaskAdmin(app, manager)
    async with running(app):
        assert await run_some(manager) == EXPECTED
        # Thirty tasks: three events each, and two more for each retry; ten log entries.
        events = 30 * 3 + 10 * 2 + 10

        async def all_counted() -> bool:
            counts = await metric(app, "taskflow_exporter_errors_total")
            return counts.get('{exporter="Raises"}') == float(events)

        await eventually(all_counted, "the count of every failure")
    assert len([record for record in caplog.records if "Raises failed" in record.getMessage()]) == 1


async def test_what_an_observer_is_too_slow_for_is_dropped_and_counted() -> None:
    slow, healthy = Hangs(), InMemoryLogger()
    app, manager = FastAPI(), TaskManager(loggers=[slow, healthy])
    TaskAdmin(app, manager)
    tasks = QUEUE_SIZE // 3 + 500

    async def work() -> None:
        """Do nothing."""

    async with running(app):
        for _ in range(tasks):
            await manager.enqueue(work)
        await eventually(lambda: len(healthy.lifecycle_events) == 3 * tasks, "the other observer to be through")

        async def dropped() -> bool:
            counts = await metric(app, "taskflow_events_dropped_total")
            # What the observer had taken in hand before it hung is neither dropped nor waiting.
            return counts['{exporter="InMemoryLogger"}'] == 0 < counts['{exporter="Hangs"}'] <= 3 * tasks - QUEUE_SIZE

        await eventually(dropped, "the count of what was dropped")
        slow.release.set()


class BrokenTracer(trace.TracerProvider):
    """An SDK gone wrong."""

    def get_tracer(self, *args: object, **kwargs: object) -> trace.Tracer:
        class Broken(trace.NoOpTracer):
            def start_span(self, *args: object, **kwargs: object) -> trace.Span:
                raise RuntimeError("no spans today")

        return Broken()


async def test_an_sdk_that_raises_changes_no_outcome_and_is_counted() -> None:
    app, manager = FastAPI(), TaskManager(telemetry=Telemetry(tracer_provider=BrokenTracer()))
    TaskAdmin(app, manager)
    async with running(app):
        assert await run_some(manager) == EXPECTED
        counts = await metric(app, "taskflow_exporter_errors_total")
    assert counts['{exporter="tracing"}'] > 0


class HangingExporter(SpanExporter):
    """Blocks its flush, as one whose collector has gone away does."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.entered.set()
        return self.release.wait(WAIT)


async def test_a_flush_that_hangs_does_not_block_the_event_loop_at_shutdown() -> None:
    exporter = HangingExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # Processors of the SDK hand a flush on to their exporter in some versions only; this one always does.
    provider.force_flush = exporter.force_flush  # type: ignore[method-assign]
    manager = TaskManager(telemetry=Telemetry(tracer_provider=provider))
    await manager.startup()
    assert await run_some(manager) == EXPECTED
    stopping = asyncio.create_task(manager.shutdown())
    # The event loop hears of the flush while it hangs.
    assert await asyncio.to_thread(exporter.entered.wait, WAIT)
    assert not stopping.done()
    assert not exporter.release.is_set()
    exporter.release.set()
    await stopping
