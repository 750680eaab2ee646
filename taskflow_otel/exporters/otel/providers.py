"""Whether an OpenTelemetry provider does anything."""

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
    """`False` for the stand-ins that the API gives out until an SDK is set up, and for those that do nothing."""
    return not is_unset_global(provider) and not isinstance(provider, _NO_OPS)


class ProviderSlot(Generic[P]):
    """The provider that was injected, or else the global one from the moment it is set.

    Asking the API for the global one takes longer than all else that an exporter without an SDK does, so it is
    asked at most every 50 ms, by the time of what happens.
    """

    def __init__(self, injected: P | None, get_global: Callable[[], P]) -> None:
        self._get_global = get_global
        self.provider: P | None = injected if injected is not None and is_set(injected) else None
        """A provider that does something, once there is one."""
        self.look_again = _LONG_AGO if injected is None or self.provider is not None else NEVER
        """The moment before which nothing new is found."""

    def look(self, now: datetime) -> P | None:
        """The provider, looked for again if it is time to."""
        if self.provider is None and now >= self.look_again:
            self.look_again = now + _LOOK_INTERVAL
            provider = self._get_global()
            if is_set(provider):
                self.provider = provider
        return self.provider

    def dropped(self) -> int:
        """How much the provider made that was not exported, as far as `configure_telemetry` has set it up."""
        return dropped_by(self.provider)

    def force_flush(self, timeout: float) -> None:
        """Ask the SDK to export what it has buffered; blocks for up to `timeout` seconds."""
        flush = getattr(self.provider, "force_flush", None)
        if flush is not None:
            flush(int(timeout * 1000))
