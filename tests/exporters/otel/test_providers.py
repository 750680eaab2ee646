"""Whether an OpenTelemetry provider does anything, and since when."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.otel.tracing import TracingExporter
from tests.exporters.story import Story


async def test_a_flush_of_the_bus_reaches_the_provider() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    bus = ObserverBus([TracingExporter(provider)])
    Story(bus).created().enqueued()
    assert exporter.get_finished_spans() == ()
    assert await bus.flush(10)
    assert [span.name for span in exporter.get_finished_spans()] == ["send send_email"]
    provider.shutdown()


def test_a_global_provider_that_is_set_later_is_found() -> None:
    script = """
    from datetime import timedelta
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from taskflow_otel.bus import ObserverBus
    from taskflow_otel.exporters.otel.tracing import TracingExporter
    from tests.exporters.story import Story

    bus = ObserverBus([TracingExporter()])
    before = Story(bus).created()
    trace.set_tracer_provider(TracerProvider())
    before.enqueued().started().succeeded()
    after = Story(bus)
    after.record.created_at += timedelta(seconds=1)
    after.created().enqueued().started().succeeded()
    assert not before.record.trace.creation.valid
    assert after.record.trace.creation.valid and after.record.trace.attempt.valid
    assert bus.errors == {}
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert result.returncode == 0, result.stderr
