"""Celery as the engine: its workers run tasks (`pip install 'taskflow-otel[celery]'`)."""

from taskflow_otel.celery.install import install

__all__ = ["install"]
