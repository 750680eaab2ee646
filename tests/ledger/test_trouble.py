"""A failing backend: 503 for persisted tasks; everything else continues; no restart is needed afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import get_args

import pytest
from fastapi import FastAPI

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskStatus
from taskflow_otel.errors import BackendUnavailableError, TaskflowError
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.values import Histogram
from tests.asgi import post, running
from tests.ledger.troubles import Case, Trouble, trouble_of
from tests.managers import WAIT, finish
from tests.waiting import eventually


class Service:
    """An application that notes what its tasks do."""

    def __init__(self, trouble: Trouble) -> None:
        self.ran: Counter[str] = Counter()
        self.ids: dict[str, str] = {}
        self.gate = asyncio.Event()
        self.entered = 0
        self.manager = TaskManager(snapshot_backend=trouble.backend(), commit_timeout=3.0, snapshot_interval=0.05)
        self.app = FastAPI()
        TaskAdmin(self.app, self.manager)
        self.manager.task(persist=True)(self.kept)
        self.manager.task()(self.passing)
        self.manager.task(persist=True)(self.long)

        @self.app.post("/{kind}/{name}")
        async def add(kind: str, name: str, tasks: ManagedBackgroundTasks) -> None:
            self.ids[name] = tasks.add_task(getattr(self, kind), name)

    async def kept(self, name: str) -> None:
        self.ran[name] += 1

    async def passing(self, name: str) -> None:
        self.ran[name] += 1

    async def long(self, name: str) -> None:
        self.entered += 1
        await self.gate.wait()
        self.ran[name] += 1

    async def post(self, kind: str, *names: str) -> list[int]:
        """Post a task for each name at the same time, and return the status codes."""
        answers = await asyncio.gather(*(post(self.app, f"/{kind}/{name}") for name in names))
        return [answer.status for answer in answers]

    @property
    def failures(self) -> int:
        """How many operations of the backend the metrics say have failed."""
        operations = self.manager.metrics.snapshot()[signals.BACKEND_OPERATION.name]
        histograms = [value for labels, value in operations.items() if "error" in labels]
        return sum(sum(found.counts) for found in histograms if isinstance(found, Histogram))


@pytest.fixture
async def trouble(request: pytest.FixtureRequest) -> AsyncIterator[Trouble]:
    async with trouble_of(request.param, request) as trouble:
        yield trouble
        await trouble.end()


@pytest.mark.parametrize("trouble", get_args(Case), indirect=True)
async def test_trouble_is_answered_with_503_and_passes_without_a_restart_or_a_loss(trouble: Trouble) -> None:
    service = Service(trouble)
    manager = service.manager
    before, refused, free, after = ([f"{when}{n}" for n in range(10)] for when in ("before", "no", "free", "after"))
    async with running(service.app):
        assert await service.post("long", "long1", "long2") == [200, 200]
        assert await service.post("kept", *before) == [200] * 10
        await eventually(lambda: service.entered == 2 and service.ran.total() == 10, "the first tasks")
        assert service.failures == 0

        await trouble.begin()
        direct = asyncio.gather(manager.enqueue(service.kept, "no"), return_exceptions=True)
        assert await service.post("kept", *refused) == [503] * 10
        assert isinstance((await direct)[0], BackendUnavailableError)
        assert await service.post("passing", *free) == [200] * 10
        service.gate.set()
        await eventually(lambda: service.ran.total() == 22, "the tasks that need no backend, and the end of the others")
        assert service.failures > 0
        assert manager.engine.vitals.backend_failing
        for name in refused:
            record = manager.store.get(service.ids[name])
            assert record is not None
            assert (record.status, record.reason) == (TaskStatus.REJECTED, "commit_failed")

        await trouble.end()

        async def taken() -> bool:
            return await service.post("kept", "again") == [200]

        await eventually(taken, "a commit")
        assert await service.post("kept", *after) == [200] * 10
        acknowledged = ["long1", "long2", *before, *free, *after, "again"]
        for name in acknowledged:
            assert (await finish(manager, service.ids[name])).status is TaskStatus.SUCCESS, name
        assert not manager.engine.vitals.backend_failing

    assert service.ran == Counter(acknowledged)
    storage = trouble.backend()
    await storage.open()
    try:
        for name in acknowledged:
            record = await storage.get(service.ids[name])
            assert record is not None, name
            assert record.status is TaskStatus.SUCCESS, name
        for name in refused:
            record = await storage.get(service.ids[name])
            assert record is None or record.status is TaskStatus.REJECTED, name
    finally:
        await storage.close()


@pytest.mark.parametrize("trouble", ["sqlite: read-only"], indirect=True)
async def test_a_start_in_a_read_only_directory_says_what_to_do(trouble: Trouble) -> None:
    service = Service(trouble)
    async with running(service.app):
        assert await service.post("kept", "one") == [200]
        await asyncio.wait_for(service.manager.wait(service.ids["one"]), WAIT)
    await trouble.begin()
    with pytest.raises(TaskflowError, match=r"Change its permissions|Make the file and its directory writable"):
        await service.manager.startup()
    await trouble.end()
    async with running(service.app):
        assert await service.post("kept", "two") == [200]
