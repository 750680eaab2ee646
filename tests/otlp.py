"""OTLP receivers inside the test process: they keep every span and log record that real exporters send."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One exported span; ids are lower-case hexadecimal, times Unix nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    """Ids of the linked spans."""
    error: bool
    start: int
    end: int
    service: str
    attributes: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ReceivedLog:
    """One exported log record."""

    event_name: str
    severity: str
    body: Any
    trace_id: str
    span_id: str
    attributes: dict[str, Any] = field(hash=False)


class Received:
    """What came in, in the order in which it came."""

    protocol = ""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.logs: list[ReceivedLog] = []
        self.metric_names: set[str] = set()
        self.messages: list[dict[str, Any]] = []
        """The exports, as JSON data of OTLP."""

    @property
    def url(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` wants."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, *exc_info: object) -> None:
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables with which a process exports here, soon after a span has ended."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BLRP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    def named(self, name: str) -> list[ReceivedSpan]:
        """The spans of one name, in the order of their starts."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start)

    def ancestors(self, span: ReceivedSpan) -> list[ReceivedSpan]:
        """The parent of a span, its parent, and so on to the root, as far as they were received."""
        by_id = {known.span_id: known for known in self.spans}
        chain: list[ReceivedSpan] = []
        while span.parent_id in by_id:
            span = by_id[span.parent_id]
            chain.append(span)
        return chain

    def write(self, path: Path, *parts: str) -> Path:
        """Write the exports of some kinds (`resourceSpans`, ...) as the collector's `file` exporter does."""
        chosen = [message for message in list(self.messages) if any(part in message for part in parts)]
        path.write_text("".join(f"{json.dumps(message)}\n" for message in chosen), encoding="utf-8")
        return path

    def take(self, path: str, body: bytes) -> None:
        """Keep the content of one export request; `path` is that of OTLP/HTTP."""
        if path == "/v1/traces":
            self.take_traces(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/logs":
            self.take_logs(ExportLogsServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self.take_metrics(ExportMetricsServiceRequest.FromString(body))

    def take_traces(self, request: ExportTraceServiceRequest) -> None:
        """Keep spans."""
        self.messages.append(_as_json(request))
        for traces in request.resource_spans:
            service = str(_plain(traces.resource.attributes).get("service.name", ""))
            self.spans += [_span(span, service) for scope in traces.scope_spans for span in scope.spans]

    def take_logs(self, request: ExportLogsServiceRequest) -> None:
        """Keep log records."""
        self.messages.append(_as_json(request))
        for logs in request.resource_logs:
            self.logs += [
                ReceivedLog(
                    record.event_name,
                    record.severity_text,
                    _value(record.body),
                    record.trace_id.hex(),
                    record.span_id.hex(),
                    _plain(record.attributes),
                )
                for scope in logs.scope_logs
                for record in scope.log_records
            ]

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Keep the names of metrics."""
        self.messages.append(_as_json(request))
        for metrics in request.resource_metrics:
            self.metric_names |= {metric.name for scope in metrics.scope_metrics for metric in scope.metrics}


class OtlpReceiver(Received):
    """OTLP/HTTP. Use as a context manager; `url` is what `OTEL_EXPORTER_OTLP_ENDPOINT` wants."""

    protocol = "http/protobuf"

    def __init__(self) -> None:
        super().__init__()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp-receiver")

    @property
    def url(self) -> str:
        """The base endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening: from now on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _span(span: Span, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple(link.span_id.hex() for link in span.links),
        error=span.status.code == Status.STATUS_CODE_ERROR,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        service=service,
        attributes=_plain(span.attributes),
    )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    return None if which is None else getattr(value, which)


def _as_json(message: Message) -> dict[str, Any]:
    """As OTLP writes it in JSON: ids in hexadecimal, where protobuf's own mapping takes base64."""
    data: dict[str, Any] = MessageToDict(message)
    _ids_to_hex(data)
    return data


def _ids_to_hex(data: Any) -> None:
    if isinstance(data, list):
        for item in data:
            _ids_to_hex(item)
    elif isinstance(data, dict):
        for key, value in data.items():
            if key in {"traceId", "spanId", "parentSpanId"}:
                data[key] = base64.b64decode(value).hex()
            else:
                _ids_to_hex(value)
