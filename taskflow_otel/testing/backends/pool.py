"""Backends that store the pool, the tasks that nobody owns until an instance claims them, which is optional."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from taskflow_otel.backends.base import AppendLogs, Applied, Backend, Insert, Outcome, Update
from taskflow_otel.backends.pool import POOL, Claimed, KeepsPool, PoolDepth, Pooled, PoolStore, Wanted
from taskflow_otel.model.cipher import seal_of
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.testing.backends.fixtures import BackendFixtures, Open
from taskflow_otel.testing.backends.samples import BASE, finish, full_task, make_instance, make_task

ANY = Wanted("default", {"send"}, 100)


def pooled(task: TaskRecord, since: datetime | None = None) -> Pooled:
    """A task as its owner gives it to the pool."""
    seal, ready = seal_of(task.payload), since or task.created_at
    return Pooled(task.task_id, task.queue, task.priority, task.func_name, seal, task.created_at, ready)


def _pool_of(backend: Backend) -> PoolStore:
    if not isinstance(backend, KeepsPool):
        pytest.skip("this backend does not store the pool")
    return backend.pool_store


async def _given(backend: Backend, *tasks: TaskRecord) -> PoolStore:
    """The pool with these tasks of the instance `one`."""
    pool = _pool_of(backend)
    await backend.apply([Insert(task) for task in tasks])
    await pool.give("one", [pooled(task) for task in tasks])
    return pool


def _ids(claimed: Sequence[Claimed]) -> list[str]:
    return [one.record.task_id for one in claimed]


class PoolConformance(BackendFixtures):
    """The pool of a backend that stores it."""

    async def test_a_claim_makes_the_taker_the_owner_with_a_new_token(self, backend: Backend) -> None:
        task = full_task()
        pool = _pool_of(backend)
        await backend.apply([Insert(task)])
        await pool.give("one", [pooled(task, BASE)])
        waiting = await backend.get(task.task_id)
        assert waiting == replace(task, instance=POOL, token=task.token + 1)
        wanted = Wanted(task.queue, {task.func_name, "other"}, 1)
        [claimed] = await pool.claim("two", wanted, ())
        assert claimed == Claimed(replace(task, instance="two", token=task.token + 2), BASE)
        assert await backend.get(task.task_id) == claimed.record
        assert await pool.claim("two", wanted, ()) == await pool.claim("three", wanted, ()) == []

    async def test_a_change_by_an_owner_before_the_pool_is_refused(self, backend: Backend) -> None:
        task = make_task(idempotency_key="k")
        pool = await _given(backend, task)
        assert await backend.apply([Update(finish(task))]) == [Applied(Outcome.STALE)]
        [claimed] = await pool.claim("two", ANY, ())
        assert await backend.apply([Update(finish(task))]) == [Applied(Outcome.STALE)]
        assert await backend.holder_of("k") == task.task_id
        log = AppendLogs(task.task_id, (LogEntry(0, BASE, "info", "hello", 0, {}),))
        applied = await backend.apply([Update(finish(claimed.record)), log])
        assert [one.outcome for one in applied] == [Outcome.APPLIED, Outcome.APPLIED]
        assert (await backend.counts(TaskQuery())).total == 1

    async def test_the_slots_of_all_instances_are_never_exceeded_and_none_is_left_behind(
        self, backend: Backend, open_backend: Open
    ) -> None:
        pool = await _given(backend, *(make_task() for _ in range(12)))
        others = [_pool_of(await open_backend()) for _ in range(2)]
        wanted = replace(ANY, of_all=3)
        claims = await asyncio.gather(
            *(store.claim(f"claimer-{n}", wanted, ()) for n, store in enumerate([pool, *others] * 2))
        )
        held = [one.record for claimed in claims for one in claimed]
        assert len(held) == 3
        assert await pool.claim("two", wanted, ()) == []
        assert len(await pool.claim("two", replace(wanted, of_all=4), ())) == 1

        async def free_is(number: int) -> None:
            claimed = await pool.claim("two", wanted, ())
            assert len(claimed) == number
            # As when their process dies: another instance owns them now, and has no slot for them.
            await pool.give("two", [pooled(one.record) for one in claimed])

        # An outcome, a retry that waits, and a task that its owner has given back; the fourth one still runs.
        await backend.apply([Update(finish(held[0]))])
        await backend.apply([Update(replace(held[1], retries_used=1))])
        await pool.give(held[2].instance, [pooled(held[2])])
        await free_is(2)
        await free_is(2)

    async def test_giving_again_changes_nothing(self, backend: Backend) -> None:
        task, done, theirs = make_task(), make_task(), make_task(instance="three")
        pool = await _given(backend, task)
        await backend.apply([Insert(done), Insert(theirs), Update(finish(done))])
        gifts = [pooled(one) for one in (task, done, theirs, make_task())]
        await pool.give("one", gifts)
        [claimed] = await pool.claim("two", ANY, ())
        await pool.give("one", gifts)
        assert await backend.get(task.task_id) == claimed.record
        assert await pool.claim("two", ANY, ()) == []
        await pool.give("two", [pooled(claimed.record)])
        assert _ids(await pool.claim("one", ANY, ())) == [task.task_id]

    async def test_the_highest_priority_is_claimed_first_and_then_the_oldest(self, backend: Backend) -> None:
        tasks = [make_task(priority=priority) for priority in (5, -3, 9, 5, 9, 0)]
        pool = await _given(backend, *tasks)
        order = [2, 4, 0, 3, 5, 1]
        found = [await pool.claim("two", Wanted("default", {"send"}, 2), ()) for _ in range(4)]
        assert [_ids(some) for some in found] == [
            [tasks[n].task_id for n in order[start : start + 2]] for start in (0, 2, 4, 6)
        ]

    async def test_a_claim_keeps_to_its_queues_names_seals_and_limits(self, backend: Backend) -> None:
        mine, theirs = (f"fernet1:{digit * 16}" for digit in "ab")
        tasks = {
            "video": make_task(queue="video"),
            "first": make_task(),
            "second": make_task(),
            "unknown": make_task(func_name="gone"),
            "mine": make_task(func_name="sealed", payload=f"{mine}:x"),
            "theirs": make_task(func_name="sealed", payload=f"{theirs}:x"),
        }
        pool = await _given(backend, *tasks.values())

        async def claim(queue: str, *names: str, seals: tuple[str, ...] = (mine,), limit: int = 9) -> list[str]:
            ids = _ids(await pool.claim("two", Wanted(queue, names, limit), seals))
            return [name for name, task in tasks.items() if task.task_id in ids]

        assert await claim("mail", "send") == await claim("default", "nothing") == []
        assert await claim("default", "send", limit=1) == ["first"]
        assert await claim("default", "send", "sealed", seals=()) == ["second"]
        assert await claim("default", "send", "sealed") == ["mine"]
        assert await claim("default", "send", "sealed", seals=(mine, theirs)) == ["theirs"]
        assert await claim("default", "gone", seals=()) == ["unknown"]
        assert await claim("video", "send") == ["video"]

    async def test_a_claim_can_be_for_one_task_that_fits(self, backend: Backend) -> None:
        tasks = [make_task(), make_task(priority=9), make_task(func_name="gone"), make_task(queue="video")]
        pool = await _given(backend, *tasks)
        stranger = make_task()
        for task in (*tasks[2:], stranger):
            assert await pool.claim("two", replace(ANY, task_id=task.task_id), ()) == []
        assert await pool.claim("two", replace(ANY, task_id=tasks[0].task_id, of_all=0), ()) == []
        for task in tasks[:2]:
            wanted = replace(ANY, task_id=task.task_id, of_all=9)
            [claimed] = await pool.claim("two", wanted, ())
            assert claimed.record == await backend.get(task.task_id)
            assert claimed.record.instance == "two"
            assert await pool.claim("two", wanted, ()) == []
        assert (await pool.depth(["default", "video"])).keys() == {"default", "video"}

    async def test_a_task_that_cannot_run_here_holds_up_no_other(self, backend: Backend) -> None:
        unknown = [make_task(func_name="gone", priority=9) for _ in range(250)]
        task = make_task()
        pool = await _given(backend, *unknown, task)
        assert _ids(await pool.claim("two", Wanted("default", {"send"}, 1), ())) == [task.task_id]

    async def test_each_task_goes_to_exactly_one_claimer(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]
        tasks = [make_task(priority=n % 3) for n in range(90)]
        await _given(backends[0], *tasks)

        async def claim(backend: Backend, owner: str) -> list[Claimed]:
            pool, mine = _pool_of(backend), list[Claimed]()
            while await pool.depth(["default"]):
                mine += await pool.claim(owner, Wanted("default", {"send"}, 7), ())
            return mine

        claimers = [(backend, f"new{n}{m}") for n, backend in enumerate(backends) for m in range(2)]
        claimed = [one for got in await asyncio.gather(*(claim(b, owner) for b, owner in claimers)) for one in got]
        assert sorted(_ids(claimed)) == sorted(task.task_id for task in tasks)
        assert {one.record.token for one in claimed} == {tasks[0].token + 2}
        for one in claimed:
            assert await backends[0].get(one.record.task_id) == one.record

    async def test_one_task_of_the_pool_can_be_claimed_by_its_id(self, backend: Backend) -> None:
        task, other = make_task(func_name="gone"), make_task()
        pool = await _given(backend, task, other)
        assert await backend.request_cancel(task.task_id)
        claimed = await pool.claim_one("two", task.task_id)
        assert claimed is not None
        assert claimed.record.cancel_requested
        assert claimed.record == await backend.get(task.task_id)
        assert await backend.cancel_requests("two") == [task.task_id]
        assert await pool.claim_one("three", task.task_id) is None
        assert await pool.claim_one("three", make_task().task_id) is None
        assert _ids(await pool.claim("two", ANY, ())) == [other.task_id]

    async def test_the_pool_has_no_instance_that_could_die(self, backend: Backend) -> None:
        task = make_task()
        pool = await _given(backend, task)
        await backend.beat(make_instance("one", state=InstanceState.STOPPED.value))
        assert await backend.take_over({"one"}, "two", None, 10) == []
        await backend.forget_instances(["one", POOL])
        assert await backend.instances() == []
        [claimed] = await pool.claim("two", ANY, ())
        [taken] = await backend.take_over({"two"}, "three", {"send"}, 10)
        assert taken.task_id == claimed.record.task_id

    async def test_the_depth_counts_the_tasks_of_each_queue(self, backend: Backend) -> None:
        tasks = [make_task(queue=queue, priority=n) for n, queue in enumerate(("a", "b", "a", "a b ü"))]
        pool = _pool_of(backend)
        await backend.apply([Insert(task) for task in tasks])
        ready = [BASE + timedelta(seconds=5), BASE, BASE + timedelta(seconds=3), BASE]
        await pool.give("one", [pooled(task, since) for task, since in zip(tasks, ready, strict=True)])
        queues = ["a", "b", "c", "a b ü"]
        one = PoolDepth(1, BASE)
        assert await pool.depth(queues) == {"a": PoolDepth(2, ready[2]), "b": one, "a b ü": one}
        # A queue that its reader does not know must not go unseen.
        everything = {"a": PoolDepth(2, ready[2]), "b": one, "a b ü": one}
        assert await pool.depth(["b", "c"], others=True) == await pool.depth([], others=True) == everything
        await pool.claim("two", Wanted("a", {"send"}, 9), ())
        assert await pool.depth(queues) == await pool.depth(["c"], others=True) == {"b": one, "a b ü": one}
        assert await pool.depth(["c"]) == {}
