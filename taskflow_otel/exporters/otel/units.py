"""The units of the metrics in OpenTelemetry."""

from __future__ import annotations

from taskflow_otel.exporters import signals
from taskflow_otel.exporters.specs import MetricSpec, MetricType

_COUNTED = {
    signals.TASK_ATTEMPTS.name: "attempt",
    signals.TASK_RETRIES.name: "retry",
    signals.TASK_EXCEPTIONS.name: "exception",
    signals.TASKS_RUNNING.name: "attempt",
    signals.SLO_OBJECTIVE.name: "share",
    signals.FENCED_WRITES.name: "write",
    signals.LABEL_OVERFLOW.name: "observation",
    signals.BACKEND_UP.name: "backend",
    signals.QUEUE_PAUSED.name: "queue",
    signals.INSTANCES.name: "instance",
    signals.EXECUTOR_SLOTS.name: "slot",
    signals.TASKS_STUCK.name: "attempt",
    signals.EVENTS_DROPPED.name: "event",
    signals.EXPORTER_ERRORS.name: "event",
    signals.SCHEDULE_MISSED.name: "firing",
    signals.SCHEDULE_ERRORS.name: "error",
}
"""What a metric without a unit counts, if it is not tasks."""


def otel_unit(spec: MetricSpec) -> str:
    """The unit of a metric (UCUM). Exporters to Prometheus drop what is in braces; `1` would make it a ratio."""
    if spec.type is MetricType.INFO:
        return ""
    return "s" if spec.unit == "seconds" else f"{{{_COUNTED.get(spec.name, 'task')}}}"
