"""The spans and log records of tasks, in lists: `SpanRecorder`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskflow_otel.errors import MissingExtraError
from taskflow_otel.exporters.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class SpanRecorder:
    """Records spans: `TaskManager(telemetry=recorder.telemetry)`.

    Raises `MissingExtraError` without the extra `otel`.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        except ImportError as exc:
            raise MissingExtraError("SpanRecorder", "otel") from exc
        self._memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.telemetry: Telemetry = Telemetry(tracer_provider=provider)
        """The setting of a `TaskManager`."""

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended, in the order of their ends."""
        return self._memory.get_finished_spans()

    @property
    def names(self) -> list[str]:
        """The names of the spans."""
        return [span.name for span in self.spans]

    def clear(self) -> None:
        """Forget the spans so far."""
        self._memory.clear()
