"""What instances see of the pool: traces, waits, turns, and the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import (
    InMemoryLogger,
    ManagedBackgroundTasks,
    QueueConfig,
    TaskAdmin,
    TaskManager,
    Telemetry,
    get_task_context,
)
from taskflow_otel.backends import MemoryBackend, SqliteBackend
from taskflow_otel.backends.pool import POOL, Claimed, News, Pooled, Wanted
from taskflow_otel.engine.deployment import CONCURRENCY, RUN
from taskflow_otel.errors import BackendError
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import EngineState
from tests.managers import WAIT, Gate, finish, started
from tests.waiting import eventually

SHARED = {"shared": QueueConfig(concurrency=4, run="pool")}


class Kept(MemoryBackend):
    """A backend that several managers share."""

    def __init__(self) -> None:
        super().__init__(durable=True)


def member(
    backend: Kept, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, run: str = "", **options: Any
) -> TaskManager:
    monkeypatch.setenv(RUN, run)
    manager = TaskManager(snapshot_backend=backend, **{"queues": SHARED, **options})
    monkeypatch.delenv(RUN)
    manager.task(persist=True, queue="shared", name="work")(work)
    return manager


class Ringing(Kept):
    """One with a bell that rings at the beginning only. It counts the claims."""

    def __init__(self) -> None:
        super().__init__()
        self.pool_bell = self
        self.claims = 0
        self.heard = asyncio.Event()
        claim = self.pool_store.claim

        async def counted(owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
            self.claims += 1
            return await claim(owner, wanted, seals)

        self.pool_store.claim = counted  # type: ignore[method-assign]

    async def hear(self, news: News) -> None:
        """See `PoolBell`."""
        news.all()
        self.heard.set()
        await asyncio.Event().wait()


async def turns() -> None:
    """Let all that is ready to run do so."""
    for _ in range(50):
        await asyncio.sleep(0)


async def in_pool(manager: TaskManager, task_id: str) -> None:
    """Wait until a task belongs to nobody."""

    async def belongs_to_nobody() -> bool:
        return (await manager.get(task_id)).instance == POOL

    await eventually(belongs_to_nobody, "the gift")


async def test_a_claimed_attempt_is_in_the_trace_of_its_request_and_knows_how_long_it_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None: ...

    backend, exporter = Kept(), InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry, seen = Telemetry(tracer_provider=provider), InMemoryLogger()
    web = member(backend, work, monkeypatch, "none", telemetry=telemetry)
    worker = member(backend, work, monkeypatch, telemetry=telemetry, loggers=[seen])
    async with started(web):
        with provider.get_tracer("t").start_as_current_span("request"):
            task_id = await web.enqueue(work)
        delayed = await web.enqueue(work, delay=0.01)
        await in_pool(web, task_id)
        await in_pool(web, delayed)
        async with started(worker):
            await finish(web, task_id)
            await finish(web, delayed)
    spans = exporter.get_finished_spans()

    def of(name: str, task: str) -> Any:
        [span] = [s for s in spans if s.name == name and (s.attributes or {}).get("messaging.message.id") == task]
        return span

    [request] = [span for span in spans if span.name == "request"]
    send, process = of("send work", task_id), of("process work", task_id)
    assert send.parent.span_id == request.context.span_id
    assert process.parent.span_id == send.context.span_id
    assert process.context.trace_id == request.context.trace_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert of("process work", delayed).parent is None
    waits = [e.queue_wait for e in seen.lifecycle_events if e.transition is Transition.STARTED]
    stored = await backend.get(task_id)
    assert stored is not None
    assert stored.start_time is not None
    assert all(wait is not None for wait in waits)
    assert max(wait or 0.0 for wait in waits) <= (stored.start_time - stored.created_at).total_seconds() + WAIT
    assert not web.engine.store.list()
    assert not worker.engine.store.list()


async def test_queues_take_turns_for_the_slots_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    first_is_running, go = asyncio.Event(), asyncio.Event()

    async def work(name: str) -> None:
        order.append(name)
        first_is_running.set()
        await go.wait()

    queues = {"a": QueueConfig(run="pool"), "b": QueueConfig(run="pool"), **SHARED}
    monkeypatch.setenv(CONCURRENCY, "1")
    manager = member(Kept(), work, monkeypatch, queues=queues)
    async with started(manager):
        ids = [await manager.enqueue(work, queue, queue=queue) for queue in ("a",) * 4 + ("b",) * 4]
        await asyncio.wait_for(first_is_running.wait(), WAIT)
        go.set()
        for task_id in ids:
            await finish(manager, task_id)
    assert sorted(order) == ["a"] * 4 + ["b"] * 4
    assert set(order[:4]) == {"a", "b"}, "one queue had all slots for itself"


async def test_a_refused_gift_is_tried_again_and_its_task_can_be_cancelled_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    backend, tries = Kept(), list[int]()
    give = backend.pool_store.give

    async def refuse(owner: str, tasks: Sequence[Pooled]) -> None:
        tries.append(len(tasks))
        if len(tries) < 3:
            raise BackendError("no room", transient=False)
        await give(owner, tasks)

    monkeypatch.setattr(backend.pool_store, "give", refuse)
    manager = member(backend, work, monkeypatch, "none")
    async with started(manager):
        task_id = await manager.enqueue(work)
        await eventually(lambda: bool(tries), "the first try")
        assert (await manager.cancel(task_id)).status is TaskStatus.CANCELLED
        assert tries == [1, 1, 1]
    assert len([r for r in caplog.records if "could not be given to the pool" in r.getMessage()]) == 1


async def test_a_claim_that_comes_during_the_stop_leaves_its_tasks_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, gate = Kept(), Gate()
    claim, claiming, answer = backend.pool_store.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> list[Claimed]:
        claimed = await claim(*args)
        if claimed:
            claiming.set()
            await answer.wait()
        return claimed

    monkeypatch.setattr(backend.pool_store, "claim", slow)
    manager = member(backend, gate.run, monkeypatch, shutdown_timeout=0.1, cancel_grace=0.1)
    async with started(manager):
        task_id = await manager.enqueue(gate.run)
        await asyncio.wait_for(claiming.wait(), WAIT)
        stopping = asyncio.create_task(manager.shutdown())
        await eventually(lambda: manager.engine.state is EngineState.DRAINING, "the stop")
        answer.set()
        await stopping
    assert not gate.entered.is_set()
    monkeypatch.setattr(backend.pool_store, "claim", claim)
    gate.opened.set()
    other = member(backend, gate.run, monkeypatch)
    async with started(other):
        assert (await finish(other, task_id)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("database", [False, True], ids=["no transactions", "transactions"])
async def test_a_deployment_that_shares_nothing_any_more_runs_what_the_pool_has_left(
    database: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("ran")

    backend: Any = SqliteBackend(tmp_path / "tasks.db") if database else Kept()
    web = member(backend, work, monkeypatch, "none")
    async with started(web):
        task_id = await web.enqueue(work)
        await in_pool(web, task_id)
    # As before the switch: one process that owns what it enqueues, with no queue shared.
    again: Any = SqliteBackend(tmp_path / "tasks.db") if database else backend
    alone = member(again, work, monkeypatch, queues={"shared": QueueConfig(concurrency=4)})
    async with started(alone):
        await eventually(lambda: bool(ran), "the run")
        assert (await alone.wait(task_id, WAIT)).status is TaskStatus.SUCCESS
    assert ran == ["ran"]


async def test_a_freed_slot_asks_the_pool_only_if_it_may_have_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_otel.engine.fleet.pool.POLL", 3600.0)
    monkeypatch.setattr("taskflow_otel.engine.fleet.news._AGAIN", 0.01)
    entered, gate = 0, asyncio.Event()

    async def work() -> None:
        nonlocal entered
        entered += 1
        await gate.wait()

    backend = Ringing()
    worker = member(backend, work, monkeypatch)
    async with started(worker):
        await asyncio.wait_for(backend.heard.wait(), WAIT)
        ids = [await worker.enqueue(work) for _ in range(6)]
        await eventually(lambda: entered == 4, "as many as there are slots")
        gate.set()
        # Nothing but a freed slot can find the last two.
        await asyncio.gather(*(worker.wait(task_id, WAIT) for task_id in ids))
        gate.clear()
        last = await worker.enqueue(work)
        await eventually(lambda: entered == 7, "the last")
        # The gift asks for a look too, which may come after the claim.
        await turns()
        claims = backend.claims
        gate.set()
        await worker.wait(last, WAIT)
        await turns()
        assert backend.claims == claims


async def test_a_wait_for_a_task_of_the_pool_ends_when_it_has_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None: ...

    monkeypatch.setattr("taskflow_otel.engine.lookup._POLL", 3600.0)
    backend = Kept()
    asked = list[str]()
    get = backend.get

    async def counted(task_id: str) -> Any:
        asked.append(task_id)
        return await get(task_id)

    monkeypatch.setattr(backend, "get", counted)
    manager = member(backend, work, monkeypatch)
    async with started(manager):
        for timeout in (None, WAIT):
            assert (await manager.wait(await manager.enqueue(work), timeout)).status is TaskStatus.SUCCESS
    assert not asked


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_limit_of_the_fleet_is_kept_by_all_instances_together(
    monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    running, most, done = 0, 0, list[str]()

    def worker(name: str) -> Callable[..., Any]:
        async def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            context = get_task_context()
            assert context is not None
            if context.attempt < retries:
                raise RuntimeError("again")
            done.append(name)

        return work

    queues = {"shared": QueueConfig(concurrency=3, run="pool", concurrency_scope="fleet")}
    backend, added = Kept(), worker("web")
    web = member(backend, added, monkeypatch, "none", queues=queues)
    workers = [TaskManager(snapshot_backend=backend, queues=queues, max_concurrent_tasks=8) for _ in range(3)]
    for number, one in enumerate(workers):
        one.task(persist=True, queue="shared", name="work", retries=retries, delay=0.01)(worker(str(number)))
    async with started(web), started(workers[0]), started(workers[1]), started(workers[2]):
        for _ in range(60):
            await web.enqueue(added)
        await eventually(lambda: len(done) == 60, "all runs", timeout=3 * WAIT)
    assert most == 3


async def test_a_request_that_adds_an_eager_task_to_a_shared_queue_is_answered_once_the_task_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None: ...

    async def eager() -> None: ...

    backend, app = Kept(), FastAPI()
    web = member(backend, work, monkeypatch, "none")
    at_once = web.task(persist=True, queue="shared", eager=True, name="eager")(eager)
    TaskAdmin(app, web)

    @app.post("/")
    async def add(tasks: ManagedBackgroundTasks) -> str:
        return tasks.add_task(at_once)

    transport = httpx.ASGITransport(app)
    async with started(web), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/")
        assert answer.status_code == 200
        await in_pool(web, answer.json())
