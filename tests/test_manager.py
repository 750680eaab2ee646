"""What happens to a task, through the public API: one key one task, order, limits, waits, retries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from taskflow_otel import (
    ConfigurationError,
    InMemoryLogger,
    ManagedBackgroundTasks,
    QueueConfig,
    QueueFullError,
    TaskManager,
    TaskNotFoundError,
    TaskStateError,
    TaskStatus,
    UnknownTaskError,
    get_task_context,
    task_log,
)
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import LogEntry
from taskflow_otel.testing.clock import FakeClock, settle
from tests.inside import own_context
from tests.managers import WAIT, Gate, finish, started, transitions
from tests.waiting import eventually


@pytest.fixture
async def manager() -> AsyncIterator[TaskManager]:
    async with started(TaskManager()) as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def timed(clock: FakeClock) -> AsyncIterator[TaskManager]:
    """A manager whose time the test turns."""
    async with started(TaskManager(clock=clock, queues={"one": QueueConfig(concurrency=1)})) as running:
        yield running


async def test_one_key_is_one_task_while_it_waits_runs_and_after_it_succeeded(manager: TaskManager) -> None:
    gate = Gate()
    first = await manager.enqueue(gate.run, idempotency_key="order-1")
    assert await manager.enqueue(gate.run, idempotency_key="order-1") == first
    await gate.entered.wait()
    assert await manager.enqueue(gate.run, idempotency_key="order-1") == first
    gate.opened.set()
    await finish(manager, first)
    assert await manager.enqueue(gate.run, idempotency_key="order-1") == first
    assert await manager.enqueue(gate.run, idempotency_key="order-2") != first


async def test_a_key_is_free_again_after_a_failure_or_a_cancellation(manager: TaskManager) -> None:
    async def fail() -> None:
        raise ValueError("no")

    gate = Gate()
    failed = await manager.enqueue(fail, idempotency_key="a")
    await finish(manager, failed)
    assert await manager.enqueue(gate.run, idempotency_key="a") != failed

    cancelled = await manager.enqueue(gate.run, idempotency_key="b", delay=60)
    await manager.cancel(cancelled)
    assert await manager.enqueue(gate.run, idempotency_key="b") != cancelled
    gate.opened.set()


@pytest.mark.parametrize("persist", [False, True])
async def test_concurrent_calls_with_one_key_run_once(persist: bool, tmp_path: Path) -> None:
    runs: list[int] = []
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db")

    @manager.task(persist=persist)
    async def count(number: int) -> None:
        runs.append(number)

    async with started(manager):
        ids = await asyncio.gather(*(manager.enqueue(count, n, idempotency_key="k") for n in range(20)))
        assert len(set(ids)) == 1
        await finish(manager, ids[0])
    assert len(runs) == 1


async def test_higher_priorities_overtake_and_equal_ones_keep_their_order(timed: TaskManager) -> None:
    gate, order = Gate(), []

    @timed.task(queue="one")
    async def note(what: str) -> None:
        order.append(what)

    timed.task(queue="one", name="gate")(gate.run)
    await timed.enqueue(gate.run, queue="one")
    await gate.entered.wait()
    given: list[tuple[str, int | None]] = [("default", None), ("low", 1), ("high", 9), ("five", 5), ("also high", 9)]
    ids = [await timed.enqueue(note, what, priority=priority) for what, priority in given]
    gate.opened.set()
    for task_id in ids:
        await finish(timed, task_id)
    assert order == ["high", "also high", "default", "five", "low"]


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_a_queue_never_runs_more_than_its_concurrency(executor: str) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def enter() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)

    def leave() -> None:
        nonlocal running
        with lock:
            running -= 1

    async def in_the_loop() -> None:
        enter()
        await asyncio.sleep(0)
        leave()

    def in_a_thread() -> None:
        enter()
        leave()

    manager = TaskManager(queues={"pair": QueueConfig(concurrency=2)})
    job: Callable[[], Any] = manager.task(queue="pair")(in_the_loop if executor == "async" else in_a_thread)
    async with started(manager):
        ids = [await manager.enqueue(job) for _ in range(30)]
        records = [await finish(manager, task_id) for task_id in ids]
    assert {record.status for record in records} == {TaskStatus.SUCCESS}
    assert most <= 2


async def test_a_full_queue_refuses_at_the_call_and_says_so_to_the_observers() -> None:
    log, gate = InMemoryLogger(), Gate()
    manager = TaskManager(queues={"small": QueueConfig(concurrency=1, max_size=2)}, loggers=[log])
    async with started(manager):
        ids = [await manager.enqueue(gate.run, queue="small")]
        await gate.entered.wait()
        ids += [await manager.enqueue(gate.run, queue="small") for _ in range(2)]
        with pytest.raises(QueueFullError, match=r"'small' is full \(2 tasks wait\)"):
            await manager.enqueue(gate.run, queue="small")
        stats = manager.queue_stats()["small"]
        assert (stats.running, stats.ready) == (1, 2)
        gate.opened.set()
        for task_id in ids:
            assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS
    refused = [event for event in log.lifecycle_events if event.status is TaskStatus.REJECTED]
    assert [event.reason for event in refused] == ["queue_full"]


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(timed: TaskManager) -> None:
    ran: list[int] = []

    @timed.task(queue="one")
    async def job() -> None:
        ran.append(1)

    await timed.pause_queue("one")
    task_id = await timed.enqueue(job)
    await settle()
    assert ran == []
    assert timed.queue_stats()["one"].paused
    await timed.resume_queue("one")
    await finish(timed, task_id)
    assert ran == [1]


async def test_raising_a_limit_lets_waiting_tasks_start(timed: TaskManager) -> None:
    first, second = Gate(), Gate()
    ids = [await timed.enqueue(gate.run, queue="one") for gate in (first, second)]
    await first.entered.wait()
    await settle()
    assert not second.entered.is_set()
    await timed.update_queue_config("one", concurrency=2)
    await asyncio.wait_for(second.entered.wait(), WAIT)
    first.opened.set()
    second.opened.set()
    for task_id in ids:
        await finish(timed, task_id)


@pytest.mark.parametrize(
    "when", [{"delay": 60}, {"delay": timedelta(minutes=1)}, {"run_at": datetime(2026, 1, 1, 0, 1, tzinfo=UTC)}]
)
async def test_a_delayed_task_waits_for_its_time(timed: TaskManager, clock: FakeClock, when: dict[str, Any]) -> None:
    ran: list[int] = []

    @timed.task()
    async def job() -> None:
        ran.append(1)

    task_id = await timed.enqueue(job, **when)
    record = await timed.get(task_id)
    assert (record.status, record.reason) == (TaskStatus.PENDING, "delayed")
    assert record.run_at == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    await clock.advance(59)
    assert ran == []
    assert timed.queue_stats()["default"].delayed == 1
    await clock.advance(1)
    assert (await finish(timed, task_id)).status is TaskStatus.SUCCESS
    assert ran == [1]


async def test_a_time_that_has_passed_means_now(timed: TaskManager) -> None:
    task_id = await timed.enqueue(Gate.__init__, Gate.__new__(Gate), run_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert (await finish(timed, task_id)).status is TaskStatus.SUCCESS


async def test_retries_wait_longer_each_time_and_hold_no_slot(timed: TaskManager, clock: FakeClock) -> None:
    started_at: list[float] = []
    between: list[float] = []

    @timed.task(queue="one", retries=3, delay=10, backoff=3, max_delay=60)
    async def flaky() -> None:
        started_at.append(clock.monotonic())
        if len(started_at) < 4:
            raise ConnectionError("not yet")

    @timed.task(queue="one")
    async def other() -> None:
        between.append(clock.monotonic())

    task_id = await timed.enqueue(flaky)
    await settle()
    record = await timed.get(task_id)
    assert (record.status, record.reason, record.retries_used) == (TaskStatus.PENDING, "retry_wait", 1)
    assert record.run_at == clock.now() + timedelta(seconds=10)
    assert (record.error, record.error_type) == ("not yet", "ConnectionError")

    await clock.advance(5)
    await finish(timed, await timed.enqueue(other))
    assert between == [5]

    await clock.advance(200)
    record = await finish(timed, task_id)
    assert started_at == [0, 10, 40, 100]
    assert (record.status, record.attempt, record.retries_used) == (TaskStatus.SUCCESS, 3, 3)
    assert (record.error, record.stacktrace) == (None, None)
    assert transitions(record) == ["enqueued", *["started", "retry_scheduled"] * 3, "started", "succeeded"]


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({"retries": 2}, 3),
        ({"retries": 2, "retry_on": ConnectionError}, 3),
        ({"retries": 2, "retry_on": (ValueError, OSError)}, 3),
        ({"retries": 2, "retry_on": ValueError}, 1),
        ({"retries": 2, "no_retry_on": ConnectionResetError}, 1),
    ],
)
async def test_the_policy_decides_which_failures_are_worth_another_attempt(
    manager: TaskManager, options: dict[str, Any], attempts: int
) -> None:
    seen: list[int] = []

    @manager.task(**options)
    async def fails() -> None:
        seen.append(own_context().attempt)
        raise ConnectionResetError("gone")

    record = await finish(manager, await manager.enqueue(fails))
    assert record.status is TaskStatus.FAILED
    assert seen == list(range(attempts))
    assert record.error_type == "ConnectionResetError"
    assert "in fails" in (record.stacktrace or "")


@pytest.mark.parametrize("exception", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_whatever_a_task_raises_ends_that_task_and_nothing_else(
    manager: TaskManager, exception: BaseException, executor: str
) -> None:
    async def raises() -> None:
        raise exception

    def raises_in_a_thread() -> None:
        raise exception

    job: Callable[[], Any] = raises if executor == "async" else raises_in_a_thread
    record = await finish(manager, await manager.enqueue(job))
    assert record.status is TaskStatus.FAILED
    assert (record.error_type or "").endswith(type(exception).__name__)
    assert (await finish(manager, await manager.enqueue(lambda: None))).status is TaskStatus.SUCCESS


async def test_an_exception_that_cannot_be_printed_is_still_a_failure(manager: TaskManager) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("nothing to say")

    async def raises() -> None:
        raise Mute

    record = await finish(manager, await manager.enqueue(raises))
    assert record.status is TaskStatus.FAILED
    assert "Mute" in (record.error or "")


async def test_waiting_for_a_task_that_does_not_end_times_out_and_leaves_it_alone(manager: TaskManager) -> None:
    gate = Gate()
    task_id = await manager.enqueue(gate.run)
    with pytest.raises(TimeoutError):
        await manager.wait(task_id, 0.01)
    gate.opened.set()
    assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS


async def test_all_who_wait_for_a_task_get_a_record_of_their_own(manager: TaskManager) -> None:
    gate, names = asyncio.Event(), list[str]()

    @manager.task()
    async def job() -> None:
        await gate.wait()
        names.append((asyncio.current_task() or pytest.fail("no task")).get_name())

    task_id = await manager.enqueue(job)
    waiting = [asyncio.ensure_future(manager.wait(task_id)) for _ in range(2)]
    await eventually(lambda: manager.store.list()[0].status is TaskStatus.RUNNING, "the start")
    cancelled = asyncio.ensure_future(manager.wait(task_id))
    await asyncio.sleep(0)
    cancelled.cancel()
    gate.set()
    first, second = await asyncio.gather(*waiting)
    assert (first.status, second.status) == (TaskStatus.SUCCESS, TaskStatus.SUCCESS)
    assert first == second == await manager.wait(task_id)
    assert first is not second
    # An asyncio task bears the name of the type whose attempt it is.
    assert names == ["job"]


async def test_a_retry_by_hand_is_a_new_task_with_the_same_arguments_and_both_name_each_other(
    tmp_path: Path,
) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db")
    seen: list[Any] = []
    healthy = False

    @manager.task(persist=True)
    async def pay(amount: int, when: datetime) -> None:
        seen.append((amount, when))
        if not healthy:
            raise ConnectionError("bank is closed")

    when = datetime(2026, 1, 1, tzinfo=UTC)
    async with started(manager):
        first = await manager.enqueue(pay, 12, when=when, tags={"customer": "ada"}, priority=7)
        before = await finish(manager, first)
        healthy = True
        second = await manager.retry(first)
        assert second.task_id != first
        after = await finish(manager, second.task_id)
        original = await manager.get(first)
    assert seen == [(12, when), (12, when)]
    assert (after.status, after.source, after.retry_of) == (TaskStatus.SUCCESS, "retry", first)
    assert (after.tags, after.priority) == ({"customer": "ada"}, 7)
    assert (original.status, original.retried_by) == (TaskStatus.FAILED, second.task_id)
    assert (original.error, original.timeline) == (before.error, before.timeline)


async def test_only_a_finished_task_can_be_retried_and_only_once_at_a_time(manager: TaskManager) -> None:
    gate = Gate()

    @manager.task()
    async def wait() -> None:
        await gate.run()

    first = await manager.enqueue(wait)
    with pytest.raises(TaskStateError, match="only a finished task can be retried"):
        await manager.retry(first)
    await gate.entered.wait()
    await manager.cancel(first)
    await finish(manager, first)
    second = await manager.retry(first)
    with pytest.raises(TaskStateError, match=f"is being retried already, by {second.task_id}"):
        await manager.retry(first)
    gate.opened.set()
    await finish(manager, second.task_id)
    third = await manager.retry(first)
    assert (await finish(manager, third.task_id)).status is TaskStatus.SUCCESS


async def test_a_task_of_an_unknown_name_cannot_be_retried(manager: TaskManager) -> None:
    task_id = await manager.enqueue(lambda: None)
    await finish(manager, task_id)
    with pytest.raises(UnknownTaskError, match="no task named '<lambda>' is registered"):
        await manager.retry(task_id, rerun=True)


async def test_a_subclass_may_give_its_task_types_options_of_its_own() -> None:
    class Patient(TaskManager):
        def task(self, **options: Any) -> Any:
            return super().task(**{"retries": 1, **options})

    manager, attempts = Patient(), []

    @manager.task()  # type: ignore[untyped-decorator]  # the subclass of this test
    async def fail_once() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("once")

    async with started(manager):
        task_id = await manager.enqueue(fail_once)
        assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS


async def test_a_task_comes_with_its_log_and_the_log_alone_too(manager: TaskManager) -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    @manager.task(retries=1)
    async def talk() -> None:
        context = get_task_context()
        assert context is not None
        task_log(f"attempt {context.attempt}", level="warning", size=3)
        if context.attempt == 0:
            raise ValueError("again")
        entered.set()
        await gate.wait()

    task_id = await manager.enqueue(talk)
    assert (await manager.get(task_id)).logs == []
    await asyncio.wait_for(entered.wait(), WAIT)
    running = await manager.get(task_id)
    gate.set()
    await finish(manager, task_id)
    ended = await manager.get(task_id)
    for logs in (running.logs, ended.logs, await manager.logs(task_id)):
        assert logs is not None
        assert [(entry.message, entry.level, entry.attempt, entry.extra) for entry in logs] == [
            (f"attempt {attempt}", "warning", attempt, {"size": 3}) for attempt in (0, 1)
        ]


async def test_the_log_of_a_task_that_does_not_exist_is_an_error(manager: TaskManager) -> None:
    with pytest.raises(TaskNotFoundError):
        await manager.logs("none")


async def test_a_live_task_is_answered_without_its_log_while_the_backend_fails() -> None:
    class Mute(MemoryBackend):
        async def logs(self, task_id: str) -> list[LogEntry]:
            raise BackendUnavailableError("down")

    gate = Gate()
    async with started(TaskManager(snapshot_backend=Mute())) as manager:

        @manager.task()
        async def talk() -> None:
            task_log("hello")
            await gate.run()

        task_id = await manager.enqueue(talk)
        await gate.entered.wait()
        assert (await manager.get(task_id)).logs is None
        with pytest.raises(BackendUnavailableError):
            await manager.logs(task_id)
        gate.opened.set()


async def test_tasks_are_found_by_filters_over_all_pages(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_otel.actions._PAGE", 2)

    @manager.task()
    async def send(number: int) -> None:
        assert number < 3, number

    ids = [await manager.enqueue(send, number, tags={"number": number}) for number in range(5)]
    for task_id in ids:
        await finish(manager, task_id)
    assert [record.task_id for record in await manager.find()] == ids[::-1]
    assert [record.task_id for record in await manager.find(limit=3)] == ids[:1:-1]
    assert [record.task_id for record in await manager.find(status="failed")] == ids[:2:-1]
    assert [record.task_id for record in await manager.find(tag=("number", "1"), func_name="send")] == [ids[1]]
    assert await manager.find(until=datetime(2020, 1, 1, tzinfo=UTC)) == []
    assert [record.task_id for record in await manager.find(tag=("number", 2))] == [ids[2]]  # type: ignore[arg-type]  # as it was given
    for wrong in ({"status": "lost"}, {"limit": 0}, {"since": datetime(2020, 1, 1)}, {"queue": 1}, {"tag": "number"}):
        with pytest.raises(ConfigurationError):
            await manager.find(**wrong)


class Word(str, Enum):  # noqa: UP042  # a `StrEnum` formats as its value
    """Names as many applications keep them; `str(Word.SEND)` is `Word.SEND`."""

    SEND = "send"
    MAIL = "mail"
    CUSTOMER = "customer"
    NIGHTLY = "nightly"
    ZONE = "Europe/Berlin"


async def test_names_may_be_members_of_an_enum() -> None:
    manager = TaskManager(queues={Word.MAIL: QueueConfig(concurrency=1)})

    @manager.schedule(cron="0 3 * * *", timezone=Word.ZONE, name=Word.NIGHTLY)
    @manager.task(name=Word.SEND, queue=Word.MAIL)
    async def send() -> None:
        task_log(Word.MAIL, word=Word.MAIL)

    async with started(manager):
        task_id = await manager.enqueue(send, idempotency_key=Word.SEND, tags={Word.CUSTOMER: Word.MAIL})
        record = await finish(manager, task_id)
        assert (record.func_name, record.queue, record.idempotency_key) == ("send", "mail", "send")
        assert {type(one) for one in (record.func_name, record.queue, record.idempotency_key)} == {str}
        assert record.tags == {"customer": "mail"}
        [entry] = await manager.logs(task_id)
        assert (entry.message, entry.extra) == ("mail", {"word": "mail"})
        found = await manager.find(func_name=Word.SEND, queue=Word.MAIL, tag=(Word.CUSTOMER, Word.MAIL))
        assert [one.task_id for one in found] == [task_id]
        moment = datetime.now(UTC) + timedelta(hours=1)
        run = await manager.schedule_once(send, run_at=moment, run_key=Word.NIGHTLY, queue=Word.MAIL)
        assert (run.run_key, run.queue, type(run.queue)) == ("nightly", "mail", str)
        assert await manager.cancel_scheduled(Word.NIGHTLY)
        assert await manager.list_scheduled() == []
        await manager.pause_schedule("nightly")
        [schedule] = manager.schedules()
        assert (f"{schedule.name}", f"{schedule.timezone}", schedule.paused) == ("nightly", "Europe/Berlin", True)
        assert [f"{name}" for name in manager.queue_stats()] == ["default", "mail"]


async def test_a_task_is_found_by_its_id_as_a_uuid(manager: TaskManager) -> None:
    @manager.task()
    async def send() -> None:
        raise ConnectionError

    task_id = await manager.enqueue(send)
    uuid = UUID(task_id)
    assert (await manager.wait(uuid, timeout=60)).task_id == (await manager.get(uuid)).task_id == task_id
    record = manager.store.get(uuid)
    assert record is not None
    assert record.task_id == task_id
    assert await manager.logs(uuid) == []
    for refuses in (manager.cancel, manager.ask_for_stack):
        with pytest.raises(TaskStateError, match=task_id):
            await refuses(uuid)
    assert (await manager.retry(uuid)).retry_of == task_id


async def test_planned_runs_are_listed_up_to_a_moment(manager: TaskManager) -> None:
    @manager.task()
    async def send() -> None: ...

    now = datetime.now(UTC)
    for hours in (1, 3):
        await manager.schedule_once(send, run_at=now + timedelta(hours=hours), run_key=f"in {hours}")
    assert [run.run_key for run in await manager.list_scheduled(before=now + timedelta(hours=2))] == ["in 1"]
    with pytest.raises(ConfigurationError, match="before"):
        await manager.list_scheduled(before=datetime(2030, 1, 1))


def test_a_retry_that_would_rewrite_history_is_refused() -> None:
    TaskManager(retry_replaces_original=False)
    with pytest.raises(ConfigurationError, match="retry_of and retried_by"):
        TaskManager(retry_replaces_original=True)


async def test_by_hand_background_tasks_outside_a_request_start_at_once(manager: TaskManager) -> None:
    done: list[int] = []

    @manager.task()
    async def declared(number: int) -> None:
        done.append(number)

    tasks = ManagedBackgroundTasks(manager)
    for task_id in (tasks.add_task(declared, 1), tasks.add_task(done.append, 2)):
        await finish(manager, task_id)
    assert sorted(done) == [1, 2]
    with pytest.raises(TypeError, match="needs a TaskManager, not dict"):
        ManagedBackgroundTasks({})  # type: ignore[arg-type]
