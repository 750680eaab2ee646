"""What living managers do with the tasks of dead ones."""

from __future__ import annotations

import asyncio
import logging

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import LONG_AGO, Fleet
from tests.managers import WAIT, Gate, finish, transitions
from tests.waiting import eventually


async def test_a_task_that_was_running_in_three_crashes_fails_and_says_so(fleet: Fleet) -> None:
    gates: list[Gate] = []

    def member() -> TaskManager:
        gate = Gate()
        gates.append(gate)
        manager = fleet.manager()
        manager.task(persist=True, requeue_on_interrupt=True, retries=2, name="poison")(gate.run)
        return manager

    manager = member()
    await fleet.start(manager)
    task_id = await manager.enqueue(gates[0].run, idempotency_key="once")
    for crash in range(3):
        await asyncio.wait_for(gates[crash].entered.wait(), WAIT)
        stored = await fleet.storage.get(task_id)
        assert stored is not None
        assert (stored.status, stored.crashes, stored.attempt) == (TaskStatus.RUNNING, crash, crash)
        await fleet.die(manager)
        manager = member()
        await fleet.start(manager)
    record = await finish(manager, task_id)
    assert (record.status, record.reason, record.error_type) == (TaskStatus.FAILED, "poison", "PoisonTask")
    assert record.error is not None
    assert "running in 3 processes that died" in record.error
    assert (record.crashes, record.retries_used) == (3, 0)
    assert transitions(record) == ["enqueued", *["started", "recovered"] * 2, "started", "failed"]
    assert not gates[3].entered.is_set()
    assert await manager.enqueue(gates[3].run, idempotency_key="once") != task_id, "a failed task has let its key go"
    await asyncio.wait_for(gates[3].entered.wait(), WAIT)


async def test_a_task_of_unknown_name_stays_stored_is_reported_once_and_runs_when_the_name_is_back(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    async def known() -> None:
        ran.append("known")

    async def renamed(number: int) -> None:
        ran.append(f"renamed {number}")

    clock = FakeClock()
    first = fleet.manager(clock=FakeClock(LONG_AGO))
    stranger = fleet.manager(clock=clock)
    back = fleet.manager()
    for manager in (first, stranger, back):
        manager.task(persist=True)(known)
    for manager in (first, back):
        manager.task(persist=True)(renamed)
    await fleet.start(first)
    await first.enqueue(known, delay=60)
    waiting = [await first.enqueue(renamed, number, delay=60) for number in range(3)]
    await fleet.die(first)

    with caplog.at_level(logging.ERROR, "taskflow_otel.recovery"):
        await fleet.start(stranger)
        await eventually(lambda: ran == ["known"], "the known task")
        calls = fleet.wires[stranger].calls

        async def looked_again() -> bool:
            await clock.advance(1.0)
            return [name for name, _ in calls].count("orphan_names") > 3

        await eventually(looked_again, "three more looks")
    [report] = [entry.getMessage() for entry in caplog.records if "renamed" in entry.getMessage()]
    assert "3 stored tasks are named 'renamed'" in report
    for task_id in waiting:
        stored = await fleet.storage.get(task_id)
        assert stored is not None
        assert (stored.status, stored.instance) == (TaskStatus.PENDING, first.engine.instance_id)

    await fleet.start(back)
    for task_id in waiting:
        assert (await finish(back, task_id)).status is TaskStatus.SUCCESS
    assert sorted(ran) == ["known", "renamed 0", "renamed 1", "renamed 2"]


async def test_a_delay_and_the_wait_for_a_retry_continue_where_they_were(fleet: Fleet) -> None:
    ran: list[str] = []

    async def later(what: str) -> None:
        ran.append(what)

    async def stubborn() -> None:
        ran.append("attempt")
        if len(ran) == 1:
            raise ValueError("not yet")

    clocks = [FakeClock(), FakeClock()]
    first, second = (fleet.manager(clock=clock) for clock in clocks)
    for manager in (first, second):
        manager.task(persist=True)(later)
        manager.task(persist=True, retries=1, delay=30)(stubborn)
    await fleet.start(first)
    delayed = await first.enqueue(later, "delayed", delay=60)
    retried = await first.enqueue(stubborn)

    async def waits() -> bool:
        stored = await fleet.storage.get(retried)
        return stored is not None and stored.reason == "retry_wait"

    await eventually(waits, "the wait for a retry")
    await fleet.die(first)

    clock = clocks[1]
    await fleet.start(second)
    await eventually(lambda: second.queue_stats()["default"].delayed == 2, "the takeover")
    await clock.advance(29.5)
    assert ran == ["attempt"]
    await clock.advance(1.0)
    record = await finish(second, retried)
    assert (record.status, record.attempt, record.retries_used) == (TaskStatus.SUCCESS, 1, 1)
    assert record.run_at is not None
    assert record.start_time is not None
    assert record.start_time >= record.run_at
    await clock.advance(29.0)
    assert ran == ["attempt"] * 2
    await clock.advance(1.0)
    assert (await finish(second, delayed)).status is TaskStatus.SUCCESS
    assert ran == ["attempt", "attempt", "delayed"]


async def test_of_two_survivors_each_task_runs_in_one(fleet: Fleet) -> None:
    ran: list[int] = []

    async def job(number: int) -> None:
        ran.append(number)

    dead = fleet.manager(clock=FakeClock(LONG_AGO))
    survivors = [fleet.manager() for _ in range(2)]
    for manager in (dead, *survivors):
        manager.task(persist=True)(job)
    await fleet.start(dead)
    await asyncio.gather(*(dead.enqueue(job, number, delay=60) for number in range(250)))
    await fleet.die(dead)
    await asyncio.gather(*(fleet.start(manager) for manager in survivors))

    async def finished() -> bool:
        return await fleet.number(TaskQuery(status=TaskStatus.SUCCESS)) == 250

    await eventually(finished, "all tasks")
    assert sorted(ran) == list(range(250))
