"""PostgreSQL: the encoding of texts; pgbouncer in transaction mode, where transactions of one client run in different
sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import PostgresBackend
from taskflow_otel.errors import BackendUnavailableError, ConfigurationError
from tests.managers import finish, started
from tests.servers import PgBouncerServer, PostgresServer

Step = Callable[[int], Awaitable[None]]


def manager(url: str, ran: list[int]) -> tuple[TaskManager, Step]:
    made = TaskManager(snapshot_backend=PostgresBackend(url), lease_seconds=6.0)

    @made.task(persist=True, requeue_on_interrupt=True)
    async def step(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0.01)

    return made, step


@pytest.mark.parametrize("restart", ["stop", "kill"])
async def test_every_acknowledged_task_ends_although_the_pooler_and_the_process_restart(
    pgbouncer_server: PgBouncerServer, pgbouncer_url: str, restart: str
) -> None:
    ran: list[int] = []
    acknowledged: dict[int, str] = {}

    async def send(over: TaskManager, step: Step, number: int) -> None:
        # What is not acknowledged, because the pooler was away for too long, may be lost.
        with suppress(BackendUnavailableError):
            acknowledged[number] = await over.enqueue(step, number)

    for life in range(3):
        over, step = manager(pgbouncer_url, ran)
        async with started(over):
            burst = [asyncio.create_task(send(over, step, 100 * life + place)) for place in range(100)]
            await asyncio.wait(burst, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(getattr(pgbouncer_server, restart))
            await asyncio.to_thread(pgbouncer_server.start)
            await asyncio.gather(*burst)
    over, _ = manager(pgbouncer_url, ran)
    async with started(over):
        for number, task_id in acknowledged.items():
            assert (await finish(over, task_id)).status is TaskStatus.SUCCESS, number
    assert len(acknowledged) >= 200
    assert set(ran) >= set(acknowledged)


@pytest.mark.parametrize("said_by", ["the environment", "the database"])
async def test_every_text_is_stored_whatever_encoding_a_client_is_said_to_have(
    postgres_server: PostgresServer, postgres_url: str, said_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said_by == "the environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    else:
        name = postgres_url.rpartition("/")[2]
        postgres_server.execute(f"ALTER DATABASE {name} SET client_encoding = 'WIN1252'")
    backend = PostgresBackend(postgres_url)
    await backend.open()
    try:
        for text in ("naïve", "\N{SNOWMAN}", "\U0010ffff"):
            await backend.put_setting("text", text)
            assert await backend.settings("text") == {"text": text}
    finally:
        await backend.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_store_every_text_is_refused_at_the_start(
    postgres_server: PostgresServer, encoding: str
) -> None:
    postgres_server.start()
    name = f"with_{encoding.lower()}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    url = postgres_server.url.rpartition("/")[0] + f"/{name}"
    with pytest.raises(ConfigurationError, match=f"encoding {encoding}.*ENCODING 'UTF8'"):
        await PostgresBackend(url).open()
