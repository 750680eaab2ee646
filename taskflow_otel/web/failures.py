"""What went wrong, grouped by similar errors, so that a thousand failures appear as three problems."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter

from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.owned_tasks import in_slices
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.bodies import FailureGroupOut, FailuresOut

PROBLEMS = (TaskStatus.FAILED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED)
"""The states of tasks that went wrong."""
SCAN_LIMIT = 1_000
_INTENDED = {Reason.DUPLICATE.value, Reason.OVERLAP.value}
_LENGTH = 200
_PAGES = 5
_NORMALISED_AT_ONCE = 50

# The order matters: an id contains numbers, a quoted value may contain either.
_PARTS = (
    (re.compile(r"""(?<!\w)(["'`])(?:(?!\1).){0,200}\1"""), "‹value›"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "‹id›"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "‹address›"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "‹address›"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{12,}\b"), "‹id›"),
    (re.compile(r"(?<![A-Za-z])\d+(?:[.,:]\d+)*"), "‹n›"),
)


def normalise(error: str | None) -> str:
    """The first line of an error with quoted values, ids, addresses and numbers replaced by placeholders."""
    line = (error or "").strip().partition("\n")[0][:_LENGTH]
    for pattern, placeholder in _PARTS:
        line = pattern.sub(placeholder, line)
    return line


async def group(records: Iterable[TaskRecord]) -> list[FailureGroupOut]:
    """The groups of these failures (given newest first), the largest group first."""
    groups: dict[tuple[str, str | None, str | None, str], list[TaskRecord]] = {}
    async for record in in_slices(records, _NORMALISED_AT_ONCE):
        # Why a task failed is in its error; a task of the other states may have the error of an earlier attempt.
        reason = None if record.status is TaskStatus.FAILED else record.reason
        key = record.status.value, reason, record.error_type, normalise(record.error)
        groups.setdefault(key, []).append(record)
    return sorted(
        (
            FailureGroupOut(
                status=TaskStatus(status),
                reason=reason,
                error_type=error_type,
                error=error,
                example=(found[0].error or "").strip().partition("\n")[0][:_LENGTH],
                func_names=sorted({record.func_name for record in found}),
                count=len(found),
                first_at=min(record.end_time or record.created_at for record in found),
                last_at=max(record.end_time or record.created_at for record in found),
                retryable=[record.task_id for record in found if record.retried_by is None],
            )
            for (status, reason, error_type, error), found in groups.items()
        ),
        key=lambda out: (-out.count, out.error),
    )


async def read_failures(engine: TaskEngine, query: TaskQuery) -> FailuresOut:
    """Group the newest tasks that the query matches and that went wrong, of each state up to its limit."""
    records: list[TaskRecord] = []
    truncated = False
    for status in PROBLEMS if query.status is None else [query.status]:
        found, more = await _newest(engine, replace(query, status=status))
        records += found
        truncated = truncated or more
    records.sort(key=attrgetter("task_id"), reverse=True)
    return FailuresOut(scanned=len(records), truncated=truncated, groups=await group(records))


async def _newest(engine: TaskEngine, query: TaskQuery) -> tuple[list[TaskRecord], bool]:
    """The newest problems that the query matches, and whether there are more."""
    records: list[TaskRecord] = []
    # A page may end before it is full, if the backend has read many tasks for it.
    for _ in range(_PAGES):
        page = await engine.lookup.page(query)
        records += page.records
        query = replace(query, cursor=page.next_cursor, limit=query.limit - len(page.records))
        if query.cursor is None or not query.limit:
            break
    return [record for record in records if is_problem(record)], query.cursor is not None


def is_problem(record: TaskRecord) -> bool:
    """Whether a person should look at a task; a duplicate, and a firing that was left out as asked, are as intended."""
    return record.status in PROBLEMS and record.reason not in _INTENDED
