"""The search for tasks by their arguments: a bounded walk that says how far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from taskflow_otel.model.argument_filter import ArgumentFilter
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock

ROWS = 2_000
"""The most tasks whose arguments one request compares."""
SECONDS = 1.0
"""After this time a request reads no further page."""
_STEP = 200
_READINGS = 50
"""The most pages of one request: those of a search through texts may be empty."""
_BYTES = 100_000
"""After this much of arguments, the event loop has a turn."""


class Reads(Protocol):
    """Read access to tasks: that of an engine, or a backend."""

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page, newest first."""

    async def get_all(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        """The tasks among these that exist, by id."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What a request has found, and where it has looked."""

    page: TaskPage
    """`total`: the matches among the tasks that were searched; exact if these are all that the query selects."""
    number: int
    """How many tasks' arguments were compared."""
    unsearchable: int
    """How many tasks have arguments that cannot be read."""
    back_to: datetime | None
    """When the oldest task was created to which the search has come; `None` if there was none."""


async def search(
    reads: Reads, query: TaskQuery, wanted: ArgumentFilter, *, clock: Clock = SYSTEM_CLOCK, rows: int = ROWS
) -> Searched:
    """Look for up to `query.limit` tasks with these arguments among those that the query selects, newest first.

    It ends early after `rows` tasks or `SECONDS`; the cursor of its page continues after the last task that it has
    looked at.
    """
    deadline = clock.monotonic() + SECONDS
    found: list[TaskRecord] = []
    cursor, back_to = query.cursor, None
    number = unsearchable = waiting = 0
    for _ in range(_READINGS):
        left = rows - number - unsearchable
        page = await reads.page(replace(query, cursor=cursor, limit=min(_STEP, left), count_limit=None))
        cursor, reached = page.next_cursor, None
        for record in page.records:
            matches = wanted.matches(record.payload)
            number += matches is not None
            unsearchable += matches is None
            reached, back_to = record.task_id, record.created_at
            if matches:
                found.append(record)
                if len(found) == query.limit:
                    break
            waiting += len(record.payload or "")
            if waiting > _BYTES:
                waiting = 0
                await asyncio.sleep(0)
        full = len(found) == query.limit
        if full and reached != page.records[-1].task_id:
            cursor = reached
        if cursor is None or full or number + unsearchable >= rows or clock.monotonic() >= deadline:
            break
    if cursor is not None and reached != cursor:
        # A page may reach further back than its last task.
        last = (await reads.get_all([cursor])).get(cursor)
        back_to = back_to if last is None else last.created_at
    whole = query.cursor is None and cursor is None and not unsearchable
    return Searched(TaskPage(found, cursor, len(found), whole), number, unsearchable, back_to)
