"""The SDK's own calls for what one task tells: two spans, a link between them, and three log records."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, set_span_in_context

from benchmarks.workloads import Run

_LOG_ATTRIBUTES = (
    "messaging.destination.name",
    "messaging.message.id",
    "taskflow.queue",
    "taskflow.executor",
    "taskflow.attempt",
)


class Providers(NamedTuple):
    """Providers of the SDK that keep what they are given in memory."""

    tracer_provider: TracerProvider
    logger_provider: LoggerProvider
    spans: InMemorySpanExporter
    records: InMemoryLogRecordExporter

    def clear(self) -> None:
        """Forget it."""
        self.spans.clear()
        self.records.clear()


def providers() -> Providers:
    """A new pair."""
    made = Providers(TracerProvider(), LoggerProvider(), InMemorySpanExporter(), InMemoryLogRecordExporter())  # type: ignore[no-untyped-call]
    made.tracer_provider.add_span_processor(SimpleSpanProcessor(made.spans))
    made.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(made.records))
    return made


@asynccontextmanager
async def sdk(directory: Path) -> AsyncIterator[Run]:
    """With as many attributes as a task's signals have."""
    exported = providers()
    tracer = exported.tracer_provider.get_tracer("benchmark")
    logger = exported.logger_provider.get_logger("benchmark")
    common = {
        "messaging.system": "taskflow",
        "messaging.destination.name": "default",
        "taskflow.task.name": "nothing",
        "taskflow.queue": "default",
        "taskflow.executor": "async",
    }

    def one(number: int) -> None:
        attributes: dict[str, str | int] = {**common, "messaging.message.id": f"{number:032x}", "taskflow.attempt": 0}
        send = tracer.start_span("send nothing", kind=SpanKind.PRODUCER, attributes=attributes)
        send.end()
        link = Link(send.get_span_context(), {"taskflow.link": "send"})
        process = tracer.start_span("process nothing", kind=SpanKind.CONSUMER, attributes=attributes, links=[link])
        context = set_span_in_context(process)
        facts = {name: attributes[name] for name in _LOG_ATTRIBUTES}
        for transition in ("enqueued", "started", "succeeded"):
            logger.emit(
                LogRecord(
                    timestamp=time.time_ns(),
                    context=context,
                    severity_number=SeverityNumber.INFO,
                    severity_text="INFO",
                    body=f"task nothing {transition}",
                    event_name=f"taskflow.task.{transition}",
                    attributes=facts,
                )
            )
        process.end()

    async def run(number: int) -> None:
        for place in range(number):
            one(place)
        exported.clear()

    yield run
