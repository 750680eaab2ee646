"""The questions as statements. Each is one walk along one index; the tests pin their plans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    union_all,
)

from taskflow_otel.backends.sql.mapping import STORED, indexable, micros, storable
from taskflow_otel.backends.sql.schema import finished_counts, settings, task_tags, tasks, used_once
from taskflow_otel.model.query import TaskCounts, TaskQuery
from taskflow_otel.model.status import TaskStatus

SEARCH_WINDOW = 5_000
"""How many tasks, newest first, one page with `q` looks through."""

RECORD_COLUMNS: tuple[Column[Any], ...] = tuple(tasks.c[f.name] for f in STORED)

_EQUALS = ("status", "func_name", "queue", "source")

# The same values as expressions, for where a database would choose the wrong one of several indexes.
_UNINDEXED: dict[str, ColumnElement[Any]] = {name: tasks.c[name].concat(literal_column("''")) for name in _EQUALS}


def compared(query: TaskQuery) -> list[str]:
    """The columns that must equal a value of the query."""
    return [name for name in _EQUALS if getattr(query, name) is not None]


def sizes(query: TaskQuery) -> Select[Any]:
    """One row: how many finished tasks each comparison lets through by itself, in the order of `compared`."""
    kept = finished_counts.c
    return select(
        *(func.sum(case((condition, kept.tasks), else_=0)) for condition in _comparisons(query, kept))
    ).select_from(finished_counts)


class TaskSearch:
    """The statements that answer one `TaskQuery`.

    `cursor_at` is the stored creation time of the cursor's task; without it the cursor's id alone decides,
    which is right but walks from the newest task. `along` names the one of several compared columns whose index is
    walked: not every database knows which value is rare.
    """

    def __init__(self, query: TaskQuery, cursor_at: int | None = None, along: str | None = None) -> None:
        self._query = query
        if query.tag is not None or query.trace_id is not None:
            self._compared = _UNINDEXED
        else:
            self._compared = {name: tasks.c[name] if along in (None, name) else _UNINDEXED[name] for name in _EQUALS}
        # A tag is walked along its own index, which bears the time as well.
        self._age: Column[Any] = tasks.c.created_at if query.tag is None else task_tags.c.created_at
        self._source: FromClause = tasks
        if query.tag is not None:
            self._source = task_tags.join(tasks, tasks.c.task_id == task_tags.c.task_id)
        self._conditions = list(self._filters())
        self._cursor = [] if query.cursor is None else [self._after(query.cursor, cursor_at)]

    def page(self) -> Select[Any]:
        """One row more than the page holds."""
        limit = self._query.limit + 1
        if self._query.q is None:
            return self._walk(*RECORD_COLUMNS).limit(limit)
        window = self._window(self._cursor)
        hits = (
            select(window.c.task_id)
            .where(_mentions(window.c, self._query.q))
            .order_by(window.c.created_at.desc(), window.c.task_id.desc())
            .limit(limit)
            .subquery("hits")
        )
        return (
            select(*RECORD_COLUMNS)
            .select_from(hits.join(tasks, tasks.c.task_id == hits.c.task_id))
            .order_by(tasks.c.created_at.desc(), tasks.c.task_id.desc())
        )

    def end_of_window(self) -> Select[Any]:
        """The id of the last task that a page with `q` looked at; no row when it looked at all."""
        return self._walk(tasks.c.task_id).offset(SEARCH_WINDOW - 1).limit(1)

    def counts(self) -> Select[Any]:
        """Rows of status, number, number with a run time, and the sum of run times in microseconds."""
        if self._countable():
            return self._kept_counts()
        table: Any = tasks.c
        statement: Select[Any] = select(table.status).select_from(self._source).where(*self._conditions)
        if self._over_time_only():
            # Turns a walk over all the times into one over the wanted times of each status.
            statement = statement.where(table.status.in_([status.value for status in TaskStatus]))
        if self._query.q is not None:
            window = self._window([])
            table = window.c
            statement = select(table.status).where(_mentions(table, self._query.q))
        duration = cast(func.round(func.sum(table.duration) * 1_000_000), BigInteger)
        return statement.add_columns(func.count(), func.count(table.duration), duration).group_by(table.status)

    def _countable(self) -> bool:
        query = self._query
        return all(value is None for value in (query.tag, query.since, query.until, query.trace_id, query.q))

    def _over_time_only(self) -> bool:
        query = self._query
        return query == TaskQuery(since=query.since, until=query.until, limit=query.limit, cursor=query.cursor)

    def _kept_counts(self) -> Select[Any]:
        finished = select(
            finished_counts.c.status,
            func.sum(finished_counts.c.tasks).label("number"),
            func.sum(finished_counts.c.timed).label("timed"),
            func.sum(finished_counts.c.duration_micros).label("micros"),
        ).where(*_comparisons(self._query, finished_counts.c))
        status = _UNINDEXED["status"]
        live = select(status, func.count(), literal(0), literal(0)).where(
            tasks.c.live_owner >= "", *_comparisons(self._query, _UNINDEXED)
        )
        both = union_all(finished.group_by(finished_counts.c.status), live.group_by(status)).subquery("both")
        return select(both)

    def _walk(self, *columns: ColumnElement[Any]) -> Select[Any]:
        return (
            select(*columns)
            .select_from(self._source)
            .where(*self._conditions, *self._cursor)
            .order_by(self._age.desc(), tasks.c.task_id.desc())
        )

    def _window(self, further: list[ColumnElement[bool]]) -> Subquery:
        c = tasks.c
        return (
            select(c.task_id, c.created_at, c.func_name, c.error, c.status, c.duration)
            .select_from(self._source)
            .where(*self._conditions, *further)
            .order_by(self._age.desc(), c.task_id.desc())
            .limit(SEARCH_WINDOW)
            .subquery("newest")
        )

    def _filters(self) -> Iterable[ColumnElement[bool]]:
        query = self._query
        yield from _comparisons(query, self._compared)
        if query.trace_id is not None:
            yield tasks.c.trace_id == query.trace_id
        if query.since is not None:
            yield self._age >= micros(query.since)
        if query.until is not None:
            yield self._age < micros(query.until)
        if query.tag is not None:
            name, value = query.tag
            yield task_tags.c.name == indexable(name)
            if value is not None:
                yield task_tags.c.value == indexable(value)

    def _after(self, cursor: str, cursor_at: int | None) -> ColumnElement[bool]:
        if cursor_at is None:
            return tasks.c.task_id < cursor
        return and_(self._age <= cursor_at, or_(self._age < cursor_at, tasks.c.task_id < cursor))


def read_counts(rows: Iterable[Any]) -> TaskCounts:
    """Add up the rows of `TaskSearch.counts`. Only the run times of finished tasks are final, and counted."""
    by_status: dict[TaskStatus, int] = {}
    timed = duration = 0
    for word, number, with_duration, duration_micros in rows:
        status = TaskStatus(word)
        if not number:
            continue
        by_status[status] = by_status.get(status, 0) + int(number)
        if status.finished:
            timed += int(with_duration)
            duration += int(duration_micros or 0)
    return TaskCounts(by_status, duration / 1e6, timed)


def _comparisons(query: TaskQuery, columns: Any) -> Iterable[ColumnElement[bool]]:
    for name in compared(query):
        value = getattr(query, name)
        yield columns[name] == (value.value if isinstance(value, TaskStatus) else value)


def _mentions(columns: Any, text: str) -> ColumnElement[bool]:
    searched: list[Column[str]] = [columns[name] for name in ("func_name", "error", "task_id")]
    return or_(*(column.icontains(text, autoescape=True) for column in searched))


def orphans(dead: Iterable[str], new_owner: str, names: Iterable[str] | None, limit: int) -> Select[Any]:
    """Unfinished tasks of these instances, one after the other, oldest first, locked against other takers."""
    c = tasks.c
    statement = select(*RECORD_COLUMNS).where(c.live_owner.in_(sorted(set(dead) - {new_owner})))
    if names is not None:
        statement = statement.where(or_(c.persisted == 0, c.func_name.in_(sorted(names))))
    return statement.order_by(c.live_owner, c.created_at).limit(limit).with_for_update(skip_locked=True)


def taken_since(owner: str, at: int) -> Select[Any]:
    """Unfinished tasks of this instance written at or after this moment, the takeover of a task included."""
    c = tasks.c
    return select(*RECORD_COLUMNS).where(c.live_owner == owner, c.updated_at >= at).order_by(c.created_at)


def orphan_names(dead: Iterable[str]) -> Select[Any]:
    """Names and numbers of the unfinished tasks of these instances."""
    c = tasks.c
    return select(c.func_name, func.count()).where(c.live_owner.in_(sorted(dead))).group_by(c.func_name)


def ended_before(before: int, limit: int) -> Select[Any]:
    """Finished tasks that ended before this moment, the longest gone first, locked against other deleters."""
    c = tasks.c
    statement = select(*RECORD_COLUMNS).where(c.finished_at < before).order_by(c.finished_at).limit(limit)
    return statement.with_for_update(skip_locked=True)


def changed_since(at: int, not_of: str, limit: int) -> Select[Any]:
    """Tasks of other instances written at or after this moment, oldest change first."""
    c = tasks.c
    return select(*RECORD_COLUMNS).where(c.updated_at >= at, c.instance != not_of).order_by(c.updated_at).limit(limit)


def cancel_requests(instance_id: str) -> Select[Any]:
    """Ids of the live tasks of an instance whose cancellation was asked for."""
    # A literal, or the database could not know that the partial index holds every such row.
    asked = tasks.c.cancel_requested == literal(1, literal_execute=True)
    return select(tasks.c.task_id).where(asked, tasks.c.live_owner == instance_id)


def latest_once(prefix: str) -> Select[Any]:
    """The greatest name used once with this prefix, and the id of the task that used it."""
    c = used_once.c
    return select(c.name, c.task_id).where(_begins(c.name, prefix)).order_by(c.name.desc()).limit(1)


def once_before(prefix: str, before: str, limit: int) -> Select[Any]:
    """Names used once with this prefix that are less than `before`."""
    c = used_once.c
    return select(c.name).where(_begins(c.name, prefix), c.name < storable(before)).order_by(c.name).limit(limit)


def settings_of(prefix: str) -> Select[Any]:
    """The settings whose keys begin with `prefix`."""
    return select(settings.c.name, settings.c.value).where(_begins(settings.c.name, prefix))


def _begins(column: Column[str], prefix: str) -> ColumnElement[bool]:
    prefix = storable(prefix)
    return and_(column >= prefix, column < prefix + "\U0010ffff")
