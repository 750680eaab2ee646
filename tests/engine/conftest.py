"""A manager that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskflow_otel import (
    TaskManager,
)
from tests.managers import started


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with started(TaskManager()) as running:
        yield running
