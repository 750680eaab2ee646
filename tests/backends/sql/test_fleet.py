"""A transaction that is open while its instance is declared dead: one of them is first, and nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.util import await_only

from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.backends.sql.backend import SqlBackend
from taskflow_otel.backends.sql.writes import Writer
from taskflow_otel.errors import BackendUnavailableError, DeclaredDeadError
from taskflow_otel.testing.backends.fixtures import APPLIED
from taskflow_otel.testing.backends.samples import BASE, finish, ids, make_instance, make_task
from tests.waiting import eventually


class Ordinary(PostgresBackend):
    """Applies each batch as it does where that cannot be in one flight."""

    async def _apply_at_once(self, writer: Writer, changes: Sequence[Change]) -> list[Applied]:
        return await SqlBackend._apply_at_once(self, writer, changes)


ALL: dict[str, tuple[str, Callable[[str], SqlBackend]]] = {
    "postgres": ("postgres_url", Ordinary),
    "pgbouncer": ("pgbouncer_url", Ordinary),
    "mysql": ("mariadb_url", MySQLBackend),
}
LEASE = 3.0
_SHARE_LOCKS = ("FOR KEY SHARE", "LOCK IN SHARE MODE", "FOR SHARE")


class Stop:
    """A point in the first transaction that comes to it."""

    def __init__(self) -> None:
        self.reached, self.over = asyncio.Event(), asyncio.Event()

    def here(self, *_: object) -> None:
        """Wait, as a process that was stopped."""
        if not self.reached.is_set():
            self.reached.set()
            await_only(self.over.wait())

    def before_lock(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        """Wait before the statement that locks the row of the instance."""
        if any(lock in statement for lock in _SHARE_LOCKS):
            self.here()


@contextmanager
def listening(name: str, listener: Callable[..., Any]) -> Iterator[None]:
    event.listen(Engine, name, listener)
    try:
        yield
    finally:
        event.remove(Engine, name, listener)


@pytest.fixture(params=ALL)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Backend, Backend]]:
    """The backends of two instances; the first is `one`, which lives."""
    fixture, make = ALL[request.param]
    async with _pair(request.getfixturevalue(fixture), make) as backends:
        yield backends


@pytest.fixture(params=["postgres", "pgbouncer"])
async def flying(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Backend, Backend]]:
    """The same, of those that apply a batch in one flight."""
    async with _pair(request.getfixturevalue(f"{request.param}_url"), PostgresBackend) as backends:
        yield backends


@asynccontextmanager
async def _pair(url: str, make: Callable[[str], SqlBackend]) -> AsyncIterator[tuple[Backend, Backend]]:
    backends = make(url), make(url)
    for backend in backends:
        backend.use_lease(LEASE)
        await backend.open()
    await backends[0].beat(make_instance("one"))
    yield backends
    for backend in backends:
        assert backend.connections_in_use() == 0
        await backend.close()


async def test_a_batch_that_is_about_to_be_committed_comes_before_the_burial(pair: tuple[Backend, Backend]) -> None:
    backend, other = pair
    task, stop = make_task(), Stop()
    with listening("commit", stop.here):
        applying = asyncio.create_task(backend.apply([Insert(task)]))
        await asyncio.wait_for(stop.reached.wait(), 30)
        assert await other.declare_dead("one", BASE) is False
        assert [instance.state for instance in await other.instances()] == ["alive"]
        # Nobody else is held up, not even by several who try.
        assert await other.beat(make_instance("two"))
        assert await other.apply([Insert(make_task(instance="two"))]) == [APPLIED]
        stop.over.set()
        assert await applying == [APPLIED]
    assert await other.declare_dead("one", BASE) is True
    assert ids(await other.take_over({"one"}, "two", None, 10)) == [task.task_id]
    with pytest.raises(DeclaredDeadError):
        await backend.apply([Update(finish(task))])


async def test_a_batch_that_is_stopped_before_its_last_statement_comes_after_the_burial(
    pair: tuple[Backend, Backend],
) -> None:
    backend, other = pair
    task, late, stop = make_task(), make_task(), Stop()
    await backend.apply([Insert(task)])
    with listening("before_cursor_execute", stop.before_lock):
        applying = asyncio.create_task(backend.apply([Insert(late), Update(finish(task))]))
        await asyncio.wait_for(stop.reached.wait(), 30)
        assert await other.declare_dead("one", BASE) is True
        stop.over.set()
        with pytest.raises(DeclaredDeadError):
            await applying
    assert await other.get(late.task_id) is None
    assert ids(await other.take_over({"one"}, "two", None, 10)) == [task.task_id]


async def test_one_that_is_stopped_before_its_commit_is_buried_within_its_lease_and_commits_nothing(
    pair: tuple[Backend, Backend],
) -> None:
    backend, other = pair
    task, stop = make_task(), Stop()
    with listening("commit", stop.here):
        applying = asyncio.create_task(backend.apply([Insert(task)]))
        await asyncio.wait_for(stop.reached.wait(), 30)
        # The server ends the transaction of a process that says nothing.
        await eventually(lambda: other.declare_dead("one", BASE), "the burial")
        stop.over.set()
        with pytest.raises(BackendUnavailableError):
            await applying
    with pytest.raises(DeclaredDeadError):
        await backend.apply([Insert(task)])
    assert await other.get(task.task_id) is None


@pytest.mark.parametrize("for_long", [False, True], ids=["a moment", "longer than its lease"])
async def test_a_flight_that_is_stopped_before_its_commit_is_buried_at_once_and_commits_nothing(
    flying: tuple[Backend, Backend], monkeypatch: pytest.MonkeyPatch, for_long: bool
) -> None:
    backend, other = flying
    task, late, stop = make_task(), make_task(), Stop()
    await backend.apply([Insert(task)])
    execute = psycopg.AsyncCursor.execute

    async def stop_before_commit(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        if str(query).endswith("; COMMIT") and not stop.reached.is_set():
            stop.reached.set()
            await stop.over.wait()
        return await execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", stop_before_commit)
    applying = asyncio.create_task(backend.apply([Insert(late), Update(finish(task))]))
    await asyncio.wait_for(stop.reached.wait(), 30)
    # The lock that excludes the burial is in the same message as the commit, which was not sent.
    assert await other.declare_dead("one", BASE) is True
    assert await other.beat(make_instance("two"))
    assert await other.apply([Insert(make_task(instance="two"))]) == [APPLIED]
    if for_long:
        # The server ends the transaction of a process that says nothing: its task can be taken.
        taken: list[str] = []

        async def take() -> bool:
            taken.extend(ids(await other.take_over({"one"}, "two", None, 10)))
            return bool(taken)

        await eventually(take, "the end of the transaction")
        assert taken == [task.task_id]
    stop.over.set()
    with pytest.raises(BackendUnavailableError if for_long else DeclaredDeadError):
        await applying
    with pytest.raises(DeclaredDeadError):
        await backend.apply([Insert(late)])
    assert await other.get(late.task_id) is None
    if not for_long:
        assert ids(await other.take_over({"one"}, "two", None, 10)) == [task.task_id]
