"""Whether an OpenTelemetry provider has an effect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from opentelemetry import metrics, trace
from opentelemetry._logs import NoOpLoggerProvider

from taskflow_otel.compat.opentelemetry import is_unset_global
from taskflow_otel.exporters.otel.bounded_export import dropped_by

P = TypeVar("P")

_LONG_AGO, NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

_LOOK_INTERVAL = timedelta(milliseconds=50)
_NO_OPS = (trace.NoOpTracerProvider, metrics.NoOpMeterProvider, NoOpLoggerProvider)


def is_set(provider: object) -> bool:
    """`False` for the placeholders that the API returns until an SDK is set up, and for no-op providers."""
    return not is_unset_global(provider) and not isinstance(provider, _NO_OPS)


class ProviderSlot(Generic[P]):
    """The injected provider, or the global one once it is set.

    The API call for the global provider takes longer than everything else that an exporter does without an SDK. So it
    is made at most every 50 ms, by the timestamps of events.
    """

    def __init__(self, injected: P | None, get_global: Callable[[], P]) -> None:
        self._get_global = get_global
        self.provider: P | None = injected if injected is not None and is_set(injected) else None
        """The effective provider, once there is one."""
        self.look_again: datetime = _LONG_AGO if injected is None or self.provider is not None else NEVER
        """The time of the next look."""

    def look(self, now: datetime) -> P | None:
        """The provider, after a new look if it is time for one."""
        if self.provider is None and now >= self.look_again:
            self.look_again = now + _LOOK_INTERVAL
            provider = self._get_global()
            if is_set(provider):
                self.provider = provider
        return self.provider

    def dropped(self) -> int:
        """How many items of the provider were not exported; 0 unless `configure_telemetry` set the provider up."""
        return dropped_by(self.provider)

    def force_flush(self, timeout: float) -> None:
        """Ask the SDK to export what it has buffered; blocks for up to `timeout` seconds."""
        flush = getattr(self.provider, "force_flush", None)
        if flush is not None:
            flush(int(timeout * 1000))
