"""What dead instances left behind is noted for the people who look afterwards."""

from __future__ import annotations

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.engine.losses import PREFIX, Losses, load_loss
from taskflow_otel.model.query import Loss
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.testing.backends.samples import make_task


def running() -> TaskRecord:
    return make_task(status=TaskStatus.RUNNING)


async def test_the_tasks_of_several_takeovers_are_added_up() -> None:
    backend = MemoryBackend()
    losses, other = Losses(backend), Losses(backend)
    first, second = running(), running()
    await losses.note({"one": [first, make_task()], "two": [running()]})
    await other.note({"one": [second, make_task(), make_task()]})
    stored = await backend.settings(PREFIX)
    assert load_loss(stored[f"{PREFIX}one"]) == Loss([first.task_id, second.task_id], 2, 3)
    await losses.forget(["one"])
    assert list(await backend.settings(PREFIX)) == [f"{PREFIX}two"]


async def test_only_the_first_ids_are_kept_and_all_tasks_are_counted() -> None:
    backend = MemoryBackend()
    await Losses(backend).note({"one": [running() for _ in range(250)]})
    loss = load_loss((await backend.settings(PREFIX))[f"{PREFIX}one"])
    assert (len(loss.interrupted), loss.interrupted_number) == (100, 250)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '{"a":1}', "[[],null,0]"])
def test_what_cannot_be_read_is_no_loss(text: str | None) -> None:
    assert load_loss(text) == Loss()
