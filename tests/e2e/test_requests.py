"""A request and its tasks: who runs, when, and what happens when the request fails or its client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Change, Insert
from taskflow_otel.errors import BackendUnavailableError
from tests.asgi import Exchange, converse, post, running
from tests.servers import free_port
from tests.waiting import eventually

WAIT = 20.0


class Number(BaseModel):
    number: int


class Shop:
    """An application whose routes add tasks and then do something; what happens is written to `log`."""

    def __init__(self, database: Path | SqliteBackend, **options: Any) -> None:
        self.log: list[str] = []
        self.ids: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        backend = database if isinstance(database, SqliteBackend) else SqliteBackend(database)
        self.manager = TaskManager(snapshot_backend=backend, **options)
        self.app = FastAPI()
        self.declare()

    def mount(self) -> FastAPI:
        TaskAdmin(self.app, self.manager, auto_install=True)
        return self.app

    def declare(self) -> None:
        manager, log = self.manager, self.log

        @manager.task(persist=True)
        async def kept(what: str = "task") -> None:
            await self.gate.wait()
            log.append(what)

        @manager.task()
        async def passing(what: str = "task") -> None:
            await self.gate.wait()
            log.append(what)

        @manager.task()
        def threaded(what: str = "task") -> None:
            log.append(what)

        self.kept, self.passing, self.threaded = kept, passing, threaded

    def add(self, tasks: ManagedBackgroundTasks, what: str = "task") -> str:
        task_id = tasks.add_task(self.kept, what)
        self.ids.append(task_id)
        return task_id

    async def status(self, task_id: str | None = None) -> TaskStatus:
        return (await self.manager.get(task_id or self.ids[0])).status

    async def ended(self, task_id: str | None = None) -> TaskStatus:
        return (await self.manager.wait(task_id or self.ids[0], WAIT)).status


async def next_life_runs_only(database: Path, expected: Sequence[str]) -> Shop:
    """Start the application again on the same file, and see what it takes over and runs."""
    shop = Shop(database)
    async with running(shop.mount()):
        await eventually(lambda: len(shop.log) >= len(expected), "the takeover", timeout=WAIT)
        assert shop.log == list(expected)
    assert shop.log == list(expected)
    return shop


async def leave_a_witness(shop: Shop) -> None:
    """Leave a task behind for the next life: once that runs, everything else that was to run has been taken over too."""
    await shop.manager.pause_queue("default")

    async def enqueued() -> bool:
        # A backend that was in trouble a moment ago is tried again with backoff.
        try:
            await shop.manager.enqueue(shop.kept, "witness")
        except BackendUnavailableError:
            return False
        return True

    await eventually(enqueued, "the commit of the witness")


def failing_routes(shop: Shop) -> None:
    app = shop.app

    async def breaks_after_the_route() -> AsyncIterator[None]:
        yield
        raise RuntimeError("the dependency broke")

    def breaks_in_a_thread_after_the_route() -> Iterator[None]:
        yield
        raise RuntimeError("the dependency broke")

    def adds(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    def breaks_before_the_route() -> Iterator[None]:
        raise RuntimeError("the dependency broke")
        yield

    @app.post("/http_exception")
    async def http_exception(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise HTTPException(409, "not now")

    @app.post("/sync_http_exception")
    def sync_http_exception(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise HTTPException(409, "not now")

    @app.post("/unhandled")
    async def unhandled(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise RuntimeError("boom")

    @app.post("/handled")
    async def handled(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)
        raise LookupError("handled by the application")

    @app.exception_handler(LookupError)
    async def on_lookup_error(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 404)

    @app.post("/response_model", response_model=Number)
    async def response_model(tasks: ManagedBackgroundTasks) -> dict[str, str]:
        shop.add(tasks)
        return {"number": "not a number"}

    @app.post("/dependency_after", dependencies=[Depends(breaks_after_the_route, scope="function")])
    async def dependency_after(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    @app.post("/sync_dependency_after", dependencies=[Depends(breaks_in_a_thread_after_the_route, scope="function")])
    def sync_dependency_after(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    @app.post("/dependency_before", dependencies=[Depends(adds), Depends(breaks_before_the_route)])
    async def dependency_before() -> None:
        """Never entered."""

    @app.post("/stream_breaks")
    async def stream_breaks(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        shop.add(tasks)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("broken in the middle")

        return StreamingResponse(chunks())


    @app.post("/stream_loses_its_source")
    async def stream_loses_its_source(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        shop.add(tasks)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise ConnectionResetError("the database went away, not the client")

        return StreamingResponse(chunks())


FAILING = [
    "http_exception",
    "sync_http_exception",
    "unhandled",
    "handled",
    "response_model",
    "dependency_after",
    "sync_dependency_after",
    "dependency_before",
    "stream_breaks",
    "stream_loses_its_source",
]


@pytest.mark.parametrize("route", FAILING)
async def test_the_task_of_a_failed_request_never_runs_not_even_after_a_restart(route: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    failing_routes(shop)
    async with running(shop.mount()):
        answer = await post(shop.app, f"/{route}")
        assert answer.error is not None or answer.status >= 400
        assert await shop.ended() is TaskStatus.CANCELLED
        assert (await shop.manager.get(shop.ids[0])).reason == "request_failed"
        await leave_a_witness(shop)
    assert shop.log == []

    again = await next_life_runs_only(tmp_path / "tasks.db", ["witness"])
    stored = SqliteBackend(tmp_path / "tasks.db")
    await stored.open()
    record = await stored.get(shop.ids[0])
    await stored.close()
    assert record is not None
    assert (record.status, record.reason, record.start_time) == (TaskStatus.CANCELLED, "request_failed", None)
    assert again.manager.store.list() == []


async def test_a_dependency_that_breaks_after_the_response_was_sent_takes_nothing_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    async def breaks_late() -> AsyncIterator[None]:
        yield
        raise RuntimeError("too late")

    @shop.app.post("/", dependencies=[Depends(breaks_late)])
    async def route(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert (answer.status, answer.body) == (200, b"null")
        assert await shop.ended() is TaskStatus.SUCCESS


class PassThrough(BaseHTTPMiddleware):
    """What most applications have in their stack: it re-streams every response."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)


class HoldBack:
    """Sends nothing before the application has ended, as a middleware that computes an entity tag does."""

    def __init__(self, app: ASGIApp, *, fails: bool = False) -> None:
        self._app = app
        self._fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await self._app(scope, receive, hold)
        if self._fails:
            raise RuntimeError("the middleware broke")
        for message in held:
            await send(message)


def answering_routes(shop: Shop) -> None:
    app = shop.app

    @app.post("/async")
    async def in_the_loop(tasks: ManagedBackgroundTasks, task: str) -> str:
        return tasks.add_task(getattr(shop, task))

    @app.post("/sync")
    def in_a_thread(tasks: ManagedBackgroundTasks, task: str) -> str:
        return tasks.add_task(getattr(shop, task))

    @app.post("/response")
    async def own_response(tasks: ManagedBackgroundTasks, task: str) -> Response:
        return JSONResponse(tasks.add_task(getattr(shop, task)))

    @app.post("/streamed")
    async def streamed(tasks: ManagedBackgroundTasks, task: str) -> StreamingResponse:
        task_id = tasks.add_task(getattr(shop, task))

        async def chunks() -> AsyncIterator[bytes]:
            yield b'"'
            yield task_id.encode()
            yield b'"'

        return StreamingResponse(chunks())

    @app.post("/late")
    async def added_while_streaming(tasks: ManagedBackgroundTasks, task: str) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'"'
            yield tasks.add_task(getattr(shop, task)).encode()
            yield b'"'

        return StreamingResponse(chunks())

    @app.post("/nested")
    async def through_a_dependency(task_id: Annotated[str, Depends(adds)]) -> str:
        return task_id


def adds(tasks: ManagedBackgroundTasks, request: Request, task: str) -> str:
    return tasks.add_task(getattr(request.app.state.shop, task))


@pytest.mark.parametrize("task", ["kept", "passing", "threaded"])
@pytest.mark.parametrize("route", ["async", "sync", "response", "streamed", "late", "nested"])
async def test_a_task_runs_once_and_after_the_last_byte(route: str, task: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    await ask_and_wait(shop, shop.mount(), f"/{route}?task={task}")
    assert shop.log == ["first byte", "last byte", "task"]


@pytest.mark.parametrize("place", ["before", "after", "both"])
@pytest.mark.parametrize("middleware", [PassThrough, HoldBack, GZipMiddleware])
@pytest.mark.parametrize("task", ["kept", "passing"])
@pytest.mark.parametrize("route", ["sync", "streamed"])
async def test_middlewares_around_a_route_change_nothing_of_that(
    route: str, task: str, middleware: Any, place: str, tmp_path: Path
) -> None:
    shop = Shop(tmp_path / "tasks.db")
    if place in {"before", "both"}:
        shop.app.add_middleware(middleware)
    shop.mount()
    if place in {"after", "both"}:
        shop.app.add_middleware(middleware)
    await ask_and_wait(shop, shop.app, f"/{route}?task={task}")
    assert shop.log == ["first byte", "last byte", "task"]


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_request_that_fails_in_a_middleware_after_the_route_runs_no_task(place: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    if place == "before":
        shop.app.add_middleware(HoldBack, fails=True)
    shop.mount()
    if place == "after":
        shop.app.add_middleware(HoldBack, fails=True)
    async with running(shop.app):
        assert (await post(shop.app, "/")).status == 500
        assert await shop.ended() is TaskStatus.CANCELLED
    assert shop.log == []


async def ask_and_wait(shop: Shop, app: FastAPI, path: str) -> None:
    """Ask a route that adds one task and answers with its id, and wait until that has succeeded."""
    app.state.shop = shop
    answering_routes(shop)
    async with running(app):
        answer = await post(app, path, log=shop.log)
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS


@pytest.mark.parametrize("middleware", [False, True])
async def test_a_request_is_not_held_open_by_its_tasks(middleware: bool, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    answering_routes(shop)
    shop.mount()
    if middleware:
        shop.app.add_middleware(PassThrough)
    async with running(shop.app):
        shop.gate.clear()
        answer = await post(shop.app, "/async?task=kept")
        await eventually(lambda: shop.manager.store.list()[0].status is TaskStatus.RUNNING, "the start")
        assert shop.log == []
        shop.gate.set()
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS


async def test_several_tasks_of_one_request_run_at_the_same_time(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    meeting = asyncio.Barrier(3)

    @shop.manager.task(persist=True)
    async def meet() -> None:
        await meeting.wait()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> list[str]:
        return [tasks.add_task(meet) for _ in range(3)]

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert {await shop.ended(task_id) for task_id in answer.json} == {TaskStatus.SUCCESS}


async def test_a_response_with_a_background_of_its_own_keeps_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> Response:
        return JSONResponse(tasks.add_task(shop.kept), background=BackgroundTask(shop.log.append, "its own"))

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS
    assert sorted(shop.log) == ["its own", "task"]


async def test_an_eager_task_starts_before_the_response(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    ran = asyncio.Event()

    @shop.manager.task(eager=True)
    async def early() -> None:
        ran.set()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        task_id = tasks.add_task(early)
        await asyncio.wait_for(ran.wait(), WAIT)
        return task_id

    async with running(shop.mount()):
        answer = await post(shop.app, "/")
        assert await shop.ended(answer.json) is TaskStatus.SUCCESS


async def test_a_web_socket_route_starts_each_task_when_it_is_added(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.websocket("/ws")
    async def talk(socket: WebSocket, tasks: ManagedBackgroundTasks) -> None:
        await socket.accept()
        async for what in socket.iter_text():
            record = await shop.manager.wait(tasks.add_task(shop.kept, what), WAIT)
            await socket.send_text(record.status)

    async with running(shop.mount()):
        sent = await converse(shop.app, "/ws", ["one", "two"])
    assert sent == ["success", "success"]
    assert shop.log == ["one", "two"]


@contextlib.asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    """The application behind a real uvicorn on this event loop; yields the port."""
    config = uvicorn.Config(app, port=free_port(), log_level="error", ws="none", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or serving.done(), "uvicorn to start")
    try:
        yield config.port
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("task", ["kept", "passing"])
async def test_a_client_that_disconnects_in_the_middle_of_the_response_changes_nothing(
    task: str, middleware: bool, tmp_path: Path
) -> None:
    shop = Shop(tmp_path / "tasks.db")

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> StreamingResponse:
        shop.ids.append(tasks.add_task(getattr(shop, task)))

        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield await shop.chunks.get()

        return StreamingResponse(chunks())

    shop.mount()
    if middleware:
        shop.app.add_middleware(PassThrough)
    async with served(shop.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        shop.chunks.put_nowait(b"x" * 10)
        await reader.readuntil(b"x" * 10)
        assert await shop.status() is TaskStatus.PENDING
        shop.log.append("client gone")
        # A reset rather than an orderly end, as from a telephone that lost its network.
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        for _ in range(100):
            shop.chunks.put_nowait(b"y" * 65_536)
        assert await shop.ended() is TaskStatus.SUCCESS
    assert shop.log == ["client gone", "task"]


async def test_a_client_that_left_before_the_response_still_gets_its_tasks_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    entered, leave = asyncio.Event(), asyncio.Event()

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        task_id = shop.add(tasks)
        entered.set()
        await leave.wait()
        return task_id

    async with served(shop.mount()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(entered.wait(), WAIT)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        leave.set()
        assert await shop.ended() is TaskStatus.SUCCESS
    assert shop.log == ["task"]


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
        await eventually(lambda: shop.manager.engine.backend_failing, "the failing history")
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
