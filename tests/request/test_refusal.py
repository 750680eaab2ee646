"""A task that the database refuses for good: its client is not invited to try the same again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI

from taskflow_otel import InMemoryLogger, ManagedBackgroundTasks, TaskAdmin, TaskManager, TaskRecord, TaskStatus
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Change, Insert
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.status import Transition
from taskflow_otel.request.refusal import refusal_of
from tests.asgi import Exchange, post, running
from tests.e2e.shop import WAIT, PassThrough
from tests.waiting import eventually

ADDRESS = "db.internal:3306"
REASON = "a task may have 512 KiB"


class Picky(SqliteBackend):
    """Refuses each transaction that inserts a task with the argument `huge`."""

    reason: str | None = REASON

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        if any(isinstance(change, Insert) and "huge" in (change.record.payload or "") for change in changes):
            raise BackendError(f"{ADDRESS}: {REASON}", transient=False, reason=self.reason)
        return await super().apply(changes)


class Site:
    """An application whose one route adds a task for each word of the query; `ran` is what has run."""

    def __init__(self, backend: SqliteBackend, *, mounted: bool) -> None:
        self.backend = backend
        self.ran: list[str] = []
        self.ids: dict[str, str] = {}
        self.events = InMemoryLogger()
        self.manager = manager = TaskManager(snapshot_backend=backend, loggers=[self.events])
        self.app = FastAPI(lifespan=None if mounted else self._by_hand)

        @manager.task(persist=True)
        async def job(what: str) -> None:
            self.ran.append(what)

        self.job = job
        if mounted:

            @self.app.post("/{words}")
            async def route(words: str, tasks: ManagedBackgroundTasks, eager: bool = False) -> None:
                self._add(words, tasks, eager=eager)

            TaskAdmin(self.app, manager, auto_install=True)
        else:

            @self.app.post("/{words}")
            async def by_dependency(
                words: str, eager: bool = False, tasks: ManagedBackgroundTasks = Depends(manager.get_tasks)
            ) -> None:
                self._add(words, tasks, eager=eager)

    def _add(self, words: str, tasks: ManagedBackgroundTasks, *, eager: bool) -> None:
        for word in words.split("-"):
            self.ids[word] = tasks.add_task(self.job, word, eager=eager)

    @contextlib.asynccontextmanager
    async def _by_hand(self, _: FastAPI) -> AsyncIterator[None]:
        await self.manager.startup()
        yield
        await self.manager.shutdown()

    async def ended(self, word: str) -> TaskRecord:
        return await self.manager.wait(self.ids[word], WAIT)


@pytest.fixture(params=[True, False], ids=["mounted", "by dependency"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(Picky(tmp_path / "tasks.db"), mounted=request.param)


def assert_refused_for_good(answer: Exchange) -> None:
    assert answer.error is None
    assert answer.status == 422
    assert "retry-after" not in answer.headers
    assert "Send less data, or other values" in answer.json["detail"]
    assert ADDRESS not in answer.body.decode()


@pytest.mark.parametrize("eager", [False, True])
async def test_a_task_that_is_refused_for_good_is_answered_with_422_and_its_record_says_why(
    site: Site, eager: bool
) -> None:
    async with running(site.app):
        assert_refused_for_good(await post(site.app, f"/huge?eager={eager}"))
        refused = await site.ended("huge")
        assert (refused.status, refused.reason, refused.error) == (TaskStatus.REJECTED, "commit_failed", REASON)
        assert (await post(site.app, f"/small?eager={eager}")).status == 200
        assert (await site.ended("small")).status is TaskStatus.SUCCESS
    assert site.ran == ["small"]


async def test_behind_another_middleware_the_answer_is_the_same(tmp_path: Path) -> None:
    site = Site(Picky(tmp_path / "tasks.db"), mounted=True)
    site.app.add_middleware(PassThrough)
    async with running(site.app):
        assert_refused_for_good(await post(site.app, "/huge"))


@pytest.mark.parametrize("words", ["small-huge", "huge-small"])
async def test_of_a_request_with_one_such_task_none_runs(site: Site, words: str) -> None:
    async with running(site.app):
        assert_refused_for_good(await post(site.app, f"/{words}"))
        for word in ("huge", "small"):
            assert (await site.ended(word)).status is TaskStatus.REJECTED
        error = (await site.ended("huge")).error
        assert error == f"one of the 2 tasks that belong together was refused: {REASON}"
        await post(site.app, "/last")
        await site.ended("last")
    assert site.ran == ["last"]
    for word in ("huge", "small"):
        with contextlib.suppress(LookupError):
            stored = await stored_record(site.backend, site.ids[word])
            assert stored.status is TaskStatus.REJECTED


async def stored_record(backend: SqliteBackend, task_id: str) -> TaskRecord:
    """The task in the file; raises `LookupError` if it is not there."""
    await backend.open()
    try:
        record = await backend.get(task_id)
    finally:
        await backend.close()
    if record is None:
        raise LookupError(task_id)
    return record


async def test_enqueue_raises_the_error_of_the_backend(site: Site) -> None:
    async with running(site.app):
        with pytest.raises(BackendError, match=REASON) as caught:
            await site.manager.enqueue(site.job, "huge")
        assert not caught.value.transient
        await eventually(lambda: bool(site.events.lifecycle_events), "the event")
    [event] = site.events.lifecycle_events
    assert (event.transition, event.reason, event.error) == (Transition.REJECTED, "commit_failed", REASON)


async def test_a_backend_that_gives_no_reason_leaves_its_message_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Picky(tmp_path / "tasks.db")
    backend.reason = None
    site = Site(backend, mounted=True)
    async with running(site.app):
        assert_refused_for_good(await post(site.app, "/huge"))
        error = (await site.ended("huge")).error
    assert error == "the backend refuses a value; the log of this process says why"
    assert f"refuses {site.ids['huge']} for good: {ADDRESS}: {REASON}" in caplog.text


def test_what_may_pass_is_answered_with_503_and_a_time() -> None:
    refusal = refusal_of(BackendUnavailableError(f"{ADDRESS} does not answer"))
    assert (refusal.status, refusal.headers) == (503, {"Retry-After": "1"})
    assert ADDRESS not in refusal.detail
