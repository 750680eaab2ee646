"""Celery, or the error that names the extra which installs it. All of this room imports Celery from here."""

from __future__ import annotations

from taskflow_otel.errors import MissingExtraError

try:
    import celery
    from celery import exceptions, signals
except ImportError as _error:
    raise MissingExtraError("taskflow_otel.celery", "celery") from _error

__all__ = ["celery", "exceptions", "signals"]
