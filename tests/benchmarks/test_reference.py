"""The SDK's own calls, which the cost of our signals is measured beside, say what our exporters say."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks.workloads.sdk import Calls, providers
from taskflow_otel import TaskManager, Telemetry
from tests.waiting import eventually

Attributes = dict[str, type[object]]


def kinds(attributes: Any) -> Attributes:
    return {key: type(value) for key, value in (attributes or {}).items()}


def said(spans: InMemorySpanExporter, records: InMemoryLogRecordExporter) -> tuple[list[Any], list[Any]]:
    """What was exported, without ids and times; spans name the one that is their parent."""
    finished = spans.get_finished_spans()
    names = {span.context.span_id: span.name for span in finished if span.context is not None}
    told_spans = [
        (
            span.name,
            span.kind,
            kinds(span.attributes),
            [(names[link.context.span_id], kinds(link.attributes)) for link in span.links],
            None if span.parent is None else names[span.parent.span_id],
            span.status.status_code,
            span.instrumentation_scope is not None and span.instrumentation_scope.schema_url,
        )
        for span in finished
    ]
    told_records = [
        (
            record.log_record.event_name,
            record.log_record.body,
            record.log_record.severity_number,
            record.log_record.severity_text,
            kinds(record.log_record.attributes),
            names.get(record.log_record.span_id or 0),
        )
        for record in records.get_finished_logs()
    ]
    return sorted(told_spans, key=lambda span: str(span[0])), told_records


async def test_the_reference_of_the_telemetry_row_says_what_the_exporters_say() -> None:
    spans, records = InMemorySpanExporter(), InMemoryLogRecordExporter()
    given = providers(spans, records)
    manager = TaskManager(
        telemetry=Telemetry(tracer_provider=given.tracer_provider, logger_provider=given.logger_provider)
    )

    @manager.task()
    async def nothing() -> None:
        pass

    await manager.startup()
    await manager.wait(await manager.enqueue(nothing))
    await eventually(lambda: len(records.get_finished_logs()) == 3, "the last record")
    await manager.shutdown()
    ours = said(spans, records)
    spans.clear()
    records.clear()
    Calls(given, "nothing", "host-1").one("0" * 32)
    theirs = said(spans, records)
    assert theirs[0] == ours[0]
    assert theirs[1] == ours[1]
    assert [len(part) for part in ours] == [2, 3]
    for provider in given:
        provider.shutdown()
