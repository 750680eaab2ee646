"""The changes of one transaction, as few statements with many rows each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, assert_never

from taskflow_otel.backends.base import AppendLogs, AppendSpans, Change, Insert, Update
from taskflow_otel.backends.sql.dialects import Row
from taskflow_otel.backends.sql.mapping import log_row, storable, tag_rows
from taskflow_otel.backends.sql.statements import Statements, link_row, now_micros, owned_span_row
from taskflow_otel.model.figures import STATUS_WORDS, FigureTally, Span
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus

_ToRow = Callable[[TaskRecord, int], tuple[str, Row]]
_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
_ROWS = 100
"""Rows that are made before others get the event loop: a few milliseconds of work."""


class UnexpectedRowCount(Exception):
    """A statement changed fewer rows than expected: one of the changes must be refused. Never leaves the backend."""


class Step(NamedTuple):
    """One statement and its rows; `strict`: each must change a row, or a change must be refused."""

    statement: str
    rows: Sequence[Row]
    strict: bool


class Tally:
    """The additions of one transaction to the counts and the figures of finished tasks.

    A record is added when its row is made, because a task that is not persisted may change while the statement runs.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str, str], list[int]] = {}
        self._figures = FigureTally()

    def add(self, record: TaskRecord) -> None:
        """Count a record if it is finished."""
        # Enum members: `finished` and `value` would cost more than all the rest.
        if (word := STATUS_WORDS.get(record.status)) is None:
            return
        key = (record.func_name, record.queue, record.source, word)
        if (sums := self._sums.get(key)) is None:
            sums = self._sums[key] = [0, 0, 0]
        sums[0] += 1
        if record.duration is not None:
            sums[1] += 1
            sums[2] += round(record.duration * 1e6)
        self._figures.add(record)

    def merge(self, other: Tally) -> None:
        """Add the counts of another tally."""
        for key, sums in other._sums.items():
            self._sums[key] = [a + b for a, b in zip(self._sums.get(key, (0, 0, 0)), sums, strict=True)]
        self._figures.merge(other._figures)

    def rows(self, shard: int) -> list[Row]:
        """The rows to add to the counts. All writers use the same order, so that they cannot deadlock."""
        return [(*key, shard, *self._sums[key]) for key in sorted(self._sums)]

    def figure_rows(self, shard: int) -> list[Row]:
        """The rows to add to the figures, in the same order for all writers."""
        return [
            (span.value, f.slot, f.func_name, f.kind, f.bucket, shard, f.tasks, f.micros)
            for span in Span
            for f in self._figures.figures(span)
        ]

    def steps(self, statements: Statements, shard: int) -> Iterator[Step]:
        """The steps that add everything."""
        if counts := self.rows(shard):
            yield Step(statements.add_counts, counts, False)
            yield Step(statements.add_figures, self.figure_rows(shard), False)


class Batch:
    """The changes of one transaction, executed by kind: inserts, then updates, then log entries.

    If no change is refused, the result is the same as in the original order: inserting first can only cause more key
    conflicts. Of several updates of one task the last one wins, because each writes all mutable fields; updates after
    one that ends the task are ignored.
    """

    def __init__(self, statements: Statements, changes: Iterable[Change]) -> None:
        self.logs: list[AppendLogs] = []
        self.spans: list[AppendSpans] = []
        self.stored: set[str] = set()
        """The tasks of the steps so far, which are stored after the execution of these steps."""
        self.owners: set[str] = set()
        """The instances under whose ids the changes are written."""
        self.tally: Tally = Tally()
        self._statements = statements
        self._inserts: list[TaskRecord] = []
        self._updates: dict[tuple[str, str, int], TaskRecord] = {}
        self._names: list[Row] = []
        self._links: list[Insert] = []
        for change in changes:
            if isinstance(change, Insert):
                self._take_insert(change)
            elif isinstance(change, Update):
                self._take_update(change.record)
            elif isinstance(change, AppendLogs):
                self.logs.append(change)
            elif isinstance(change, AppendSpans):
                self.spans.append(change)
            else:
                assert_never(change)

    def steps(self) -> Iterator[Step]:
        """All steps except log entries and counts; the rows are made during the iteration, in slices."""
        statements, now = self._statements, now_micros()
        # All writers use the same order of keys and ids, so that they cannot deadlock.
        if self._names:
            yield Step(statements.use_name, sorted(self._names), True)
        inserts = self._inserts
        if any(record.idempotency_key is not None for record in inserts):
            inserts = sorted(inserts, key=lambda record: record.active_key or "")
        for start in range(0, len(inserts), _ROWS):
            yield from self._rows(inserts[start : start + _ROWS], statements.inserted, now)
        if tags := [row for record in inserts if record.tags for row in tag_rows(record)]:
            yield Step(statements.insert_tag, tags, False)
        if self._links:
            yield Step(statements.link_retry, sorted(link_row(insert, now) for insert in self._links), True)
        updates = [self._updates[key] for key in sorted(self._updates)]
        for start in range(0, len(updates), _ROWS):
            yield from self._rows(updates[start : start + _ROWS], statements.updated, now)

    def log_steps(self) -> Iterator[Step]:
        """The log entries, except those of tasks that retention has deleted: they would stay for ever. And the spans.

        Known once the other steps are made.
        """
        if self.spans:
            yield Step(self._statements.insert_spans_of_owner, [*map(owned_span_row, self.spans)], False)
        bindable = self._statements.bindable
        known: list[Row] = []
        doubtful: list[Row] = []
        for log in self.logs:
            rows = [log_row(log.task_id, entry) for entry in log.entries]
            if log.task_id in self.stored:
                known += map(bindable, rows)
            else:
                doubtful += [(*bindable(row), row[0]) for row in rows]
        if known:
            yield Step(self._statements.insert_log, known, False)
        if doubtful:
            yield Step(self._statements.insert_log_of_stored, doubtful, False)

    def _rows(self, records: Sequence[TaskRecord], to_row: _ToRow, now: int) -> Iterator[Step]:
        rows: dict[str, list[Row]] = {}
        stored, count = self.stored, self.tally.add
        for record in records:
            statement, row = to_row(record, now)
            if (kept := rows.get(statement)) is None:
                kept = rows[statement] = []
            kept.append(row)
            stored.add(record.task_id)
            if record.status is not _PENDING and record.status is not _RUNNING:
                count(record)
        for statement, kept in rows.items():
            yield Step(statement, kept, True)

    def _take_insert(self, change: Insert) -> None:
        record = change.record
        self.owners.add(record.instance)
        self._inserts.append(record)
        if change.once is not None:
            self._names.append((storable(change.once), record.task_id))
        if change.link is not None and record.retry_of is not None:
            self._links.append(change)

    def _take_update(self, record: TaskRecord) -> None:
        self.owners.add(record.instance)
        key = (record.task_id, record.instance, record.token)
        known = self._updates.get(key)
        if known is None or not known.status.finished:
            self._updates[key] = record
