"""A fresh storage, opened."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.backends.base import Insert
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.testing.backends.samples import make_task
from tests.backends.conftest import BackendFactory
from tests.ledger.fleet import Fleet
from tests.managers import finish


async def test_instances_that_start_at_the_same_moment_create_the_schema_once(backend_factory: BackendFactory) -> None:
    backends = [backend_factory() for _ in range(4)]
    try:
        await asyncio.gather(*(backend.open() for backend in backends))
        task = make_task()
        await backends[0].apply([Insert(task)])
        assert [await backend.get(task.task_id) for backend in backends] == [task] * 4
    finally:
        await asyncio.gather(*(backend.close() for backend in backends))


async def test_a_queue_may_have_a_name_of_two_hundred_characters(fleet: Fleet) -> None:
    name = "queue 日本 🎉 ".ljust(200, "x")
    manager = fleet.manager(queues={name: QueueConfig(concurrency=1)})

    @manager.task(persist=True, queue=name)
    async def job() -> None:
        pass

    await fleet.start(manager)
    task_id = await manager.enqueue(job)
    await finish(manager, task_id)
    stored = await fleet.storage.get(task_id)
    assert stored is not None
    assert stored.queue == name


@pytest.mark.parametrize("name", ["", "x" * 201, "tab\there", "line\nbreak", "\x00", 7])
def test_a_queue_name_that_cannot_be_stored_or_shown_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match="the name of a queue must be 1 to 200 printable characters"):
        TaskManager(queues={name: QueueConfig()})  # type: ignore[dict-item]  # this is the test


async def test_a_bound_method_is_the_task_that_it_was_declared_as(fleet: Fleet) -> None:
    class Mailer:
        sent = 0

        async def send(self) -> None:
            self.sent += 1

    mailer, other = Mailer(), Mailer()
    manager = fleet.manager()
    manager.task(persist=True, name="send")(mailer.send)
    manager.task(persist=True, name="send other")(other.send)
    await fleet.start(manager)
    record = await finish(manager, await manager.enqueue(mailer.send))
    assert (record.func_name, record.persisted, mailer.sent, other.sent) == ("send", True, 1, 0)
