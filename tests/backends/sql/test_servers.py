"""What is particular to database servers: addresses, drivers, and servers that go away and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import pytest

from taskflow_otel.backends import MySQLBackend, PostgresBackend
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.backends.sql import database, schema, servers
from taskflow_otel.errors import BackendUnavailableError, ConfigurationError, MissingExtraError
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.deadline import insistent
from taskflow_otel.testing.backends.fixtures import APPLIED
from taskflow_otel.testing.backends.samples import finish, make_task
from tests.servers import MariaDBServer, PostgresServer, free_port
from tests.waiting import eventually

T = TypeVar("T")

Maker = type[PostgresBackend] | type[MySQLBackend]
SERVERS: dict[str, tuple[Maker, type[PostgresServer] | type[MariaDBServer]]] = {
    "postgres": (PostgresBackend, PostgresServer),
    "mysql": (MySQLBackend, MariaDBServer),
}


@pytest.fixture(scope="module", params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(kind: str) -> Iterator[PostgresServer | MariaDBServer]:
    """A server of this module's own, which may be stopped."""
    with SERVERS[kind][1]() as server:
        yield server


@pytest.fixture
async def backend(kind: str, server: PostgresServer | MariaDBServer) -> AsyncIterator[PostgresBackend | MySQLBackend]:
    backend = SERVERS[kind][0](server.fresh_url(), pool_size=2, timeout=2.0)
    await backend.open()
    yield backend
    assert backend.connections_in_use() == 0
    await backend.close()


async def answer_of(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, once the backend is available again; fails after thirty seconds."""
    answers: list[T] = []

    async def asked() -> bool:
        with suppress(BackendUnavailableError):
            answers.append(await ask())
        return bool(answers)

    await eventually(asked, "an answer of the backend")
    return answers[0]


async def test_only_a_migration_may_take_as_long_as_it_takes(
    backend: PostgresBackend | MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifted: list[str] = []

    @asynccontextmanager
    async def noted(*limits: Any) -> AsyncIterator[Callable[[], None]]:
        async with insistent(*limits) as lift:
            yield lambda: lifted.append("lifted") or lift()  # type: ignore[func-returns-value]  # one after the other

    monkeypatch.setattr(database, "insistent", noted)
    await backend.close()
    await backend.open()
    assert not lifted
    async with backend._write_engine.begin() as connection:  # type: ignore[union-attr]  # it is open
        await connection.execute(schema.meta.update().values(value="1"))
    await backend.close()
    await backend.open()
    assert lifted


async def test_the_creation_of_the_schema_may_take_longer_than_an_operation(
    backend: PostgresBackend | MySQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    @asynccontextmanager
    async def noted(clock: Clock, seconds: float, grace: float) -> AsyncIterator[Callable[[], None]]:
        limits.append(seconds)
        async with insistent(clock, seconds, grace) as lift:
            yield lift

    monkeypatch.setattr(database, "insistent", noted)
    await backend.close()
    await backend.open()
    await backend.get("nothing")
    assert limits == [30.0, 2.0]


@pytest.mark.parametrize("maker", [PostgresBackend, MySQLBackend])
@pytest.mark.parametrize("url", ["sqlite:///x", "redis://localhost", "not a url", "oracle://user:secret@host/x"])
def test_a_url_of_another_kind_is_refused(maker: Maker, url: str) -> None:
    with pytest.raises(ConfigurationError, match="It looks like this: ") as caught:
        maker(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("maker", "url"), [(PostgresBackend, "postgresql://localhost"), (MySQLBackend, "mysql://localhost")]
)
def test_a_url_without_a_database_is_refused(maker: Maker, url: str) -> None:
    with pytest.raises(ConfigurationError, match="It looks like this: "):
        maker(url)


@pytest.mark.parametrize(("maker", "extra"), [(PostgresBackend, "postgres"), (MySQLBackend, "mysql")])
def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch, maker: Maker, extra: str) -> None:
    monkeypatch.setattr(servers, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'taskflow-otel\[{extra}\]'"):
        maker("postgresql://host/db")


@pytest.mark.parametrize("options", [{"pool_size": 0}, {"timeout": 0}, {"timeout": float("nan")}])
@pytest.mark.parametrize(
    ("maker", "url"), [(PostgresBackend, "postgresql://localhost/x"), (MySQLBackend, "mysql://localhost/x")]
)
def test_wrong_options_are_refused(maker: Callable[..., object], url: str, options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        maker(url, **options)


async def test_an_unreachable_server_is_an_error_without_the_password(kind: str) -> None:
    scheme = {"postgres": "postgres", "mysql": "mariadb"}[kind]
    backend = SERVERS[kind][0](f"{scheme}://user:secret@127.0.0.1:{free_port()}/tasks")
    with pytest.raises(BackendUnavailableError) as caught:
        await backend.open()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


async def test_a_pool_without_a_free_connection_is_an_error_that_passes(
    backend: PostgresBackend | MySQLBackend,
) -> None:
    engine = backend._write_engine
    assert engine is not None
    async with engine.connect(), engine.connect():
        with pytest.raises(BackendUnavailableError):
            await backend.get("x")
    assert await backend.get("x") is None


async def test_a_server_that_was_killed_is_used_again_once_it_is_back(
    backend: PostgresBackend | MySQLBackend, server: PostgresServer | MariaDBServer
) -> None:
    before, after = make_task(), make_task()
    await backend.apply([Insert(before)])
    server.kill()
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await backend.apply([Insert(after)])
        with pytest.raises(BackendUnavailableError):
            await backend.get(before.task_id)
    await asyncio.to_thread(server.start)
    await answer_of(lambda: backend.apply([Insert(after)]))
    assert await backend.get(before.task_id) == before
    assert await backend.get(after.task_id) == after


_READ_ONLY = {
    "postgres": "SET SESSION default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}
_SESSION = {"postgres": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
_SESSIONS = {
    "postgres": "SELECT pid FROM pg_stat_activity WHERE application_name = 'taskflow-otel'",
    "mysql": "SELECT id FROM information_schema.processlist",
}


async def sessions(backend: PostgresBackend | MySQLBackend, *statements: str) -> set[int]:
    """The sessions of all connections of the pool, after these statements in each of them."""
    engine = backend._read_engine
    assert engine is not None
    async with engine.connect() as one, engine.connect() as other:
        found: set[int] = set()
        for connection in (one, other):
            for statement in statements:
                await connection.exec_driver_sql(statement)
            found.add((await connection.exec_driver_sql(_SESSION[backend.name])).scalar_one())
        return found


async def test_sessions_that_have_become_read_only_are_replaced_and_the_change_is_written(
    backend: PostgresBackend | MySQLBackend, server: PostgresServer | MariaDBServer, kind: str
) -> None:
    task = make_task()
    await backend.apply([Insert(task)])
    before = await sessions(backend, _READ_ONLY[kind])
    assert len(before) == 2
    assert await backend.apply([Update(finish(task))]) == [APPLIED]
    after = await sessions(backend)
    assert len(after) == 2
    assert after.isdisjoint(before)
    # No session that answered so stays open.
    await eventually(
        lambda: before.isdisjoint(map(int, server.execute(_SESSIONS[kind]).split())), "the end of the old sessions"
    )
    assert await backend.get(task.task_id) == finish(task)


async def test_a_server_that_does_not_answer_is_an_error_in_time(
    backend: PostgresBackend | MySQLBackend, server: PostgresServer | MariaDBServer
) -> None:
    task = make_task()
    await backend.apply([Insert(task)])
    if isinstance(server, PostgresServer):
        # Each session is a process of its own: a lock is what makes them all wait.
        engine = backend._write_engine
        assert engine is not None
        async with engine.begin() as connection:
            await connection.exec_driver_sql("LOCK TABLE taskflow_tasks IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(BackendUnavailableError, match="took longer than"):
                await backend.get(task.task_id)
    else:
        server.pause()
        try:
            with pytest.raises(BackendUnavailableError):
                await backend.get(task.task_id)
        finally:
            server.resume()
    assert await answer_of(lambda: backend.get(task.task_id)) == task


@pytest.mark.parametrize(
    ("maker", "url", "named"),
    [
        (PostgresBackend, "postgresql://localhost/x?nonsense=1&sslmode=require", "nonsense"),
        (PostgresBackend, "postgresql://localhost/x?client_encoding=latin1", "client_encoding"),
        (PostgresBackend, "postgresql://localhost/x?connect_timeout=1", "connect_timeout"),
        (MySQLBackend, "mysql://localhost/x?nonsense=1", "nonsense"),
        (MySQLBackend, "mysql://localhost/x?charset=latin1", "charset"),
        (MySQLBackend, "mysql://localhost/x?autocommit=true&cursorclass=x", "autocommit, cursorclass"),
    ],
)
def test_options_of_the_url_that_nobody_knows_or_that_break_the_backend_are_refused_at_once(
    maker: Maker, url: str, named: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"cannot be set there: {named}\. Possible are .* parameters of"
    ) as caught:
        maker(url)
    assert maker.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("maker", "url"),
    [
        (PostgresBackend, "postgresql://localhost/x?sslmode=require&target_session_attrs=read-write"),
        (PostgresBackend, "postgresql:///x?host=/run/one&host=/run/other"),
        (MySQLBackend, "mysql://localhost/x?unix_socket=/run/mysql.sock"),
    ],
)
def test_options_of_the_url_that_say_how_to_connect_are_taken(maker: Maker, url: str) -> None:
    maker(url)
