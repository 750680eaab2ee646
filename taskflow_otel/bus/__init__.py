"""Delivers events: each exporter and observer gets every transition and log entry once."""

from __future__ import annotations

from taskflow_otel.bus.bus import ObserverBus
from taskflow_otel.bus.contracts import Event, Exporter, TaskObserver

__all__ = ["Event", "Exporter", "ObserverBus", "TaskObserver"]
