"""Which tasks a bulk action means: those with the ids in its body, or those that its filter matches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.params import MAX_PAGE
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.refusals import InvalidInput, is_storable


@dataclass(frozen=True, slots=True)
class Selection:
    """The tasks that were selected; `more`: further ones match."""

    ids: Sequence[str]
    more: bool = False


def statuses_of(query: TaskQuery, possible: Collection[TaskStatus]) -> Sequence[TaskStatus]:
    """The states that the filter selects; answers 422 to a state in which the action is impossible."""
    if query.status is None:
        return list(possible)
    if query.status not in possible:
        raise InvalidInput("status", f"status must be {' or '.join(possible)} here, not {query.status}")
    return [query.status]


async def matching(
    engine: TaskEngine,
    query: TaskQuery,
    statuses: Sequence[TaskStatus],
    limit: int,
    wanted: Callable[[TaskRecord], bool] = lambda _: True,
) -> Selection:
    """Up to `limit` tasks in these states that the filter matches and that are `wanted`, newest first in each state."""
    ids: list[str] = []
    for status in statuses:
        found = replace(query, status=status, limit=MAX_PAGE, cursor=None)
        while len(ids) <= limit:
            page = await engine.lookup.page(found)
            ids += [record.task_id for record in page.records if wanted(record)]
            if page.next_cursor is None:
                break
            found = replace(found, cursor=page.next_cursor)
    return Selection(ids[:limit], len(ids) > limit)


async def named_or_matching(
    engine: TaskEngine,
    task_ids: Sequence[str] | None,
    query: TaskQuery,
    possible: Collection[TaskStatus],
    limit: int,
    wanted: Callable[[TaskRecord], bool] = lambda _: True,
) -> Selection:
    """The tasks with these ids, or else those that the filter matches; answers 422 unless exactly one is given."""
    filtered = query != TaskQuery()
    if task_ids is not None and filtered:
        raise InvalidInput("task_ids", "give either task_ids in the body or a filter in the query string, not both")
    if task_ids is not None:
        if not all(map(is_storable, task_ids)):
            raise InvalidInput("task_ids", "a task id never contains a NUL character")
        return Selection(list(dict.fromkeys(task_ids)))
    if not filtered:
        raise InvalidInput(
            "task_ids", "give task_ids in the request body, or a filter in the query string (?queue=mail)"
        )
    return await matching(engine, query, statuses_of(query, possible), limit, wanted)
