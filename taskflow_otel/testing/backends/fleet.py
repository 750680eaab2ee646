"""Backends with several instances, and the deletion of history."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from taskflow_otel.backends.base import AppendLogs, Backend, Change, Insert, RetryLink, Update
from taskflow_otel.errors import DeclaredDeadError
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.testing.backends.fixtures import APPLIED, BackendFixtures, Open
from taskflow_otel.testing.backends.samples import (
    BASE,
    TEXT,
    finish,
    full_task,
    ids,
    make_instance,
    make_task,
)


class FleetConformance(BackendFixtures):
    """Tests with several instances, and of the deletion of history."""

    async def test_changes_of_other_instances_are_seen_oldest_first(self, backend: Backend) -> None:
        start = datetime.now(UTC) - timedelta(minutes=1)
        mine, theirs, last = make_task(), make_task(instance="two"), make_task(instance="three")
        await backend.apply([Insert(theirs)])
        await backend.apply([Insert(mine)])
        await backend.apply([Insert(last)])
        await backend.apply([Update(finish(theirs))])
        seen = await backend.changed_since(start, not_of="one", limit=10)
        assert seen == [last, finish(theirs)]
        assert await backend.changed_since(start, not_of="one", limit=1) == [last]
        assert await backend.changed_since(start + timedelta(days=1), not_of="one", limit=10) == []

    async def test_a_cancel_request_reaches_the_owner_of_a_live_task(self, backend: Backend) -> None:
        task, other, done = make_task(), make_task(), make_task()
        await backend.apply([Insert(task), Insert(other), Insert(done), Update(finish(done))])
        assert await backend.request_cancel(task.task_id) is True
        assert await backend.request_cancel(task.task_id) is True
        assert await backend.request_cancel(done.task_id) is False
        assert await backend.request_cancel(new_task_id()) is False
        assert await backend.cancel_requests("one") == [task.task_id]
        assert await backend.cancel_requests("two") == []
        await backend.take_over({"one"}, "two", None, 10)
        assert await backend.cancel_requests("two") == [task.task_id]
        [taken] = [t for t in (await backend.page(TaskQuery())).records if t.task_id == task.task_id]
        await backend.apply([Update(finish(taken, TaskStatus.CANCELLED))])
        assert await backend.cancel_requests("two") == []

    async def test_an_instance_is_registered_by_its_first_heartbeat(self, backend: Backend) -> None:
        first = make_instance("one")
        later = make_instance("one", heartbeat_at=BASE + timedelta(seconds=1), state=InstanceState.STOPPED.value)
        assert await backend.beat(first) is True
        assert await backend.instances() == [first]
        assert await backend.beat(later) is True
        assert await backend.instances() == [later]

    async def test_only_an_unchanged_heartbeat_lets_an_instance_be_declared_dead(self, backend: Backend) -> None:
        later = BASE + timedelta(microseconds=1)
        await backend.beat(make_instance("one", heartbeat_at=later))
        assert await backend.declare_dead("one", BASE) is False
        assert await backend.declare_dead("unknown", BASE) is False
        assert await backend.declare_dead("one", later) is True
        assert await backend.declare_dead("one", later) is False
        assert [instance.state for instance in await backend.instances()] == [InstanceState.DEAD]
        assert await backend.beat(make_instance("one", heartbeat_at=later + timedelta(seconds=1))) is False
        await backend.beat(make_instance("two", state=InstanceState.STOPPED.value))
        assert await backend.declare_dead("two", BASE) is False

    async def test_exactly_one_of_many_declares_an_instance_dead(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]
        await backends[0].beat(make_instance("one"))
        results = await asyncio.gather(*(backend.declare_dead("one", BASE) for backend in backends for _ in range(3)))
        assert sorted(results) == [False] * 8 + [True]

    async def test_a_batch_of_an_instance_that_was_declared_dead_is_refused_whole(self, open_backend: Open) -> None:
        backend, other = await open_backend(), await open_backend()
        for name in ("one", "two", "three"):
            await backend.beat(make_instance(name))
        running, theirs, new = make_task(), make_task(instance="two"), make_task(idempotency_key="k")
        await backend.apply([Insert(running), Insert(theirs)])
        assert await other.declare_dead("one", BASE) is True
        line = AppendLogs(theirs.task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
        refused: list[Change] = [
            Insert(new, once="first of all"),
            Update(finish(running)),
            Insert(running),
            Insert(finish(make_task())),
            Insert(make_task(retry_of=theirs.task_id), link=RetryLink()),
        ]
        for change in refused:
            batches: list[list[Change]] = [
                [change],
                [line, Update(finish(theirs)), change],
                [change, Insert(make_task(instance="two"))],
            ]
            for batch in batches:
                with pytest.raises(DeclaredDeadError, match="one") as caught:
                    await backend.apply(batch)
                assert caught.value.instance_id == "one"
        # As if it had never been tried, for the others too.
        assert ids((await other.page(TaskQuery())).records) == [theirs.task_id, running.task_id]
        assert await other.get(theirs.task_id) == theirs
        assert (await other.counts(TaskQuery())).by_status == {TaskStatus.PENDING: 2}
        assert await other.logs(theirs.task_id) == []
        assert (await other.holder_of("k"), await other.latest_once("first")) == (None, None)
        assert ids(await other.take_over({"one"}, "two", None, 10)) == [running.task_id]
        # What it had appended to a log is no state; and another instance is not concerned, even in the same place.
        assert await backend.apply([line, Update(finish(theirs))]) == [APPLIED] * 2
        new.instance = "three"
        assert await backend.apply([Insert(new, once="first of all")]) == [APPLIED]

    async def test_no_batch_is_applied_after_its_instance_was_declared_dead(self, open_backend: Open) -> None:
        backend, other = await open_backend(), await open_backend()
        for size in (1, 30, 250):
            name = f"writer of {size}"
            await backend.beat(make_instance(name))

            async def write(name: str = name, size: int = size) -> list[str]:
                written: list[str] = []
                while True:
                    tasks = [make_task(instance=name) for _ in range(size)]
                    try:
                        await backend.apply([Insert(task) for task in tasks])
                    except DeclaredDeadError:
                        return written
                    written += ids(tasks)

            writing = asyncio.create_task(write())
            for _ in range(1_000):
                if await other.declare_dead(name, BASE):
                    break
            # What is there when it is declared dead is all that will ever be there.
            there = (await other.orphan_names({name})).get("send", 0)
            assert len(await asyncio.wait_for(writing, 30)) == there
            assert (await other.orphan_names({name})).get("send", 0) == there

    async def test_taking_over_changes_the_owner_and_the_token(self, backend: Backend) -> None:
        task, done, theirs = full_task(), make_task(), make_task(instance="three")
        await backend.apply([Insert(task), Insert(done), Insert(theirs), Update(finish(done))])
        [taken] = await backend.take_over({"one", "unknown"}, "two", None, 10)
        task.instance, task.token = "two", task.token + 1
        assert taken == task == await backend.get(task.task_id)
        assert await backend.take_over({"one"}, "two", None, 10) == []
        assert await backend.take_over(set(), "two", None, 10) == []
        assert await backend.get(theirs.task_id) == theirs

    async def test_taking_over_keeps_to_the_known_names_and_the_limit(self, backend: Backend) -> None:
        known = [make_task() for _ in range(3)]
        unknown = make_task(func_name="gone")
        unkept = make_task(func_name="gone", persisted=False)
        await backend.apply([Insert(task) for task in (*known, unknown, unkept)])
        assert await backend.orphan_names({"one"}) == {"send": 3, "gone": 2}
        assert ids(await backend.take_over({"one"}, "two", {"send"}, 2)) == ids(known[:2])
        assert ids(await backend.take_over({"one"}, "two", {"send"}, 10)) == ids([known[2], unkept])
        assert await backend.orphan_names({"one"}) == {"gone": 1}
        assert await backend.orphan_names({"nobody"}) == {}
        assert ids(await backend.take_over({"one"}, "two", {"gone"}, 10)) == ids([unknown])

    async def test_taking_over_keeps_to_the_arguments_that_the_taker_can_read(self, backend: Backend) -> None:
        mine, theirs = (f"fernet1:{digit * 16}" for digit in "ab")
        plain, nothing = make_task(payload='{"v":1}'), make_task(payload=None)
        old = make_task(payload="fernet1:gAAAAA")
        sealed = [make_task(payload=f"{seal}:gAAAAA") for seal in (mine, theirs, theirs)]
        unkept = make_task(payload=f"{theirs}:gAAAAA", persisted=False)
        await backend.apply([Insert(task) for task in (plain, nothing, old, *sealed, unkept)])
        assert await backend.orphan_names({"one"}) == {"send": 7}
        assert await backend.orphan_names({"one"}, {mine}) == {"send": 2}
        assert await backend.orphan_names({"one"}, ()) == {"send": 3}
        taken = await backend.take_over({"one"}, "two", {"send"}, 10, {mine})
        assert sorted(ids(taken)) == sorted(ids([plain, nothing, old, sealed[0], unkept]))
        assert await backend.orphan_names({"one"}, {mine}) == await backend.orphan_names({"one"}) == {"send": 2}
        assert await backend.take_over({"one"}, "two", {"send"}, 10) == []
        assert ids(await backend.take_over({"one"}, "three", {"send"}, 1, {mine, theirs})) == ids(sealed[1:2])
        assert ids(await backend.take_over({"one"}, "three", None, 10)) == ids(sealed[2:])
        await backend.apply([Update(finish(task)) for task in taken])
        assert await backend.orphan_names({"two"}) == {}

    async def test_each_orphan_is_handed_to_exactly_one_taker(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]
        tasks = [make_task(instance=f"dead{n % 3}") for n in range(90)]
        dead = {"dead0", "dead1", "dead2"}
        await backends[0].apply([Insert(task) for task in tasks])

        async def take(backend: Backend, owner: str) -> list[TaskRecord]:
            mine: list[TaskRecord] = []
            while await backend.orphan_names(dead):
                mine += await backend.take_over(dead, owner, None, 7)
            return mine

        takers = [(backend, f"new{n}{m}") for n, backend in enumerate(backends) for m in range(2)]
        taken = [t for got in await asyncio.gather(*(take(b, owner) for b, owner in takers)) for t in got]
        assert sorted(ids(taken)) == sorted(ids(tasks))
        assert {task.token for task in taken} == {2}
        for task in taken:
            assert await backends[0].get(task.task_id) == task

    async def test_an_instance_is_forgotten_once_it_owns_nothing(self, backend: Backend) -> None:
        for name, state in (("one", "stopped"), ("two", "stopped"), ("three", "alive")):
            await backend.beat(make_instance(name, state=state))
        await backend.apply([Insert(make_task())])
        await backend.forget_instances(["one", "two", "three", "unknown"])
        assert {instance.instance_id for instance in await backend.instances()} == {"one", "three"}
        await backend.take_over({"one"}, "three", None, 10)
        await backend.forget_instances({"one"})
        assert [instance.instance_id for instance in await backend.instances()] == ["three"]

    async def test_settings_are_shared_and_found_by_prefix(self, open_backend: Open) -> None:
        one, other = await open_backend(), await open_backend()
        await one.put_setting("queue:mails", "1")
        await one.put_setting("queue:mails 日本", TEXT)
        await one.put_setting("queues", "2")
        await one.put_setting("Queue:x", "3")
        await one.put_setting("queue:mails", "4")
        assert await other.settings("queue:") == {"queue:mails": "4", "queue:mails 日本": TEXT}
        await other.put_setting("queue:mails", None)
        await other.put_setting("unknown", None)
        assert await one.settings("queue") == {"queue:mails 日本": TEXT, "queues": "2"}
        assert await one.settings("nothing") == {}

    async def test_simultaneous_writes_of_one_setting_leave_one_of_the_values(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]
        await asyncio.gather(*(backend.put_setting("k", str(n)) for n, backend in enumerate(backends * 4)))
        assert (await backends[0].settings("k"))["k"] in {str(n) for n in range(12)}

    async def test_a_swap_writes_all_settings_or_none(self, open_backend: Open) -> None:
        one, other = await open_backend(), await open_backend()
        assert await one.swap_settings({"a": None, "b": None}, {"a": "1", "b": TEXT})
        for outdated in ({"a": None}, {"a": "2"}, {"a": "1", "b": "x"}, {"c": "1"}, {"a": "1", "c": ""}):
            assert not await other.swap_settings(outdated, {"a": "9", "c": "9"})
        assert await other.settings("") == {"a": "1", "b": TEXT}
        assert await other.swap_settings({"a": "1", "c": None}, {"b": None, "c": "3", "a": "2", "unknown": None})
        assert await one.settings("") == {"a": "2", "c": "3"}
        assert await one.swap_settings({}, {"a": None})
        assert await other.settings("") == {"c": "3"}

    async def test_of_simultaneous_swaps_each_is_seen_by_the_next(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]

        async def add(backend: Backend) -> None:
            for _ in range(10):
                swapped = False
                while not swapped:
                    now = (await backend.settings("sum")).get("sum")
                    swapped = await backend.swap_settings({"sum": now}, {"sum": str(int(now or 0) + 1)})

        await asyncio.gather(*(add(backend) for backend in backends))
        assert await backends[0].settings("sum") == {"sum": "30"}

    async def test_history_is_deleted_with_logs_tags_counts_and_keys(self, backend: Backend) -> None:
        old, recent, live = (make_task(idempotency_key=f"k{n}", tags={"a": "b"}) for n in range(3))
        log = AppendLogs(old.task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
        await backend.apply([Insert(old), Insert(recent), Insert(live), log])
        await backend.apply([Update(finish(old)), Update(finish(recent, seconds=86_400.0))])
        assert await backend.delete_finished(BASE + timedelta(days=0.5), 10) == 1
        assert await backend.get(old.task_id) is None
        assert await backend.logs(old.task_id) == []
        assert await backend.holder_of("k0") is None
        for query in (TaskQuery(), TaskQuery(tag=("a", "b")), TaskQuery(func_name="send")):
            assert ids((await backend.page(query)).records) == [live.task_id, recent.task_id]
            counts = await backend.counts(query)
            assert (counts.total, counts.duration_sum, counts.duration_count) == (2, 86_400.0, 1)
        assert await backend.delete_finished(BASE + timedelta(days=0.5), 10) == 0

    async def test_history_is_deleted_in_batches_that_ended_first(self, backend: Backend) -> None:
        tasks = [finish(make_task(), seconds=100.0 - n) for n in range(5)]
        await backend.apply([Insert(task) for task in tasks])
        assert await backend.delete_finished(BASE + timedelta(days=365), 2) == 2
        ended = sorted(tasks, key=lambda task: task.end_time or BASE)
        left = {task.task_id for task in (await backend.page(TaskQuery())).records}
        assert left == set(ids(ended[2:]))
        assert await backend.delete_finished(BASE + timedelta(days=365), 10) == 3

    async def test_finished_tasks_are_deleted_by_their_ids_and_live_ones_are_not(self, backend: Backend) -> None:
        tasks = [make_task(idempotency_key=f"k{n}", tags={"a": "b"}) for n in range(5)]
        log = AppendLogs(tasks[0].task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
        await backend.apply([*(Insert(task) for task in tasks), log])
        done = [finish(task, TaskStatus.FAILED if n else TaskStatus.SUCCESS) for n, task in enumerate(tasks[:3])]
        await backend.apply([Update(task) for task in done])
        wanted = [tasks[0].task_id, tasks[1].task_id, tasks[3].task_id, new_task_id(), tasks[0].task_id]
        assert sorted(await backend.delete_tasks(wanted)) == sorted(ids(tasks[:2]))
        assert await backend.delete_tasks(wanted) == []
        assert await backend.delete_tasks([]) == []
        assert [await backend.get(task.task_id) for task in tasks[:2]] == [None, None]
        assert await backend.logs(tasks[0].task_id) == []
        assert await backend.holder_of("k0") is None
        for query in (TaskQuery(), TaskQuery(tag=("a", "b")), TaskQuery(func_name="send")):
            assert ids((await backend.page(query)).records) == ids(tasks[:1:-1])
            counts = await backend.counts(query)
            assert counts.by_status == {TaskStatus.FAILED: 1, TaskStatus.PENDING: 2}
        assert await backend.delete_finished(BASE + timedelta(days=36_500), 10) == 1

    async def test_many_tasks_are_deleted_by_their_ids_once(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(2)]
        tasks = [finish(make_task()) for _ in range(450)]
        await backends[0].apply([Insert(task) for task in tasks])
        deleted = await asyncio.gather(*(backend.delete_tasks(ids(tasks)) for backend in backends))
        deleted.append(await backends[0].delete_tasks(ids(tasks)))
        assert sorted(task_id for some in deleted for task_id in some) == sorted(ids(tasks))
        assert (await backends[1].counts(TaskQuery())).total == 0

    async def test_simultaneous_work_through_several_backends_is_all_kept(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]

        async def work(backend: Backend, owner: str) -> None:
            for _ in range(8):
                tasks = [make_task(instance=owner) for _ in range(5)]
                await backend.apply([Insert(task) for task in tasks])
                assert await backend.apply([Update(finish(task)) for task in tasks]) == [APPLIED] * 5
                assert await backend.beat(make_instance(owner))

        await asyncio.gather(*(work(backend, f"i{n}{m}") for n, backend in enumerate(backends) for m in range(2)))
        counts = await backends[0].counts(TaskQuery())
        assert (counts.by_status, counts.duration_count) == ({TaskStatus.SUCCESS: 240}, 240)
        records = (await backends[1].page(TaskQuery(limit=500))).records
        assert len(records) == 240
        assert all(newer.task_id > older.task_id for newer, older in pairwise(records))
