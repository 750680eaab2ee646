"""Random histories: after each step, a backend says and holds what the plain one in memory does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow_otel.backends import Backend, MemoryBackend
from taskflow_otel.backends.base import AppendLogs, Change, Insert, RetryLink, Update
from taskflow_otel.errors import DeclaredDeadError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import BASE, finish, make_instance, make_task
from tests.backends.conftest import FACTORIES, BackendFactory

INSTANCES = 3
FAR = BASE + timedelta(days=36_500)

some_task = st.integers(0, 7)
some_instance = st.integers(0, INSTANCES - 1)
some_status = st.sampled_from(sorted(TaskStatus))
changes = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.sampled_from([None, "a", "b"]), some_instance, some_status),
        st.tuples(st.just("update"), some_task, some_status),
        st.tuples(st.just("log"), some_task, st.integers(0, 3)),
    ),
    min_size=1,
    max_size=6,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), changes),
        st.tuples(st.just("again")),
        st.tuples(st.just("take"), st.sets(some_instance), some_instance, st.integers(1, 3)),
        st.tuples(st.just("cancel"), some_task),
        st.tuples(st.just("link"), some_task),
        st.tuples(st.just("beat"), some_instance, st.integers(0, 2), st.sampled_from(["alive", "stopped"])),
        st.tuples(st.just("declare_dead"), some_instance, st.integers(0, 2)),
        st.tuples(st.just("forget"), st.sets(some_instance)),
        st.tuples(st.just("delete")),
    ),
    max_size=12,
)

_examples = count()


async def _answer(backend: Backend, method: str, args: tuple[Any, ...]) -> Any:
    try:
        return await getattr(backend, method)(*args)
    except DeclaredDeadError:
        return "declared dead"


class History:
    """One history on two backends. `views` are the tasks as their owners last saw them: some of it out of date."""

    def __init__(self, backend: Backend) -> None:
        self.backends: tuple[Backend, Backend] = (backend, MemoryBackend())
        self.prefix = f"example{next(_examples)}"
        self.views: list[TaskRecord] = []
        self.last: list[Change] = []

    def instance(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    async def both(self, method: str, *args: Any) -> Any:
        """Call both backends; their answers must be equal, refusals of the batches of dead instances included."""
        first, second = [await _answer(backend, method, args) for backend in self.backends]
        assert first == second, (method, args)
        return first

    async def step(self, name: str, *args: Any) -> None:
        match name, *args:
            case "apply", described:
                self.last = [change for item in described for change in self.change(*item)]
                await self.both("apply", self.last)
            case "again":
                await self.both("apply", self.last)
            case "take", dead, owner, limit:
                # One at a time: the order between several dead instances is left open.
                for number in sorted(dead - {owner}):
                    leaver, heir = self.instance(number), self.instance(owner)
                    self.views += await self.both("take_over", {leaver}, heir, None, limit)
            case "cancel" | "link", number:
                for task in self.views[number : number + 1]:
                    if name == "cancel":
                        await self.both("request_cancel", task.task_id)
                    else:
                        retry = make_task(retry_of=task.task_id)
                        await self.both("apply", [Insert(retry, link=RetryLink())])
            case "beat", number, second, state:
                beat = make_instance(self.instance(number), heartbeat_at=BASE + timedelta(seconds=second), state=state)
                await self.both("beat", beat)
            case "declare_dead", number, second:
                await self.both("declare_dead", self.instance(number), BASE + timedelta(seconds=second))
            case "forget", numbers:
                await self.both("forget_instances", {self.instance(number) for number in numbers})
            case "delete":
                # Other histories have left finished tasks in the storage, so that the numbers differ.
                for backend in self.backends:
                    await backend.delete_finished(FAR, 10_000)

    def change(self, kind: str, *args: Any) -> Iterator[Change]:
        if kind == "insert":
            key, owner, status = args
            task = make_task(
                func_name=self.prefix,
                instance=self.instance(owner),
                idempotency_key=key and f"{self.prefix}-{key}",
            )
            self.views.append(task)
            yield Insert(task if status in (TaskStatus.PENDING, TaskStatus.RUNNING) else finish(task, status))
        else:
            for task in self.views[args[0] : args[0] + 1]:
                if kind == "update":
                    yield Update(finish(task, args[1]))
                else:
                    yield AppendLogs(task.task_id, (LogEntry(args[1], BASE, "info", "x", len(self.last), {}),))

    async def compare(self) -> None:
        for task in self.views:
            await self.both("get", task.task_id)
            await self.both("logs", task.task_id)
        await self.both("page", TaskQuery(func_name=self.prefix))
        await self.both("counts", TaskQuery(func_name=self.prefix))
        for key in "ab":
            await self.both("holder_of", f"{self.prefix}-{key}")
        for number in range(INSTANCES):
            requests = [set(await b.cancel_requests(self.instance(number))) for b in self.backends]
            assert requests[0] == requests[1]
            await self.both("orphan_names", {self.instance(number)})
        mine = [
            {i.instance_id: i for i in await b.instances() if i.instance_id.startswith(f"{self.prefix}-")}
            for b in self.backends
        ]
        assert mine[0] == mine[1]


@pytest.mark.parametrize("backend_factory", sorted(set(FACTORIES) - {"memory"}), indirect=True)
def test_random_histories_end_as_in_memory(backend_factory: BackendFactory) -> None:
    with asyncio.Runner() as runner:
        backend = backend_factory()
        runner.run(backend.open())

        async def run(history: list[tuple[Any, ...]]) -> None:
            ledger = History(backend)
            for name, *args in history:
                await ledger.step(name, *args)
            await ledger.compare()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(steps)
        def try_history(history: list[tuple[Any, ...]]) -> None:
            runner.run(run(history))

        try:
            try_history()
        finally:
            runner.run(backend.close())
