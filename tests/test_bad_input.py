"""What is wrong is refused at the call that is wrong, with a sentence that says what to do."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from taskflow_otel import (
    ConfigurationError,
    FileLogger,
    ManagedBackgroundTasks,
    MissingExtraError,
    QueueConfig,
    SchemaVersionError,
    TaskAdmin,
    TaskArgumentError,
    TaskflowError,
    TaskManager,
    TaskNotFoundError,
    Telemetry,
    UnknownQueueError,
    configure_telemetry,
    task_log,
)
from taskflow_otel.backends import MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from tests.asgi import post, running
from tests.engine.declared_tasks import job, later_numbers, numbers
from tests.managers import started


@pytest.mark.parametrize("generator", [numbers, later_numbers])
async def test_an_undecorated_generator_is_refused_when_it_is_added(generator: Callable[..., Any]) -> None:
    manager = TaskManager()
    await manager.startup()
    try:
        with pytest.raises(ConfigurationError, match="is a generator"):
            await manager.enqueue(generator)
    finally:
        await manager.shutdown()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskManager(shutdown_timeout=-1), "shutdown_timeout must be at least 0 seconds"),
        (lambda: TaskManager(snapshot_interval=0), "snapshot_interval must be more than 0 seconds"),
        (lambda: TaskManager(retention_days=0), "retention_days must be more than 0"),
        (lambda: TaskManager(max_concurrent_tasks=0), "max_concurrent_tasks must be a whole number of at least 1"),
        (lambda: TaskManager(max_sync_threads=0), "max_sync_threads must be a whole number of at least 1"),
        (lambda: TaskManager(queues={"mail": 3}), r"queues\['mail'\] must be a QueueConfig"),  # type: ignore[dict-item]
        (lambda: TaskManager(max_size=1, queues={"default": QueueConfig()}), "not both"),
        (lambda: TaskManager(snapshot_backend="tasks.db"), "must be a Backend, not str"),  # type: ignore[arg-type]
        (lambda: TaskManager(loggers=[print]), "must be an instance of a TaskObserver class"),  # type: ignore[list-item]
        (lambda: TaskManager(encrypt_args_key="secret"), "is not a Fernet key.*Make one with: python"),
        (lambda: TaskManager(log_file="x.log", log_file_mode="daily"), "mode"),  # type: ignore[arg-type]
        (lambda: TaskManager(loggers=[FileLogger("x.log", min_level="loud")]), "min_level"),
        (lambda: QueueConfig(concurrency=0), "QueueConfig.concurrency must be a whole number of at least 1"),
        (lambda: QueueConfig(max_size=-1), "QueueConfig.max_size must be a whole number of at least 0"),
        (lambda: Telemetry(propagation="both"), "propagation must be one of auto, parent, link"),  # type: ignore[arg-type]
        (lambda: SqliteBackend(""), "needs the path of a file"),
        (lambda: SqliteBackend(":memory:"), r"For tasks kept in memory use MemoryBackend\(\)"),
        (lambda: SqliteBackend("x.db", durability="most"), 'must be "full" or "normal"'),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_setting_is_an_error_where_it_is_given(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        make()
    assert isinstance(caught.value, TaskflowError)


async def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no directory '.*missing' for the SQLite database\. Create it"):
        TaskManager(snapshot_db=tmp_path / "missing" / "tasks.db")


@pytest.mark.parametrize("url", ["postgresql://ada:secret@db/shop", "redis://:secret@db/0", "sqlite:///secret.db"])
async def test_a_url_in_place_of_a_path_is_refused_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not a URL\. .*snapshot_backend=PostgresBackend") as refused:
        TaskManager(snapshot_db=url)
    assert "secret" not in str(refused.value)


async def test_a_path_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is a directory. Name a file inside it"):
        TaskManager(snapshot_db=tmp_path)


async def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, who may write everywhere: the answer of the system is played.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ConfigurationError, match=r"may not write to .*Change its permissions"):
        TaskManager(snapshot_db=tmp_path / "tasks.db")


async def test_a_file_that_is_no_sqlite_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.write_text("name,address\nAda,Main Street\n")
    with pytest.raises(ConfigurationError, match=r"is not a SQLite database. Give another path"):
        TaskManager(snapshot_db=path)
    assert path.read_text() == "name,address\nAda,Main Street\n"


async def test_a_database_of_a_newer_version_is_refused_and_the_application_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    manager = TaskManager(snapshot_db=path)
    await manager.startup()
    await manager.shutdown()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE taskflow_meta SET value = '99' WHERE name = 'schema_version'")
    connection.close()

    app, newer = FastAPI(), TaskManager(snapshot_db=path)
    newer.init_app(app)
    with pytest.raises(SchemaVersionError, match=r"has schema version 99, .* knows up to .*Upgrade taskflow-otel"):
        async with running(app):
            raise AssertionError("the application has started")
    assert newer.engine.state != "running"


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("redis", "redis", lambda: RedisBackend("redis://127.0.0.1/0")),
        ("psycopg", "postgres", lambda: PostgresBackend("postgresql://127.0.0.1/tasks")),
        ("aiomysql", "mysql", lambda: MySQLBackend("mysql://127.0.0.1/tasks")),
        ("cryptography.fernet", "encryption", lambda: TaskManager(encrypt_args_key="secret")),
        ("opentelemetry.sdk", "otel", lambda: configure_telemetry(FastAPI(), service_name="shop")),
    ],
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    module: str, extra: str, use: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    # Another test may have had it imported, by the module that is only imported where it is used.
    monkeypatch.delattr("taskflow_otel.backends.redis.connection", raising=False)
    monkeypatch.delitem(sys.modules, "taskflow_otel.backends.redis.connection", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("taskflow_otel.exporters.otel.setup._configured", None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'taskflow-otel\[{extra}\]'") as caught:
        use()
    assert isinstance(caught.value, ImportError)


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[TaskManager]:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db")
    await manager.startup()
    yield manager
    await manager.shutdown()


async def test_a_value_for_an_undecorated_function_is_not_taken_silently_by_add_task(manager: TaskManager) -> None:
    seen: list[int] = []

    def index(document: str, priority: int = 0) -> None:
        seen.append(priority)

    with pytest.raises(
        ConfigurationError, match=r"has a parameter 'priority', which is an option of add_task.*by position"
    ):
        await manager.enqueue(index, "a page", priority=3)
    await manager.wait(await manager.enqueue(index, "a page", 3), 20)
    assert seen == [3]


async def test_what_add_task_raises_reaches_the_route(tmp_path: Path) -> None:
    app, manager = FastAPI(), TaskManager(snapshot_db=tmp_path / "tasks.db")
    decorated = manager.task(persist=True)(job)

    @app.post("/")
    async def route(tasks: ManagedBackgroundTasks) -> str:
        with pytest.raises(UnknownQueueError):
            tasks.add_task(decorated, queue="nowhere")
        with pytest.raises(TaskArgumentError):
            tasks.add_task(decorated, 1, 2)  # type: ignore[call-overload]  # that is the mistake
        return "refused"

    TaskAdmin(app, manager, auto_install=True)
    async with running(app):
        assert (await post(app, "/")).json == "refused"


def test_an_unknown_log_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="level must be one of debug, info, warning, error, critical"):
        task_log("hello", level="loud")


@pytest.mark.parametrize("method", ["get", "wait", "cancel", "retry"])
async def test_an_unknown_id_is_an_error(manager: TaskManager, method: str) -> None:
    with pytest.raises(TaskNotFoundError, match="there is no task with the id 'nonsense'"):
        await getattr(manager, method)("nonsense")


@pytest.mark.parametrize("method", ["pause_queue", "resume_queue", "update_queue_config"])
async def test_an_unknown_queue_is_an_error_for_every_caller(manager: TaskManager, method: str) -> None:
    with pytest.raises(UnknownQueueError, match="no queue 'nowhere'"):
        await getattr(manager, method)("nowhere")


@pytest.mark.parametrize("timeout", [float("nan"), -1, -0.001, float("inf"), 1e300, 10**400, "1", True, [], object()])
async def test_a_wait_has_a_timeout_of_seconds_or_none(manager: TaskManager, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^timeout must be .*, not "):
        await manager.wait("any", timeout=timeout)


@pytest.mark.parametrize("timeout", [None, 0, 1, 3e9])
async def test_a_wait_for_what_has_finished_returns_whatever_its_timeout(
    manager: TaskManager, timeout: float | None
) -> None:
    task_id = await manager.enqueue(job)
    await manager.wait(task_id)
    assert (await manager.wait(task_id, timeout=timeout)).task_id == task_id


@pytest.mark.parametrize("kept", [True, False], ids=["sqlite", "memory"])
async def test_no_task_has_an_id_that_cannot_be_one(tmp_path: Path, kept: bool) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db" if kept else None)
    async with started(manager):
        asks = (manager.get, manager.logs, manager.wait, manager.cancel, manager.retry, manager.ask_for_stack)
        for ask in asks:
            for text in ("", "\0", "a\0b", "\ud800", "x" * 10_000):
                with pytest.raises(TaskNotFoundError, match="there is no task"):
                    await ask(text)
                assert manager.store.get(text) is None
            for other in (None, 5, b"x", [], object()):
                with pytest.raises(ConfigurationError, match="a task id is a text or a UUID, not"):
                    await ask(other)  # type: ignore[arg-type]
