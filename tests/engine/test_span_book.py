"""The spans of attempts on the real engine: stored with the outcome, under its token, as ciphertext where wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from taskflow_otel import TaskManager, Telemetry
from taskflow_otel.backends import MemoryBackend, SqliteBackend
from taskflow_otel.backends.base import AppendSpans, Applied, Change, Update
from taskflow_otel.model.spans import KeptTrace
from tests.managers import finish, started
from tests.waiting import eventually

PROVIDER = TracerProvider(shutdown_on_exit=False)
TRACER = PROVIDER.get_tracer("test")
SECRET = "jane@example.com"


class Noting(MemoryBackend):
    """A backend in memory that notes its batches."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.batches: list[list[Change]] = []

    async def apply(self, changes: Any) -> list[Applied]:
        self.batches.append(list(changes))
        return await super().apply(changes)


async def charge(order: int, fail: int = 0) -> None:
    """Two spans, one in the other; fail in the first attempts."""
    with TRACER.start_as_current_span("charge", attributes={"url.full": f"https://pay/{order}?user={SECRET}"}):
        await asyncio.sleep(0)
        with TRACER.start_as_current_span("SELECT", attributes={"db.query.text": f"… {SECRET}", "db.system": "x"}):
            pass
    if fail > 0 and order not in DONE:
        DONE.add(order)
        raise ConnectionError("gone")


def charge_in_a_thread(order: int) -> None:
    """The same on a thread."""
    with TRACER.start_as_current_span(f"thread {order}"):
        pass


DONE: set[int] = set()


@pytest.fixture(autouse=True)
def nothing_is_done() -> None:
    DONE.clear()


Make = Callable[..., TaskManager]


@pytest.fixture
def make() -> Make:
    def make(telemetry: Telemetry | None = None, **options: Any) -> TaskManager:
        manager = TaskManager(telemetry=telemetry or Telemetry(tracer_provider=PROVIDER), **options)
        manager.task(retries=1, delay=0.0, persist="snapshot_db" in options or "snapshot_backend" in options)(charge)
        manager.task()(charge_in_a_thread)
        return manager

    return make


async def run(manager: TaskManager, *args: Any) -> tuple[str, KeptTrace]:
    with TRACER.start_as_current_span("GET /orders"):
        task_id = await manager.enqueue(charge, *args)
    await finish(manager, task_id)
    return task_id, await manager.engine.lookup.spans(task_id)


def shape(kept: KeptTrace) -> dict[int, tuple[list[str], list[str]]]:
    return {
        attempt: ([span.name for span in spans.around], sorted(span.name for span in spans.inside))
        for attempt, spans in kept.spans.items()
    }


AROUND = ["GET /orders", "send charge"]
INSIDE = ["SELECT", "charge"]


@pytest.mark.parametrize("where", ["memory", "sqlite", "sqlite, persisted"])
async def test_each_attempt_keeps_its_spans_and_the_first_one_the_request(
    make: Make, where: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {} if where == "memory" else {"snapshot_db": tmp_path / "tasks.db"}
    async with started(make(**options)) as manager:
        task_id, kept = await run(manager, 1, 1)
        record = await manager.get(task_id)
        assert shape(kept) == {0: (AROUND, INSIDE), 1: ([], INSIDE)}
        assert kept.spans[1].span_id == record.span_id
        assert SECRET not in str(kept)
        thread = await manager.enqueue(charge_in_a_thread, 7)
        await finish(manager, thread)
        assert shape(await manager.engine.lookup.spans(thread)) == {0: ([], ["thread 7"])}


async def test_spans_are_in_the_batch_of_their_outcome_and_under_its_token(make: Make) -> None:
    backend = Noting()
    async with started(make(snapshot_backend=backend)) as manager:
        task_id, kept = await run(manager, 1, 1)
    assert len(kept.spans) == 2
    batches = [batch for batch in backend.batches if any(isinstance(change, AppendSpans) for change in batch)]
    assert len(batches) == 2
    for attempt, batch in enumerate(batches):
        (outcome,) = (change.record for change in batch if isinstance(change, Update))
        (spans,) = (change for change in batch if isinstance(change, AppendSpans))
        owner = (outcome.task_id, outcome.instance, outcome.token, attempt)
        assert (spans.task_id, spans.instance, spans.token, spans.attempt) == owner == (task_id, *owner[1:])


async def test_stored_spans_are_ciphertext_where_arguments_are(make: Make, tmp_path: Path) -> None:
    path, key = tmp_path / "tasks.db", Fernet.generate_key()
    async with started(make(snapshot_db=path, encrypt_args_key=key)) as manager:
        task_id, kept = await run(manager, 1)
        assert shape(kept) == {0: (AROUND, INSIDE)}
    stored = SqliteBackend(str(path))
    await stored.open()
    assert "charge" not in str(await stored.span_store.read(task_id))
    await stored.close()
    # Another key, and none.
    for options in ({"encrypt_args_key": Fernet.generate_key()}, {}):
        async with started(make(snapshot_db=path, **options)) as manager:
            assert await manager.engine.lookup.spans(task_id) == KeptTrace({}, 1)


@pytest.mark.parametrize(
    ("telemetry", "inside"),
    [
        (Telemetry(tracer_provider=PROVIDER, keep_spans=False), None),
        (Telemetry(tracer_provider=trace.NoOpTracerProvider()), None),
        (Telemetry(tracer_provider=PROVIDER, span_attributes=("db.query.text",)), SECRET),
    ],
    ids=["off", "without an SDK", "with statements"],
)
async def test_what_is_kept_is_a_choice(make: Make, telemetry: Telemetry, inside: str | None) -> None:
    async with started(make(telemetry)) as manager:
        _, kept = await run(manager, 1)
        assert bool(kept.spans) == (inside is not None)
        assert inside is None or inside in str(kept)


async def test_a_provider_that_is_set_after_the_start_is_found(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    provider: list[trace.TracerProvider] = [trace.ProxyTracerProvider()]
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider[0])
    async with started(make(Telemetry())) as manager:
        _, before = await run(manager, 1)
        assert before.spans == {}
        provider[0] = PROVIDER

        async def has_spans() -> bool:
            return shape((await run(manager, 1))[1]) == {0: (AROUND, INSIDE)}

        await eventually(has_spans, "a look at the global provider")


async def test_what_a_function_leaves_running_is_no_part_of_its_attempt(make: Make) -> None:
    """An asyncio task that the function has left alone ends its span after the outcome."""
    manager, opened, left = make(), asyncio.Event(), []

    @manager.task()
    async def leave() -> None:
        async def later() -> None:
            with TRACER.start_as_current_span("outlives it"):
                await opened.wait()

        left.append(asyncio.create_task(later()))
        await asyncio.sleep(0)

    async with started(manager):
        task_id = await manager.enqueue(leave)
        await finish(manager, task_id)
        (spans,) = (await manager.engine.lookup.spans(task_id)).spans.values()
        opened.set()
        await asyncio.gather(*left)
        assert [(span.name, span.end) for span in spans.inside] == [("outlives it", None)]
        assert (await manager.engine.lookup.spans(task_id)).spans == {0: spans}


async def test_spans_are_deleted_with_their_task(make: Make, tmp_path: Path) -> None:
    async with started(make(snapshot_db=tmp_path / "tasks.db")) as manager:
        task_id, kept = await run(manager, 1)
        assert len(kept.spans) == 1
        backend = SqliteBackend(str(tmp_path / "tasks.db"))
        await backend.open()
        assert await backend.delete_tasks([task_id]) == [task_id]
        assert await backend.span_store.read(task_id) == {}
        await backend.close()
