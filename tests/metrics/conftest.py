"""A clock and a backend that the test controls."""

from __future__ import annotations

import pytest

from taskflow_otel.testing.clock import FakeClock
from tests.metrics.worker import Unsteady


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backend() -> Unsteady:
    return Unsteady()
