"""The user's telemetry settings: `Telemetry`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry._logs import LoggerProvider
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.otel.tracing import PROPAGATIONS, Propagation
from taskflow_otel.exporters.prometheus.buckets import resolve_buckets
from taskflow_otel.exporters.prometheus.exporter import DEFAULT_MAX_LABEL_VALUES
from taskflow_otel.model.options import flag, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Providers, propagation and metric settings of one `TaskManager`; raises `ConfigurationError` for wrong values.

    A provider of `None` means the global one of the OpenTelemetry API, even if it is set later.
    """

    tracer_provider: TracerProvider | None = None
    logger_provider: LoggerProvider | None = None
    meter_provider: MeterProvider | None = None
    registry: CollectorRegistry | None = None
    """Where the Prometheus metrics are registered; `None`: in the manager's own registry."""
    propagation: Propagation = "auto"
    """The parent of an attempt's span: see `taskflow_otel.exporters.otel.tracing.TracingExporter`."""
    metrics_target: str | None = None
    """The name of what Prometheus scrapes, shared by the processes that answer for each other. Default: the environment
    variable `TASKFLOW_METRICS_TARGET`, else the host and the listening socket. See `docs/metrics.md`."""
    max_label_values: int = DEFAULT_MAX_LABEL_VALUES
    """How many task names, queues and error types are shown by name; further ones count as `_other`."""
    buckets: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Upper bounds in seconds by histogram name, instead of the defaults."""
    keep_spans: bool = True
    """Keep the spans inside each attempt with its outcome, for its page: up to 200, those that failed and the longest
    first. They come from the tracer provider, if it is one of the SDK, and are deleted with the task. See
    `docs/telemetry.md`."""
    span_attributes: Sequence[str] = ()
    """Names of attributes that are kept of these spans beside the usual ones, which hold no data of users. For example
    `("db.query.text", "db.statement")` for the text of SQL statements."""

    def __post_init__(self) -> None:
        if self.propagation not in PROPAGATIONS:
            raise ConfigurationError(f"propagation must be one of {', '.join(PROPAGATIONS)}, not {self.propagation!r}")
        if self.metrics_target is not None and not (
            isinstance(self.metrics_target, str) and self.metrics_target.strip()
        ):
            raise ConfigurationError(f"metrics_target must be a name, not {self.metrics_target!r}")
        whole("max_label_values", self.max_label_values, minimum=1)
        resolve_buckets(self.buckets)
        flag("keep_spans", self.keep_spans)
        if isinstance(self.span_attributes, str) or not all(isinstance(one, str) for one in self.span_attributes):
            raise ConfigurationError(f"span_attributes must be names, not {self.span_attributes!r}")
        for name, kind in (
            ("tracer_provider", TracerProvider),
            ("logger_provider", LoggerProvider),
            ("meter_provider", MeterProvider),
            ("registry", CollectorRegistry),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ConfigurationError(f"{name} must be a {kind.__name__}, not {value!r}")
