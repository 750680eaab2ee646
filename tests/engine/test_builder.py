"""A task is built of a function, its arguments and its options; what does not fit is refused at the call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel import (
    ConfigurationError,
    TaskArgumentError,
    TaskflowError,
    TaskManager,
    UnknownQueueError,
)
from tests.engine.declared_tasks import job
from tests.managers import started


class Unstorable:
    """Has no form as JSON."""


async def test_an_argument_that_cannot_be_stored_is_refused_on_a_persisted_task_at_add_task(
    manager: TaskManager,
) -> None:
    @manager.task(persist=True)
    async def kept(thing: object) -> None:
        raise AssertionError("it must not run")

    with pytest.raises(
        TaskArgumentError, match=r"the argument 'thing' of .*kept, of type .*Unstorable, cannot be stored"
    ) as caught:
        await manager.enqueue(kept, Unstorable())
    assert isinstance(caught.value, TypeError)
    assert manager.store.list() == []


async def test_the_same_argument_is_welcome_where_nothing_will_be_stored(manager: TaskManager) -> None:
    seen: list[object] = []

    @manager.task()
    async def passing(thing: object) -> None:
        seen.append(thing)

    thing = Unstorable()
    await manager.wait(await manager.enqueue(passing, thing), 20)
    assert seen == [thing]


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"unknown": 1}), (("a",), {"number": 2})])
async def test_arguments_that_do_not_fit_the_function_are_refused(
    manager: TaskManager, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    decorated = manager.task(persist=True)(job)
    with pytest.raises(TaskArgumentError, match=r"job\(\) cannot be called with these arguments"):
        await manager.enqueue(decorated, *args, **kwargs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queue": "nowhere"}, UnknownQueueError, r"no queue 'nowhere' \(known: default\)"),
        ({"run_at": datetime(2030, 1, 1)}, ConfigurationError, "has no time zone.*Use an aware datetime"),
        ({"delay": -1}, ConfigurationError, "delay must be at least 0 seconds"),
        ({"delay": 1, "run_at": datetime.now(UTC)}, ConfigurationError, "give delay or run_at, not both"),
        ({"delay": timedelta(seconds=-1)}, ConfigurationError, "delay must be at least 0 seconds"),
        ({"tags": ["urgent"]}, ConfigurationError, "tags must be a mapping of names to values, not list"),
        ({"idempotency_key": ""}, ConfigurationError, "idempotency_key must be a text of 1 to 255 characters"),
        ({"idempotency_key": 7}, ConfigurationError, "idempotency_key must be a text of 1 to 255 characters"),
        ({"idempotency_key": "x" * 256}, ConfigurationError, "idempotency_key must be a text of 1 to 255 characters"),
        ({"priority": "high"}, ConfigurationError, "priority must be a whole number"),
        ({"run_at": "tomorrow"}, ConfigurationError, "run_at must be an aware datetime"),
    ],
)
async def test_a_wrong_option_of_one_task_is_an_error_at_the_call(
    manager: TaskManager, options: dict[str, Any], error: type[TaskflowError], message: str
) -> None:
    decorated = manager.task(persist=True)(job)
    with pytest.raises(error, match=message):
        await manager.enqueue(decorated, 1, **options)
    assert manager.store.list() == []


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[TaskManager]:
    async with started(TaskManager(snapshot_db=tmp_path / "tasks.db")) as running:
        yield running
