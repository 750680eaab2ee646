"""A task module of an application that sets up an SDK when it is imported: in the child too."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from taskflow_otel import task_log

if "TASK_SPANS" in os.environ:
    provider = TracerProvider()
    file = Path(os.environ["TASK_SPANS"]).open("a", encoding="utf-8")  # noqa: SIM115  # open as long as the process
    exporter = ConsoleSpanExporter(out=file)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    trace.set_tracer_provider(provider)


def traced() -> None:
    with trace.get_tracer("shop").start_as_current_span("by its own SDK"):
        task_log("within")
