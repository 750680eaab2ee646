"""Backends that the tests of the SQL backends share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskflow_otel.backends import PostgresBackend, SqliteBackend


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(postgres_url)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "tasks.db")
    await backend.open()
    yield backend
    await backend.close()
