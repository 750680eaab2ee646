"""How a query is answered: along which index, how far, and where its total comes from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Select, select

from taskflow_otel.backends.sql import queries
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.queries import TaskSearch, Way
from taskflow_otel.backends.sql.schema import tasks
from taskflow_otel.model.query import TaskCounts, TaskQuery
from taskflow_otel.model.status import LIVE_STATUSES

WINDOW = 2_500
"""How many tasks, newest first, are read for one page or count if no index decides every condition."""

Read = Callable[[Select[Any]], Awaitable[Sequence[Any]]]
"""Runs a statement and returns its rows."""


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a page in the order of `RECORD_COLUMNS`, and the rest of a `TaskPage`."""

    rows: Sequence[Any]
    next_cursor: str | None
    total: int | None = None
    total_exact: bool = True


class Searcher:
    """Answers queries through `read`."""

    def __init__(self, read: Read, dialect: Dialect) -> None:
        self._read = read
        self._dialect = dialect

    async def page(self, query: TaskQuery) -> Found:
        """One page.

        If no index decides every condition, it reads the newest `WINDOW` tasks of the smallest index range.
        """
        kept: TaskCounts | None = None
        if query.count_limit is not None and queries.countable(query):
            kept = await self._kept(query)
            if not kept.total:
                return Found([], None, 0)
        way = await self._way(query)
        search = self._along(query, way, await self._created_at(query.cursor))
        back_to = None if search.decided else await self._edge(search, WINDOW)
        page_to = back_to
        if search.decided and self._dialect.by_edges:
            page_to = await self._edge(search, query.limit + 1)
        rows = await self._read(search.page(page_to))
        next_cursor = None
        if full := len(rows) > query.limit:
            rows = rows[: query.limit]
            next_cursor = rows[-1][0] if rows else query.cursor
        elif back_to is not None:
            last = await self._read(search.last(back_to))
            next_cursor = last[0][0] if last else query.cursor
        if query.count_limit is None:
            return Found(rows, next_cursor)
        if kept is not None:
            return Found(rows, next_cursor, kept.total, kept.exact)
        if query.cursor is None and not full:
            return Found(rows, next_cursor, len(rows), back_to is None)
        if query.cursor is not None and not search.decided:
            back_to = await self._edge(self._along(replace(query, cursor=None), way), WINDOW)
        [[total]] = await self._read(search.total(query.count_limit, back_to))
        return Found(rows, next_cursor, total, back_to is None and total < query.count_limit)

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """The stored counts, or else counts along an index.

        With a limit or a search text, and if no index decides every condition, at most the newest `WINDOW` tasks are
        counted.
        """
        if queries.countable(query):
            return await self._kept(query)
        query = replace(query, cursor=None)
        search = self._along(query, await self._way(query))
        limit = query.count_limit
        if not search.decided and (limit is not None or queries.searches(query)):
            limit = WINDOW
        back_to = None if limit is None else await self._edge(search, limit)
        return queries.read_counts(await self._read(search.counts(back_to)), exact=back_to is None)

    def _along(self, query: TaskQuery, way: Way, cursor_at: int | None = None) -> TaskSearch:
        return TaskSearch(query, way, cursor_at, by_rows=self._dialect.by_rows)

    async def _kept(self, query: TaskQuery) -> TaskCounts:
        counts = queries.read_counts(await self._read(queries.kept_counts(query)), exact=True)
        live = sum(counts.by_status.get(status, 0) for status in LIVE_STATUSES)
        return replace(counts, exact=query.count_limit is None or live < query.count_limit)

    async def _way(self, query: TaskQuery) -> Way:
        """The index with the fewest tasks. Not every database knows which value is rare."""
        among = queries.ways(query)
        if len(among) == 1:
            return among[0]
        if queries.countable(query):
            sizes = await self._kept_sizes(query, among)
            # If all of them are that large, the counts below would say no more.
            if min(sizes) >= WINDOW:
                return min(zip(sizes, among, strict=True))[1]
        [sizes] = await self._read(queries.sizes((self._along(query, way) for way in among), WINDOW))
        if min(sizes) == WINDOW:
            if ("tag",) in among:
                return ("tag",)
            sizes = await self._kept_sizes(query, among)
        return min(zip(sizes, among, strict=True))[1]

    async def _kept_sizes(self, query: TaskQuery, among: Sequence[Way]) -> list[int]:
        [kept] = await self._read(queries.kept_sizes(query, among))
        return [int(size or 0) for size in kept]

    async def _created_at(self, cursor: str | None) -> int | None:
        if cursor is None:
            return None
        rows = await self._read(select(tasks.c.created_at).where(tasks.c.task_id == cursor))
        return rows[0][0] if rows else None

    async def _edge(self, search: TaskSearch, number: int) -> int | None:
        """How far back the newest `number` tasks of the walk reach; `None` if there are fewer."""
        rows = await self._read(search.edge(number))
        return rows[0][0] if rows else None
