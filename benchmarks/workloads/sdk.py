"""The SDK's own calls for what one task tells: two spans, a link between them, and three log records.

What they say is what the exporters say of a task; a test compares the two. They are made in the cheapest way that says
it: everything but ids and times is made once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import NamedTuple

from opentelemetry import context as otel_context
from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Span, SpanKind, Tracer, set_span_in_context

from benchmarks.workloads import Run

_DEBUG, _INFO = SeverityNumber.DEBUG, SeverityNumber.INFO
_TEXTS = {_DEBUG: "DEBUG", _INFO: "INFO"}
SCOPE, VERSION, SCHEMA_URL = "taskflow_otel", "1", "https://opentelemetry.io/schemas/1.44.0"


class _Spans(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _Records(InMemoryLogRecordExporter):
    def export(self, batch: object) -> LogRecordExportResult:
        return LogRecordExportResult.SUCCESS


class Providers(NamedTuple):
    """Providers of the SDK."""

    tracer_provider: TracerProvider
    logger_provider: LoggerProvider


def providers(spans: SpanExporter | None = None, records: InMemoryLogRecordExporter | None = None) -> Providers:
    """A new pair that hands each span and record on at once: to nowhere, unless exporters are given.

    Exporters that kept them would be measured too: a heap that grows, and the collections of garbage in it.
    """
    made = Providers(TracerProvider(), LoggerProvider())
    made.tracer_provider.add_span_processor(SimpleSpanProcessor(spans or _Spans()))
    to = records or _Records()  # type: ignore[no-untyped-call]
    made.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(to))
    return made


class Sent(NamedTuple):
    """The span of a task that was added, and a context in which it is current."""

    span: Span
    context: otel_context.Context


class Calls:
    """The calls for one task of a name, on one instance."""

    def __init__(self, given: Providers, name: str, instance: str) -> None:
        self._tracer: Tracer = given.tracer_provider.get_tracer(SCOPE, VERSION, schema_url=SCHEMA_URL)
        self._logger: Logger = given.logger_provider.get_logger(SCOPE, VERSION, schema_url=SCHEMA_URL)
        self._name = name
        common: dict[str, str | int] = {
            "messaging.system": "taskflow",
            "messaging.destination.name": name,
            "taskflow.queue": "default",
            "taskflow.priority": 5,
            "taskflow.executor": "async",
            "taskflow.source": "manual",
            "taskflow.instance": instance,
        }
        self._of_send = {**common, "messaging.operation.name": "send", "messaging.operation.type": "send"}
        self._of_process = {**common, "messaging.operation.name": "process", "messaging.operation.type": "process"}
        self._of_records: dict[str, str | int] = {
            "messaging.destination.name": name,
            "taskflow.queue": "default",
            "taskflow.instance": instance,
            "taskflow.attempt": 0,
        }

    def one(self, task_id: str) -> None:
        """Say all of a task that is added, starts and succeeds."""
        self.run(task_id, self.add(task_id))

    def add(self, task_id: str) -> Sent:
        """Say that a task is added."""
        name = self._name
        attributes = {**self._of_send, "messaging.message.id": task_id}
        now = time.time_ns()
        send = self._tracer.start_span(f"send {name}", kind=SpanKind.PRODUCER, attributes=attributes, start_time=now)
        sent = set_span_in_context(send)
        self._emit(task_id, "enqueued", sent, now)
        send.end()
        return Sent(send, sent)

    def run(self, task_id: str, of: Sent) -> None:
        """Say that it starts and succeeds."""
        name, (send, sent) = self._name, of
        of_process: dict[str, str | int | float] = {
            **self._of_process,
            "messaging.message.id": task_id,
            "taskflow.attempt": 0,
            "taskflow.queue_wait": 0.001,
        }
        now = time.time_ns()
        links = [Link(send.get_span_context())]
        process = self._tracer.start_span(f"process {name}", sent, SpanKind.CONSUMER, of_process, links, now)
        processing = set_span_in_context(process)
        # Current in the function, in a context that is thrown away with it.
        Context().run(otel_context.attach, processing)
        self._emit(task_id, "started", processing, now, severity=_DEBUG)
        now = time.time_ns()
        process.set_attribute("taskflow.outcome", "succeeded")
        process.end(now)
        self._emit(task_id, "succeeded", processing, now, duration=0.001)

    def _emit(
        self,
        task_id: str,
        transition: str,
        context: otel_context.Context,
        now: int,
        *,
        severity: SeverityNumber = _INFO,
        duration: float | None = None,
    ) -> None:
        attributes: dict[str, str | int | float] = {**self._of_records, "messaging.message.id": task_id}
        if duration is not None:
            attributes["taskflow.duration"] = duration
        self._logger.emit(
            LogRecord(
                timestamp=now,
                context=context,
                severity_number=severity,
                severity_text=_TEXTS[severity],
                body=f"{self._name} {transition}",
                event_name=f"taskflow.task.{transition}",
                attributes=attributes,
            )
        )


@asynccontextmanager
async def sdk(directory: Path) -> AsyncIterator[Run]:
    """The calls of as many tasks."""
    calls = Calls(providers(), "nothing", "host-1")

    async def run(number: int) -> None:
        for place in range(number):
            calls.one(f"{place:032x}")

    yield run
