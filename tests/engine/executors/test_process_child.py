"""What a task in a child process says of itself: log entries, progress, standard logging, spans."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import (
    LogEvent,
    TaskManager,
    TaskObserver,
    TaskStatus,
    Telemetry,
)
from tests.engine.executors import process_sdk_tasks, process_tasks
from tests.engine.executors.conftest import Start, run
from tests.waiting import eventually


async def messages(manager: TaskManager, task_id: str) -> list[str]:
    return [entry.message for entry in await manager.engine.lookup.logs(task_id)]


class Spans:
    """A tracer provider of the SDK, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.exporter.get_finished_spans() if span.name == name)
        return span


async def test_log_entries_and_progress_arrive_while_the_task_runs(start: Start, tmp_path: Path) -> None:
    entries: list[LogEvent] = []

    class Observer(TaskObserver):
        async def on_log(self, event: LogEvent) -> None:
            entries.append(event)

    manager = await start(loggers=[Observer()])
    manager.task(executor="process")(process_tasks.speak)
    task_id = await manager.enqueue(process_tasks.speak, tmp_path / "go", tags={"colour": "red"})
    await eventually(lambda: bool(entries), "the log entry")
    assert (entries[0].message, entries[0].level) == ("half way", "warning")
    assert entries[0].extra == {"path": str(tmp_path / "go"), "attempt": 0, "tag": "red"}

    async def half() -> bool:
        progress = (await manager.get(task_id)).progress
        return progress is not None and (progress.done, progress.total, progress.message) == (1, 2, "half")

    await eventually(half, "the progress")
    (tmp_path / "go").touch()
    assert (await manager.wait(task_id, timeout=60)).status is TaskStatus.SUCCESS
    assert await messages(manager, task_id) == ["half way", "done"]


async def test_records_of_standard_logging_become_log_entries_where_asked(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    manager = await start(capture_logs=True)
    manager.task(executor="process")(process_tasks.log_by_stdlib)
    record = await run(manager, process_tasks.log_by_stdlib)
    assert await messages(manager, record.task_id) == ["packed 3"]


async def test_spans_made_in_the_child_come_back_below_the_span_of_the_attempt(start: Start) -> None:
    spans = Spans()
    manager = await start(telemetry=Telemetry(tracer_provider=spans.provider))
    manager.task(executor="process")(process_tasks.trace_it)
    token = otel_context.attach(baggage.set_baggage("user", "ann"))
    record = await run(manager, process_tasks.trace_it)
    otel_context.detach(token)
    assert record.status is TaskStatus.SUCCESS, record.stacktrace

    attempt, inner, innermost = (spans.named(name) for name in ("process trace_it", "inner", "innermost"))
    (kept,) = (await manager.engine.lookup.spans(record.task_id)).spans.values()
    assert sorted(span.name for span in kept.inside) == ["inner", "innermost"]
    outer_log, inner_log = await manager.engine.lookup.logs(record.task_id)
    assert attempt.context.trace_id == inner.context.trace_id == innermost.context.trace_id
    assert outer_log.extra["trace_id"] == trace.format_trace_id(attempt.context.trace_id)
    assert outer_log.extra["span_id"] == trace.format_span_id(attempt.context.span_id)
    assert outer_log.extra["user"] == "ann"
    assert inner_log.extra["span_id"] == trace.format_span_id(innermost.context.span_id)

    assert inner.parent is not None
    assert inner.parent.span_id == attempt.context.span_id
    assert innermost.parent is not None
    assert innermost.parent.span_id == inner.context.span_id
    assert (dict(inner.attributes or {}), inner.status.status_code) == ({"n": 3}, trace.StatusCode.ERROR)
    assert [event.name for event in inner.events] == ["looked", "exception"]
    assert inner.instrumentation_scope is not None
    assert (inner.instrumentation_scope.name, inner.instrumentation_scope.version) == ("shop", "1.2")
    assert attempt.start_time is not None
    assert inner.start_time is not None
    assert inner.end_time is not None
    assert attempt.end_time is not None
    assert attempt.start_time <= inner.start_time <= inner.end_time <= attempt.end_time


async def test_a_log_entry_names_the_span_of_the_child_that_it_was_written_in(start: Start) -> None:
    entries: list[LogEvent] = []

    class Observer(TaskObserver):
        async def on_log(self, event: LogEvent) -> None:
            entries.append(event)

    spans = Spans()
    manager = await start(telemetry=Telemetry(tracer_provider=spans.provider), loggers=[Observer()])
    manager.task(executor="process")(process_tasks.trace_it)
    await run(manager, process_tasks.trace_it)
    await eventually(lambda: len(entries) == 2, "both log entries")
    assert entries[1].span_id == trace.format_span_id(spans.named("innermost").context.span_id)


async def test_a_child_with_an_sdk_of_its_own_exports_by_itself_and_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASK_SPANS", str(tmp_path / "spans"))
    spans = Spans()
    manager = await start(telemetry=Telemetry(tracer_provider=spans.provider))
    manager.task(executor="process")(process_sdk_tasks.traced)
    await run(manager, process_sdk_tasks.traced)
    # Nothing but the flush after the attempt could have written it: the next batch is an hour away.
    await eventually(lambda: "by its own SDK" in (tmp_path / "spans").read_text(), "the export")
    attempt = spans.named("process traced")
    assert f"0x{trace.format_span_id(attempt.context.span_id)}" in (tmp_path / "spans").read_text()
