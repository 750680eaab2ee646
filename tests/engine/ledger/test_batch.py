"""What the one writer of a process does with a batch that the backend refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.clock import SystemClock
from taskflow_otel.testing.backends.samples import finish, make_task
from tests.engine.membership import Alone


class Picky(MemoryBackend):
    """Refuses every change that contains a text, and times out at locked tasks."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.locked: set[str] = set()
        self.calls: list[int] = []

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all or none."""
        self.calls.append(len(changes))
        await asyncio.sleep(0)
        for change in changes:
            if isinstance(change, Insert | Update):
                record = change.record
                if record.task_id in self.locked:
                    raise BackendUnavailableError("the row is locked", divisible=True)
                if "bad" in f"{record.payload}{record.error}{record.stacktrace}{record.timeline[-1].reason}":
                    raise BackendError("a value is refused", transient=False)
        return await super().apply(changes)


@pytest.fixture
async def backend() -> Picky:
    return Picky()


@pytest.fixture
async def ledger(backend: Picky) -> AsyncIterator[Ledger]:
    ledger = Ledger(
        backend,
        SystemClock(),
        Alone(),
        snapshot_interval=0.01,
        commit_timeout=5.0,
        observe=lambda *_: None,
    )
    ledger.start()
    yield ledger
    await ledger.close(5.0)


async def committed(ledger: Ledger, changes: Sequence[Change]) -> list[Applied | BaseException]:
    return await asyncio.gather(*(ledger.commit(change) for change in changes), return_exceptions=True)


async def test_one_change_at_fault_is_found_by_halves_and_fails_alone(ledger: Ledger, backend: Picky) -> None:
    tasks = [make_task(payload="bad" if n == 77 else "fine") for n in range(256)]
    results = await committed(ledger, [Insert(task) for task in tasks])
    failed = [n for n, result in enumerate(results) if isinstance(result, BackendError)]
    assert failed == [77]
    assert len(backend.calls) <= 20
    assert [await backend.get(task.task_id) is not None for task in tasks] == [n != 77 for n in range(256)]


async def test_a_locked_task_delays_itself_alone(ledger: Ledger, backend: Picky) -> None:
    tasks = [make_task() for _ in range(64)]
    await committed(ledger, [Insert(task) for task in tasks])
    backend.locked = {tasks[5].task_id}
    waiting = asyncio.create_task(ledger.commit(Update(finish(tasks[5])), timeout=float("inf")))
    others = [task for task in tasks if task is not tasks[5]]
    results = await committed(ledger, [Update(finish(task)) for task in others])
    assert not [result for result in results if isinstance(result, BaseException)]
    assert not waiting.done()
    backend.locked = set()
    await asyncio.wait_for(waiting, 30)
    stored = await backend.get(tasks[5].task_id)
    assert stored is not None
    assert stored.status is TaskStatus.SUCCESS


def failed(task: TaskRecord, **fields: str) -> TaskRecord:
    record = finish(task, TaskStatus.FAILED)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


async def test_an_outcome_whose_text_is_refused_is_stored_without_it(ledger: Ledger, backend: Picky) -> None:
    task = make_task()
    await ledger.commit(Insert(task))
    outcome = failed(task, error="bad", stacktrace="bad", error_type="ValueError")
    await ledger.commit(Update(outcome), timeout=float("inf"))
    stored = await backend.get(task.task_id)
    assert stored is not None
    assert stored.status is TaskStatus.FAILED
    assert stored.error == "[the database refused this text]"
    assert outcome.error == "bad"


async def test_what_waits_for_a_lock_ends_with_the_ledger(ledger: Ledger, backend: Picky) -> None:
    task = make_task()
    await ledger.commit(Insert(task))
    backend.locked = {task.task_id}
    waiting = asyncio.create_task(ledger.commit(Update(finish(task)), timeout=float("inf")))
    while len(backend.calls) < 3:
        await asyncio.sleep(0)
    assert not await ledger.close(0.1)
    with pytest.raises(BackendUnavailableError, match="shut down"):
        await waiting


async def test_a_firing_has_a_transaction_of_its_own_and_delays_nobody(ledger: Ledger, backend: Picky) -> None:
    firing, others = make_task(), [make_task() for _ in range(3)]
    backend.locked = {firing.task_id}
    fired = asyncio.create_task(ledger.commit_alone(Insert(firing, "once")))
    assert all(isinstance(result, Applied) for result in await committed(ledger, [Insert(task) for task in others]))
    assert not fired.done()
    backend.locked.clear()
    await fired
    assert set(backend.calls) == {1, 3}, "the firing alone, however often, and the others together"
