"""Shared queues: which instance runs a task, and that none is lost or run twice when instances die."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from taskflow_otel import SLO, InMemoryLogger, QueueConfig, TaskManager, TaskStatus
from taskflow_otel.backends.pool import POOL, KeepsPool, PoolStore, Wanted
from taskflow_otel.engine.deployment import CONCURRENCY, QUEUES, RUN
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.exporters import signals
from taskflow_otel.model.objective import missed
from taskflow_otel.model.query import TaskQuery
from tests.ledger.fleet import Fleet
from tests.managers import WAIT, Gate, finish, metric, transitions
from tests.waiting import eventually

SHARED = {"shared": QueueConfig(concurrency=2, run="pool")}


def pool_of(fleet: Fleet) -> PoolStore:
    """The pool, seen from outside."""
    assert isinstance(fleet.storage, KeepsPool)
    return fleet.storage.pool_store


async def waits_in_pool(fleet: Fleet, task_id: str) -> bool:
    stored = await fleet.storage.get(task_id)
    return stored is not None and stored.instance == POOL


def member(fleet: Fleet, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, **options: Any) -> TaskManager:
    """A manager with one task in the shared queue; `run` is what its environment says."""
    monkeypatch.setenv(RUN, options.pop("run", ""))
    slo = options.pop("slo", None)
    manager = fleet.manager(**{"queues": SHARED, **options})
    monkeypatch.delenv(RUN)
    declared = {"persist": True, "queue": "shared", "requeue_on_interrupt": True, "name": "work", "slo": slo}
    manager.task(**declared)(work)
    return manager


async def test_a_process_that_only_enqueues_leaves_the_work_to_the_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    async def elsewhere(number: int) -> None:
        raise AssertionError("this process runs no task")

    web = member(fleet, elsewhere, monkeypatch, run="none", queues=SHARED)
    worker = member(fleet, work, monkeypatch)
    await fleet.start(web)
    ids = [await web.enqueue(elsewhere, number) for number in range(3)]
    delayed = await web.enqueue(elsewhere, 3, delay=0.2)
    for task_id in ids:
        await eventually(lambda one=task_id: waits_in_pool(fleet, one), "the gift")  # type: ignore[misc]
    assert (await pool_of(fleet).depth(["shared"]))["shared"].tasks >= 3
    await fleet.start(worker)
    records = [await finish(web, task_id) for task_id in (*ids, delayed)]
    assert sorted(ran) == [0, 1, 2, 3]
    assert {record.instance for record in records} == {worker.engine.instance_id}
    for record in records:
        assert transitions(record) == ["enqueued", "started", "succeeded"]
        assert [entry.instance for entry in record.timeline] == [web.engine.instance_id, *[record.instance] * 2]


async def test_two_instances_share_the_work_and_keep_to_their_limits(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, ran = Counter[str](), Counter[str](), Counter[str]()
    both = asyncio.Event()

    def work_of(name: str) -> Callable[..., Any]:
        async def work(number: int) -> None:
            ran[name] += 1
            running[name] += 1
            most[name] = max(most[name], running[name])
            if len(ran) == 2:
                both.set()
            await asyncio.wait_for(both.wait(), WAIT)
            running[name] -= 1

        return work

    one, other = work_of("one"), work_of("other")
    managers = member(fleet, one, monkeypatch), member(fleet, other, monkeypatch)
    await fleet.start(*managers)
    ids = await asyncio.gather(*(managers[0].enqueue(one, number) for number in range(30)))
    records = [await finish(managers[0], task_id) for task_id in ids]
    assert {record.status for record in records} == {TaskStatus.SUCCESS}
    assert (ran.total(), len(ran)) == (30, 2)
    assert most == {"one": 2, "other": 2}


async def test_two_workers_with_equal_slots_take_equal_shares(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    # The length of a task is counted in tasks and not in seconds: whenever one begins and 184 run, one of those ends,
    # any of both workers. That is long beside a claim, as where work waits for workers; and the time that a busy
    # machine takes for all that changes nothing.
    slots, length, golden = 100, 184, 0.618034
    # The others take long, and pass each task through the same hands. `tests.e2e.test_fairness` has them in processes.
    number = 2_000 if fleet.storage.name == "memory" else 500
    ran, used, most = Counter[str](), Counter[str](), Counter[str]()
    running: dict[str, list[asyncio.Event]] = {"one": [], "other": []}

    def work_of(name: str) -> Callable[..., Any]:
        async def work() -> None:
            over = asyncio.Event()
            running[name].append(over)
            ran[name] += 1
            used[name] += 1
            most[name] = max(most[name], used[name])
            all_running = [*running["one"], *running["other"]]
            if ran.total() == number:
                for end in all_running:
                    end.set()
            elif len(all_running) > length:
                ending = all_running[int(ran.total() * golden % 1 * len(all_running))]
                ending.set()
                running["one" if ending in running["one"] else "other"].remove(ending)
            await asyncio.wait_for(over.wait(), 6 * WAIT)
            used[name] -= 1

        return work

    queues = {"shared": QueueConfig(concurrency=slots, run="pool")}
    one, other, added = work_of("one"), work_of("other"), work_of("web")
    web = member(fleet, added, monkeypatch, run="none", queues=queues)
    await fleet.start(web, *(member(fleet, work, monkeypatch, queues=queues) for work in (one, other)))
    for start in range(0, number, 500):
        await asyncio.gather(*(web.enqueue(added) for _ in range(start, start + 500)))

    async def all_succeeded() -> bool:
        return await fleet.number(TaskQuery(status=TaskStatus.SUCCESS)) == number

    await eventually(all_succeeded, "all runs", timeout=6 * WAIT, interval=0.1)
    assert ran.total() == number
    assert max(most.values()) <= slots
    assert abs(ran["one"] - number / 2) <= number / 20, ran


@pytest.mark.parametrize("dies", ["before the gift", "in the pool", "while it runs"])
async def test_a_task_of_a_dead_instance_runs_once_more_on_another(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    gate, ran = Gate(), list[str]()

    async def work() -> None:
        ran.append("here")

    first = member(fleet, gate.run, monkeypatch, run="" if dies == "while it runs" else "none")
    second = member(fleet, work, monkeypatch)
    await fleet.start(first)
    if dies == "before the gift":

        def refuse(method: str, _: object) -> None:
            if method == "give":
                raise BackendUnavailableError("not now")

        fleet.wires[first].before_store = refuse
    task_id = await first.enqueue(gate.run, idempotency_key="once")
    if dies == "in the pool":
        await eventually(lambda: waits_in_pool(fleet, task_id), "the gift")
    elif dies == "while it runs":
        await asyncio.wait_for(gate.entered.wait(), WAIT)
    await fleet.die(first)
    await fleet.start(second)
    record = await finish(second, task_id)
    assert (record.status, record.instance, ran) == (TaskStatus.SUCCESS, second.engine.instance_id, ["here"])
    assert (record.crashes, record.attempt) == ((1, 1) if dies == "while it runs" else (0, 0))
    assert await fleet.number(TaskQuery()) == 1


async def test_a_time_limit_that_passes_in_the_pool_is_written_once_by_one_of_those_who_live(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None: ...

    slo = SLO(success=0.9, within=0.5)
    first, *others = (member(fleet, work, monkeypatch, run="none", slo=slo) for _ in range(3))
    await fleet.start(first)
    ids = [await first.enqueue(work) for _ in range(4)]
    later = await first.enqueue(work, delay=0.3)
    in_time = await first.enqueue(work, delay=60.0)
    for task_id in (*ids, later):
        await eventually(lambda one=task_id: waits_in_pool(fleet, one), "the gift")  # type: ignore[misc]
    before = (await pool_of(fleet).depth(["shared"]))["shared"]
    # The process that gave them is gone.
    await fleet.die(first)
    await fleet.start(*others)

    async def judged() -> bool:
        stored = [await fleet.storage.get(task_id) for task_id in (*ids, later)]
        return all(one is not None and one.instance == POOL and missed(one.timeline) for one in stored)

    async def as_it_was() -> bool:
        after = (await pool_of(fleet).depth(["shared"]))["shared"]
        return (after.tasks, after.oldest) == (before.tasks, before.oldest)

    await eventually(judged, "the lines of the limit")
    # With the age that it had. An instance that came second may look at one for a moment.
    await eventually(as_it_was, "the pool to be as it was")
    worker = member(fleet, work, monkeypatch, slo=slo)
    living = [*others, worker]

    def overdue() -> float:
        return sum(metric(one, signals.SLO_OVERDUE.name) for one in living)

    await eventually(lambda: overdue() == 5, "each late one to be counted by one of them")
    await fleet.start(worker)
    records = [await finish(worker, task_id) for task_id in (*ids, later)]
    for record in records:
        assert transitions(record) == ["enqueued", "objective_missed", "started", "succeeded"]
    name = signals.SLO_EVENTS.name
    await eventually(lambda: overdue() == 0, "none to be late any more")
    counted = [sum(metric(one, name, result) for one in living) for result in ("good", "bad")]
    assert counted == [0, 5]
    waiting = await worker.get(in_time)
    assert not missed(waiting.timeline)


async def test_a_retry_stays_where_the_task_was_claimed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        raise ValueError("no")

    manager = fleet.manager(queues=SHARED)
    manager.task(persist=True, queue="shared", retries=1, name="work")(work)
    await fleet.start(manager)
    record = await finish(manager, await manager.enqueue(work))
    assert transitions(record) == ["enqueued", "started", "retry_scheduled", "started", "failed"]
    assert await pool_of(fleet).depth(["shared"]) == {}


async def test_a_task_in_the_pool_can_be_cancelled_on_any_instance(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        raise AssertionError("it was cancelled")

    enqueuer, other = (member(fleet, work, monkeypatch, run="none") for _ in range(2))
    stranger = fleet.manager()
    await fleet.start(enqueuer, other, stranger)
    for canceller in (enqueuer, other, stranger):
        task_id = await enqueuer.enqueue(work)
        await eventually(lambda one=task_id: waits_in_pool(fleet, one), "the gift")  # type: ignore[misc]
        assert (await canceller.cancel(task_id)).status is TaskStatus.CANCELLED
        assert transitions(await finish(enqueuer, task_id)) == ["enqueued", "cancelled"]
    assert await pool_of(fleet).depth(["shared"]) == {}


async def test_a_request_for_a_task_in_the_pool_is_carried_out_once_though_nobody_claims_its_queue(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        raise AssertionError("it was cancelled")

    seen = InMemoryLogger(), InMemoryLogger()
    webs = [member(fleet, work, monkeypatch, run="none", loggers=[logger]) for logger in seen]
    await fleet.start(*webs)
    ids = [await webs[0].enqueue(work) for _ in range(4)]
    for task_id in ids:
        await eventually(lambda one=task_id: waits_in_pool(fleet, one), "the gift")  # type: ignore[misc]
    # As in the transaction of a caller, which can only write the request.
    for task_id in ids[1:]:
        assert await fleet.storage.request_cancel(task_id)
    for task_id in ids[1:]:
        assert transitions(await finish(webs[0], task_id)) == ["enqueued", "cancelled"]
    assert await waits_in_pool(fleet, ids[0])
    assert await fleet.storage.cancel_requests(POOL) == []
    for web in webs:
        await fleet.stop(web)
    ends = [event.task_id for logger in seen for event in logger.lifecycle_events if event.status.finished]
    assert sorted(ends) == sorted(ids[1:])


@pytest.mark.parametrize("dies", ["while it runs", "after the claim"])
async def test_the_slots_of_all_instances_that_a_dead_one_held_come_back_and_the_limit_holds(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    running, most, ran = 0, 0, 0
    held = Gate()

    async def work() -> None:
        nonlocal running, most, ran
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        ran += 1

    queues = {"shared": QueueConfig(concurrency=2, run="pool", concurrency_scope="fleet")}
    web = member(fleet, work, monkeypatch, run="none", queues=queues)
    first, *others = (member(fleet, one, monkeypatch, queues=queues) for one in (held.run, work, work))
    await fleet.start(web)
    ids = [await web.enqueue(work) for _ in range(7)]
    for task_id in ids:
        await eventually(lambda one=task_id: waits_in_pool(fleet, one), "the gift")  # type: ignore[misc]
    if dies == "after the claim":
        store = fleet.wires[first].backend.pool_store  # type: ignore[attr-defined]  # a KeepsPool
        claim = store.claim

        async def claim_and_be_cut_off(*args: Any) -> Any:
            found = await claim(*args)
            fleet.wires[first].cut = True
            return found

        monkeypatch.setattr(store, "claim", claim_and_be_cut_off)
    await fleet.start(first)

    async def holds_both() -> bool:
        owners = Counter([(await web.get(task_id)).instance for task_id in ids])
        return owners == {first.engine.instance_id: 2, POOL: 5}

    await eventually(holds_both, "its claims")
    if dies == "while it runs":
        await asyncio.wait_for(held.entered.wait(), WAIT)
    await fleet.start(*others)
    # As long as nobody knows that it is dead, nobody else has a slot.
    assert await pool_of(fleet).claim("nobody", Wanted("shared", {"work"}, 9, 2), ()) == []
    assert ran == 0
    await fleet.die(first)
    for task_id in ids:
        assert (await finish(web, task_id)).status is TaskStatus.SUCCESS
    assert (ran, most) == (7, 2)


async def test_a_paused_queue_keeps_its_tasks_in_the_pool(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None: ...

    manager = member(fleet, work, monkeypatch)
    await fleet.start(manager)
    await manager.pause_queue("shared")
    task_id = await manager.enqueue(work)
    await eventually(lambda: waits_in_pool(fleet, task_id), "the gift")
    await manager.resume_queue("shared")
    assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS


async def test_after_an_outage_of_the_backend_gifts_and_claims_continue(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    manager = member(fleet, work, monkeypatch)
    await fleet.start(manager)
    failures = Counter[str]()

    def fail_twice(method: str, _: object) -> None:
        failures[method] += 1
        if failures[method] <= 2:
            raise BackendUnavailableError("not now")

    fleet.wires[manager].before_store = fail_twice
    ids = [await manager.enqueue(work, number) for number in range(4)]
    for task_id in ids:
        assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS
    assert sorted(ran) == [0, 1, 2, 3]
    assert min(failures["give"], failures["claim"]) > 2


async def test_a_claim_whose_answer_was_lost_runs_each_task_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    manager = member(fleet, work, monkeypatch)
    wire = fleet.wires[manager]
    await fleet.start(manager)
    store = wire.backend.pool_store  # type: ignore[attr-defined]  # a KeepsPool
    claim, lost = store.claim, list[int]()

    async def claim_without_answer(*args: Any) -> Any:
        claimed = await claim(*args)
        if claimed and not lost:
            lost.append(len(claimed))
            # As the driver's error leaves the store: with the answer unknown.
            unanswered = getattr(store, "_unanswered", None)
            if isinstance(unanswered, dict):
                unanswered[args[0]] = {one.record.task_id: one.record.token for one in claimed}
            elif isinstance(unanswered, set):
                unanswered.add(args[0])
            else:
                return claimed
            raise BackendUnavailableError("the answer was lost")
        return claimed

    monkeypatch.setattr(store, "claim", claim_without_answer)
    ids = [await manager.enqueue(work, number) for number in range(4)]
    for task_id in ids:
        assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS
    assert sorted(ran) == [0, 1, 2, 3]
    assert lost


@pytest.mark.parametrize("fate", ["lost", "given up"])
async def test_a_claim_of_one_task_whose_answer_does_not_come_leaves_the_task_to_the_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    async def work() -> None: ...

    web, worker = member(fleet, work, monkeypatch, run="none"), member(fleet, work, monkeypatch)
    await fleet.start(web)
    task_id = await web.enqueue(work)
    await eventually(lambda: waits_in_pool(fleet, task_id), "the gift")
    store: Any = fleet.wires[web].backend.pool_store  # type: ignore[attr-defined]  # a KeepsPool
    # Below it, the store does not know what came of the call; the store in memory has nothing below it.
    name = "_write" if hasattr(store, "_write") else "claim_one"
    write, claimed, answer = getattr(store, name), asyncio.Event(), asyncio.Event()

    async def write_without_answer(*args: Any) -> Any:
        result = await write(*args)
        if not claimed.is_set():
            claimed.set()
            if fate == "lost" and name == "_write":
                raise BackendUnavailableError("the answer was lost")
            await answer.wait()
        return result

    monkeypatch.setattr(store, name, write_without_answer)
    cancelling = asyncio.ensure_future(web.cancel(task_id))
    await asyncio.wait_for(claimed.wait(), WAIT)
    if fate == "given up":
        cancelling.cancel()
    answer.set()
    await asyncio.wait({cancelling})
    if cancelling.cancelled() or cancelling.exception() is not None:
        await eventually(lambda: waits_in_pool(fleet, task_id), "its return into the pool")
        await fleet.start(worker)
        assert (await finish(web, task_id)).status is TaskStatus.SUCCESS
    else:
        assert name == "claim_one"
        assert (await finish(web, task_id)).status is TaskStatus.CANCELLED


async def test_a_claim_after_a_lost_answer_leaves_what_came_by_a_takeover(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None: ...

    first = fleet.manager()
    first.task(persist=True, name="work")(work)
    await fleet.start(first)
    await first.pause_queue("default")
    task_id = await first.enqueue(work)
    await fleet.die(first)
    # The next claim of this instance asks for what the one before may have got.
    unanswered = getattr(pool_of(fleet), "_unanswered", None)
    if isinstance(unanswered, dict):
        unanswered["next"] = {task_id: 0}
    elif isinstance(unanswered, set):
        unanswered.add("next")
    [taken] = await fleet.storage.take_over([first.engine.instance_id], "next", {"work"}, 10)
    assert (taken.task_id, taken.instance) == (task_id, "next")
    assert await pool_of(fleet).claim("next", Wanted("default", {"work"}, 10), ()) == []


async def test_tasks_that_are_not_persisted_run_where_they_were_enqueued(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None: ...

    async def plain() -> None: ...

    manager = member(fleet, work, monkeypatch, run="none")
    manager.task(queue="shared", name="plain")(plain)
    await fleet.start(manager)
    record = await finish(manager, await manager.enqueue(plain))
    assert (record.status, record.instance) == (TaskStatus.SUCCESS, manager.engine.instance_id)


async def test_a_worker_claims_from_its_own_queues_and_no_more_than_its_concurrency(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    queues = {"mail": QueueConfig(), "video": QueueConfig()}
    monkeypatch.setenv(QUEUES, "mail, video")
    monkeypatch.setenv(CONCURRENCY, "1")
    worker = member(fleet, work, monkeypatch, run="pool", queues={**queues, "shared": QueueConfig()})
    monkeypatch.delenv(QUEUES)
    monkeypatch.delenv(CONCURRENCY)
    web = member(fleet, work, monkeypatch, run="none", queues={**queues, "shared": QueueConfig()})
    await fleet.start(worker, web)
    left = await web.enqueue(work)
    mine = [await web.enqueue(work, queue=queue) for queue in ("mail", "video") * 3]
    for task_id in mine:
        assert (await finish(web, task_id)).instance == worker.engine.instance_id
    assert most == 1
    assert await waits_in_pool(fleet, left)


async def test_a_stop_leaves_the_waiting_tasks_to_the_others(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = Gate(), Gate()
    one, other = (member(fleet, gate.run, monkeypatch) for gate in gates)
    await fleet.start(one)
    ids = [await one.enqueue(gates[0].run) for _ in range(4)]
    await asyncio.wait_for(gates[0].entered.wait(), WAIT)
    await fleet.stop(one)
    gates[1].opened.set()
    await fleet.start(other)
    for task_id in ids:
        record = await finish(other, task_id)
        assert (record.status, record.crashes, record.retries_used) == (TaskStatus.SUCCESS, 0, 0)


async def test_each_task_is_enqueued_and_finished_once_in_what_observers_see(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(number: int) -> None: ...

    loggers = InMemoryLogger(), InMemoryLogger()
    one, other = (member(fleet, work, monkeypatch, loggers=[logger]) for logger in loggers)
    await fleet.start(one, other)
    ids = await asyncio.gather(*(one.enqueue(work, number) for number in range(20)))
    for task_id in ids:
        await finish(one, task_id)
    seen = Counter[tuple[str, str]]()
    for manager in (one, other):
        await fleet.stop(manager)
    for logger in loggers:
        seen.update((event.task_id, str(event.transition)) for event in logger.lifecycle_events)
    assert seen == {(task_id, word): 1 for task_id in ids for word in ("enqueued", "started", "succeeded")}
