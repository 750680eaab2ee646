"""The queries as statements. Each is one walk along one index; tests check the plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    FromClause,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)

from taskflow_otel.backends.sql.mapping import MICROS, STORED, indexable, micros, storable
from taskflow_otel.backends.sql.schema import GONE_WRONG, finished_counts, settings, task_tags, tasks, used_once
from taskflow_otel.model.cipher import SEAL_PATTERN
from taskflow_otel.model.query import TaskCounts, TaskQuery
from taskflow_otel.model.status import FINISHED_STATUSES, LIVE_STATUSES, TaskStatus

RECORD_COLUMNS: tuple[Column[Any], ...] = tuple(tasks.c[f.name] for f in STORED)

_CHUNK = 500
_EQUALS = ("status", "func_name", "queue", "source")

# The same columns as expressions, to keep a database from choosing the wrong index.
_UNINDEXED: dict[str, ColumnElement[Any]] = {name: tasks.c[name].concat(literal_column("''")) for name in _EQUALS}

Way = tuple[str, ...]
"""The conditions of a query that one index decides, besides those on the time; `()` is the index by time only."""

_INDEXES: dict[Way, str] = {
    (): "taskflow_tasks_by_age",
    ("status",): "taskflow_tasks_by_status",
    ("func_name",): "taskflow_tasks_by_name",
    ("func_name", "status"): "taskflow_tasks_gone_wrong",
    ("queue",): "taskflow_tasks_by_queue",
    ("source",): "taskflow_tasks_by_source",
    ("trace_id",): "taskflow_tasks_by_trace",
    ("fingerprint",): "taskflow_tasks_by_fingerprint",
}

_GONE_WRONG = FINISHED_STATUSES - {TaskStatus.SUCCESS}

_EVER, _NEVER = -(2**63), 2**63 - 1


def ways(query: TaskQuery) -> list[Way]:
    """The indexes that can find the tasks of a query."""
    if query.trace_id is not None:
        # A trace has few tasks.
        return [("trace_id",)]
    if query.fingerprint is not None:
        # Few tasks fail, and this index has the times of their ends too.
        return [("fingerprint",)]
    alone = [name for name in _EQUALS if getattr(query, name) is not None]
    found: list[Way] = []
    if query.tag is not None:
        found.append(("tag",))
    if "func_name" in alone and query.status in _GONE_WRONG:
        found.append(("func_name", "status"))
        alone = [name for name in alone if name not in found[-1]]
    return [*found, *((name,) for name in alone)] or [()]


def index_of(query: TaskQuery, way: Way) -> str:
    """The name of the index of a way."""
    if way == ("tag",):
        return "taskflow_tasks_by_tag" if query.tag and query.tag[1] is not None else "taskflow_tasks_by_tag_name"
    return _INDEXES[way]


def sizes(searches: Iterable[TaskSearch], limit: int) -> Select[Any]:
    """One row: how many tasks each of these walks would read, each counted up to `limit`."""
    return select(*(search.size(limit).scalar_subquery() for search in searches))


def kept_sizes(query: TaskQuery, among: Sequence[Way]) -> Select[Any]:
    """One row: how many finished tasks each of these indexes has, at any time. Not for a tag."""
    kept = finished_counts.c
    return select(
        *(func.sum(case((and_(*_equal(query, way, kept)), kept.tasks), else_=0)) for way in among)
    ).select_from(finished_counts)


def countable(query: TaskQuery) -> bool:
    """Whether the stored counts contain the number of finished tasks that match."""
    times = query.since, query.until, query.ended_since, query.ended_until
    others = query.tag, *times, query.trace_id, query.fingerprint
    return not searches(query) and all(value is None for value in others)


def searches(query: TaskQuery) -> bool:
    """Whether there is a condition for which no database has an index."""
    texts = query.q, query.error, query.func_name_prefix
    return any(value is not None for value in (*texts, query.min_duration, query.max_duration))


def kept_counts(query: TaskQuery) -> Select[Any]:
    """Rows like those of `TaskSearch.counts`, for a countable query; live tasks are counted up to its limit."""
    kept = finished_counts.c
    finished = select(
        kept.status,
        func.sum(kept.tasks).label("number"),
        func.sum(kept.timed).label("timed"),
        func.sum(kept.duration_micros).label("micros"),
    ).where(*_equal(query, _EQUALS, kept))
    finished = finished.group_by(kept.status)
    wanted = sorted(LIVE_STATUSES if query.status is None else LIVE_STATUSES & {query.status})
    if not wanted:
        return finished
    status = tasks.c.status
    live = (
        select(status)
        .where(status.in_([status.value for status in wanted]))
        .where(*_equal(query, ("func_name", "queue", "source"), _UNINDEXED))
        .limit(query.count_limit)
        .subquery("live")
    )
    counted = select(live.c.status, func.count(), literal(0), literal(0)).group_by(live.c.status)
    return select(union_all(finished, counted).subquery("both"))


class TaskSearch:
    """The statements that answer one `TaskQuery` by a walk along one index, newest task first.

    `way` is one of `ways(query)`; `by_rows` is `Dialect.by_rows`. `cursor_at` is the stored creation time of the
    cursor's task; without it only the cursor's id is used, which is correct but starts at the newest task. `back_to`:
    only tasks created at or after this time are read.
    """

    def __init__(self, query: TaskQuery, way: Way, cursor_at: int | None = None, *, by_rows: bool = False) -> None:
        self._query = query
        # The index by tag is in another table, which also has the time.
        self._table = task_tags if way == ("tag",) else tasks
        self._age: Column[Any] = self._table.c.created_at
        self._ident: Column[str] = self._table.c.task_id
        self._key = list(_key(query, way))
        self._besides = list(self._left_by(way))
        self._cursor_at = cursor_at
        self._index = index_of(query, way)
        # Few tasks have the same trace, so no planner chooses another index.
        self._by_rows = by_rows and bool(way) and way != ("trace_id",)
        self._joined: FromClause = tasks
        if self._table is task_tags:
            self._joined = task_tags.join(tasks, tasks.c.task_id == task_tags.c.task_id)

    @property
    def decided(self) -> bool:
        """Whether all tasks of the index range match."""
        return not self._besides

    def size(self, limit: int) -> Select[Any]:
        """How many tasks the index range has, counted up to `limit`."""
        return _number(select(literal_column("1")).select_from(self._table).where(*self._within()), limit)

    def total(self, limit: int, back_to: int | None = None) -> Select[Any]:
        """How many tasks match on all pages, counted up to `limit`."""
        if self.decided:
            return self.size(limit)
        return _number(self._matching(literal_column("1")).where(*self._within(back_to)), limit)

    def edge(self, number: int) -> Select[Any]:
        """The creation time of the task at this position of the walk, counted from the cursor."""
        return self._walk(select(self._age), None).offset(number - 1).limit(1)

    def last(self, back_to: int) -> Select[Any]:
        """The id of the last task of the walk that was created at or after `back_to`."""
        return select(self._ident).where(*self._within(back_to)).order_by(self._age, self._ident).limit(1)

    def page(self, back_to: int | None = None) -> Select[Any]:
        """The rows of the page, and one more."""
        statement = self._walk(self._matching(*RECORD_COLUMNS), back_to)
        return statement.order_by(self._ident.desc()).limit(self._query.limit + 1)

    def counts(self, back_to: int | None = None) -> Select[Any]:
        """Rows of status, number, number with a run time, and the sum of run times in microseconds."""
        c = tasks.c
        over_time_only = self.decided and not self._key
        # Grouping along the index by status would read all of it.
        status = c.status if over_time_only else _UNINDEXED["status"]
        duration = cast(func.round(func.sum(c.duration) * 1_000_000), BigInteger)
        columns = status, func.count(), func.count(c.duration), duration
        if over_time_only:
            # With this, the database reads only the wanted times of each status, not all times.
            every = c.status.in_([status.value for status in TaskStatus])
            return select(*columns).where(every, *self._within(back_to)).group_by(status)
        return self._matching(*columns).where(*self._within(back_to)).group_by(status)

    def _matching(self, *columns: ColumnElement[Any]) -> Select[Any]:
        statement = select(*columns).select_from(self._joined).where(*self._besides)
        return statement.with_hint(self._table, f"FORCE INDEX ({self._index})", "mysql")

    def _walk(self, statement: Select[Any], back_to: int | None) -> Select[Any]:
        """The statement over the index range from the cursor on, newest first."""
        if (cursor := self._query.cursor) is not None:
            before = self._ident < cursor
            statement = statement.where(before if self._cursor_at is None else or_(self._age < self._cursor_at, before))
        # With a row comparison, the planner would not see how few tasks the range has, and would read all tags.
        if not self._by_rows or (self._table is task_tags and not self.decided):
            return statement.where(*self._within(back_to, self._cursor_at)).order_by(self._age.desc())
        oldest, newest = self._times(back_to, self._cursor_at)
        columns = [column for column, _ in self._key]
        values = [literal(value, column.type) for column, value in self._key]
        return statement.where(
            tuple_(*columns, self._age) >= tuple_(*values, literal(_EVER if oldest is None else oldest, MICROS)),
            tuple_(*columns, self._age) <= tuple_(*values, literal(_NEVER if newest is None else newest, MICROS)),
            *self._besides_key(oldest, newest),
        ).order_by(*(column.desc() for column in columns), self._age.desc())

    def without_index(self) -> Iterator[ColumnElement[bool]]:
        """All conditions, as expressions that make no database choose another index."""
        oldest, newest = self._times(None, None)
        created = tasks.c.created_at + literal_column("0")
        if oldest is not None:
            yield created >= oldest
        if newest is not None:
            yield created <= newest
        if self._query.trace_id is not None:
            yield tasks.c.trace_id.concat(literal_column("''")) == self._query.trace_id
        if self._query.fingerprint is not None:
            yield tasks.c.fingerprint == self._query.fingerprint
        yield from self._besides

    def _within(self, back_to: int | None = None, newest: int | None = None) -> Iterator[ColumnElement[bool]]:
        """The conditions that the index decides."""
        for column, value in self._key:
            yield column == value
        yield from self._besides_key(*self._times(back_to, newest))

    def _times(self, oldest: int | None, newest: int | None) -> tuple[int | None, int | None]:
        since, until = self._query.since, self._query.until
        if since is not None:
            oldest = micros(since) if oldest is None else max(oldest, micros(since))
        if until is not None:
            newest = micros(until) - 1 if newest is None else min(newest, micros(until) - 1)
        return oldest, newest

    def _besides_key(self, oldest: int | None, newest: int | None) -> Iterator[ColumnElement[bool]]:
        if self._index == "taskflow_tasks_gone_wrong":
            # A partial index is used only if its condition is repeated.
            yield GONE_WRONG
        if self._index == "taskflow_tasks_by_fingerprint":
            yield tasks.c.fingerprint.is_not(None)
        if oldest is not None:
            yield self._age >= oldest
        if newest is not None:
            yield self._age <= newest

    def _left_by(self, way: Way) -> Iterator[ColumnElement[bool]]:
        query = self._query
        yield from _equal(query, [name for name in _EQUALS if name not in way], _UNINDEXED)
        if query.fingerprint is not None and way != ("fingerprint",):
            yield tasks.c.fingerprint == query.fingerprint
        if query.tag is not None and way != ("tag",):
            tagged = (column == value for column, value in _key(query, ("tag",)))
            yield exists().where(task_tags.c.task_id == tasks.c.task_id, *tagged)
        # An expression, so that no database chooses the index by end, which has another order.
        ended = tasks.c.finished_at + literal_column("0")
        if query.ended_since is not None:
            yield ended >= micros(query.ended_since)
        if query.ended_until is not None:
            yield ended < micros(query.ended_until)
        if query.q is not None:
            searched: list[Column[str]] = [tasks.c[name] for name in ("func_name", "error", "task_id")]
            yield or_(*(column.icontains(query.q, autoescape=True) for column in searched))
        if query.error is not None:
            yield or_(*(tasks.c[name].icontains(query.error, autoescape=True) for name in ("error_type", "error")))
        if query.func_name_prefix is not None:
            yield tasks.c.func_name.istartswith(query.func_name_prefix, autoescape=True)
        if query.min_duration is not None or query.max_duration is not None:
            yield tasks.c.finished_at.is_not(None)
        if query.min_duration is not None:
            yield tasks.c.duration >= query.min_duration
        if query.max_duration is not None:
            yield tasks.c.duration < query.max_duration


def conditions(query: TaskQuery) -> Iterator[ColumnElement[bool]]:
    """All conditions of a query, for a statement that walks along an index which decides none of them."""
    yield from TaskSearch(query, ("fingerprint",)).without_index()


def read_counts(rows: Iterable[Any], *, exact: bool) -> TaskCounts:
    """Add up the rows of `TaskSearch.counts`. Only the run times of finished tasks count, because they are final."""
    by_status: dict[TaskStatus, int] = {}
    timed = duration = 0
    for word, number, with_duration, duration_micros in rows:
        if not number:
            continue
        try:
            status = TaskStatus(word)
        except ValueError:
            # A damaged row is not counted.
            exact = False
            continue
        by_status[status] = by_status.get(status, 0) + int(number)
        if status.finished:
            timed += int(with_duration)
            duration += int(duration_micros or 0)
    return TaskCounts(by_status, duration / 1e6, timed, exact)


def _value(query: TaskQuery, name: str) -> str | None:
    value: str | None = getattr(query, name)
    return value.value if isinstance(value, TaskStatus) else value


def _equal(query: TaskQuery, names: Iterable[str], columns: Any) -> Iterator[ColumnElement[bool]]:
    for name in names:
        if (value := _value(query, name)) is not None:
            yield columns[name] == value


def _key(query: TaskQuery, way: Way) -> Iterator[tuple[Column[Any], Any]]:
    """The columns of an index before the time, and the values of the query."""
    for name in way:
        if name != "tag":
            yield tasks.c[name], _value(query, name)
        elif query.tag is not None:
            key, value = query.tag
            yield task_tags.c.name, indexable(key)
            if value is not None:
                yield task_tags.c.value, indexable(value)


def _number(rows: Select[Any], limit: int) -> Select[Any]:
    return select(func.count()).select_from(rows.limit(limit).subquery("found"))


def orphans(
    dead: Iterable[str], new_owner: str, names: Iterable[str] | None, limit: int, seals: Iterable[str] = ()
) -> Select[Any]:
    """Unfinished tasks of these instances, one instance after the other, oldest first, locked against others."""
    c = tasks.c
    statement = select(*RECORD_COLUMNS).where(c.live_owner.in_(sorted(set(dead) - {new_owner})))
    if names is not None:
        mine = and_(c.func_name.in_(sorted(names)), or_(c.payload.is_(None), not_(_sealed_beyond(seals))))
        statement = statement.where(or_(c.persisted == 0, mine))
    return statement.order_by(c.live_owner, c.created_at).limit(limit).with_for_update(skip_locked=True)


def taken_since(owner: str, at: int) -> Select[Any]:
    """Unfinished tasks of this instance written at or after this moment, including by a takeover."""
    c = tasks.c
    return select(*RECORD_COLUMNS).where(c.live_owner == owner, c.updated_at >= at).order_by(c.created_at)


def orphan_names(dead: Iterable[str], beyond: Iterable[str] | None = None) -> Select[Any]:
    """Names and numbers of unfinished tasks of these instances; with `beyond`, only of those with another seal."""
    c = tasks.c
    statement = select(c.func_name, func.count()).where(c.live_owner.in_(sorted(dead))).group_by(c.func_name)
    return statement if beyond is None else statement.where(c.persisted == 1, _sealed_beyond(beyond))


def _sealed_beyond(seals: Iterable[str]) -> ColumnElement[bool]:
    """Whether the arguments have a seal that is not one of these."""
    payload = tasks.c.payload
    return and_(payload.like(SEAL_PATTERN), *(not_(payload.like(f"{seal}:%")) for seal in sorted(seals)))


def ended_before(before: int, limit: int) -> Select[Any]:
    """Finished tasks that ended before this moment, oldest end first, locked against other deletions."""
    c = tasks.c
    statement = select(*RECORD_COLUMNS).where(c.finished_at < before).order_by(c.finished_at).limit(limit)
    return statement.with_for_update(skip_locked=True)


def ended_among(task_ids: Iterable[str]) -> Select[Any]:
    """The finished ones of these tasks, locked against other deletions."""
    c = tasks.c
    statement = select(*RECORD_COLUMNS).where(c.task_id.in_(sorted(task_ids)), c.finished_at.is_not(None))
    return statement.with_for_update(skip_locked=True)


def changed_since(at: int, not_of: str, limit: int) -> Select[Any]:
    """Tasks of other instances written at or after this moment, oldest change first."""
    c = tasks.c
    return select(*RECORD_COLUMNS).where(c.updated_at >= at, c.instance != not_of).order_by(c.updated_at).limit(limit)


def cancel_requests(instance_id: str) -> Select[Any]:
    """Ids of the live tasks of an instance for which a cancellation was requested."""
    # A literal: with a parameter, the database could not know that the partial index has every such row.
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


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of a list of ids: databases limit the number of parameters of a statement."""
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
