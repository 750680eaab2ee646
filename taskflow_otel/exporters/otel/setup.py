"""The OpenTelemetry SDK in one call: `configure_telemetry` (extra `otel`)."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fastapi import FastAPI
from opentelemetry import _logs, metrics, trace
from opentelemetry import context as otel_context

from taskflow_otel.compat.fastapi import untraced_paths
from taskflow_otel.compat.opentelemetry import is_instrumented, is_unset_global
from taskflow_otel.errors import ConfigurationError, MissingExtraError
from taskflow_otel.exporters.otel import bounded_export
from taskflow_otel.exporters.otel.bounded_export import BoundedExport, LastWait
from taskflow_otel.exporters.otel.tracing import TASK_ID_KEY

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

logger: logging.Logger = logging.getLogger("taskflow_otel.telemetry")

_PROTOCOLS = ("http/protobuf", "grpc")
_EXPORTERS = ("otlp", "console", "none")
_QUEUE_SIZE = 2048
_EXCLUDED, _EXCLUDED_EVERYWHERE = "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS"
_USUAL_UNTRACED = frozenset(f"/tasks/{name}" for name in ("metrics", "livez", "readyz", "health"))
"""What is not traced if `TaskAdmin` comes later, with its default path."""
_E = TypeVar("_E")


class _Provider(Protocol):
    def force_flush(self, timeout_millis: int = ...) -> Any: ...

    def shutdown(self) -> Any: ...


class ConfiguredTelemetry:
    """The result of `configure_telemetry`. The SDK shuts down by itself when the process exits."""

    def __init__(self, providers: Mapping[str, _Provider]) -> None:
        self._providers = dict(providers)

    def force_flush(self, timeout: float = 10.0) -> None:
        """Export what is buffered; blocks for up to `timeout` seconds for each signal."""
        for provider in self._providers.values():
            provider.force_flush(int(timeout * 1000))

    def shutdown(self) -> None:
        """Export what is buffered, and stop. Nothing is exported afterwards; a second call does nothing."""
        providers, self._providers = self._providers, {}
        for provider in providers.values():
            provider.shutdown()


_configured: ConfiguredTelemetry | None = None


def configure_telemetry(
    app: FastAPI,
    *,
    service_name: str,
    resource_attributes: Mapping[str, str] | None = None,
    log_correlation: bool = True,
) -> ConfiguredTelemetry:
    """Set up the OpenTelemetry SDK globally: traces, metrics and logs, exported as the environment variables say.

    `service_name` and `resource_attributes` describe the service; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`
    override them. Export uses OTLP and the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `_PROTOCOL`, `_HEADERS`,
    `_TIMEOUT`, each also per signal; `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER`: otlp,
    console, none); the default endpoint is `localhost`. A provider that is already set globally stays. Each request of
    `app` gets one span: from FastAPI's own telemetry if this version has it, else from its instrumentation. Requests
    for the metrics page and the probes of `TaskAdmin` get none; if the instrumentation makes the spans and `TaskAdmin`
    has another path than `/tasks`, create it first.

    A collector that is absent, slow, hung or refuses data does not affect the application. Up to
    `OTEL_BSP_MAX_QUEUE_SIZE` spans and `OTEL_BLRP_MAX_QUEUE_SIZE` log records wait for it (2,048 each). Further ones
    are dropped and counted in `taskflow_events_dropped_total`. One batch is tried every few seconds, and each kind of
    failure is logged once a minute.

    `log_correlation` puts `trace_id`, `span_id` and `task_id` on every record of the standard `logging`.

    A further call returns the result of the first one, and also instruments its `app`. Raises `MissingExtraError`
    without the SDK, and `ConfigurationError` for unknown values of environment variables.
    """
    global _configured
    if not service_name:
        raise ConfigurationError("service_name must not be empty: it names the service in every backend")
    if _configured is None:
        _configured = ConfiguredTelemetry(_set_up(service_name, resource_attributes or {}))
    if log_correlation:
        correlate_logs()
    _instrument(app)
    return _configured


def _set_up(service_name: str, attributes: Mapping[str, str]) -> dict[str, _Provider]:
    if find_spec("opentelemetry.sdk") is None:
        raise MissingExtraError("configure_telemetry", "otel")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    resource = make_resource(service_name, attributes)
    makers: dict[str, Callable[[Resource, LastWait], _Provider | None]] = {
        "traces": _tracer_provider,
        "metrics": _meter_provider,
        "logs": _logger_provider,
    }
    present = {
        "traces": trace.get_tracer_provider,
        "metrics": metrics.get_meter_provider,
        "logs": _logs.get_logger_provider,
    }
    providers: dict[str, _Provider] = {}
    last_wait = LastWait()
    for signal, make in makers.items():
        if not is_unset_global(present[signal]()):
            logger.info("the global provider of %s is already set and stays", signal)
            continue
        provider = make(resource, last_wait)
        if provider is not None:
            providers[signal] = provider
    return providers


def make_resource(service_name: str, attributes: Mapping[str, str]) -> Resource:
    """Describe this process to collectors; unless `service.instance.id` is given, each forked child has its own."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    from taskflow_otel.exporters.otel.resource import INSTANCE_ID, ProcessResource

    given = Resource({"service.name": service_name, **attributes})
    # The environment wins, so that an operator can rename a service. With Resource.create the argument would win.
    described = {**given.attributes, **OTELResourceDetector().detect().attributes}
    resource = Resource.create(described)
    return resource if INSTANCE_ID in described else ProcessResource(resource)


def _tracer_provider(resource: Resource, last_wait: LastWait) -> _Provider | None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    from taskflow_otel.exporters.otel.batching import BoundedSpanProcessor

    exporter = _exporter("traces", "trace_exporter", "OTLPSpanExporter", ConsoleSpanExporter)
    if exporter is None:
        return None
    provider = TracerProvider(resource=resource)
    bounded = BoundedExport("spans", _number("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SIZE), last_wait=last_wait)
    provider.add_span_processor(BoundedSpanProcessor(exporter, bounded))
    bounded_export.remember(provider, bounded)
    trace.set_tracer_provider(provider)
    return provider


def _meter_provider(resource: Resource, last_wait: LastWait) -> _Provider | None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

    from taskflow_otel.exporters.otel.batching import BoundedMetricReader

    exporter = _exporter("metrics", "metric_exporter", "OTLPMetricExporter", ConsoleMetricExporter)
    if exporter is None:
        return None
    lost = "wait for the next export, which has the same totals"
    bounded = BoundedExport("metrics", 1, lost=lost, last_wait=last_wait)
    provider = MeterProvider([BoundedMetricReader(exporter, bounded)], resource=resource)
    metrics.set_meter_provider(provider)
    return provider


def _logger_provider(resource: Resource, last_wait: LastWait) -> _Provider | None:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

    from taskflow_otel.exporters.otel.batching import BoundedLogProcessor

    exporter = _exporter("logs", "_log_exporter", "OTLPLogExporter", ConsoleLogRecordExporter)
    if exporter is None:
        return None
    provider = LoggerProvider(resource=resource)
    bounded = BoundedExport("log records", _number("OTEL_BLRP_MAX_QUEUE_SIZE", _QUEUE_SIZE), last_wait=last_wait)
    provider.add_log_record_processor(BoundedLogProcessor(exporter, bounded))
    bounded_export.remember(provider, bounded)
    _logs.set_logger_provider(provider)
    return provider


def _exporter(signal: str, module: str, otlp: str, console: Callable[[], _E]) -> _E | None:
    """The exporter of a signal, chosen by `OTEL_{SIGNAL}_EXPORTER` and the OTLP protocol variables."""
    kind = _variable(f"OTEL_{signal.upper()}_EXPORTER", _EXPORTERS, "otlp")
    if kind == "none":
        return None
    if kind == "console":
        return console()
    general = _variable("OTEL_EXPORTER_OTLP_PROTOCOL", _PROTOCOLS, "http/protobuf")
    protocol = _variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", _PROTOCOLS, general)
    package = "grpc" if protocol == "grpc" else "http"
    try:
        imported = __import__(f"opentelemetry.exporter.otlp.proto.{package}.{module}", fromlist=[otlp])
    except ImportError as exc:
        raise MissingExtraError(f"OTLP export by {protocol}", "otel") from exc
    exporter: _E = getattr(imported, otlp)()
    bounded_export.quieten(exporter)
    return exporter


def _variable(name: str, known: tuple[str, ...], default: str) -> str:
    value = os.environ.get(name, "").strip() or default
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip() or str(default)
    if not value.isdecimal() or int(value) == 0:
        raise ConfigurationError(f"{name} must be a whole number above 0, not {value!r}")
    return int(value)


def _instrument(app: FastAPI) -> None:
    if is_instrumented(app):
        return
    try:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    except ImportError as exc:
        raise MissingExtraError("the instrumentation of FastAPI", "otel") from exc
    own = [re.escape(path) + "$" for path in sorted(untraced_paths(app) or _USUAL_UNTRACED)]
    # What is given here replaces what the environment says.
    chosen = os.environ.get(_EXCLUDED, os.environ.get(_EXCLUDED_EVERYWHERE, ""))
    FastAPIInstrumentor.instrument_app(app, excluded_urls=",".join(filter(None, [*own, chosen])))


def correlate_logs() -> None:
    """Put `trace_id`, `span_id` and `task_id` on every record of the standard `logging`; empty outside spans and tasks.

    Not through the record factory: with it, `extra={"task_id": …}` in other code would raise a `KeyError`.
    """
    make_record = logging.Logger.makeRecord
    if getattr(make_record, "correlates_tasks", False):
        return

    @functools.wraps(make_record)
    def correlated(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(self, *args, **kwargs)
        span = trace.get_current_span().get_span_context()
        valid = span.is_valid
        fields = record.__dict__
        fields.setdefault("trace_id", trace.format_trace_id(span.trace_id) if valid else "")
        fields.setdefault("span_id", trace.format_span_id(span.span_id) if valid else "")
        fields.setdefault("task_id", otel_context.get_value(TASK_ID_KEY) or "")
        return record

    correlated.__dict__["correlates_tasks"] = True
    logging.Logger.makeRecord = correlated  # type: ignore[method-assign]  # the one place that sees every record
