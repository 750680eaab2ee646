"""What the one writer does with a batch that is refused because this process was declared dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Outcome, Update
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.phase import Phase
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import make_task_config
from taskflow_otel.runtime.clock import SystemClock
from taskflow_otel.testing.backends.fixtures import APPLIED, STALE
from taskflow_otel.testing.backends.samples import BASE, finish, make_instance, make_task
from tests.engine.membership import Alone

DEFINITION = TaskDefinition(make_task_config(name="send", executor="async"), lambda: None, None)


class Dying(MemoryBackend):
    """Declares the writer dead while a batch is on its way."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.dies = False
        self.loses_answer = False
        self.failures = 0
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        self.batches.append(len(changes))
        await self.gate.wait()
        if self.loses_answer:
            self.loses_answer = False
            await super().apply(changes)
            raise BackendUnavailableError("no answer")
        if self.dies:
            self.dies = False
            assert await self.declare_dead("one", BASE)
        return await super().apply(changes)

    async def get_all(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        if self.failures:
            self.failures -= 1
            raise BackendUnavailableError("down")
        return await super().get_all(task_ids)


@pytest.fixture
async def backend() -> Dying:
    backend = Dying()
    await backend.beat(make_instance("one"))
    return backend


@pytest.fixture
def told() -> list[tuple[str, bool]]:
    """The changes that were applied after their callers had gone."""
    return []


@pytest.fixture
async def ledger(backend: Dying, told: list[tuple[str, bool]]) -> AsyncIterator[Ledger]:
    ledger = Ledger(
        backend,
        SystemClock(),
        Alone(make_instance("one")),
        snapshot_interval=0.01,
        commit_timeout=5.0,
        observe=lambda *_: None,
    )
    ledger.connect(lambda change, stale: told.append((type(change).__name__, stale)))
    ledger.start()
    yield ledger
    await ledger.close(5.0)


async def test_new_tasks_are_stored_under_the_new_id_and_the_others_belong_to_others(
    ledger: Ledger, backend: Dying
) -> None:
    running, theirs = make_task(), make_task(instance="two")
    await ledger.commit_all([Insert(running), Insert(theirs)])
    new, end, keyed = make_task(), finish(running), make_task(idempotency_key="k")
    backend.dies = True
    backend.failures = 1
    results = await ledger.commit_all([Insert(new), Update(end), Update(finish(theirs)), Insert(keyed)])
    assert results == [APPLIED, STALE, APPLIED, APPLIED]
    for task in (new, keyed):
        stored = await backend.get(task.task_id)
        assert stored == task
        assert (task.instance, [line.instance for line in task.timeline]) == ("one-again", ["one-again"])
    assert await backend.get(running.task_id) == running
    assert backend.batches[1:] == [4, 4, 3]


async def test_a_new_task_whose_first_try_was_applied_belongs_to_others_and_is_not_stored_twice(
    ledger: Ledger, backend: Dying
) -> None:
    task, twin = make_task(idempotency_key="k"), make_task(idempotency_key="k")
    backend.loses_answer = backend.dies = True
    applied = await ledger.commit(Insert(task), timeout=30)
    assert applied.outcome is Outcome.STALE
    assert await backend.get(task.task_id) == task
    assert task.instance == "one"
    assert await ledger.commit(Insert(twin)) == Applied(Outcome.DUPLICATE, task.task_id)


async def test_what_nobody_waits_for_any_more_is_dropped_unless_it_was_stored(
    ledger: Ledger, backend: Dying, told: list[tuple[str, bool]]
) -> None:
    known, never, stored = make_task(), make_task(), make_task()
    await ledger.commit(Insert(known))
    backend.loses_answer = True
    await ledger.commit(Insert(stored), timeout=30)
    backend.gate.clear()
    backend.dies = True
    changes: list[Change] = [Insert(never), Update(finish(known)), Insert(stored)]
    waits = [asyncio.create_task(ledger.commit(change, timeout=0.05)) for change in changes]
    for wait in waits:
        with pytest.raises(BackendUnavailableError):
            await wait
    assert ledger.doubtful().keys() == {known.task_id, never.task_id, stored.task_id}
    backend.gate.set()
    assert await ledger.flush(5.0)
    assert told == [("Update", True), ("Insert", True)]
    assert await backend.get(never.task_id) is None
    assert ledger.doubtful() == {}


async def test_history_that_is_not_stored_yet_is_written_under_the_new_id(ledger: Ledger, backend: Dying) -> None:
    ended, late = (
        LiveTask(finish(make_task(persisted=False)), DEFINITION, None, None, None, durable=False) for _ in range(2)
    )
    ended.phase = late.phase = Phase.GONE
    await backend.apply([Insert(make_task(task_id=late.id, persisted=False))])
    late.stored = True
    lines = ended.record.timeline
    backend.dies = True
    for task in (ended, late):
        ledger.note(task)
        ledger.append_log(task.id, LogEntry(0, BASE, "info", "hello", 0, {}))
    assert await ledger.flush(5.0)
    stored = await backend.get(ended.id)
    assert stored is not None
    # Its lines were published as those of the former id.
    assert (stored.status, stored.instance, stored.timeline) == (TaskStatus.SUCCESS, "one-again", lines)
    assert len(await backend.logs(ended.id)) == len(await backend.logs(late.id)) == 1
    [left] = await backend.take_over({"one"}, "two", None, 10)
    assert left.task_id == late.id
