"""What happens to a task, through the public API: order, waits, retries, cancellation, timeouts, links, the drain."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import (
    InMemoryLogger,
    QueueConfig,
    QueueFullError,
    TaskManager,
    TaskRecord,
    TaskStateError,
    TaskStatus,
    UnknownTaskError,
    get_task_context,
    task_log,
)
from taskflow_otel.testing.clock import FakeClock, settle
from tests.waiting import eventually

WAIT = 20.0
FAST_DRAIN = {"shutdown_timeout": 0.05}


@contextlib.asynccontextmanager
async def started(manager: TaskManager) -> AsyncIterator[TaskManager]:
    await manager.startup()
    try:
        yield manager
    finally:
        await manager.shutdown()


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


async def finish(manager: TaskManager, task_id: str) -> TaskRecord:
    return await manager.wait(task_id, WAIT)


async def status_of(manager: TaskManager, task_id: str) -> TaskStatus:
    return (await manager.get(task_id)).status


def transitions(record: TaskRecord) -> list[str]:
    return [str(entry.transition) for entry in record.timeline]


class Gate:
    """A task function that waits until it is opened, and notes when it was entered and cancelled."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


# Idempotency


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


# Order, queues and limits


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
    refused = [event for event in log.lifecycle if event.status is TaskStatus.REJECTED]
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


# Waits


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
        seen.append(get_task_context().attempt)
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


# Cancelling


async def test_a_cancelled_pending_task_never_runs(timed: TaskManager) -> None:
    gate, ran = Gate(), []
    blocker = await timed.enqueue(gate.run, queue="one")
    await gate.entered.wait()
    waiting = await timed.enqueue(ran.append, 1, queue="one")
    record = await timed.cancel(waiting)
    assert (record.status, record.reason) == (TaskStatus.CANCELLED, "cancelled")
    gate.opened.set()
    await finish(timed, blocker)
    await settle()
    assert ran == []
    assert timed.queue_stats()["one"].ready == 0


async def test_a_task_that_waits_for_its_time_or_its_retry_can_be_cancelled(
    timed: TaskManager, clock: FakeClock
) -> None:
    runs: list[int] = []

    @timed.task(retries=5, delay=10)
    async def fails() -> None:
        runs.append(1)
        raise ValueError("no")

    delayed, retrying = await timed.enqueue(fails, delay=10), await timed.enqueue(fails)
    await settle()
    for task_id in (delayed, retrying):
        assert (await timed.cancel(task_id)).status is TaskStatus.CANCELLED
    await clock.advance(1000)
    assert runs == [1]
    assert timed.queue_stats()["default"].delayed == 0


async def test_cancelling_a_running_task_reaches_the_function_and_leaves_its_siblings_alone(
    manager: TaskManager,
) -> None:
    victim, sibling = Gate(), Gate()
    victim_id, sibling_id = await manager.enqueue(victim.run), await manager.enqueue(sibling.run)
    await victim.entered.wait()
    await sibling.entered.wait()
    await manager.cancel(victim_id)
    record = await finish(manager, victim_id)
    assert (record.status, record.reason) == (TaskStatus.CANCELLED, "cancelled")
    assert victim.cancelled
    assert not sibling.cancelled
    assert await status_of(manager, sibling_id) is TaskStatus.RUNNING
    sibling.opened.set()
    assert (await finish(manager, sibling_id)).status is TaskStatus.SUCCESS


@pytest.mark.parametrize("way", ["returns", "raises"])
async def test_a_thread_is_asked_to_stop_and_stays_running_until_it_does(manager: TaskManager, way: str) -> None:
    entered, may_look = threading.Event(), threading.Event()

    def work() -> None:
        context = get_task_context()
        entered.set()
        while not context.cancelled:
            may_look.wait(0.01)
        may_look.wait(WAIT)
        context.raise_if_cancelled()

    def work_that_returns() -> None:
        context = get_task_context()
        entered.set()
        while not context.cancelled:
            may_look.wait(0.01)
        may_look.wait(WAIT)

    task_id = await manager.enqueue(work if way == "raises" else work_that_returns)
    await asyncio.to_thread(entered.wait, WAIT)
    record = await manager.cancel(task_id)
    assert (record.status, record.cancel_requested) == (TaskStatus.RUNNING, True)
    may_look.set()
    record = await finish(manager, task_id)
    # One that returns has done its work: that is a success, and no one is told otherwise.
    assert record.status is (TaskStatus.CANCELLED if way == "raises" else TaskStatus.SUCCESS)


async def test_what_has_finished_cannot_be_cancelled(manager: TaskManager) -> None:
    task_id = await manager.enqueue(lambda: None)
    await finish(manager, task_id)
    with pytest.raises(TaskStateError, match="is success already"):
        await manager.cancel(task_id)


# Timeouts


async def test_a_timeout_counts_as_a_failed_attempt(manager: TaskManager) -> None:
    attempts: list[int] = []

    @manager.task(timeout=0.02, retries=1)
    async def slow() -> None:
        attempts.append(get_task_context().attempt)
        await asyncio.Event().wait()

    record = await finish(manager, await manager.enqueue(slow))
    assert attempts == [0, 1]
    assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")
    assert record.error_type == "taskflow_otel.errors.TaskTimeoutError"
    assert "after its timeout of 0.02 s" in (record.error or "")


async def test_a_thread_that_overstays_its_timeout_is_asked_to_stop_and_has_failed(manager: TaskManager) -> None:
    @manager.task(timeout=0.02)
    def slow() -> None:
        context = get_task_context()
        pause = threading.Event()
        while not context.cancelled:
            pause.wait(0.005)

    record = await finish(manager, await manager.enqueue(slow))
    assert (record.status, record.reason) == (TaskStatus.FAILED, "timeout")


async def test_a_timeout_error_of_the_function_itself_is_an_ordinary_failure(manager: TaskManager) -> None:
    @manager.task(timeout=60)
    async def raises() -> None:
        raise TimeoutError("of my own")

    record = await finish(manager, await manager.enqueue(raises))
    assert (record.status, record.reason, record.error) == (TaskStatus.FAILED, None, "of my own")


# Waiting, retrying by hand


async def test_waiting_for_a_task_that_does_not_end_times_out_and_leaves_it_alone(manager: TaskManager) -> None:
    gate = Gate()
    task_id = await manager.enqueue(gate.run)
    with pytest.raises(TimeoutError):
        await manager.wait(task_id, 0.01)
    gate.opened.set()
    assert (await finish(manager, task_id)).status is TaskStatus.SUCCESS


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
        await manager.retry(task_id)


# What a task can see and say


async def test_a_task_sees_its_context_and_the_context_variables_of_its_caller(manager: TaskManager) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[Any] = []

    def look() -> None:
        context = get_task_context()
        seen.append((context.task_id, context.func_name, context.attempt, dict(context.tags), variable.get()))

    variable.set("from the caller")
    task_id = await manager.enqueue(look, tags={"n": 1})
    await finish(manager, task_id)
    assert seen == [(task_id, "look", 0, {"n": "1"}, "from the caller")]


@pytest.mark.parametrize("executor", ["async", "thread"])
async def test_task_log_is_kept_in_order_with_level_extra_and_attempt(executor: str, tmp_path: Path) -> None:
    observer = InMemoryLogger()
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", loggers=[observer])

    def say() -> None:
        task_log("first", size=3)
        task_log("second", level="warning")
        if get_task_context().attempt == 0:
            raise ValueError("again")

    async def say_in_the_loop() -> None:
        say()

    job: Callable[[], Any] = manager.task(retries=1, name="say", executor=executor)(  # type: ignore[arg-type]
        say_in_the_loop if executor == "async" else say
    )
    async with started(manager):
        task_id = await manager.enqueue(job)
        await finish(manager, task_id)
        entries = await manager.engine.logs(task_id)
    expected = [("first", "info", {"size": 3}), ("second", "warning", {})]
    assert [(e.message, e.level, e.extra) for e in entries] == expected * 2
    assert [e.attempt for e in entries] == [0, 0, 1, 1]
    assert [e.seq for e in entries] == sorted(e.seq for e in entries)
    assert observer.messages == ["first", "second"] * 2


async def test_task_log_outside_a_task_goes_to_the_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "taskflow_otel.task"):
        task_log("no task here", level="warning", order=7)
    [record] = caplog.records
    assert (record.name, record.levelname, record.message) == ("taskflow_otel.task", "WARNING", "no task here")
    assert record.__dict__["taskflow"] == {"order": 7}


async def test_captured_logging_becomes_the_log_of_the_task_that_wrote_it() -> None:
    observer = InMemoryLogger()
    manager = TaskManager(capture_logs=True, loggers=[observer])

    async def chat() -> None:
        logging.getLogger("shop").warning("low on %s", "tea")

    async with started(manager):
        task_id = await manager.enqueue(chat)
        await finish(manager, task_id)
        logging.getLogger("shop").warning("nobody's")
    assert [(e.task_id, e.message, e.level) for e in observer.logs] == [(task_id, "low on tea", "warning")]


async def test_progress_is_shown_while_the_task_runs(manager: TaskManager) -> None:
    gate = Gate()

    async def work() -> None:
        get_task_context().progress(3, 10, message="pages")
        await gate.run()

    task_id = await manager.enqueue(work)
    await gate.entered.wait()
    progress = (await manager.get(task_id)).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (3, 10, "pages")
    gate.opened.set()


# The drain


class Life:
    """One life of a process: a manager on a database, whose tasks note what they do."""

    def __init__(self, database: Path, **options: Any) -> None:
        self.manager = TaskManager(snapshot_db=database, queues={"one": QueueConfig(concurrency=1)}, **options)
        self.log: list[str] = []
        self.gate = Gate()
        log, gate = self.log, self.gate

        @self.manager.task(persist=True)
        async def kept(what: str = "kept") -> None:
            log.append(what)

        @self.manager.task(persist=True)
        async def long() -> None:
            log.append("long began")
            await gate.run()
            log.append("long ended")

        @self.manager.task(persist=True, requeue_on_interrupt=True, retries=2)
        async def again() -> None:
            log.append("again began")
            await gate.run()
            log.append("again ended")

        @self.manager.task()
        async def passing() -> None:
            log.append("passing")

        self.kept, self.long, self.again, self.passing = kept, long, again, passing


async def test_the_drain_lets_running_tasks_end(tmp_path: Path) -> None:
    life = Life(tmp_path / "tasks.db")
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.long)
    await life.gate.entered.wait()
    stopping = asyncio.create_task(life.manager.shutdown())
    await settle()
    assert not stopping.done()
    life.gate.opened.set()
    await stopping
    assert life.log == ["long began", "long ended"]
    async with started(Life(tmp_path / "tasks.db").manager) as later:
        assert await status_of(later, task_id) is TaskStatus.SUCCESS


async def test_persisted_tasks_that_wait_survive_the_drain_and_others_say_that_they_never_ran(tmp_path: Path) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    await life.manager.pause_queue("one")
    kept = await life.manager.enqueue(life.kept, queue="one")
    delayed = await life.manager.enqueue(life.kept, "delayed", delay=0.01, queue="one")
    passing = await life.manager.enqueue(life.passing, queue="one")
    await life.manager.shutdown()
    assert life.log == []

    again = Life(tmp_path / "tasks.db")
    async with started(again.manager) as manager:
        for task_id in (kept, delayed):
            record = await finish(manager, task_id)
            assert (record.status, record.retries_used, record.crashes) == (TaskStatus.SUCCESS, 0, 0)
        record = await manager.get(passing)
        assert (record.status, record.reason) == (TaskStatus.CANCELLED, "shutdown")
    assert sorted(again.log) == ["delayed", "kept"]


async def test_an_interruption_by_the_drain_runs_again_where_that_was_allowed_and_costs_no_retry(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.again)
    await life.gate.entered.wait()
    await life.manager.shutdown()
    assert life.gate.cancelled
    assert life.log == ["again began"]

    next_life = Life(tmp_path / "tasks.db")
    next_life.gate.opened.set()
    async with started(next_life.manager) as manager:
        record = await finish(manager, task_id)
    assert (record.status, record.retries_used, record.crashes) == (TaskStatus.SUCCESS, 0, 0)
    assert next_life.log == ["again began", "again ended"]


async def test_an_interruption_by_the_drain_is_visible_and_can_be_retried_where_it_was_not_allowed(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path / "tasks.db", **FAST_DRAIN)
    await life.manager.startup()
    task_id = await life.manager.enqueue(life.long)
    await life.gate.entered.wait()
    await life.manager.shutdown()

    next_life = Life(tmp_path / "tasks.db")
    next_life.gate.opened.set()
    async with started(next_life.manager) as manager:
        record = await manager.get(task_id)
        assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")
        assert next_life.log == []
        retried = await finish(manager, (await manager.retry(task_id)).task_id)
        assert retried.status is TaskStatus.SUCCESS


async def test_a_retry_that_waits_survives_the_drain(tmp_path: Path) -> None:
    runs: list[int] = []

    def make() -> tuple[TaskManager, Callable[[], Awaitable[None]]]:
        manager = TaskManager(snapshot_db=tmp_path / "tasks.db", **FAST_DRAIN)

        @manager.task(persist=True, retries=1, delay=0.2)
        async def flaky() -> None:
            runs.append(get_task_context().attempt)
            if len(runs) == 1:
                raise ValueError("not yet")

        return manager, flaky

    manager, flaky = make()
    await manager.startup()
    task_id = await manager.enqueue(flaky)
    await eventually(lambda: bool(runs), "the first attempt")
    await manager.shutdown()
    manager, _ = make()
    async with started(manager):
        record = await finish(manager, task_id)
    assert (record.status, record.retries_used) == (TaskStatus.SUCCESS, 1)
    assert runs == [0, 1]


async def test_threads_are_asked_to_stop_by_the_drain(tmp_path: Path) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", **FAST_DRAIN)
    entered = threading.Event()

    @manager.task()
    def work() -> None:
        context = get_task_context()
        entered.set()
        pause = threading.Event()
        while True:
            pause.wait(0.005)
            context.raise_if_cancelled()

    await manager.startup()
    task_id = await manager.enqueue(work)
    await asyncio.to_thread(entered.wait, WAIT)
    await manager.shutdown()
    async with started(TaskManager(snapshot_db=tmp_path / "tasks.db")) as later:
        record = await later.get(task_id)
    assert (record.status, record.reason) == (TaskStatus.INTERRUPTED, "shutdown")


async def test_every_outcome_reaches_the_observers_before_the_shutdown_returns() -> None:
    observer = InMemoryLogger()
    manager = TaskManager(loggers=[observer])
    await manager.startup()
    ids = [await manager.enqueue(lambda: None) for _ in range(50)]
    await manager.shutdown()
    ended = {event.task_id for event in observer.lifecycle if event.status.finished}
    assert ended == set(ids)


async def test_a_manager_can_be_started_again_after_its_end() -> None:
    manager = TaskManager()
    for _ in range(2):
        async with started(manager):
            assert (await finish(manager, await manager.enqueue(lambda: None))).status is TaskStatus.SUCCESS
    await manager.shutdown()
    assert manager.engine.state == "stopped"
