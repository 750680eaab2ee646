"""A clock and a backend that the test controls."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from taskflow_otel.testing.clock import FakeClock
from tests.metrics.worker import Unsteady


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files by which workers answer for each other to the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backend() -> Unsteady:
    return Unsteady()
