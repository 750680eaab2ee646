"""A connection that breaks after the database has done what it was told, and before it could say so."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy.exc import OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.backends.base import Applied, Change, Insert, Update
from taskflow_otel.backends.sql.writes import Writer
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import TimelineEntry
from taskflow_otel.model.status import Transition
from taskflow_otel.testing.backends.samples import BASE, ids, make_task

T = TypeVar("T")


class Breaking(SqliteBackend):
    """Loses the answer to the next write, once told to."""

    breaks = False
    with_error: Exception = OperationalError("COMMIT", None, Exception("server closed the connection"))

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return self._heard(await super()._write(work))

    async def _apply_at_once(self, writer: Writer, changes: Sequence[Change]) -> list[Applied]:
        return self._heard(await super()._apply_at_once(writer, changes))

    def _heard(self, answer: T) -> T:
        if self.breaks:
            self.breaks = False
            raise self.with_error
        return answer


@pytest.fixture
async def backend(tmp_path: Path) -> Breaking:
    backend = Breaking(tmp_path / "tasks.db")
    await backend.open()
    return backend


async def test_tasks_taken_over_without_an_answer_are_handed_out_again(backend: Breaking) -> None:
    tasks = [make_task() for _ in range(3)]
    await backend.apply([Insert(task) for task in tasks])
    [known] = await backend.take_over({"one"}, "two", None, 1)
    known.timeline += (TimelineEntry(Transition.RECOVERED, BASE, 0, "two"),)
    await backend.apply([Update(known)])
    backend.breaks = True
    with pytest.raises(BackendUnavailableError):
        await backend.take_over({"one"}, "two", None, 10)
    late = make_task()
    await backend.apply([Insert(late)])

    taken = await backend.take_over({"one"}, "two", None, 10)
    assert ids(taken) == ids([*tasks[1:], late])
    assert {(task.instance, task.token) for task in taken} == {("two", 2)}
    assert await backend.take_over({"one"}, "two", None, 10) == []
    await backend.close()


async def test_they_are_handed_out_again_when_nobody_is_dead_any_more_and_to_nobody_else(backend: Breaking) -> None:
    task = make_task()
    await backend.apply([Insert(task)])
    backend.breaks = True
    with pytest.raises(BackendUnavailableError):
        await backend.take_over({"one"}, "two", None, 10)
    assert await backend.take_over(set(), "three", None, 10) == []
    assert ids(await backend.take_over(set(), "two", None, 10)) == [task.task_id]
    assert await backend.take_over(set(), "two", None, 10) == []
    await backend.close()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(PendingRollbackError("Can't reconnect"), id="found one statement later"),
        pytest.param(sqlite3.OperationalError("Lost connection"), id="while the connection was prepared"),
    ],
)
async def test_a_broken_connection_is_worth_another_try(backend: Breaking, error: Exception) -> None:
    backend.breaks, backend.with_error = True, error
    with pytest.raises(BackendUnavailableError):
        await backend.apply([Insert(make_task())])
    await backend.close()
