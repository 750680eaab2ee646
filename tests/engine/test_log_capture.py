"""`capture_logs`: standard logging inside a task becomes the log of that task."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import LoggingHandler as HandlerOfTheSdk
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from taskflow_otel import (
    InMemoryLogger,
    TaskManager,
    Telemetry,
    task_log,
)
from taskflow_otel.model.options import ExecutorName
from tests.engine.executors import process_tasks
from tests.managers import finish, started

shop = logging.getLogger("shop")


@contextlib.contextmanager
def added(handler: logging.Handler, name: str | None = None) -> Iterator[None]:
    """A handler on a logger for a while."""
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def exported() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()


@pytest.fixture
def provider(exported: InMemoryLogRecordExporter) -> LoggerProvider:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exported))
    return provider


def said(exported: InMemoryLogRecordExporter) -> list[object]:
    """The texts of the exported lines that are no lifecycle events."""
    records = [found.log_record for found in exported.get_finished_logs()]
    return [one.body for one in records if one.event_name in {None, "", "taskflow.task.log"}]


async def test_captured_logging_becomes_the_log_of_the_task_that_wrote_it() -> None:
    observer = InMemoryLogger()
    manager = TaskManager(capture_logs=True, loggers=[observer])

    async def chat() -> None:
        logging.getLogger("shop").warning("low on %s", "tea")

    async with started(manager):
        task_id = await manager.enqueue(chat)
        await finish(manager, task_id)
        logging.getLogger("shop").warning("nobody's")
    assert [(e.task_id, e.message, e.level) for e in observer.log_events] == [(task_id, "low on tea", "warning")]


async def chat() -> None:
    shop.info("quiet")
    shop.warning("low on %s", "tea")
    task_log("poured")


def chat_in_thread() -> None:
    shop.info("quiet")
    shop.warning("low on %s", "tea")
    task_log("poured")


@pytest.mark.parametrize("executor", ["async", "thread"])
@pytest.mark.parametrize("kind", ["instrumentation", "sdk"])
async def test_beside_the_handler_of_opentelemetry_each_line_is_exported_once(
    executor: ExecutorName, kind: str, provider: LoggerProvider, exported: InMemoryLogRecordExporter,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    if kind == "sdk":
        with pytest.warns(DeprecationWarning, match="LoggingHandler"):
            handler: logging.Handler = HandlerOfTheSdk(logging.WARNING, provider)
    else:
        handler = LoggingHandler(logging.WARNING, provider)
    manager = TaskManager(capture_logs=True, telemetry=Telemetry(logger_provider=provider))
    func = manager.task()(chat if executor == "async" else chat_in_thread)
    with added(handler):
        async with started(manager):
            task_id = await manager.enqueue(func)
            await finish(manager, task_id)
            stored = [entry.message for entry in await manager.logs(task_id)]
    assert stored == ["quiet", "low on tea", "poured"]
    # The handler does not take the first one.
    assert sorted(map(str, said(exported))) == ["low on tea", "poured", "quiet"]


async def test_a_handler_on_the_logger_itself_or_behind_one_that_does_not_propagate(
    provider: LoggerProvider, exported: InMemoryLogRecordExporter
) -> None:
    manager = TaskManager(capture_logs=True, telemetry=Telemetry(logger_provider=provider))
    with added(LoggingHandler(logging.WARNING, provider), "shop"):
        async with started(manager):
            await finish(manager, await manager.enqueue(chat))
    assert said(exported).count("low on tea") == 1


async def test_a_child_process_without_that_handler_leaves_the_export_to_its_parent(
    provider: LoggerProvider, exported: InMemoryLogRecordExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    manager = TaskManager(capture_logs=True, telemetry=Telemetry(logger_provider=provider), max_process_workers=1)
    func = manager.task(executor="process")(process_tasks.log_by_stdlib)
    with added(LoggingHandler(logging.INFO, provider)):
        async with started(manager):
            await finish(manager, await manager.enqueue(func))
    assert said(exported).count("packed 3") == 1


async def test_what_the_sdk_reports_in_a_task_is_no_line_of_the_task() -> None:
    class Talkative(SpanExporter):
        """Logs for each export, as HTTP clients do, and fails, which the SDK logs."""

        def export(self, spans: object) -> SpanExportResult:
            logging.getLogger("urllib3.connectionpool").warning("retrying the export")
            raise ConnectionError("no collector")

        def shutdown(self) -> None:
            """There is nothing to close."""

    traces = TracerProvider(shutdown_on_exit=False)
    traces.add_span_processor(SimpleSpanProcessor(Talkative()))
    manager = TaskManager(capture_logs=True)

    async def traced() -> None:
        with traces.get_tracer("shop").start_as_current_span("look up"):
            shop.warning("inside")
        logging.getLogger("opentelemetry.sdk.trace.export").warning("Queue is full, likely spans will be dropped.")

    async with started(manager):
        task_id = await manager.enqueue(traced)
        await finish(manager, task_id)
        assert [entry.message for entry in await manager.logs(task_id)] == ["inside"]
