"""The route of the trace of a task."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Depends

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.spans import KeptTrace
from taskflow_otel.model.waterfall import Bar, waterfall
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.traces import BarOut, TraceOut

_SAMPLED = 1
"""The flag of the W3C trace context."""


def add_trace_route(router: APIRouter, engine: TaskEngine, guard: Guard) -> None:
    """The route of the trace of one task."""

    @router.get("/{task_id}/trace", dependencies=[Depends(guard.viewer)], summary="The trace of a task")
    async def get_trace(task_id: str) -> TraceOut:
        """The waits and attempts of a task, and the spans before and inside them, in the order of a waterfall.

        Without tracing there are the waits and attempts alone. The spans inside an attempt are known once it has ended.
        """
        record = await engine.lookup.get(task_id)
        return trace_out(record, await engine.lookup.spans(task_id), SYSTEM_CLOCK.now())


def trace_out(record: TaskRecord, kept: KeptTrace, now: datetime) -> TraceOut:
    """The trace of a task."""
    bars = waterfall(record, kept.spans)
    start = min(bar.start for bar in bars)
    live = not record.status.finished
    end = max([*(bar.end or bar.start for bar in bars), *([now] if live else [])])
    ref = record.trace.attempt or record.trace.creation
    return TraceOut(
        task_id=record.task_id,
        trace_id=record.trace_id,
        sampled=bool(ref.trace_flags & _SAMPLED) if ref.valid else None,
        start=start,
        duration=(end - start).total_seconds(),
        bars=[_bar_out(bar, start) for bar in bars],
        dropped=sum(spans.dropped for spans in kept.spans.values()),
        unreadable=kept.unreadable,
    )


def _bar_out(bar: Bar, start: datetime) -> BarOut:
    return BarOut(
        name=bar.name,
        kind=bar.kind,
        attempt=bar.attempt,
        depth=bar.depth,
        start=bar.start,
        offset=(bar.start - start).total_seconds(),
        duration=None if bar.end is None else (bar.end - bar.start).total_seconds(),
        span_id=bar.span_id,
        failed=bar.failed,
        error=bar.error,
        attributes=dict(bar.attributes),
    )
