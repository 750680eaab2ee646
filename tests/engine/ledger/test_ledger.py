"""What the ledger does for each task does not grow with the number of tasks that it knows."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.engine.ledger import backlog
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import make_task_config
from taskflow_otel.testing.backends.samples import BASE, make_task
from taskflow_otel.testing.clock import FakeClock, FakeTimer
from tests.engine.membership import Alone
from tests.waiting import eventually


class Recording(MemoryBackend):
    """Keeps what it is given; holds an answer back while `gate` is closed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.batches: list[list[Change]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        self.batches.append(list(changes))
        await self.gate.wait()
        return await super().apply(changes)

    @property
    def records(self) -> list[TaskRecord]:
        return [change.record for batch in self.batches for change in batch if isinstance(change, (Insert, Update))]


class CountingClock(FakeClock):
    """Counts the timers that are set."""

    timers = 0

    def call_later(self, delay: float, callback: Any) -> FakeTimer:
        self.timers += 1
        return super().call_later(delay, callback)


DEFINITION = TaskDefinition(make_task_config(name="send", executor="async"), lambda: None, None)


def noted(status: TaskStatus) -> LiveTask:
    task = LiveTask(make_task(status=status), DEFINITION, (), {}, None, durable=False)
    if status.finished:
        task.phase = Phase.GONE
    return task


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()


@pytest.fixture
def backend() -> Recording:
    return Recording(durable=True)


@pytest.fixture
async def ledger(backend: Recording, clock: CountingClock) -> AsyncIterator[Ledger]:
    ledger = Ledger(
        backend,
        clock,
        Alone(),
        snapshot_interval=1.0,
        commit_timeout=5.0,
        observe=lambda *_: None,
    )
    ledger.start()
    yield ledger
    backend.gate.set()
    await ledger.close(5.0)


async def test_a_commit_sets_no_timer_while_an_earlier_one_has_its_timer(
    ledger: Ledger, backend: Recording, clock: CountingClock
) -> None:
    await ledger.commit(Insert(make_task()))
    before = clock.timers
    for _ in range(100):
        await ledger.commit(Insert(make_task()))
    assert clock.timers == before


async def test_each_commit_is_given_up_at_its_own_time(
    ledger: Ledger, backend: Recording, clock: CountingClock
) -> None:
    backend.gate.clear()
    limits = {"late": 9.0, "early": 2.0, "default": None, "patient": float("inf")}
    waits = {
        name: asyncio.create_task(ledger.commit(Insert(make_task()), timeout=limit)) for name, limit in limits.items()
    }
    await eventually(lambda: bool(backend.batches), "the first write")
    ended: list[str] = []
    for _ in range(10):
        await clock.advance(1.0)
        await asyncio.sleep(0)
        ended += [name for name, wait in waits.items() if wait.done() and name not in ended]
    assert ended == ["early", "default", "late"]
    for name in ended:
        with pytest.raises(BackendUnavailableError):
            waits[name].result()
    backend.gate.set()
    await waits["patient"]


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("number", [600, 6_000])
async def test_a_note_of_a_task_in_line_looks_at_no_other_note(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, number: int, failing: bool
) -> None:
    monkeypatch.setattr(backlog, "_MAX_NOTES", 500)
    if failing:
        ledger.health.failed(BackendUnavailableError("down"))
    looks = 0

    class Watched(OrderedDict[str, None]):
        def __iter__(self) -> Any:
            nonlocal looks
            looks += 1
            return super().__iter__()

    ledger._backlog._notes.ended = Watched()
    for _ in range(number):
        ledger.note(noted(TaskStatus.PENDING))
    assert looks == 0
    assert ledger.health.dropped_history == 0


async def test_of_too_many_notes_the_oldest_finished_ones_are_dropped_and_counted_while_the_backend_fails(
    ledger: Ledger, backend: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_MAX_NOTES", 600)
    ledger.health.failed(BackendUnavailableError("down"))
    live, finished = noted(TaskStatus.PENDING), [noted(TaskStatus.SUCCESS) for _ in range(700)]
    ledger.note(live)
    for task in finished:
        ledger.note(task)
    assert await ledger.flush(5.0)
    written = {record.task_id for record in backend.records}
    assert ledger.health.dropped_history == 101
    assert written == {live.id, *(task.id for task in finished[101:])}


async def test_no_history_is_given_up_while_the_backend_answers(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_MAX_NOTES", 600)
    for number in range(2_000):
        ledger.note(noted(TaskStatus.SUCCESS))
        ledger.append_log("one", LogEntry(number, BASE, "info", "said", 0, {}))
    assert await ledger.flush(5.0)
    assert ledger.health.dropped_history == 0


async def test_of_too_many_lines_those_of_the_tasks_noted_first_are_dropped_and_counted_while_the_backend_fails(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_MAX_NOTES", 100)
    ledger.health.failed(BackendUnavailableError("down"))
    for number in range(150):
        ledger.append_log(f"task {number // 10}", LogEntry(number, BASE, "info", "said", 0, {}))
    assert ledger.health.dropped_history == 50
    assert [lines.task_id for lines in ledger._backlog._lines.take(lambda _: False)] == [
        f"task {number}" for number in range(5, 15)
    ]


async def test_many_finished_tasks_are_written_without_waiting_for_the_interval_and_those_in_line_wait_for_it(
    ledger: Ledger, backend: Recording, clock: CountingClock
) -> None:
    waiting = [noted(TaskStatus.PENDING) for _ in range(1_000)]
    finished = [noted(TaskStatus.SUCCESS) for _ in range(500)]
    for task in (*waiting, *finished):
        ledger.note(task)
    await eventually(lambda: bool(backend.batches), "the write")
    assert {record.task_id for record in backend.records} == {task.id for task in finished}
    await clock.advance(1.0)
    await eventually(lambda: len(backend.records) == 1_500, "the others")


async def test_what_is_written_of_a_task_in_line_is_its_state_when_it_was_taken(
    ledger: Ledger, backend: Recording, clock: CountingClock, caplog: pytest.LogCaptureFixture
) -> None:
    backend.gate.clear()
    task = noted(TaskStatus.PENDING)
    ledger.note(task)
    await clock.advance(1.0)
    await eventually(lambda: bool(backend.batches), "the write")
    task.record.status = TaskStatus.SUCCESS
    task.phase = Phase.GONE
    ledger.note(task)
    backend.gate.set()
    with caplog.at_level(logging.WARNING):
        assert await ledger.flush(5.0)
    assert [record.status for record in backend.records] == [TaskStatus.PENDING, TaskStatus.SUCCESS]
    assert not caplog.records
