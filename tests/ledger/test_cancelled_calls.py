"""A caller that is cancelled in the middle of a call gives its connection back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from taskflow_otel.backends import Backend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.backends.samples import finish, make_instance, make_task
from tests.backends.conftest import BackendFactory
from tests.waiting import eventually


async def write(backend: Backend) -> None:
    task = make_task()
    await backend.apply([Insert(task)])
    await backend.apply([Update(finish(task))])


CALLS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "read": lambda backend: backend.get("x"),
    "count": lambda backend: backend.counts(TaskQuery()),
    "write": write,
    "beat": lambda backend: backend.beat(make_instance("one")),
}


@pytest.fixture
async def backend(backend_factory: BackendFactory) -> AsyncIterator[Backend]:
    backend = backend_factory()
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_is_cancelled_at_any_point_gives_its_connection_back(backend: Backend, call: str) -> None:
    async def cancelled_after(turns: int) -> bool:
        """Whether the call was still under way after `turns` turns of the event loop."""
        pending = asyncio.ensure_future(CALLS[call](backend))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        return pending.cancelled()

    for turns in range(60):
        await asyncio.gather(*(cancelled_after(turns) for _ in range(2)))
    in_use = getattr(backend, "connections_in_use", lambda: 0)
    await eventually(lambda: in_use() == 0, "the return of every connection")
    await asyncio.wait_for(asyncio.gather(*(CALLS[call](backend) for _ in range(10))), 20)
