"""The conformance suite, on every backend."""

from __future__ import annotations

import pytest

from taskflow_otel.testing.backends import BackendConformance
from tests.backends.conftest import FACTORIES


@pytest.mark.parametrize("backend_factory", sorted(FACTORIES), indirect=True)
class TestConformance(BackendConformance):
    """Every test of the suite, once for each backend."""
