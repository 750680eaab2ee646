"""Managers over shared storage, on every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.backends.conftest import FACTORIES, BackendFactory
from tests.ledger.fleet import Fleet


@pytest.fixture(params=sorted(FACTORIES))
def backend_factory(request: pytest.FixtureRequest) -> BackendFactory:
    """Makes unopened backends on one storage; a test is run once for each kind."""
    kind: str = request.param
    return FACTORIES[kind](request)


@pytest.fixture
async def fleet(backend_factory: BackendFactory) -> AsyncIterator[Fleet]:
    """Makes managers that share the storage of this test."""
    async with Fleet(backend_factory) as fleet:
        yield fleet
