"""The conformance suite, on every backend."""

from __future__ import annotations

import pytest

from taskflow_otel.backends import Backend
from taskflow_otel.backends.admin import KeepsAudit, KeepsOperations
from taskflow_otel.backends.spans import KeepsSpans
from taskflow_otel.testing.backends import BackendConformance
from tests.backends.conftest import FACTORIES


@pytest.mark.parametrize("backend_factory", sorted(FACTORIES), indirect=True)
class TestConformance(BackendConformance):
    """Every test of the suite, once for each backend."""

    async def test_it_stores_the_audit_and_bulk_operations(self, backend: Backend) -> None:
        # Optional for a backend of someone else, whose tests of these are skipped then.
        assert isinstance(backend, KeepsAudit)
        assert isinstance(backend, KeepsOperations)
        assert isinstance(backend, KeepsSpans)
