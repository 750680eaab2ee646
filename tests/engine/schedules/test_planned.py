"""Runs planned for one moment: moved, cancelled, kept over restarts, and made up for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cryptography.fernet import Fernet

from taskflow_otel import (
    ConfigurationError,
    NotStartedError,
    PersistenceError,
    QueueConfig,
    TaskArgumentError,
    TaskManager,
    TaskStatus,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.clock import FakeClock, settle
from tests.managers import Gate, started

START = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Office:
    """One backend and one clock, on which managers with a task `remind` come and go."""

    def __init__(self, backend: MemoryBackend | None = None, **options: Any) -> None:
        self.clock = FakeClock(START)
        self.backend = backend or MemoryBackend(durable=True)
        self.said: list[tuple[float, str, int]] = []
        self.options = options

        async def remind(whom: str, number: int = 0) -> None:
            self.said.append(((self.clock.now() - START).total_seconds(), whom, number))

        self.remind = remind

    @asynccontextmanager
    async def open(self, declare: Callable[[TaskManager], object] | None = None) -> AsyncIterator[TaskManager]:
        manager = TaskManager(snapshot_backend=self.backend, clock=self.clock, **self.options)
        if declare is None:
            manager.task()(self.remind)
        else:
            declare(manager)
        async with started(manager):
            await settle()
            yield manager


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "in one process"])
async def test_a_run_begins_at_its_moment(durable: bool) -> None:
    office = Office(MemoryBackend(durable=durable))
    async with office.open() as manager:
        planned = await manager.schedule_once(office.remind, "Ann", number=3, run_at=after(100), tags={"tenant": "a"})
        assert await manager.list_scheduled() == [planned]
        await office.clock.advance(99)
        assert office.said == []
        await office.clock.advance(2)
        assert office.said == [(100, "Ann", 3)]
        record = await manager.wait(planned.task_id, 10)
        assert (record.status, record.source, record.tags, record.run_at) == (
            TaskStatus.SUCCESS,
            "scheduled",
            {"tenant": "a"},
            after(100),
        )
        assert await manager.list_scheduled() == []
        assert await manager.cancel_scheduled(planned.run_key) is False


@pytest.mark.parametrize(
    "run_at",
    [
        after(60).astimezone(ZoneInfo("Asia/Kolkata")),
        after(60).astimezone(ZoneInfo("America/New_York")),
        after(60).astimezone(timezone(timedelta(hours=-9, minutes=-30))),
    ],
)
async def test_the_moment_may_be_given_in_any_zone(run_at: datetime) -> None:
    office = Office()
    async with office.open() as manager:
        planned = await manager.schedule_once(office.remind, "Ann", run_at=run_at)
        assert planned.run_at == after(60)
        await office.clock.advance(61)
    assert office.said == [(60, "Ann", 0)]


async def test_a_moment_that_has_passed_means_at_once() -> None:
    office = Office()
    async with office.open() as manager:
        await manager.schedule_once(office.remind, "Ann", run_at=after(-60))
        await office.clock.advance(0)
    assert office.said == [(0, "Ann", 0)]


@pytest.mark.parametrize("mover", ["the same", "another"])
async def test_the_same_key_moves_a_run_from_any_instance(mover: str) -> None:
    office = Office()
    async with office.open() as one, office.open() as two:
        other = one if mover == "the same" else two
        await one.schedule_once(office.remind, "Ann", run_at=after(10), run_key="mail:7")
        await one.schedule_once(office.remind, "Bob", run_at=after(20), run_key="mail:77")
        await other.schedule_once(office.remind, "Ann", number=1, run_at=after(30), run_key="mail:7")
        assert [(run.run_key, run.run_at) for run in await one.list_scheduled()] == [
            ("mail:77", after(20)),
            ("mail:7", after(30)),
        ]
        await office.clock.advance(40)
    assert office.said == [(20, "Bob", 0), (30, "Ann", 1)]


async def test_a_run_moved_elsewhere_at_the_last_moment_does_not_begin_twice() -> None:
    office = Office()
    async with office.open() as one, office.open() as two:
        await one.schedule_once(office.remind, "Ann", run_at=after(10), run_key="k")
        await office.clock.advance(9.9)
        # The first instance has not looked again before its timer rings.
        await two.schedule_once(office.remind, "Ann", number=1, run_at=after(20), run_key="k")
        await office.clock.advance(15)
    assert office.said == [(20, "Ann", 1)]


@pytest.mark.parametrize("canceller", ["the same", "another", "a later life"])
async def test_a_run_is_cancelled_from_any_instance(canceller: str) -> None:
    office = Office()
    async with office.open() as one, office.open() as two:
        await one.schedule_once(office.remind, "Ann", run_at=after(10), run_key="k")
        if canceller != "a later life":
            assert await (one if canceller == "the same" else two).cancel_scheduled("k") is True
            assert await one.cancel_scheduled("k") is False
            await office.clock.advance(20)
    async with office.open() as three:
        if canceller == "a later life":
            assert await three.cancel_scheduled("k") is True
        await office.clock.advance(20)
    assert office.said == []


@pytest.mark.parametrize("instances", [1, 3])
async def test_what_was_due_while_everything_was_down_begins_once_at_the_start(instances: int) -> None:
    office = Office()
    async with office.open() as manager:
        await manager.schedule_once(office.remind, "Ann", run_at=after(10))
        await manager.schedule_once(office.remind, "Bob", run_at=after(5_000))
    office.clock.set_wall(after(3_600))
    async with AsyncExitStack() as stack:
        for _ in range(instances):
            await stack.enter_async_context(office.open())
        await office.clock.advance(3)
    assert [whom for _, whom, _ in office.said] == ["Ann"]
    async with office.open():
        office.clock.set_wall(after(5_001))
        await office.clock.advance(40)
    assert [whom for _, whom, _ in office.said] == ["Ann", "Bob"]


async def test_an_instance_begins_what_another_has_planned_and_left() -> None:
    office = Office()
    async with office.open():
        async with office.open() as planner:
            await planner.schedule_once(office.remind, "Ann", run_at=after(10))
        await office.clock.advance(11)
    assert office.said == [(10, "Ann", 0)]


async def test_arguments_are_ciphertext_until_the_run_begins() -> None:
    office = Office(encrypt_args_key=Fernet.generate_key())
    async with office.open() as manager:
        planned = await manager.schedule_once(office.remind, "secret-name", run_at=after(10))
        stored = json.dumps(await office.backend.settings(""))
        assert "secret-name" not in stored
        assert "secret-name" not in repr(planned)
    async with office.open() as manager:
        await office.clock.advance(11)
        record = await manager.wait(planned.task_id, 10)
        assert record.payload is not None
        assert "secret-name" not in record.payload
    assert office.said == [(10, "secret-name", 0)]


async def test_a_name_that_is_gone_keeps_its_run_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    office = Office()
    async with office.open() as manager:
        await manager.schedule_once(office.remind, "Ann", run_at=after(10))
    async with office.open(lambda manager: None):
        await office.clock.advance(20)
    assert office.said == []
    assert "no task named 'remind'" in caplog.text
    async with office.open():
        await office.clock.advance(2)
    assert [whom for _, whom, _ in office.said] == ["Ann"]


class Unwilling(MemoryBackend):
    """A backend that, asked to, forgets nothing and stores nothing."""

    down = False

    async def put_setting(self, key: str, value: str | None) -> None:
        self._answer()
        await super().put_setting(key, value)

    async def settings(self, prefix: str) -> dict[str, str]:
        self._answer()
        return await super().settings(prefix)

    def _answer(self) -> None:
        if self.down:
            raise BackendUnavailableError("not now")


async def test_a_backend_that_is_down_when_a_run_is_due_delays_it(caplog: pytest.LogCaptureFixture) -> None:
    backend = Unwilling(durable=True)
    office = Office(backend)
    async with office.open() as manager:
        await manager.schedule_once(office.remind, "Ann", run_at=after(10))
        await office.clock.advance(9)
        backend.down = True
        await office.clock.advance(10)
        backend.down = False
        await office.clock.advance(10)
        errors = manager.metrics.registry.get_sample_value(
            "taskflow_schedule_errors_total", {"schedule": "schedule_once"}
        )
        assert errors is not None
        assert errors >= 1
        assert await manager.list_scheduled() == []
    assert [whom for _, whom, _ in office.said] == ["Ann"]
    assert "could not be started: not now" in caplog.text


async def test_a_run_that_has_begun_is_not_begun_again_because_it_could_not_be_crossed_off() -> None:
    class Sticky(Unwilling):
        async def settings(self, prefix: str) -> dict[str, str]:
            return await MemoryBackend.settings(self, prefix)

    backend = Sticky(durable=True)
    office = Office(backend)
    async with office.open() as manager, office.open():
        await manager.schedule_once(office.remind, "Ann", run_at=after(10))
        await office.clock.advance(9)
        backend.down = True
        await office.clock.advance(10)
        backend.down = False
        await office.clock.advance(10)
        assert await manager.list_scheduled() == []
    assert [whom for _, whom, _ in office.said] == ["Ann"]


async def test_a_full_queue_delays_a_run() -> None:
    gate = Gate()
    office = Office(queues={"small": QueueConfig(concurrency=1, max_size=1)})

    def declare(manager: TaskManager) -> None:
        manager.task()(office.remind)
        manager.task(name="wait")(gate.run)

    async with office.open(declare) as manager:
        for _ in range(2):
            await manager.enqueue(gate.run, queue="small")
            await settle()
        planned = await manager.schedule_once(office.remind, "Ann", run_at=after(10), queue="small")
        await office.clock.advance(13)
        assert office.said == []
        gate.opened.set()
        await office.clock.advance(30)
        assert (await manager.get(planned.task_id)).status is TaskStatus.SUCCESS
        refused = (await office.backend.page(TaskQuery(status=TaskStatus.REJECTED))).records
        assert {record.reason for record in refused} == {"queue_full"}
    assert [whom for _, whom, _ in office.said] == ["Ann"]


async def test_wrong_plans_are_refused_at_the_call() -> None:
    office = Office()

    async def undeclared() -> None: ...

    async with office.open() as manager:
        with pytest.raises(ConfigurationError, match="has no time zone"):
            await manager.schedule_once(office.remind, "Ann", run_at=datetime(2026, 1, 2))
        with pytest.raises(ConfigurationError, match="run_at must be an aware datetime"):
            await manager.schedule_once(office.remind, "Ann", run_at=60)  # type: ignore[arg-type]  # this is the test
        with pytest.raises(ConfigurationError, match="delay, eager and session have no meaning"):
            await manager.schedule_once(office.remind, "Ann", run_at=after(1), delay=5)
        with pytest.raises(ConfigurationError, match="run_key must be a text"):
            await manager.schedule_once(office.remind, "Ann", run_at=after(1), run_key="")
        with pytest.raises(ConfigurationError, match="there is no queue 'nope'"):
            await manager.schedule_once(office.remind, "Ann", run_at=after(1), queue="nope")
        with pytest.raises(TaskArgumentError):
            await manager.schedule_once(office.remind, object(), run_at=after(1))
        with pytest.raises(TaskArgumentError):
            await manager.schedule_once(office.remind, run_at=after(1))
        with pytest.raises(PersistenceError, match="Decorate it"):
            await manager.schedule_once(undeclared, run_at=after(1))
        assert await manager.list_scheduled() == []
    with pytest.raises(NotStartedError):
        await manager.schedule_once(office.remind, "Ann", run_at=after(1))
