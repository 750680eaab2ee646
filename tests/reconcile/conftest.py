"""A manager whose telemetry is exported, to be compared with its ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from taskflow_otel import SLO, TaskManager, Telemetry, task_log
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.exporters.signals import SCOPE
from taskflow_otel.model.query import TaskQuery
from tests.managers import finish, started


class Watched:
    """A manager whose telemetry is all kept, with four tasks that have run."""

    def __init__(self, path: Path) -> None:
        self.spans, self.logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        tracer_provider, logger_provider = (
            TracerProvider(shutdown_on_exit=False),
            LoggerProvider(shutdown_on_exit=False),
        )
        tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.backend = SqliteBackend(path)
        self.manager = TaskManager(
            snapshot_backend=self.backend,
            telemetry=Telemetry(tracer_provider=tracer_provider, logger_provider=logger_provider),
        )
        self.page = ""

    async def run(self) -> None:
        """Have tasks succeed, and fail after a retry."""

        @self.manager.task(persist=True, slo=SLO(success=0.9, within=3600))
        async def good() -> None:
            task_log("done")

        @self.manager.task(persist=True, retries=1, slo=SLO(success=0.9))
        async def bad() -> None:
            raise ValueError("never")

        for func in (good, good, good, bad):
            await finish(self.manager, await self.manager.enqueue(func))
        # Log entries are written a moment later, or before the first look.
        await self.manager.engine.lookup.counts(TaskQuery())

    def scrape(self) -> str:
        return self.manager.metrics.render("text/plain")[0].decode()

    def exported(self) -> list[dict[str, Any]]:
        """The spans and the log records, each as one export in JSON."""
        spans = [_span(span) for span in self.spans.get_finished_spans()]
        logs = [
            {
                "eventName": log.log_record.event_name,
                "timeUnixNano": str(log.log_record.timestamp),
                "attributes": _attributes(log.log_record.attributes),
            }
            for log in self.logs.get_finished_logs()
        ]
        scope = {"name": SCOPE}
        return [
            {"resourceSpans": [{"scopeSpans": [{"scope": scope, "spans": spans}]}]},
            {"resourceLogs": [{"scopeLogs": [{"scope": scope, "logRecords": logs}]}]},
        ]


def _span(span: ReadableSpan) -> dict[str, Any]:
    assert span.context is not None
    return {
        "name": span.name,
        "traceId": format_trace_id(span.context.trace_id),
        "spanId": format_span_id(span.context.span_id),
        "links": [{"spanId": format_span_id(link.context.span_id)} for link in span.links],
        "status": {"code": 2} if span.status.status_code is StatusCode.ERROR else {},
        "startTimeUnixNano": str(span.start_time),
        "attributes": _attributes(span.attributes),
    }


def _attributes(attributes: Any) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in attributes.items()
    ]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    found = Watched(tmp_path / "tasks.db")
    async with started(found.manager):
        await found.run()
        await found.manager.metrics_page.refresh()
        found.page = found.scrape()
        yield found
