"""The applications of the tests of the API, with clients of the library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskflow_otel.client import AsyncClient
from tests.web.conftest import app_of, engine, serving

__all__ = ["app_of", "engine", "serving"]

ClientOf = Callable[..., AsyncClient]


@pytest.fixture
async def client_of(app_of: Callable[..., FastAPI]) -> AsyncIterator[ClientOf]:  # a fixture
    """Clients of applications in this process."""
    opened: list[httpx.AsyncClient] = []

    def connect(*, login: tuple[str, str] | None = None, token: str | None = None, **options: Any) -> AsyncClient:
        transport = httpx.ASGITransport(app_of(**options), raise_app_exceptions=False)
        opened.append(httpx.AsyncClient(transport=transport))
        return AsyncClient("http://test/tasks", auth=login, token=token, http=opened[-1])

    yield connect
    for one in opened:
        await one.aclose()


@pytest.fixture
def client(client_of: ClientOf) -> AsyncClient:
    """A client of an open application."""
    return client_of()
