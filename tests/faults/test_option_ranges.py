"""Every option has a range, which is checked at the call: what it does not refuse there, works."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import ConfigurationError, QueueConfig, TaskManager, TaskRecord, TaskStatus, UnknownQueueError
from taskflow_otel.model.options import LONGEST_SECONDS
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.vocabulary import Reason
from tests.backends.conftest import FACTORIES, BackendFactory
from tests.faults.values import Broken, LyingDict, LyingNumber, LyingText, Wordless
from tests.managers import finish, started
from tests.waiting import eventually

NO_NUMBERS: list[Any] = [
    math.nan, True, "1", b"1", [], {}, object(), Broken(), Broken(SystemExit), Wordless(), LyingText("1"), LyingDict(),
    Decimal(1), Fraction(1), 1j, date(2026, 1, 1),
]  # fmt: skip
NO_SECONDS: list[Any] = [
    *NO_NUMBERS, -1, -1e-9, math.inf, -math.inf, 1e300, 1e12, 10**400, 10**5000, -(10**5000), timedelta.max,
    timedelta.min, timedelta(microseconds=-1), LyingNumber(-1),
]  # fmt: skip
NO_WHOLE: list[Any] = [*NO_NUMBERS, 1.5, math.inf, -math.inf, 1e300, 2**31, 2**63, 10**5000, -(10**5000), timedelta(1)]
WEST, EAST = timezone(timedelta(hours=-12)), timezone(timedelta(hours=14))
NO_MOMENTS: list[Any] = [
    *NO_NUMBERS, 0, 1.5, "2026-01-01", datetime(2026, 1, 1), datetime.max, datetime.max.replace(tzinfo=WEST),
    datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=EAST), datetime.min.replace(tzinfo=UTC),
    datetime(2200, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC), timedelta(1),
]  # fmt: skip
NO_FLAGS: list[Any] = [0, 1, "yes", "", [], object(), Broken(), Broken(SystemExit), Wordless(), math.nan]
NO_NAMES: list[Any] = ["", "x" * 201, "a\nb", "a\0", "\ud800", 5, b"a", True, [], object(), Broken(), LyingDict()]
NO_KEYS: list[Any] = ["", "x" * 256, 5, b"k", True, [], object(), Broken(), Broken(SystemExit)]
NO_EXCEPTIONS: list[Any] = ["ValueError", int, [ValueError], (ValueError, 5), 5, object(), Broken(), Broken(SystemExit)]

AT_THE_CALL = {
    "priority": [*NO_WHOLE, -(2**31)],
    "delay": NO_SECONDS,
    "run_at": NO_MOMENTS,
    "eager": NO_FLAGS,
    "idempotency_key": NO_KEYS,
    "tags": [5, "a", b"a", ["a"], True, object(), Broken(), Broken(SystemExit)],
}
AT_THE_DECLARATION = {
    "priority": [*NO_WHOLE, -(2**31)],
    "retries": [*NO_WHOLE, -1],
    "delay": NO_SECONDS,
    "max_delay": NO_SECONDS,
    "timeout": [*NO_SECONDS, 0, timedelta(0)],
    "backoff": [*NO_NUMBERS, 0, -1, math.inf, 1e300, 10**400],
    "jitter": [*NO_NUMBERS, -0.1, 1.1, math.inf, 10**400],
    "persist": NO_FLAGS,
    "requeue_on_interrupt": NO_FLAGS,
    "eager": NO_FLAGS,
    "name": NO_NAMES,
    "executor": ["", "fiber", 5, True, object(), Broken(), Broken(SystemExit)],
    "retry_on": NO_EXCEPTIONS,
    "no_retry_on": NO_EXCEPTIONS,
}
OF_A_SCHEDULE = {"every": [*NO_SECONDS, 0, timedelta(0)], "run_on_startup": NO_FLAGS}
OF_A_QUEUE = {"concurrency": [*NO_WHOLE, 0, -1], "max_size": [*NO_WHOLE, -1]}
OF_A_MANAGER = {
    "snapshot_interval": [*NO_SECONDS, 0],
    "shutdown_timeout": NO_SECONDS,
    "cancel_grace": NO_SECONDS,
    "commit_timeout": [*NO_SECONDS, 0],
    "lease_seconds": [*NO_SECONDS, 0],
    "retention_days": [*NO_SECONDS, 0],
    "audit_retention_days": [*NO_SECONDS, 0],
    "process_shutdown_timeout": NO_SECONDS,
    "max_concurrent_tasks": [*NO_WHOLE, 0, -1],
    "max_sync_threads": [*NO_WHOLE, 0, -1],
    "max_process_workers": [*NO_WHOLE, 0, -1],
    "max_size": [*NO_WHOLE, -1],
    "requeue_pending": NO_FLAGS,
    "freeze_gc": NO_FLAGS,
}


def not_refused(option: str, values: list[Any], call: Callable[[Any], object]) -> list[str]:
    """The values of an option which a call does not refuse by its name, and what happened instead."""
    wrong = []
    for value in values:
        try:
            call(value)
        except ConfigurationError as exc:
            if option not in str(exc):
                wrong.append(f"{repr_of(value)}: {exc}")
        except BaseException as exc:
            wrong.append(f"{repr_of(value)}: {type(exc).__name__}")
        else:
            wrong.append(f"{repr_of(value)}: taken")
    return wrong


async def not_refused_by(option: str, values: list[Any], call: Callable[[Any], Awaitable[object]]) -> list[str]:
    """The same of a coroutine function."""
    wrong = []
    for value in values:
        try:
            await call(value)
        except BaseException as exc:

            def again(_: Any, exc: BaseException = exc) -> None:
                raise exc

            wrong += not_refused(option, [value], again)
        else:
            wrong.append(f"{repr_of(value)}: taken")
    return wrong


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[TaskManager]:
    async with started(TaskManager(snapshot_db=tmp_path / "tasks.db")) as manager:
        yield manager


async def job() -> None: ...


@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("option", AT_THE_CALL)
async def test_each_wrong_option_of_a_call_is_refused_there_by_its_name(
    manager: TaskManager, option: str, persist: bool
) -> None:
    task = manager.task(persist=persist)(job)
    assert (
        await not_refused_by(option, AT_THE_CALL[option], lambda value: manager.enqueue(task, **{option: value})) == []
    )
    assert manager.store.list() == []
    assert manager.queue_stats()["default"].ready == 0
    assert (await finish(manager, await manager.enqueue(task))).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("name", ["", "none", 5, "\ud800", "x" * 300], ids=ascii)
async def test_a_queue_that_does_not_exist_is_refused_at_the_call(manager: TaskManager, name: Any) -> None:
    with pytest.raises((UnknownQueueError, ConfigurationError)):
        await manager.enqueue(manager.task()(job), queue=name)
    assert manager.store.list() == []


ENDS: list[dict[str, Any]] = [
    {"priority": 2**31 - 1}, {"priority": -(2**31) + 1}, {"priority": LyingNumber(3)}, {"delay": 0},
    {"delay": 1e-9}, {"delay": timedelta(0)}, {"run_at": datetime(1970, 1, 1, tzinfo=UTC)},
    {"idempotency_key": "\ud800"}, {"idempotency_key": "x" * 255}, {"tags": {}}, {"tags": LyingDict({"a": 1})},
    {"tags": {Broken(): Broken()}}, {"tags": {("a", "b"): math.nan, None: 10**5000}}, {"eager": True},
]  # fmt: skip


ENDS_OF_A_DECLARATION: list[dict[str, Any]] = [
    {"priority": 2**31 - 1}, {"priority": -(2**31) + 1}, {"retries": 2**31 - 1}, {"retries": 0},
    {"retries": 1, "delay": LONGEST_SECONDS, "max_delay": timedelta(seconds=LONGEST_SECONDS)},
    {"timeout": LONGEST_SECONDS}, {"backoff": 5e-324}, {"jitter": 0}, {"jitter": 1}, {"name": "x" * 200},
    {"name": "☕" * 200},
]  # fmt: skip


@pytest.fixture(params=sorted(FACTORIES))
async def stored(request: pytest.FixtureRequest) -> AsyncIterator[TaskManager]:
    """A manager that runs, once on each backend."""
    factory: BackendFactory = FACTORIES[request.param](request)
    # The longest name, of characters that are several bytes.
    queues = {"☕" * 200: QueueConfig()}
    async with started(TaskManager(snapshot_backend=factory(), snapshot_interval=0.05, queues=queues)) as manager:
        yield manager


def as_stored(record: TaskRecord) -> tuple[Any, ...]:
    """What the options of a call or a declaration change in the row of a task."""
    key = record.idempotency_key
    return record.func_name, record.status, record.queue, record.priority, record.tags, record.run_at, key


@pytest.mark.parametrize("persist", [True, False])
async def test_the_ends_of_each_range_work_and_are_stored_as_they_are(stored: TaskManager, persist: bool) -> None:
    task = stored.task(persist=persist)(job)
    calls = [(task, end) for end in [*ENDS, {"queue": "☕" * 200}]]
    for number, end in enumerate(ENDS_OF_A_DECLARATION):

        async def declared() -> None: ...

        calls.append((stored.task(persist=persist, **{"name": f"end {number}", **end})(declared), {}))
    ended = [await finish(stored, await stored.enqueue(task, **options)) for task, options in calls]
    assert {record.status for record in ended} == {TaskStatus.SUCCESS}
    rows: list[TaskRecord] = []

    async def written() -> bool:
        rows[:] = (await stored.engine.lookup.page(TaskQuery(limit=100))).records
        return [row.status for row in rows] == [TaskStatus.SUCCESS] * len(ended)

    await eventually(written, "the history of every task")
    assert [as_stored(row) for row in rows[::-1]] == [as_stored(record) for record in ended]


async def test_the_longest_wait_can_be_stored_and_cancelled(stored: TaskManager) -> None:
    task = stored.task(persist=True)(job)
    options: list[dict[str, Any]] = [{"delay": LONGEST_SECONDS}, {"run_at": datetime(2199, 12, 31, tzinfo=UTC)}]
    ids = [await stored.enqueue(task, **option) for option in options]
    rows = (await stored.engine.lookup.page(TaskQuery())).records
    assert [(row.task_id, row.status) for row in rows[::-1]] == [(task_id, TaskStatus.PENDING) for task_id in ids]
    for row in rows:
        assert row.run_at == (await stored.get(row.task_id)).run_at is not None
        assert (await stored.cancel(row.task_id)).status is TaskStatus.CANCELLED


async def test_a_failed_task_with_the_longest_wait_before_its_retry_is_stored_pending(stored: TaskManager) -> None:
    @stored.task(persist=True, retries=1, delay=LONGEST_SECONDS)
    async def failing() -> None:
        raise ConnectionError("not yet")

    task_id = await stored.enqueue(failing)
    rows: list[TaskRecord] = []

    async def waits() -> bool:
        rows[:] = (await stored.engine.lookup.page(TaskQuery())).records
        return [row.reason for row in rows] == [Reason.RETRY_WAIT]

    await eventually(waits, "the wait for the retry")
    [row] = rows
    assert (row.task_id, row.status) == (task_id, TaskStatus.PENDING)
    assert row.run_at is not None
    assert row.run_at - row.created_at >= timedelta(seconds=LONGEST_SECONDS)
    assert (await stored.cancel(task_id)).status is TaskStatus.CANCELLED


@pytest.mark.parametrize("option", AT_THE_DECLARATION)
def test_each_wrong_option_of_a_task_is_refused_at_its_declaration(option: str) -> None:
    manager = TaskManager()
    said = option.replace("name", "task name")
    assert not_refused(said, AT_THE_DECLARATION[option], lambda value: manager.task(**{option: value})(job)) == []


@pytest.mark.parametrize("option", OF_A_SCHEDULE)
def test_each_wrong_option_of_a_schedule_is_refused_at_its_declaration(option: str) -> None:
    manager = TaskManager()
    options: dict[str, Any] = {"every": 1}
    declare = lambda value: manager.schedule(**{**options, option: value})(job)  # noqa: E731
    assert not_refused(option, OF_A_SCHEDULE[option], declare) == []


@pytest.mark.parametrize("option", OF_A_QUEUE)
async def test_each_wrong_limit_of_a_queue_is_refused_where_it_is_given(option: str) -> None:
    manager = TaskManager()
    assert not_refused(option, OF_A_QUEUE[option], lambda value: QueueConfig(**{option: value})) == []
    change = lambda value: manager.update_queue_config("default", **{option: value})  # noqa: E731
    assert await not_refused_by(option, OF_A_QUEUE[option], change) == []


@pytest.mark.parametrize("option", OF_A_MANAGER)
def test_each_wrong_option_of_a_manager_is_refused_where_it_is_made(option: str) -> None:
    assert not_refused(option, OF_A_MANAGER[option], lambda value: TaskManager(**{option: value})) == []


async def test_each_wrong_moment_of_a_planned_run_is_refused_at_the_call(manager: TaskManager) -> None:
    task = manager.task()(job)
    plan = lambda value: manager.schedule_once(task, run_at=value)  # noqa: E731
    assert await not_refused_by("run_at", NO_MOMENTS, plan) == []
    assert await manager.list_scheduled() == []
