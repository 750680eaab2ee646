"""Acknowledged is kept: the commit before the first byte, and the 503 when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from taskflow_otel import ManagedBackgroundTasks, TaskStatus
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Change, Insert
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.request.middleware import DeliveryMiddleware, TaskMiddleware
from tests.asgi import Exchange, post, running
from tests.e2e.shop import WAIT, HoldBack, PassThrough, Shop, leave_a_witness, next_life_runs_only
from tests.waiting import eventually


class Trouble(SqliteBackend):
    """A backend that holds or loses inserts on demand; everything else goes through."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.asked = asyncio.Event()
        self.applied = asyncio.Event()
        self.refuses: Callable[[Sequence[Change]], bool] = lambda changes: False
        self.forgets_to_answer = False

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        inserts = any(isinstance(change, Insert) for change in changes)
        if inserts:
            self.asked.set()
            await self.open_gate.wait()
        if self.refuses(changes):
            raise BackendUnavailableError("the database is away")
        results = await super().apply(changes)
        if inserts:
            self.applied.set()
            if self.forgets_to_answer:
                raise BackendUnavailableError("the connection broke before the answer came")
        return results


def troubled(tmp_path: Path, **options: Any) -> tuple[Shop, Trouble]:
    backend = Trouble(tmp_path / "tasks.db")
    shop = Shop(backend, **options)

    @shop.app.post("/kept")
    async def kept(tasks: ManagedBackgroundTasks) -> str:
        return shop.add(tasks)

    @shop.app.post("/kept_sync")
    def kept_sync(tasks: ManagedBackgroundTasks) -> str:
        return shop.add(tasks)

    @shop.app.post("/passing")
    async def passing(tasks: ManagedBackgroundTasks) -> str:
        return tasks.add_task(shop.passing)

    @shop.app.post("/both")
    async def both(tasks: ManagedBackgroundTasks) -> str:
        shop.ids.append(tasks.add_task(shop.passing))
        return shop.add(tasks)

    return shop, backend


@pytest.mark.parametrize("route", ["kept", "kept_sync"])
@pytest.mark.parametrize("middleware", [False, True])
async def test_no_byte_leaves_before_the_commit(route: str, middleware: bool, tmp_path: Path) -> None:
    shop, backend = troubled(tmp_path)
    shop.mount()
    if middleware:
        shop.app.add_middleware(PassThrough)
    async with running(shop.app):
        backend.open_gate.clear()
        exchange = Exchange(shop.app, f"/{route}", log=shop.log)
        request = asyncio.create_task(exchange.run())
        await asyncio.wait_for(backend.asked.wait(), WAIT)
        await asyncio.sleep(0)
        assert not exchange.started
        backend.open_gate.set()
        await request
        assert exchange.status == 200
        assert await backend.get(shop.ids[0]) is not None
        assert await shop.ended() is TaskStatus.SUCCESS
    assert shop.log == ["first byte", "last byte", "task"]


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("route", ["kept", "kept_sync", "both"])
async def test_a_commit_that_fails_is_answered_with_503_and_nothing_runs(
    route: str, middleware: bool, tmp_path: Path
) -> None:
    shop, backend = troubled(tmp_path, commit_timeout=0.2)
    shop.mount()
    if middleware:
        shop.app.add_middleware(PassThrough)
    async with running(shop.app):
        backend.refuses = lambda changes: True
        answer = await post(shop.app, f"/{route}")
        assert answer.error is None
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "could not be stored" in answer.json["detail"]
        for task_id in shop.ids:
            assert await shop.ended(task_id) is TaskStatus.REJECTED
            assert (await shop.manager.get(task_id)).reason == "commit_failed"
        backend.refuses = lambda changes: False
        await leave_a_witness(shop)
    assert shop.log == []
    await next_life_runs_only(tmp_path / "tasks.db", ["witness"])


async def test_a_commit_that_arrives_after_its_503_does_not_run_the_task_not_even_after_a_restart(
    tmp_path: Path,
) -> None:
    shop, backend = troubled(tmp_path, commit_timeout=0.1)
    async with running(shop.mount()):
        backend.open_gate.clear()
        answer = await post(shop.app, "/kept")
        assert answer.status == 503
        backend.open_gate.set()
        await asyncio.wait_for(backend.applied.wait(), WAIT)

        async def stored_as_rejected() -> bool:
            record = await backend.get(shop.ids[0])
            return record is not None and record.status is TaskStatus.REJECTED

        await eventually(stored_as_rejected, "the correction")
        await leave_a_witness(shop)
    assert shop.log == []
    await next_life_runs_only(tmp_path / "tasks.db", ["witness"])


async def test_a_commit_whose_answer_was_lost_is_found_out_and_the_task_runs_once(tmp_path: Path) -> None:
    shop, backend = troubled(tmp_path)
    async with running(shop.mount()):
        backend.forgets_to_answer = True
        request = asyncio.create_task(post(shop.app, "/kept"))
        await asyncio.wait_for(backend.applied.wait(), WAIT)
        backend.forgets_to_answer = False
        assert (await request).status == 200
        assert await shop.ended() is TaskStatus.SUCCESS
    assert shop.log == ["task"]


async def test_tasks_that_need_no_persistence_do_not_notice_a_dead_backend(tmp_path: Path) -> None:
    shop, backend = troubled(tmp_path, commit_timeout=0.2, snapshot_interval=0.01)
    async with running(shop.mount()):
        backend.refuses = lambda changes: True
        ids = [(await post(shop.app, "/passing")).json for _ in range(5)]
        await eventually(lambda: shop.log.count("task") == 5, "the tasks")
        await eventually(lambda: shop.manager.engine.vitals.backend_failing, "the failing history")
        backend.refuses = lambda changes: False
        for task_id in ids:
            assert await shop.ended(task_id) is TaskStatus.SUCCESS

        async def written() -> bool:
            return all([await backend.get(task_id) is not None for task_id in ids])

        await eventually(written, "the history, once the backend is back")


async def test_a_task_added_while_the_stream_runs_is_lost_visibly_when_it_cannot_be_stored(tmp_path: Path) -> None:
    shop, backend = troubled(tmp_path, commit_timeout=0.1)

    @shop.app.post("/late")
    async def late(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            shop.add(tasks)
            yield b"second"

        return StreamingResponse(chunks())

    async with running(shop.mount()):
        backend.refuses = lambda changes: True
        answer = await post(shop.app, "/late")
        assert "last byte" not in answer.log, "the client must see that the response is incomplete"
        assert await shop.ended() is TaskStatus.REJECTED
        backend.refuses = lambda changes: False
    assert shop.log == []


async def test_enqueue_returns_when_the_task_is_committed_and_raises_when_it_is_not(tmp_path: Path) -> None:
    shop, backend = troubled(tmp_path, commit_timeout=0.1)
    async with running(shop.mount()):
        backend.open_gate.clear()
        with pytest.raises(BackendUnavailableError):
            await shop.manager.enqueue(shop.kept)
        backend.open_gate.set()
        task_id = await shop.manager.enqueue(shop.kept)
        assert await backend.get(task_id) is not None
        assert await shop.ended(task_id) is TaskStatus.SUCCESS
    assert shop.log == ["task"]


@pytest.mark.parametrize("between", [False, True])
async def test_tasks_start_after_the_last_byte_with_a_middleware_that_holds_it_back_or_without(
    between: bool, tmp_path: Path
) -> None:
    shop, _ = troubled(tmp_path)
    shop.mount()
    if between:
        shop.app.add_middleware(HoldBack)
    async with running(shop.app):
        kinds = list[type]()
        layer: Any = shop.app.build_middleware_stack()
        while layer is not None:
            kinds.append(type(layer))
            layer = getattr(layer, "_app", None) or getattr(layer, "app", None)
        # With nothing between the two middlewares, one is enough.
        assert (DeliveryMiddleware in kinds, TaskMiddleware in kinds) == (between, True)
        for path in ("/kept", "/passing"):
            shop.log.clear()
            answer = await post(shop.app, path, log=shop.log)
            await shop.ended(answer.json)
            assert shop.log == ["first byte", "last byte", "task"]
