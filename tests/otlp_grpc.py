"""An OTLP/gRPC receiver inside the test process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.otlp import Received


class OtlpGrpcReceiver(Received):
    """Use as a context manager."""

    protocol = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(4))
        for signal, request, response, take in (
            ("trace.v1.Trace", ExportTraceServiceRequest, ExportTraceServiceResponse, self.take_traces),
            ("logs.v1.Logs", ExportLogsServiceRequest, ExportLogsServiceResponse, self.take_logs),
            ("metrics.v1.Metrics", ExportMetricsServiceRequest, ExportMetricsServiceResponse, self.take_metrics),
        ):
            handler = grpc.unary_unary_rpc_method_handler(
                _answering(take, response), request.FromString, response.SerializeToString
            )
            service = f"opentelemetry.proto.collector.{signal}Service"
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": handler})])
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.stop(grace=None).wait()


def _answering(take: Callable[[Any], None], response: Callable[[], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
    def export(request: Any, _: grpc.ServicerContext) -> Any:
        take(request)
        return response()

    return export
