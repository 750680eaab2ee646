"""Which tasks a bulk action means: those with the ids in its body, or those that its filter matches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from taskflow_otel.model.operation import Selection
from taskflow_otel.model.query import TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.params import MAX_PAGE
from taskflow_otel.web.refusals import InvalidInput, is_storable

_LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """The tasks of a bulk action: named by their ids, or selected."""

    task_ids: Sequence[str] = ()
    selection: Selection | None = None


def statuses_of(query: TaskQuery, possible: Collection[TaskStatus]) -> Sequence[TaskStatus]:
    """The states that the filter selects; answers 422 to a state in which the action is impossible."""
    if query.status is None:
        return list(possible)
    if query.status not in possible:
        raise InvalidInput("status", f"status must be {' or '.join(possible)} here, not {query.status}")
    return [query.status]


def selected(
    query: TaskQuery, statuses: Sequence[TaskStatus], limit: int | None, ended_before: datetime | None = None
) -> Wanted:
    """The tasks in these states that the filter matches, newest first in each state."""
    if ended_before is not None:
        # A task is created before it ends: this bounds the range of the index.
        query = replace(query, until=ended_before if query.until is None else min(query.until, ended_before))
    names = [status.value for status in statuses]
    return Wanted(selection=Selection(statuses=names, query=query, ended_before=ended_before, limit=limit))


def named_or_selected(
    task_ids: Sequence[str] | None, query: TaskQuery, possible: Collection[TaskStatus], limit: int
) -> Wanted:
    """The tasks with these ids, or else those that the filter matches; answers 422 unless exactly one is given."""
    filtered = query != TaskQuery()
    if task_ids is not None and filtered:
        raise InvalidInput("task_ids", "give either task_ids in the body or a filter in the query string, not both")
    if task_ids is not None:
        if not all(map(is_storable, task_ids)):
            raise InvalidInput("task_ids", "a task id never contains a NUL character")
        if any(len(task_id) > _LONGEST_ID for task_id in task_ids):
            raise InvalidInput("task_ids", f"a task id never has more than {_LONGEST_ID} characters")
        return Wanted(list(dict.fromkeys(task_ids)))
    if not filtered:
        raise InvalidInput(
            "task_ids", "give task_ids in the request body, or a filter in the query string (?queue=mail)"
        )
    return selected(query, statuses_of(query, possible), limit)


async def counted(
    read: Callable[[TaskQuery], Awaitable[TaskPage]],
    selection: Selection,
    most: int,
    wants: Callable[[TaskRecord], bool],
) -> tuple[int, bool]:
    """How many tasks are selected, counted up to `most`, and whether there are more. `read` reads one page."""
    limit = most if selection.limit is None else min(most, selection.limit)
    number = 0
    for status in selection.statuses:
        found = replace(selection.query, status=TaskStatus(status), limit=MAX_PAGE, cursor=None)
        while number <= limit:
            page = await read(found)
            number += sum(_ended(record, selection.ended_before) and wants(record) for record in page.records)
            if page.next_cursor is None:
                break
            found = replace(found, cursor=page.next_cursor)
    return min(number, limit), number > limit


def _ended(record: TaskRecord, before: datetime | None) -> bool:
    return before is None or (record.end_time or record.created_at) < before
