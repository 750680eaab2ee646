"""The conformance suite of backends: the contract of `taskflow_otel.backends.base` as tests.

The author of a backend runs it like this (pytest and pytest-asyncio are needed)::

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def backend_factory(self, tmp_path):
            return lambda: MyBackend(tmp_path / "tasks")

Each call of the factory makes a backend, not yet opened, on the same storage. The storage is empty when a test begins.
A backend in memory may return the same object every time, if the object keeps its content after `close`.
"""

from __future__ import annotations

from taskflow_otel.testing.backends.admin import AdminConformance
from taskflow_otel.testing.backends.failures import FailureConformance
from taskflow_otel.testing.backends.figures import FigureConformance
from taskflow_otel.testing.backends.fleet import FleetConformance
from taskflow_otel.testing.backends.pool import PoolConformance
from taskflow_otel.testing.backends.spans import SpanConformance
from taskflow_otel.testing.backends.tasks import TaskConformance

__all__ = [
    "AdminConformance",
    "BackendConformance",
    "FailureConformance",
    "FigureConformance",
    "FleetConformance",
    "PoolConformance",
    "SpanConformance",
    "TaskConformance",
]


class BackendConformance(
    TaskConformance,
    FleetConformance,
    AdminConformance,
    FigureConformance,
    FailureConformance,
    PoolConformance,
    SpanConformance,
):
    """The whole suite. Inherit from it, and define the fixture `backend_factory`."""
