"""Who hears of a change: every transition and log entry is delivered once to each exporter and observer."""

from __future__ import annotations

from taskflow_otel.bus.bus import ObserverBus
from taskflow_otel.bus.contracts import Event, Exporter, TaskObserver

__all__ = ["Event", "Exporter", "ObserverBus", "TaskObserver"]
