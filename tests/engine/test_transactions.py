"""Tasks in transactions of callers: they exist exactly if those commit, on each database, for each handle."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from taskflow_otel import InMemoryLogger, ManagedBackgroundTasks, QueueConfig, TaskManager, Telemetry
from taskflow_otel.backends import Backend, MemoryBackend
from taskflow_otel.backends.pool import POOL, Claimed
from taskflow_otel.errors import (
    BackendUnavailableError,
    ConfigurationError,
    NotStartedError,
    PersistenceError,
    QueueFullError,
    TaskNotFoundError,
    TaskStateError,
)
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.reconcile.compare import reconcile
from tests.backends.conftest import FACTORIES
from tests.callers import KINDS, Caller, Database
from tests.managers import WAIT, finish, metric, started
from tests.waiting import eventually

SERVERS = ("sqlite", "postgres", "mysql")
APP = MetaData()
ORDERS = Table("orders", APP, Column("id", Integer, primary_key=True))


class Shop:
    """A manager on a database, and the application's own way to that database."""

    def __init__(self, backend: Backend, database: Database, **options: Any) -> None:
        self.seen = InMemoryLogger()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.backend = backend
        self.database = database
        self.ran: list[int] = []
        self.manager = TaskManager(
            snapshot_backend=backend, loggers=[self.seen], telemetry=Telemetry(tracer_provider=provider), **options
        )

        async def work(number: int) -> None:
            self.ran.append(number)

        self.work = self.manager.task(persist=True, name="work")(work)

    async def add(self, caller: Caller, number: int, **options: Any) -> str:
        return await self.manager.enqueue(self.work, number, session=caller.handle, **options)

    async def rejected(self, number: int) -> None:
        """Wait until this number of tasks is rejected."""
        counted = "taskflow_tasks_finished_total", "rejected"
        await eventually(lambda: metric(self.manager, *counted) == number, "the roll-back")

    async def published(self, transition: Transition, *ids: str) -> None:
        """Wait until this transition of these tasks is published."""
        for task_id in ids:
            await self.seen.wait_for(partial(_is, task_id, transition), timeout=WAIT)

    async def gone(self, *ids: str) -> None:
        """These tasks have ended with their transaction, and nobody finds them."""
        await self.published(Transition.REJECTED, *ids)
        for task_id in ids:
            with pytest.raises(TaskNotFoundError):
                await self.manager.get(task_id)

    async def check(self, *ran: int) -> None:
        """Exactly these have run; metrics and spans agree with the ledger."""
        assert sorted(self.ran) == sorted(ran)
        await self.manager.metrics_page.refresh()
        page = self.manager.metrics_page.render("text/plain")[0].decode()
        assert await reconcile(self.backend, metrics={"page": page}) == []
        sends = [span for span in self.spans.get_finished_spans() if span.name == "send work"]
        assert len(sends) == metric(self.manager, "taskflow_tasks_enqueued_total") + metric(
            self.manager, "taskflow_tasks_finished_total", "rejected"
        )


def _is(task_id: str, transition: Transition, event: Any) -> bool:
    return event.task_id == task_id and getattr(event, "transition", None) is transition


@asynccontextmanager
async def shop_on(request: pytest.FixtureRequest, server: str, **options: Any) -> AsyncIterator[Shop]:
    backend = FACTORIES[server](request)()
    database = Database(_url(request, server))
    shop = Shop(backend, database, **options)
    try:
        # Before the manager writes: a transaction that has looked for a table cannot make it after a write of another.
        async with database.async_engine.begin() as connection:
            await connection.run_sync(APP.create_all)
        async with started(shop.manager):
            yield shop
    finally:
        await database.close()


def _url(request: pytest.FixtureRequest, server: str) -> str:
    if server == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path') / 'tasks.db'}"
    url: str = request.getfixturevalue({"postgres": "postgres_url", "mysql": "mariadb_url"}[server])
    return url


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_exists_exactly_if_its_transaction_and_its_savepoint_commit(
    request: pytest.FixtureRequest, server: str, kind: str
) -> None:
    async with shop_on(request, server) as shop:
        async with shop.database.open(kind) as caller:
            kept = await shop.add(caller, 1, tags={"of": "one"})
            async with caller.savepoint(keep=False):
                undone = await shop.add(caller, 2)
            async with caller.savepoint(keep=True):
                async with caller.savepoint(keep=True):
                    inner = await shop.add(caller, 3, priority=9)
                async with caller.savepoint(keep=False):
                    also_undone = await shop.add(caller, 4)
            await caller.execute(insert(ORDERS).values(id=1))
            for task_id in (kept, undone, inner):
                with pytest.raises(TaskNotFoundError):
                    await shop.manager.get(task_id)
            assert not shop.manager.store.list()
            await caller.commit()
            assert [(await finish(shop.manager, one)).status for one in (kept, inner)] == [TaskStatus.SUCCESS] * 2
            await shop.gone(undone, also_undone)
            # The same session again, whose next transaction is rolled back, and whose last one is never ended.
            rolled_back = await shop.add(caller, 5)
            await caller.rollback()
            await shop.gone(rolled_back)
            again = await shop.add(caller, 6)
            await caller.commit()
            await finish(shop.manager, again)
            forgotten = await shop.add(caller, 7)
        await shop.gone(forgotten)
        assert (await shop.manager.get(kept)).tags == {"of": "one"}
        assert [r.task_id for r in await shop.manager.find(tag=("of", "one"))] == [kept]
        await shop.check(1, 3, 6)


@pytest.mark.parametrize("server", SERVERS)
async def test_add_task_works_in_routes_with_plain_and_asynchronous_sessions(
    request: pytest.FixtureRequest, server: str
) -> None:
    async with shop_on(request, server) as shop:
        tasks = ManagedBackgroundTasks(shop.manager)

        def in_a_thread() -> list[str]:
            with Session(shop.database.engine, expire_on_commit=False) as session:
                kept = tasks.add_task(shop.work, 1, session=session)
                with session.begin_nested() as nested:
                    undone = tasks.add_task(shop.work, 2, session=session)
                    nested.rollback()
                session.commit()
                rolled_back = tasks.add_task(shop.work, 3, session=session)
            return [kept, undone, rolled_back]

        kept, undone, rolled_back = await asyncio.to_thread(in_a_thread)
        await finish(shop.manager, kept)
        await shop.gone(undone, rolled_back)
        # add_task cannot await: the task is inserted by the commit of what it was added in.
        async with AsyncSession(shop.database.async_engine) as session:
            first = tasks.add_task(shop.work, 4, session=session)
            async with session.begin_nested() as nested:
                tasks.add_task(shop.work, 5, session=session)
                await nested.rollback()
            async with session.begin_nested():
                inner = tasks.add_task(shop.work, 6, session=session)
            await session.commit()
            await finish(shop.manager, first)
            await finish(shop.manager, inner)
            last = tasks.add_task(shop.work, 7, session=session)
            await session.rollback()
            await shop.gone(last)
            keyed = tasks.add_task(shop.work, 8, session=session, idempotency_key="k")
            await session.commit()
            await finish(shop.manager, keyed)
            duplicate = tasks.add_task(shop.work, 9, session=session, idempotency_key="k")
            await session.commit()
        await shop.published(Transition.REJECTED, duplicate)
        await eventually(lambda: _stored(shop, duplicate), "the history")
        assert (await shop.manager.get(duplicate)).duplicate_of == keyed
        await shop.check(1, 4, 6, 8)


async def _stored(shop: Shop, task_id: str) -> bool:
    return await shop.backend.get(task_id) is not None


@pytest.mark.parametrize("server", SERVERS)
async def test_a_key_conflict_does_not_spoil_the_transaction(request: pytest.FixtureRequest, server: str) -> None:
    async with shop_on(request, server) as shop:
        async with shop.database.open("AsyncSession") as caller:
            before = await shop.manager.enqueue(shop.work, 1, idempotency_key="before")
            if server != "sqlite":
                # The transaction has a snapshot from before the second key is taken.
                await caller.execute(select(func.count()).select_from(ORDERS))
            assert await shop.add(caller, 2, idempotency_key="before") == before
            if server != "sqlite":
                later = await shop.manager.enqueue(shop.work, 3, idempotency_key="later")
                assert await shop.add(caller, 4, idempotency_key="later") == later
            own = await shop.add(caller, 5, idempotency_key="own")
            assert await shop.add(caller, 6, idempotency_key="own") == own
            await caller.execute(insert(ORDERS).values(id=1))
            await caller.commit()
            await finish(shop.manager, own)
            assert await shop.manager.enqueue(shop.work, 7, idempotency_key="own") == own
            free = await shop.add(caller, 8, idempotency_key="free")
            await caller.rollback()
            await shop.gone(free)
        after = await shop.manager.enqueue(shop.work, 9, idempotency_key="free")
        assert after != free
        await finish(shop.manager, after)
        assert sorted(shop.ran) == ([1, 5, 9] if server == "sqlite" else [1, 3, 5, 9])


async def test_an_error_in_the_commit_undoes_the_task_and_an_unknown_one_is_looked_up(
    request: pytest.FixtureRequest,
) -> None:
    async with shop_on(request, "postgres") as shop:
        late = "CREATE TABLE order_lines (of int REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)"
        async with shop.database.async_engine.begin() as connection:
            await connection.execute(text(late))
        async with shop.database.open("AsyncSession") as caller:
            refused = await shop.add(caller, 1)
            await caller.execute(text("INSERT INTO order_lines VALUES (77)"))
            with pytest.raises(DBAPIError, match="order_lines"):
                await caller.commit()
            await caller.rollback()
            await shop.gone(refused)
        async with shop.database.open("AsyncConnection") as caller:
            lost = await shop.add(caller, 2)
            backend = await caller.execute(select(func.pg_backend_pid()))
            async with shop.database.async_engine.connect() as other:
                await other.execute(select(func.pg_terminate_backend(backend.scalar_one())))
            with pytest.raises(DBAPIError):
                await caller.commit()
            await caller.rollback()
        await shop.gone(lost)
        await shop.check()


async def test_a_commit_without_any_notice_is_found_by_the_next_look(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_otel.engine.transactions.Transactions._ring", lambda _: None)
    async with shop_on(request, "sqlite") as shop, shop.database.open("AsyncConnection") as caller:
        async with shop.database.async_engine.connect() as transaction:
            await transaction.begin()
            held = transaction.sync_connection
            assert held is not None
            kept_alive = held.get_transaction()
            task_id = await shop.add(Caller(transaction), 1)
            await transaction.commit()
            await finish(shop.manager, task_id)
            assert kept_alive is not None
        assert await shop.add(caller, 2)
        await caller.rollback()
        await eventually(
            lambda: metric(shop.manager, "taskflow_tasks_finished_total", "rejected") == 1, "the roll-back"
        )
        await shop.check(1)


async def test_a_lost_answer_to_the_claim_and_a_backend_that_is_away_lose_nothing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop_on(request, "sqlite") as shop, shop.database.open("AsyncSession") as caller:
        store = shop.backend.transaction_store  # type: ignore[attr-defined]
        claim, tries = store.claim, list[int]()

        async def unlucky(owner: str, ids: Collection[str]) -> list[Claimed]:
            tries.append(len(ids))
            if len(tries) == 1:
                raise BackendUnavailableError("away")
            answer: list[Claimed] = await claim(owner, ids)
            if len(tries) == 2:
                raise BackendUnavailableError("the answer is lost")
            return answer

        monkeypatch.setattr(store, "claim", unlucky)
        task_id = await shop.add(caller, 1)
        await caller.commit()
        await finish(shop.manager, task_id)
        assert tries == [1, 1, 1]
        await shop.check(1)


async def test_a_task_that_nobody_has_noticed_yet_can_be_cancelled_and_is_found_by_another_instance(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop_on(request, "sqlite") as shop, shop.database.open("AsyncSession") as caller:

        async def nothing(_: object) -> None: ...

        async def none(*_: object) -> list[Claimed]:
            return []

        with monkeypatch.context() as blind:
            blind.setattr("taskflow_otel.engine.transactions.Transactions._settle", nothing)
            blind.setattr(shop.backend.pool_store, "claim", none)  # type: ignore[attr-defined]
            cancelled, asked = await shop.add(caller, 1), await shop.add(caller, 2)
            await caller.commit()
            assert (await shop.manager.cancel(cancelled)).status is TaskStatus.CANCELLED
            await shop.backend.request_cancel(asked)
            stored = await shop.backend.get(asked)
            assert stored is not None
            assert stored.instance == POOL
        await shop.published(Transition.CANCELLED, asked)
        await shop.check()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_is_read_and_cancelled_in_a_transaction(
    request: pytest.FixtureRequest, server: str, kind: str
) -> None:
    async with shop_on(request, server) as shop, shop.database.open(kind) as caller:
        get, cancel, session = shop.manager.get, shop.manager.cancel, caller.handle
        added, other = await shop.add(caller, 1, delay=60), await shop.add(caller, 2, delay=60)
        assert (await get(added, session=session)).status is TaskStatus.PENDING
        # One that is cancelled in the transaction in which it was added never runs.
        assert (await cancel(added, session=session)).cancel_requested
        await caller.commit()
        assert (await finish(shop.manager, added)).status is TaskStatus.CANCELLED
        await cancel(other, session=session)
        await caller.rollback()
        with pytest.raises(TaskStateError, match="cancelled already"):
            await cancel(added, session=session)
        with pytest.raises(TaskNotFoundError):
            await get("unknown", session=session)
        await caller.rollback()
        assert not (await get(other)).cancel_requested
        await cancel(other, session=session)
        await caller.commit()
        assert (await finish(shop.manager, other)).status is TaskStatus.CANCELLED
        await shop.check()


async def test_a_delay_and_a_shared_queue_hold_after_the_commit(request: pytest.FixtureRequest) -> None:
    queues = {"shared": QueueConfig(run="pool", concurrency=1), "small": QueueConfig(max_size=1)}
    async with shop_on(request, "sqlite", queues=queues) as shop, shop.database.open("AsyncSession") as caller:
        now = await shop.add(caller, 1, queue="shared")
        later = await shop.add(caller, 2, queue="shared", delay=0.3)
        here = await shop.add(caller, 3, delay=0.1)
        far = await shop.add(caller, 4, delay=3600)
        small = await shop.add(caller, 5, queue="small")
        with pytest.raises(QueueFullError):
            await shop.add(caller, 6, queue="small")
        await caller.commit()
        for task_id in (now, later, here, small):
            record = await finish(shop.manager, task_id)
            assert record.start_time is not None
            assert record.start_time >= (record.run_at or record.created_at)
        assert (await shop.manager.get(far)).reason == "delayed"
        await finish(shop.manager, await shop.manager.enqueue(shop.work, 7, queue="small"))
        assert (await shop.manager.cancel(far)).status is TaskStatus.CANCELLED
        await shop.check(1, 2, 3, 5, 7)


async def test_what_another_instance_never_notices_runs_on_this_one(request: pytest.FixtureRequest) -> None:
    """An instance that stops while a transaction is open: its task waits in the pool, and is counted once."""
    async with shop_on(request, "sqlite", queues={"shared": QueueConfig(run="pool")}) as shop:
        other = Shop(FACTORIES["sqlite"](request)(), shop.database)
        async with shop.database.open("AsyncConnection") as caller:
            async with started(other.manager):
                task_id = await other.add(caller, 1)
                with pytest.raises(TaskNotFoundError):
                    await shop.manager.get(task_id)
            await caller.commit()
        await eventually(lambda: shop.ran == [1], "the run", timeout=WAIT)
        await finish(shop.manager, task_id)
        with pytest.raises(NotStartedError):
            await other.manager.enqueue(other.work, 2, session=caller.handle)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_session_that_cannot_be_used_is_refused_at_the_call(
    request: pytest.FixtureRequest, server: str
) -> None:
    async with shop_on(request, server) as shop:
        enqueue, work = shop.manager.enqueue, shop.work
        tasks = ManagedBackgroundTasks(shop.manager)

        async def refused(match: str, session: Any, *, add: bool = True, options: Any = None) -> None:
            given = {"session": session, **(options or {})}
            with pytest.raises(ConfigurationError, match=match):
                await enqueue(work, 1, **given)
            if add:
                with pytest.raises(ConfigurationError, match=match):
                    tasks.add_task(work, 1, **given)

        await refused("cannot be 'str'", "session")
        autocommit = shop.database.engine.execution_options(isolation_level="AUTOCOMMIT")
        with autocommit.connect() as connection:
            await refused("AUTOCOMMIT", connection, add=False)
        async with AsyncSession(shop.database.async_engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            await refused("AUTOCOMMIT", session, add=False)
        elsewhere = Database(f"sqlite:///{request.getfixturevalue('tmp_path') / 'elsewhere.db'}")
        async with elsewhere.open("AsyncSession") as caller:
            await refused("another database", caller.handle, add=server != "sqlite")
        with Session() as unbound:
            await refused("not bound", unbound, add=False)
        async with shop.database.open("AsyncConnection") as caller:
            with pytest.raises(ConfigurationError, match="add_task cannot await"):
                tasks.add_task(work, 1, session=caller.handle)
            await refused("eager", caller.handle, options={"eager": True})

            async def undeclared() -> None: ...

            with pytest.raises(PersistenceError, match="only a declared task"):
                await enqueue(undeclared, session=caller.handle)
        with pytest.raises(ConfigurationError, match="synchronous session would block"):
            tasks.add_task(work, 1, session=scoped_session(sessionmaker(shop.database.engine)), idempotency_key="k")
        await elsewhere.close()
        assert not shop.ran
        memory = TaskManager(snapshot_backend=MemoryBackend())
        in_memory = memory.task(name="work")(_plain)
        async with started(memory):
            with pytest.raises(ConfigurationError, match="needs a backend on a SQL database"):
                await memory.enqueue(in_memory, session=shop.database.engine.connect())


async def _plain() -> None: ...


async def test_a_copy_of_the_database_is_another_database(request: pytest.FixtureRequest) -> None:
    async with shop_on(request, "sqlite") as shop:
        copy = request.getfixturevalue("tmp_path") / "copy.db"
        with closing(sqlite3.connect(request.getfixturevalue("tmp_path") / "tasks.db")) as connection:
            connection.execute(f"VACUUM INTO '{copy}'")
        engine = create_engine(f"sqlite:///{copy}")
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM taskflow_instances"))
        with engine.connect() as connection, pytest.raises(ConfigurationError, match="not among its instances"):
            await shop.manager.enqueue(shop.work, 1, session=connection)
        engine.dispose()


async def test_a_write_that_would_wait_for_its_own_caller_is_refused_on_sqlite(
    request: pytest.FixtureRequest,
) -> None:
    async with shop_on(request, "sqlite") as shop:
        scoped = async_scoped_session(async_sessionmaker(shop.database.async_engine), asyncio.current_task)
        task_id = await shop.manager.enqueue(shop.work, 1, session=scoped)
        with pytest.raises(ConfigurationError, match="a deadlock"):
            await shop.manager.enqueue(shop.work, 2)

        async def elsewhere() -> str:
            return await shop.manager.enqueue(shop.work, 3)

        # Other code waits until the caller commits.
        waiting = asyncio.ensure_future(elsewhere())
        with pytest.raises(ConfigurationError, match="synchronous session would block"):
            ManagedBackgroundTasks(shop.manager).add_task(shop.work, 4, session=Session(shop.database.engine))
        await scoped.commit()
        for one in (task_id, await waiting, await shop.manager.enqueue(shop.work, 5)):
            await finish(shop.manager, one)
        await scoped.remove()
        await shop.check(1, 3, 5)


async def test_what_the_database_refuses_is_the_callers_error_and_leaves_no_task(
    request: pytest.FixtureRequest,
) -> None:
    async with shop_on(request, "sqlite") as shop:
        async with shop.database.open("AsyncSession") as caller:
            await caller.execute(text("PRAGMA query_only = 1"))
            with pytest.raises(DBAPIError, match="readonly"):
                await shop.add(caller, 1)
            await caller.execute(text("PRAGMA query_only = 0"))
            await caller.rollback()
            task_id = await shop.add(caller, 2)
            await caller.commit()
        await finish(shop.manager, task_id)
        await shop.check(2)
        assert not shop.manager.engine.store.list()


async def test_an_undecorated_function_gets_its_own_session(request: pytest.FixtureRequest) -> None:
    """As natively: the value is for the function, which could not be stored anyway."""
    got = list[object]()

    def log(session: object) -> None:
        got.append(session)

    async with shop_on(request, "sqlite") as shop:
        add: Callable[..., Any] = ManagedBackgroundTasks(shop.manager).add_task
        task_id = add(log, session="mine")
        await finish(shop.manager, task_id)
        assert got == ["mine"]
