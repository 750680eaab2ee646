"""The conformance suite of backends: what the contract in `taskflow_otel.backends.base` means, as tests.

An author of a backend runs it like this (pytest and pytest-asyncio needed)::

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def backend_factory(self, tmp_path):
            return lambda: MyBackend(tmp_path / "tasks")

Each call of the factory makes a backend, not yet opened, on the same storage; the storage is empty when a test
begins. A backend in memory may return one object every time, if that keeps its content when closed.
"""

from __future__ import annotations

from taskflow_otel.testing.backends.fleet import FleetConformance
from taskflow_otel.testing.backends.tasks import TaskConformance

__all__ = ["BackendConformance", "FleetConformance", "TaskConformance"]


class BackendConformance(TaskConformance, FleetConformance):
    """The whole suite. Inherit from this, and give it a fixture `backend_factory`."""
