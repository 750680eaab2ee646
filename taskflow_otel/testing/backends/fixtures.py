"""The fixtures of every part of the suite: backends that are open, and are closed properly at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from taskflow_otel.backends.base import Applied, Backend, Outcome

APPLIED, STALE = Applied(Outcome.APPLIED), Applied(Outcome.STALE)

Open = Callable[[], Awaitable[Backend]]


class BackendFixtures:
    """Needs a fixture `backend_factory`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def open_backend(self, backend_factory: Callable[[], Backend]) -> AsyncIterator[Open]:
        """Open further backends on the storage of this test. Each must end with no connection in use."""
        opened: list[Backend] = []

        async def open_one() -> Backend:
            backend = backend_factory()
            await backend.open()
            opened.append(backend)
            return backend

        yield open_one
        for backend in opened:
            in_use = getattr(backend, "connections_in_use", lambda: 0)
            assert in_use() == 0
            await backend.close()
            await backend.close()

    @pytest_asyncio.fixture
    async def backend(self, open_backend: Open) -> Backend:
        """A backend that is open."""
        return await open_backend()
