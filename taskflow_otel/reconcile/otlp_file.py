"""Spans, log records and metrics in files of OTLP/JSON, as the collector's `file` exporter writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import keys, signals
from taskflow_otel.reconcile.totals import OTEL_SAMPLES, Labels, Totals, added_up, in_order

_EVENT_PREFIX = "taskflow.task."


@dataclass(frozen=True, slots=True)
class ExportedSpan:
    """One span; ids are lower-case hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    error: bool
    started_at: datetime
    attributes: Mapping[str, Any]

    @property
    def operation(self) -> str:
        """`send` or `process`."""
        return str(self.attributes.get(keys.MESSAGING_OPERATION_NAME, ""))


@dataclass(frozen=True, slots=True)
class ExportedLog:
    """One log record."""

    event_name: str
    trace_id: str
    span_id: str
    logged_at: datetime
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Exported:
    """Exported spans and log records, by task id, and the counters."""

    spans: dict[str, list[ExportedSpan]] = field(default_factory=dict)
    logs: dict[str, list[ExportedLog]] = field(default_factory=dict)
    _points: dict[tuple[str, ...], tuple[int, str, Labels, float]] = field(default_factory=dict)
    """The latest point of each stream of a counter: its time, sample, labels and value."""
    has_spans: bool = False
    """Whether any span was exported: only then is a missing span a difference. `has_logs`: the same for log records."""
    has_logs: bool = False
    has_metrics: bool = False

    def add(self, message: Mapping[str, Any]) -> None:
        """Add one export request: `resourceSpans`, `resourceLogs`, `resourceMetrics`."""
        for resource in message.get("resourceSpans", ()):
            for scope in resource.get("scopeSpans", ()):
                if scope.get("scope", {}).get("name") == signals.SCOPE:
                    self._add_spans(scope.get("spans", ()))
        for resource in message.get("resourceLogs", ()):
            for scope in resource.get("scopeLogs", ()):
                if scope.get("scope", {}).get("name") == signals.SCOPE:
                    self._add_logs(scope.get("logRecords", ()))
        for resource in message.get("resourceMetrics", ()):
            source = json.dumps(resource.get("resource", {}), sort_keys=True)
            for scope in resource.get("scopeMetrics", ()):
                if scope.get("scope", {}).get("name") == signals.SCOPE:
                    for metric in scope.get("metrics", ()):
                        self._add_metric(source, metric)

    def totals(self) -> Totals:
        """The counters of all processes, added up: the last value that each has exported."""
        return added_up((sample, labels, value) for _, sample, labels, value in self._points.values())

    def _add_metric(self, source: str, metric: Mapping[str, Any]) -> None:
        known = OTEL_SAMPLES.get(metric["name"])
        if known is None:
            return
        self.has_metrics = True
        sample, _ = known
        for kind in ("sum", "histogram"):
            data = metric.get(kind, {})
            delta = data.get("aggregationTemporality") in {1, "AGGREGATION_TEMPORALITY_DELTA"}
            for point in data.get("dataPoints", ()):
                at = int(point["timeUnixNano"])
                labels = in_order(sample, _attributes(point))
                value = float(point.get("count", point.get("asInt", point.get("asDouble", 0))))
                # A process that starts again counts from zero, in a stream with a start of its own.
                start = str(at if delta else point.get("startTimeUnixNano", ""))
                key = source, start, sample, *labels
                if key not in self._points or self._points[key][0] <= at:
                    self._points[key] = at, sample, labels, value

    def _add_spans(self, spans: Iterable[Mapping[str, Any]]) -> None:
        for data in spans:
            self.has_spans = True
            span = ExportedSpan(
                data["name"],
                data["traceId"].lower(),
                data["spanId"].lower(),
                data.get("parentSpanId", "").lower(),
                tuple(link["spanId"].lower() for link in data.get("links", ())),
                data.get("status", {}).get("code") in {2, "STATUS_CODE_ERROR"},
                _moment(data["startTimeUnixNano"]),
                _attributes(data),
            )
            self.spans.setdefault(str(span.attributes.get(keys.MESSAGING_MESSAGE_ID)), []).append(span)

    def _add_logs(self, records: Iterable[Mapping[str, Any]]) -> None:
        for data in records:
            if not data.get("eventName", "").startswith(_EVENT_PREFIX):
                continue
            self.has_logs = True
            log = ExportedLog(
                data["eventName"],
                data.get("traceId", "").lower(),
                data.get("spanId", "").lower(),
                _moment(data["timeUnixNano"]),
                _attributes(data),
            )
            self.logs.setdefault(str(log.attributes.get(keys.MESSAGING_MESSAGE_ID)), []).append(log)


def read_exports(paths: Iterable[Path]) -> Exported:
    """Read files with one export request per line.

    Raises `ConfigurationError` for a file that cannot be read, or that holds something else.
    """
    exported = Exported()
    for path in paths:
        for number, message in _lines(path):
            try:
                exported.add(message)
            except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError) as exc:
                raise ConfigurationError(f"{path}, line {number}, is not an OTLP export in JSON: {exc!r}") from exc
    return exported


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{path} cannot be read as OTLP in JSON, one export per line: {exc}") from exc


def _moment(nanoseconds: str | int) -> datetime:
    return datetime.fromtimestamp(int(nanoseconds) / 1_000_000_000, UTC)


def _attributes(data: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in data.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, content in value.items():
        # Protobuf's JSON mapping writes 64-bit integers as strings.
        return int(content) if kind == "intValue" else content
    return None
