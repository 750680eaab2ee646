"""A look at the traces of the demo without a collector: the newest are kept in memory, and shown as a plain page."""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TRACES = 1_000
"""How many are kept."""
_STYLE = """
<style>body{font:14px/1.6 system-ui;margin:2rem;color-scheme:light dark}td{padding:0 1rem 0 0;white-space:nowrap}
td:last-child{width:100%}i{display:block;height:.8rem;border-radius:2px;background:#3b82f6}.error i{background:#dc2626}
</style>"""


class Traces:
    """The spans of the newest traces, by trace id."""

    def __init__(self) -> None:
        self._spans: OrderedDict[str, list[ReadableSpan]] = OrderedDict()

    def keep(self, spans: Sequence[ReadableSpan]) -> None:
        """Add spans that have ended."""
        for span in spans:
            if span.context is None:
                continue
            trace_id = f"{span.context.trace_id:032x}"
            self._spans.setdefault(trace_id, []).append(span)
            if len(self._spans) > TRACES:
                self._spans.popitem(last=False)

    def page(self, trace_id: str) -> str | None:
        """The spans of a trace as bars over time; `None` if it is not known."""
        spans = sorted(self._spans.get(trace_id, ()), key=lambda span: span.start_time or 0)
        if not spans:
            return None
        begin = min(span.start_time or 0 for span in spans)
        length = max(1, max(span.end_time or 0 for span in spans) - begin)
        rows: list[str] = []
        for span in spans:
            start, end = span.start_time or begin, span.end_time or begin
            left, width = 100 * (start - begin) / length, max(0.3, 100 * (end - start) / length)
            kind = "error" if span.status.status_code.name == "ERROR" else ""
            rows.append(
                f'<tr class="{kind}"><td>{html.escape(span.name)}<td>{(end - start) / 1e6:.1f} ms'
                f'<td><i style="margin-left:{left:.2f}%;width:{width:.2f}%"></i>'
            )
        return f"<!doctype html><title>Trace {trace_id}</title>{_STYLE}<h1>Trace {trace_id}</h1><table>{''.join(rows)}"


def keep_traces(app: FastAPI, service_name: str) -> None:
    """Turn tracing on, and add `GET /traces/{trace_id}` to an application. Needs the extra `otel`."""
    import os

    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    from taskflow_otel import configure_telemetry

    traces = Traces()

    class Keeper(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            traces.keep(spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
    provider.add_span_processor(SimpleSpanProcessor(Keeper()))
    trace.set_tracer_provider(provider)
    # There is no collector for these.
    os.environ.setdefault("OTEL_METRICS_EXPORTER", "none")
    os.environ.setdefault("OTEL_LOGS_EXPORTER", "none")

    @app.get("/traces/{trace_id}", include_in_schema=False)
    async def show_trace(trace_id: str) -> HTMLResponse:
        page = traces.page(trace_id)
        if page is None:
            raise HTTPException(404, f"no trace {trace_id!r} is kept: the demo has the newest {TRACES}")
        return HTMLResponse(page)

    configure_telemetry(app, service_name=service_name)
