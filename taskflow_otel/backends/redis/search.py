"""How pages and counts are answered: along which index, and how many tasks are read; `RedisBackend` describes it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from taskflow_otel.backends.redis import codec
from taskflow_otel.backends.redis.fields import tag_dimension
from taskflow_otel.backends.redis.texts import made_at, to_json, to_micros
from taskflow_otel.model.query import TaskCounts, TaskPage, TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.owned_tasks import in_slices

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection

SCAN_LIMIT = 2_500
"""The most tasks that are read for one page or count, if no single index is enough."""
_SCAN_STEP = 500
_DECODED_AT_ONCE = 100


class Searcher:
    """Answers one query through a connection."""

    def __init__(self, connection: Connection, query: TaskQuery) -> None:
        self._connection = connection
        self._query = query
        self._search = _Search(query)

    async def page(self) -> TaskPage:
        """One page, newest first."""
        query, search = self._query, self._search
        records: list[TaskRecord] = []
        seen, cursor, done, cut = 0, query.cursor, False, False
        while not (done or cut) and len(records) <= query.limit:
            wanted = query.limit + 1 - len(records)
            step, cursor, done, rows = await self._walk("page", cursor, wanted)
            seen += step
            records += [codec.load_record(row) async for row in in_slices(rows, _DECODED_AT_ONCE)]
            cut = seen >= SCAN_LIMIT and not search.indexed and not done
        full = len(records) > query.limit
        if full:
            records = records[: query.limit]
            cursor = records[-1].task_id if records else query.cursor
        next_cursor = cursor if full or cut else None
        if query.count_limit is None:
            return TaskPage(records, next_cursor)
        if query.cursor is None and not full:
            return TaskPage(records, next_cursor, len(records), not cut)
        numbers, exact = await self._numbers()
        return TaskPage(records, next_cursor, sum(int(number) for _, number, *_ in numbers), exact)

    async def counts(self) -> TaskCounts:
        """Counts by status."""
        numbers, exact = await self._numbers()
        tallies = (await self._tally())[0] if self._search.indexed and self._search.windowed else numbers
        by_status: Counter[TaskStatus] = Counter()
        for status, number, *_ in numbers:
            if number:
                by_status[TaskStatus(status)] += number
        duration_sum = sum(int(total) for _, _, total, _ in tallies)
        timed = sum(int(number) for *_, number in tallies)
        return TaskCounts(dict(by_status), duration_sum / 1_000_000, timed, exact)

    async def _numbers(self) -> tuple[list[list[Any]], bool]:
        """Status, number and durations of the tasks that match, and whether all of them were counted."""
        search = self._search
        if not search.indexed:
            return await self._tally()
        return await self._connection.read("counts", search.dimensions[0], *search.window, *search.statuses), True

    async def _tally(self) -> tuple[list[list[Any]], bool]:
        tallies: list[list[Any]] = []
        seen, cursor, done = 0, None, False
        while not done and seen < SCAN_LIMIT:
            step, cursor, done, some = await self._walk("count", cursor, _SCAN_STEP)
            tallies += some
            seen += step
        return tallies, done

    async def _walk(self, mode: str, cursor: str | None, wanted: int) -> tuple[int, str | None, bool, list[Any]]:
        search = self._search
        budget = min(wanted, _SCAN_STEP) if search.indexed else _SCAN_STEP
        place = ("", "") if cursor is None else (cursor, str(made_at(cursor)))
        seen, last, done, out = await self._connection.read(
            "walk", mode, *place, str(budget), str(wanted), *search.conditions
        )
        return seen, last or cursor, bool(done), out


class _Search:
    """A query in the form of the scripts."""

    def __init__(self, query: TaskQuery) -> None:
        self.statuses = [status.value for status in ([query.status] if query.status else TaskStatus)]
        named = [
            None if query.func_name is None else f"f{query.func_name}",
            None if query.queue is None else f"q{query.queue}",
            None if query.source is None else f"s{query.source}",
            None if query.trace_id is None else f"r{query.trace_id}",
            None if query.fingerprint is None else f"p{query.fingerprint}",
            None if query.tag is None else tag_dimension(*query.tag),
        ]
        self.dimensions = [dim for dim in named if dim is not None] or [""]
        wants: dict[str, str] = {}
        if query.since is not None:
            wants["since"] = str(to_micros(query.since))
        if query.until is not None:
            wants["until"] = str(to_micros(query.until))
        self.window = (wants.get("since", "-inf"), f"({wants['until']}" if "until" in wants else "+inf")
        """The range of creation times, as bounds for a range by score."""
        self.windowed = bool(wants)
        if query.q:
            wants["q"] = query.q.lower()
        if query.error is not None:
            wants["error"] = query.error.lower()
            wants["error_type_at"] = codec.ERROR_TYPE_AT
        if query.func_name_prefix is not None:
            wants["prefix"] = query.func_name_prefix.lower()
        for name, seconds in (("min_duration", query.min_duration), ("max_duration", query.max_duration)):
            if seconds is not None:
                wants[name] = str(round(seconds * 1_000_000))
        if query.ended_since is not None:
            wants["ended_since"] = str(to_micros(query.ended_since))
        if query.ended_until is not None:
            wants["ended_until"] = str(to_micros(query.ended_until))
        self.indexed = len(self.dimensions) == 1 and wants.keys() <= {"since", "until"}
        """Whether one index holds exactly the tasks that match."""
        self.conditions = [to_json(self.statuses), to_json(self.dimensions), to_json(wants)]
