"""Failures grouped by similar errors, so that a thousand failures appear as three problems."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.runtime.owned_tasks import in_slices
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.wire.bodies import FailureGroupOut, FailuresOut

SCAN_LIMIT = 1_000
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
    groups: dict[tuple[str | None, str], list[TaskRecord]] = {}
    async for record in in_slices(records, _NORMALISED_AT_ONCE):
        groups.setdefault((record.error_type, normalise(record.error)), []).append(record)
    return sorted(
        (
            FailureGroupOut(
                error_type=error_type,
                error=error,
                example=(found[0].error or "").strip().partition("\n")[0][:_LENGTH],
                func_names=sorted({record.func_name for record in found}),
                count=len(found),
                first_at=min(record.end_time or record.created_at for record in found),
                last_at=max(record.end_time or record.created_at for record in found),
                retryable=[record.task_id for record in found if record.retried_by is None],
            )
            for (error_type, error), found in groups.items()
        ),
        key=lambda out: (-out.count, out.error),
    )


async def read_failures(engine: TaskEngine, query: TaskQuery) -> FailuresOut:
    """Group the newest failures that the query matches."""
    records: list[TaskRecord] = []
    # A page may end before it is full, if the backend has read many tasks for it.
    for _ in range(_PAGES):
        page = await engine.lookup.page(query)
        records += page.records
        query = replace(query, cursor=page.next_cursor, limit=query.limit - len(page.records))
        if query.cursor is None or not query.limit:
            break
    return FailuresOut(scanned=len(records), truncated=query.cursor is not None, groups=await group(records))
