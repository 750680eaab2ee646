"""Two real server processes on one backend: each shows, streams and cancels what the other one runs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.procs import AppProcess
from tests.servers import Server
from tests.waiting import eventually

KEYS = 200
CLIENTS = 20
BACKENDS = ["sqlite", "postgres", "mysql", "redis"]


class Pair:
    """Two processes of `tests.ledger.app`."""

    def __init__(self, backend: str, url: str, directory: Path) -> None:
        self.notes_path = directory / "notes.txt"
        env = {"LEDGER_BACKEND": backend, "LEDGER_URL": url, "LEDGER_NOTES": str(self.notes_path)}
        homes = [directory / name for name in ("one", "other")]
        for home in homes:
            home.mkdir()
        self.processes = [AppProcess("tests.ledger.app:app", home, env=env) for home in homes]

    @property
    def notes(self) -> list[str]:
        return self.notes_path.read_text().splitlines() if self.notes_path.exists() else []

    def start(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(AppProcess.start, self.processes))

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[list[httpx.AsyncClient]]:
        one, other = (httpx.AsyncClient(base_url=process.url, timeout=30) for process in self.processes)
        async with one, other:
            yield [one, other]


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    backend: str = request.param
    directory = tmp_path_factory.mktemp(backend)
    if backend == "sqlite":
        url = str(directory / "tasks.db")
    else:
        server: Server = request.getfixturevalue("mariadb_server" if backend == "mysql" else f"{backend}_server")
        url = server.fresh_url()
    pair = Pair(backend, url, directory)
    try:
        pair.start()
        yield pair
    finally:
        for process in pair.processes:
            process.kill()


async def instance_of(client: httpx.AsyncClient) -> str:
    return str((await client.get("/tasks/health")).json()["instance"])


async def start(client: httpx.AsyncClient, kind: str, name: str) -> str:
    answer = await client.post(f"/start/{kind}/{name}")
    assert answer.status_code == 200, answer.text
    return str(answer.json())


async def seen(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    """The task as this process lists it; empty while it does not."""
    listed = (await client.get("/tasks", params={"limit": 50})).json()
    return next((task for task in listed if task["task_id"] == task_id), {})


@pytest.mark.parametrize("kind", ["kept", "passing"])
async def test_each_process_lists_what_the_other_one_runs(pair: Pair, kind: str) -> None:
    name = f"listed {kind}"
    async with pair.clients() as (one, other):
        task_id = await start(one, kind, name)

        async def running() -> bool:
            return (await seen(other, task_id)).get("status") == "running"

        await eventually(running, "the other process to list the task as running")
        assert (await seen(other, task_id))["instance"] == await instance_of(one) != await instance_of(other)
        await one.post(f"/open/{name}")

        async def finished() -> bool:
            return (await seen(other, task_id)).get("status") == "success"

        await eventually(finished, "the other process to list the task as finished")


@pytest.mark.parametrize("kind", ["kept", "passing"])
async def test_each_process_streams_what_happens_in_the_other_one(pair: Pair, kind: str) -> None:
    name = f"streamed {kind}"
    deltas: list[dict[str, Any]] = []
    begun = asyncio.Event()

    async def follow(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/tasks/events", timeout=None) as stream:
            async for line in stream.aiter_lines():
                begun.set()
                if line.startswith("data: "):
                    deltas.append(json.loads(line.removeprefix("data: ")))

    async with pair.clients() as (one, other):
        following = asyncio.create_task(follow(other))
        try:
            await asyncio.wait_for(begun.wait(), 30)
            task_id = await start(one, kind, name)

            def told(status: str) -> bool:
                return any(delta.get("task_id") == task_id and delta.get("status") == status for delta in deltas)

            await eventually(lambda: told("running"), "the stream to tell that the task runs")
            await one.post(f"/open/{name}")
            await eventually(lambda: told("success"), "the stream to tell that the task has finished")
            instances = {delta["instance"] for delta in deltas if delta.get("task_id") == task_id}
            assert instances == {await instance_of(one)}
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("kind", ["kept", "passing"])
async def test_a_cancellation_reaches_the_process_that_runs_the_task(pair: Pair, kind: str) -> None:
    name = f"stopped {kind}"
    async with pair.clients() as (one, other):
        task_id = await start(one, kind, name)
        sibling = await start(one, kind, f"{name}, sibling")

        async def running() -> bool:
            return [(await seen(other, each)).get("status") for each in (task_id, sibling)] == ["running"] * 2

        await eventually(running, "the other process to know the tasks")
        answer = await other.post(f"/tasks/{task_id}/cancel")
        assert answer.status_code == 202, answer.text

        async def cancelled() -> bool:
            return all([(await seen(client, task_id))["status"] == "cancelled" for client in (one, other)])

        await eventually(cancelled, "the cancellation")
        assert [note for note in pair.notes if name in note] == [f"cancelled {name}"]
        assert (await seen(one, sibling))["status"] == "running"
        await one.post(f"/open/{name}, sibling")


# On the other backends the same is shown without HTTP, in test_idempotency.
@pytest.mark.parametrize("pair", ["postgres"], indirect=True)
async def test_of_two_requests_with_one_key_at_the_same_moment_exactly_one_task_runs(pair: Pair) -> None:
    answered: list[tuple[str, str]] = []
    async with pair.clients() as clients:

        async def post(client: httpx.AsyncClient, keys: Iterator[int]) -> None:
            for key in keys:
                answer = await client.post(f"/once/{key}")
                assert answer.status_code == 200, answer.text
                answered.append((str(key), answer.json()))

        # Both processes get the keys in the same order at the same time.
        queues = [iter(range(KEYS)) for _ in clients]
        await asyncio.gather(
            *(post(client, keys) for client, keys in zip(clients, queues, strict=True) for _ in range(CLIENTS))
        )
        assert len(answered) == 2 * KEYS

        async def idle() -> bool:
            stats = (await clients[0].get("/tasks/stats", params={"func_name": "once"})).json()
            return bool(stats["pending"] + stats["running"] == 0 and stats["success"] == KEYS)

        await eventually(idle, "the end of every task")
        ran = Counter(note.removeprefix("once ") for note in pair.notes if note.startswith("once "))
        assert ran == Counter(str(key) for key in range(KEYS))

        tasks: dict[str, dict[str, Any]] = {}
        params: dict[str, Any] = {"func_name": "once", "limit": 500}

        async def all_listed() -> bool:
            params.pop("cursor", None)
            while True:
                page = await clients[1].get("/tasks", params=params)
                tasks.update((task["task_id"], task) for task in page.json())
                if "X-Next-Cursor" not in page.headers:
                    return {task_id for _, task_id in answered} <= tasks.keys()
                params["cursor"] = page.headers["X-Next-Cursor"]

        await eventually(all_listed, "the history of the rejected tasks")
        winners = {task["idempotency_key"]: task_id for task_id, task in tasks.items() if task["status"] == "success"}
        assert len(winners) == KEYS
        for key, task_id in answered:
            task = tasks[task_id]
            assert task["idempotency_key"] == key
            if task_id != winners[key]:
                assert (task["status"], task["reason"], task["duplicate_of"]) == ("rejected", "duplicate", winners[key])
