"""Backends that the tests of the SQL backends share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskflow_otel.backends import PostgresBackend


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(postgres_url)
    await backend.open()
    yield backend
    await backend.close()
