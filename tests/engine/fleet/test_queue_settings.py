"""What is changed about a queue at run time holds on every instance, and in every later life."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest

from taskflow_otel import ConfigurationError, QueueConfig, QueueFullError, TaskManager, TaskStatus, UnknownQueueError
from taskflow_otel.backends import Backend, MemoryBackend, SqliteBackend
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.testing.clock import FakeClock
from tests.managers import started
from tests.waiting import eventually

NewBackend = Callable[[], Backend]


@pytest.fixture(params=["memory", "sqlite"])
def new_backend(request: pytest.FixtureRequest, tmp_path: Path) -> NewBackend:
    """Backends over one store: several of them for SQLite, as several processes have them."""
    if request.param == "sqlite":
        return lambda: SqliteBackend(tmp_path / "tasks.db")
    memory = MemoryBackend(durable=True)
    return lambda: memory


def new_manager(backend: Backend, clock: FakeClock | None = None) -> TaskManager:
    return TaskManager(snapshot_backend=backend, clock=clock, queues={"q": QueueConfig(concurrency=4, max_size=100)})


def limits(manager: TaskManager) -> tuple[int | None, int | None, bool]:
    stats = manager.queue_stats()["q"]
    return stats.concurrency, stats.max_size, stats.paused


async def test_limits_and_pauses_survive_a_restart(new_backend: NewBackend) -> None:
    async with started(new_manager(new_backend())) as manager:
        assert limits(manager) == (4, 100, False)
        await manager.update_queue_config("q", concurrency=2)
        await manager.engine.queues.pause("q", "ada", "the mail server is down")
    async with started(new_manager(new_backend())) as manager:
        assert limits(manager) == (2, 100, True)
        pause = manager.engine.queues.pauses()["q"]
        assert (pause.by, pause.reason) == ("ada", "the mail server is down")
        await manager.update_queue_config("q", concurrency=None, max_size=7)
        await manager.resume_queue("q")
    async with started(new_manager(new_backend())) as manager:
        assert limits(manager) == (None, 7, False)


class Queues(str, Enum):  # noqa: UP042  # a `StrEnum` formats as its value
    """Queues as many applications name them; `f"{Queues.MAIL}"` is `Queues.MAIL`."""

    MAIL = "q"


async def test_queues_that_an_enum_names_keep_what_was_changed(new_backend: NewBackend) -> None:
    queues: dict[str, QueueConfig] = {Queues.MAIL: QueueConfig(concurrency=4, max_size=100)}
    async with started(TaskManager(snapshot_backend=new_backend(), queues=queues)) as manager:
        await manager.update_queue_config(Queues.MAIL, concurrency=2)
        await manager.pause_queue(Queues.MAIL)
        assert limits(manager) == (2, 100, True)
    async with started(TaskManager(snapshot_backend=new_backend(), queues=queues)) as manager:
        assert limits(manager) == (2, 100, True)
        await manager.resume_queue("q")
    async with started(new_manager(new_backend())) as manager:
        assert limits(manager) == (2, 100, False)


async def test_a_pause_keeps_its_reason(new_backend: NewBackend) -> None:
    def reasons(manager: TaskManager) -> list[str | None]:
        return [manager.engine.queues.pauses()["q"].reason, manager.schedules()[0].paused_reason]

    def declared() -> TaskManager:
        manager = new_manager(new_backend())
        manager.schedule(every=3600, name="job")(_nothing)
        return manager

    async with started(declared()) as manager:
        for given, kept in (
            (None, None), ("", None), ("until six \U0001f550", "until six \U0001f550"), ("\0\ud800", "\\x00\\ud800"),
        ):  # fmt: skip
            await manager.pause_queue("q", reason=given)
            await manager.pause_schedule("job", reason=given)
            assert reasons(manager) == [kept, kept]
        with pytest.raises(ConfigurationError, match="reason must be a text, not 5"):
            await manager.pause_queue("q", reason=5)  # type: ignore[arg-type]
        await manager.pause_queue("q", reason="x" * 5_000)
        await manager.pause_schedule("job", reason="x" * 5_000)
        assert [(text or "")[:1_000] for text in reasons(manager)] == ["x" * 1_000] * 2
        assert all(len(text or "") < 1_100 for text in reasons(manager))
        [kept, _] = reasons(manager)
    async with started(declared()) as manager:
        await eventually(lambda: reasons(manager) == [kept, kept], "both pauses to be read again")


async def _nothing() -> None: ...


async def test_limits_and_pauses_reach_the_other_instances(new_backend: NewBackend) -> None:
    clock = FakeClock()

    async def job() -> None: ...

    one, other = new_manager(new_backend(), clock), new_manager(new_backend(), clock)
    async with started(one), started(other):
        function = other.task(queue="q")(job)
        await one.pause_queue("q")
        await one.update_queue_config("q", max_size=3)

        async def told() -> bool:
            await clock.advance(1)
            return limits(other) == (4, 3, True)

        await eventually(told, "the other instance to be told")
        ids = [await other.enqueue(function) for _ in range(3)]
        with pytest.raises(QueueFullError):
            await other.enqueue(function)
        assert {(await other.get(task_id)).status for task_id in ids} == {TaskStatus.PENDING}

        await one.resume_queue("q")

        async def ran() -> bool:
            await clock.advance(1)
            return other.store.list() == []

        await eventually(ran, "the tasks to run on the other instance")


async def test_a_change_before_the_start_is_one_of_the_configuration(new_backend: NewBackend) -> None:
    manager = new_manager(new_backend())
    await manager.pause_queue("q")
    await manager.update_queue_config("q", concurrency=9)
    async with started(manager):
        assert limits(manager) == (9, 100, True)
    async with started(new_manager(new_backend())) as successor:
        assert limits(successor) == (4, 100, False)


async def test_a_change_that_cannot_be_kept_is_refused() -> None:
    class Backend(MemoryBackend):
        down = False

        async def put_setting(self, key: str, value: str | None) -> None:
            if self.down:
                raise BackendUnavailableError("down")
            await super().put_setting(key, value)

    backend = Backend(durable=True)
    async with started(new_manager(backend)) as manager:
        backend.down = True
        with pytest.raises(BackendError, match="down"):
            await manager.pause_queue("q")
        assert limits(manager) == (4, 100, False)
        backend.down = False


async def test_a_wrong_limit_or_name_is_an_error_at_the_call() -> None:
    async with started(new_manager(MemoryBackend())) as manager:
        with pytest.raises(ConfigurationError, match=r"concurrency must be a whole number of at least 1"):
            await manager.update_queue_config("q", concurrency=0)
        with pytest.raises(UnknownQueueError, match="known: default, q"):
            await manager.pause_queue("quick")
        assert limits(manager) == (4, 100, False)


@pytest.mark.parametrize("stored", ["-1", '"many"', "no JSON"])
async def test_stored_limits_that_cannot_be_used_are_reported_and_leave_the_queue_as_it_is(
    caplog: pytest.LogCaptureFixture, stored: str
) -> None:
    backend = MemoryBackend(durable=True)
    await backend.put_setting("queue:concurrency:q", stored)
    await backend.put_setting("queue:concurrency:of another version", "3")
    async with started(new_manager(backend)) as manager:
        assert limits(manager) == (4, 100, False)
    assert "the stored limits of the queue 'q' cannot be used" in caplog.text
