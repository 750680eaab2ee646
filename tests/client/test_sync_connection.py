"""The connection of the synchronous client reads the live stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing

from fastapi import FastAPI

from taskflow_otel.client import Client
from tests.web.conftest import Served
from tests.web.house import House, make_record


async def test_the_client_without_asyncio_reads_and_continues_the_live_stream_too(
    app_of: Callable[..., FastAPI],
    engine: House,
    serving: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with serving(app_of()) as served:
        with Client(f"{served.url}/tasks") as client:
            with closing(client.get_events()) as events:
                begin = await asyncio.to_thread(next, events)
                assert (begin.kind, begin.data) == ("begin", {})
                records = [engine.put(make_record()) for _ in range(2)]
                found = [await asyncio.to_thread(next, events) for _ in records]
                assert [event.data["task_id"] for event in found] == [record.task_id for record in records]
                assert {event.kind for event in found} == {"task"}
            with closing(client.get_events(after=found[0].id)) as events:
                assert (await asyncio.to_thread(next, events)).data["task_id"] == records[1].task_id
