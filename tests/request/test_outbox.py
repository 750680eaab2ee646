"""When the tasks of a request start, and when they never do: learned from where FastAPI leaves its dependencies."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from taskflow_otel import ManagedBackgroundTasks, QueueConfig, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.request.current import RequestTasks
from taskflow_otel.request.outbox import Outbox
from tests.asgi import Exchange, post, running
from tests.e2e.shop import PassThrough, Shop
from tests.e2e.test_disconnects import served
from tests.waiting import eventually

WAIT = 60.0


class Site:
    """An application with one manager, mounted or reached by `Depends(get_tasks)` alone; `log` is what happened."""

    def __init__(self, directory: Path, *, mounted: bool) -> None:
        self.log: list[str] = []
        self.ids: list[str] = []
        self.mounted = mounted
        self.manager = manager = TaskManager(snapshot_db=directory / "tasks.db")
        self.app = FastAPI(lifespan=None if mounted else self._by_hand)

        @manager.task(persist=True)
        async def kept(what: str = "task") -> None:
            self.log.append(what)

        @manager.task()
        def passing(what: str = "task") -> None:
            self.log.append(what)

        self.kept, self.passing = kept, passing
        if mounted:
            TaskAdmin(self.app, manager, auto_install=True)

    @contextlib.asynccontextmanager
    async def _by_hand(self, app: FastAPI) -> AsyncIterator[None]:
        await self.manager.startup()
        yield
        await self.manager.shutdown()

    @property
    def tasks(self) -> Any:
        """How routes of this site get their tasks."""
        if self.mounted:
            return ManagedBackgroundTasks
        return Annotated[ManagedBackgroundTasks, Depends(self.manager.get_tasks)]

    def add(self, tasks: ManagedBackgroundTasks, what: str = "task", *, persist: bool = True) -> None:
        self.ids.append(tasks.add_task(self.kept if persist else self.passing, what))

    async def ended(self, index: int = 0) -> tuple[TaskStatus, str | None]:
        record = await self.manager.wait(self.ids[index], WAIT)
        return record.status, record.reason


@pytest.fixture(params=[True, False], ids=["mounted", "by dependency"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, mounted=request.param)


CANCELLED = (TaskStatus.CANCELLED, "request_failed")
SUCCESS = (TaskStatus.SUCCESS, None)

persisted_or_not = pytest.mark.parametrize("persist", [True, False], ids=["persisted", "not persisted"])


@pytest.mark.parametrize("scope", ["function", "request"])
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("task", ["kept", "passing"])
async def test_a_task_starts_after_the_dependencies_have_finished(
    site: Site, scope: Any, sync: bool, first: bool, task: str
) -> None:
    async def session() -> AsyncIterator[None]:
        yield
        for _ in range(20):
            await asyncio.sleep(0)
        site.log.append("committed")

    def sync_session() -> Iterator[None]:
        yield
        site.log.append("committed")

    one, tasks = Depends(sync_session if sync else session, scope=scope), site.tasks
    if first:

        @site.app.post("/")
        async def route(_: Annotated[None, one], tasks: tasks) -> None:
            site.ids.append(tasks.add_task(getattr(site, task)))
    else:

        @site.app.post("/")
        async def other(tasks: tasks, _: Annotated[None, one]) -> None:
            site.ids.append(tasks.add_task(getattr(site, task)))

    async with running(site.app):
        await post(site.app, "/", log=site.log)
        assert await site.ended() == SUCCESS
    expected = (
        ["committed", "first byte", "last byte"] if scope == "function" else ["first byte", "last byte", "committed"]
    )
    assert site.log == [*expected, "task"]


@pytest.mark.parametrize("scope", ["function", "request"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, ConnectionRefusedError])
async def test_a_commit_that_fails_after_the_route_leaves_the_task_unrun(
    site: Site, scope: Any, first: bool, error: type[Exception]
) -> None:
    async def session() -> AsyncIterator[None]:
        yield
        raise error("the commit failed")

    one, tasks = Depends(session, scope=scope), site.tasks
    if first:

        @site.app.post("/")
        async def route(_: Annotated[None, one], tasks: tasks) -> None:
            site.add(tasks)
    else:

        @site.app.post("/")
        async def other(tasks: tasks, _: Annotated[None, one]) -> None:
            site.add(tasks)

    async with running(site.app):
        answer = await post(site.app, "/")
        assert answer.error is not None
        assert await site.ended() == CANCELLED
    assert site.log == []


async def test_on_a_real_server_the_task_starts_after_the_dependency_has_committed(site: Site) -> None:
    received = asyncio.Event()

    async def session() -> AsyncIterator[None]:
        yield
        await received.wait()
        site.log.append("committed")

    tasks = site.tasks

    @site.app.post("/", dependencies=[Depends(session)])
    async def route(tasks: tasks) -> str:
        site.add(tasks)
        return "answer"

    async with served(site.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b'"answer"'), WAIT)
        site.log.append("received")
        assert (await site.manager.get(site.ids[0])).status is TaskStatus.PENDING
        received.set()
        assert await site.ended() == SUCCESS
        writer.close()
        await writer.wait_closed()
    assert site.log == ["received", "committed", "task"]


# What counts as a failed request.


def catching(then: Callable[[], Response]) -> type[APIRoute]:
    """A route class that catches whatever its routes raise, and answers."""

    class Catching(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def catch(request: Request) -> Response:
                try:
                    return await handler(request)
                except Exception:
                    return then()

            return catch

    return Catching


@persisted_or_not
@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("broken", ["endpoint", "sync endpoint", "dependency", "validation", "response model"])
async def test_a_route_class_that_catches_and_answers_does_not_run_the_tasks_of_what_failed(
    site: Site, broken: str, status: int, persist: bool
) -> None:
    router = APIRouter(route_class=catching(lambda: JSONResponse("caught", status)))
    tasks = site.tasks

    def adds(tasks: tasks) -> None:
        site.add(tasks, persist=persist)

    def breaks(_: Annotated[None, Depends(adds)]) -> None:
        if broken == "dependency":
            raise RuntimeError(broken)

    @router.post("/", response_model=int if broken == "response model" else None, dependencies=[Depends(breaks)])
    async def route(number: int = 0) -> str:
        if broken == "endpoint":
            raise HTTPException(409)
        return "no number"

    @router.post("/sync", dependencies=[Depends(breaks)])
    def sync_route() -> None:
        raise RuntimeError(broken)

    site.app.include_router(router)
    path = {"sync endpoint": "/sync", "validation": "/?number=none"}.get(broken, "/")
    async with running(site.app):
        answer = await post(site.app, path)
        assert (answer.status, answer.json) == (status, "caught")
        assert await site.ended() == CANCELLED
    assert site.log == []


@persisted_or_not
async def test_of_a_route_that_is_tried_again_the_tasks_of_the_good_attempt_run(site: Site, persist: bool) -> None:
    class Again(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def twice(request: Request) -> Response:
                try:
                    return await handler(request)
                except LookupError:
                    return await handler(request)

            return twice

    router, tasks = APIRouter(route_class=Again), site.tasks

    @router.post("/")
    async def route(tasks: tasks) -> None:
        site.add(tasks, f"attempt {len(site.ids)}", persist=persist)
        if len(site.ids) == 1:
            raise LookupError

    site.app.include_router(router)
    async with running(site.app):
        assert (await post(site.app, "/")).status == 200
        assert await site.ended(0) == CANCELLED
        assert await site.ended(1) == SUCCESS
    assert site.log == ["attempt 1"]


@persisted_or_not
@pytest.mark.parametrize("place", ["route", "route class", "middleware", "dependency"])
async def test_a_response_that_is_sent_inside_an_except_is_no_failure(site: Site, place: str, persist: bool) -> None:
    class Cached(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def miss(request: Request) -> Response:
                try:
                    raise KeyError("not in the cache")
                except KeyError:
                    response = await handler(request)
                    await response(request.scope, request.receive, request._send)
                    return NoResponse()

            return miss

    class Fallback:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                raise KeyError
            except KeyError:
                await self.app(scope, receive, send)

    async def fallback() -> AsyncIterator[None]:
        try:
            raise KeyError
        except KeyError:
            yield

    router = APIRouter(route_class=Cached if place == "route class" else APIRoute)
    if place == "middleware":
        site.app.add_middleware(Fallback)
    tasks = site.tasks

    @router.post("/", dependencies=[Depends(fallback)] if place == "dependency" else [])
    async def route(tasks: tasks) -> Response:
        try:
            if place == "route":
                raise KeyError
        except KeyError:
            site.add(tasks, persist=persist)
            return JSONResponse("fallback")
        site.add(tasks, persist=persist)
        return JSONResponse("fallback")

    site.app.include_router(router)
    async with running(site.app):
        assert (await post(site.app, "/")).json == "fallback"
        assert await site.ended() == SUCCESS
    assert site.log == ["task"]


class NoResponse(Response):
    """What is left to send once the response has been sent."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing."""


async def test_what_a_dependency_adds_while_the_request_fails_never_runs(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    async def reports(tasks: ManagedBackgroundTasks) -> AsyncIterator[None]:
        try:
            yield
        except HTTPException:
            shop.add(tasks)
            raise

    @shop.app.post("/", dependencies=[Depends(reports)])
    async def route() -> None:
        raise HTTPException(409)

    async with running(shop.mount()):
        assert (await post(shop.app, "/")).status == 409
        assert await shop.ended() is TaskStatus.CANCELLED
    assert shop.log == []


# After the request.


@pytest.mark.parametrize("way", ["asyncio task", "thread", "the task itself"])
@pytest.mark.parametrize("middleware", [False, True])
async def test_what_is_added_after_the_request_runs_at_once_and_keeps_no_place(
    tmp_path: Path, way: str, middleware: bool
) -> None:
    manager, app, log = TaskManager(max_size=3), FastAPI(), list[str]()
    later: list[Callable[[], Any]] = []

    @manager.task()
    async def job(what: str) -> None:
        log.append(what)
        if what == "first":
            later[0]()

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        later[:] = [lambda: tasks.add_task(job, "later"), lambda: tasks.add_task(log.append, "undecorated")]
        if way == "the task itself":
            tasks.add_task(job, "first")

    TaskAdmin(app, manager)
    if middleware:
        app.add_middleware(PassThrough)
    async with running(app):
        for _ in range(10):
            log.clear()
            await post(app, "/")
            if way == "asyncio task":
                await asyncio.create_task(_call(*later))
            elif way == "thread":
                await asyncio.to_thread(_in_turn, later)
            wanted = ["first", "later"] if way == "the task itself" else ["later", "undecorated"]
            await eventually(partial(_are, log, wanted), "the late tasks")
            await eventually(lambda: manager.queue_stats()["default"].ready == 0, "an empty queue")
        await eventually(lambda: manager.store.list() == [], "the end of all")


def _are(log: list[str], wanted: list[str]) -> bool:
    return sorted(log) == wanted


def _in_turn(functions: Iterable[Callable[[], Any]]) -> None:
    for function in functions:
        function()


async def _call(*functions: Callable[[], Any]) -> None:
    for function in functions:
        function()


async def test_tasks_that_threads_add_while_the_request_ends_all_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")
    ids: list[str] = []

    @shop.app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> None:
        def add() -> None:
            ids.extend(tasks.add_task(shop.passing) for _ in range(50))

        thread = threading.Thread(target=add)
        threads.append(thread)
        thread.start()

    threads: list[threading.Thread] = []
    async with running(shop.mount()):
        for _ in range(5):
            await post(shop.app, "/")
        for thread in threads:
            await asyncio.to_thread(thread.join)
        for task_id in ids:
            assert await shop.ended(task_id) is TaskStatus.SUCCESS
    assert shop.log == ["task"] * 250


async def test_tasks_of_a_kept_dependency_run_after_its_request(site: Site) -> None:
    kept: list[ManagedBackgroundTasks] = []
    tasks = site.tasks

    @site.app.post("/")
    async def route(tasks: tasks) -> None:
        kept.append(tasks)

    async with running(site.app):
        await post(site.app, "/")
        site.add(kept[0])
        assert await site.ended() == SUCCESS


async def test_what_is_added_after_a_request_has_failed_never_runs(site: Site) -> None:
    kept: list[ManagedBackgroundTasks] = []
    tasks = site.tasks

    @site.app.post("/")
    async def route(tasks: tasks) -> None:
        kept.append(tasks)
        raise HTTPException(409)

    async with running(site.app):
        await post(site.app, "/")
        site.add(kept[0])
        assert await site.ended() == CANCELLED
    assert site.log == []


# What stays alive.


class Big:
    """Something of a request."""


@pytest.mark.parametrize("waits", ["in its queue", "for a time", "running"])
@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("sync", [True, False])
async def test_nothing_of_a_request_stays_alive_with_a_task_that_waits(
    tmp_path: Path, waits: str, persist: bool, sync: bool
) -> None:
    manager = TaskManager(
        snapshot_db=tmp_path / "tasks.db", queues={"narrow": QueueConfig(concurrency=1)}, shutdown_timeout=0.1
    )
    app, alive = FastAPI(), list["weakref.ref[Big]"]()
    gate = asyncio.Event()

    @manager.task(persist=persist, queue="narrow" if waits == "in its queue" else None)
    async def job() -> None:
        await gate.wait()

    def remember(request: Request) -> None:
        request.state.big = big = Big()
        alive.append(weakref.ref(big))

    def add(tasks: ManagedBackgroundTasks) -> None:
        if waits == "for a time":
            tasks.add_task(job, delay=3600)
        else:
            tasks.add_task(job)

    if sync:

        @app.post("/")
        def sync_route(request: Request, tasks: ManagedBackgroundTasks) -> None:
            remember(request)
            add(tasks)
    else:

        @app.post("/")
        async def route(request: Request, tasks: ManagedBackgroundTasks) -> None:
            remember(request)
            add(tasks)

    TaskAdmin(app, manager)
    async with served(app) as port:
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            await asyncio.wait_for(reader.read(), WAIT)
            writer.close()
            await writer.wait_closed()

        def collected() -> bool:
            gc.collect()
            return len(alive) == 50 and not any(ref() for ref in alive)

        await eventually(collected, "the requests to be collected")
        assert len(manager.store.list()) == 50
        gate.set()


# More than one manager.


async def test_two_managers_of_one_application_each_start_their_tasks_after_the_request(tmp_path: Path) -> None:
    first, second, app = TaskManager(), TaskManager(snapshot_db=tmp_path / "tasks.db"), FastAPI()
    log: list[str] = []

    @first.task()
    async def one() -> None:
        log.append("one")

    @second.task(persist=True)
    async def two() -> None:
        log.append("two")

    async def session() -> AsyncIterator[None]:
        yield
        log.append("committed")

    @app.post("/", dependencies=[Depends(session)])
    async def route(
        fails: bool = False,
        ones: ManagedBackgroundTasks = Depends(first.get_tasks),
        twos: ManagedBackgroundTasks = Depends(second.get_tasks),
    ) -> list[str]:
        ids[:] = [ones.add_task(one), twos.add_task(two)]
        if fails:
            raise HTTPException(409)
        return ids

    ids: list[str] = []
    TaskAdmin(app, first, path="/one")
    TaskAdmin(app, second, path="/two")
    async with running(app):
        await post(app, "/")
        assert (await first.wait(ids[0], WAIT)).status is TaskStatus.SUCCESS
        assert (await second.wait(ids[1], WAIT)).status is TaskStatus.SUCCESS
        assert (log[0], sorted(log[1:])) == ("committed", ["one", "two"])
        await post(app, "/?fails=1")
        assert (await first.wait(ids[0], WAIT)).reason == "request_failed"
        assert (await second.wait(ids[1], WAIT)).reason == "request_failed"


async def test_a_client_that_is_gone_changes_nothing_but_a_commit_that_fails_then_does(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "tasks.db")

    class Gone(Exchange):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            raise BrokenPipeError("the client is gone")

    async def session(fails: bool) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if fails:
                raise LookupError("the commit failed")

    @shop.app.post("/", dependencies=[Depends(session)])
    async def route(tasks: ManagedBackgroundTasks) -> Response:
        shop.add(tasks)
        return StreamingResponse(iter([b"a", b"b"]))

    async with running(shop.mount()):
        await Gone(shop.app, "/?fails=0").run()
        assert await shop.ended(shop.ids[0]) is TaskStatus.SUCCESS
        await Gone(shop.app, "/?fails=1").run()
        assert await shop.ended(shop.ids[1]) is TaskStatus.CANCELLED
    assert shop.log == ["task"]


@pytest.mark.parametrize("ends", ["well", "by an error", "without its client"])
@pytest.mark.parametrize("where", ["later", "clean-up"])
async def test_the_first_task_of_a_request_may_be_added_by_hand_at_its_end_or_later(
    ends: str, where: str, tmp_path: Path
) -> None:
    shop, over, adding = Shop(tmp_path / "tasks.db"), asyncio.Event(), list[asyncio.Task[None]]()

    async def add() -> None:
        await over.wait()
        shop.add(ManagedBackgroundTasks(shop.manager))

    class Gone(Exchange):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            if ends == "without its client":
                raise BrokenPipeError("the client is gone")

    async def session() -> AsyncIterator[None]:
        try:
            yield
        finally:
            if where == "clean-up":
                over.set()
                await add()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        if ends == "by an error":
            raise LookupError
        yield b"b"

    @shop.app.post("/", dependencies=[Depends(session)])
    async def route() -> Response:
        if where == "later":
            adding.append(asyncio.create_task(add()))
        return StreamingResponse(chunks())

    async with running(shop.mount()):
        await Gone(shop.app, "/").run()
        over.set()
        await asyncio.gather(*adding)
        expected = TaskStatus.CANCELLED if ends == "by an error" else TaskStatus.SUCCESS
        assert await shop.ended(shop.ids[0]) is expected


async def test_a_request_that_adds_no_task_makes_no_outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, made = Shop(tmp_path / "tasks.db"), list[RequestTasks]()
    make = RequestTasks.make_outbox

    def counted(self: RequestTasks, *args: Any) -> Outbox:
        made.append(self)
        return make(self, *args)

    monkeypatch.setattr(RequestTasks, "make_outbox", counted)

    @shop.app.post("/plain")
    async def plain() -> None:
        pass

    @shop.app.post("/adds")
    async def adds(tasks: ManagedBackgroundTasks) -> None:
        shop.add(tasks)

    async with running(shop.mount()):
        await post(shop.app, "/plain")
        assert made == []
        await post(shop.app, "/adds")
        assert len(made) == 1
        assert made[0].scope == {"type": "over"}, "what a task still knows of its request would keep it alive"
