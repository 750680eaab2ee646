"""The comparison finds every difference between the ledger and the telemetry, and invents none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from taskflow_otel import TaskRecord
from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.reconcile.compare import reconcile
from taskflow_otel.reconcile.otlp_file import Exported
from tests.reconcile.conftest import Watched

FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)


def spans_of(exports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = exports[0]["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return found


def logs_of(exports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = exports[1]["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    return found


def named(entries: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry[key] == name)


def taken(exports: list[dict[str, Any]]) -> Exported:
    exported = Exported()
    for message in exports:
        exported.add(message)
    return exported


async def test_where_all_agree_there_is_no_difference(watched: Watched) -> None:
    assert await reconcile(watched.backend, metrics={"page": watched.page}, exported=taken(watched.exported())) == []


@pytest.mark.parametrize(
    ("sample", "value", "expected"),
    [
        ('taskflow_tasks_finished_total{outcome="success",queue="default",task="good"}', 2, "(good, default, success)"),
        ('taskflow_tasks_enqueued_total{queue="default",source="manual",task="good"}', 4, "(good, default, manual)"),
        ('taskflow_task_retries_total{queue="default",task="bad"}', 0, "(bad, default)"),
        ('taskflow_slo_events_total{result="bad",task="bad"}', 0, "(bad, bad)"),
        ('taskflow_slo_events_total{result="good",task="good"}', 2, "(good, good)"),
        ('taskflow_task_run_duration_seconds_count{task="bad"}', 1, "(bad)"),
        ('taskflow_task_queue_wait_seconds_count{queue="default",task="bad"}', 1, "(bad, default)"),
    ],
)
async def test_a_counter_that_says_something_else_is_named(
    watched: Watched, sample: str, value: int, expected: str
) -> None:
    lines = [f"{sample} {value}" if line.startswith(f"{sample} ") else line for line in watched.page.splitlines()]
    assert "\n".join(lines) != watched.page.rstrip("\n")
    [difference] = await reconcile(watched.backend, metrics={"page": "\n".join(lines) + "\n"})
    name = sample.partition("{")[0]
    assert (difference.witness, difference.found) == ("page", str(value))
    assert difference.what == f"{name}{{{expected[1:-1]}}}"


async def test_only_what_came_after_the_baseline_counts(watched: Watched) -> None:
    good = next(record for record in (await watched.manager.engine.lookup.page(TaskQuery())).records)
    since = good.created_at + timedelta(microseconds=1)
    before = watched.page
    assert await reconcile(watched.backend, since=since, metrics={"page": before}, baseline=before) == []
    assert await reconcile(watched.backend, since=since, metrics={"page": before}) != []


async def test_names_beyond_the_cap_make_it_a_comparison_of_totals(watched: Watched) -> None:
    page = watched.page.replace('task="good"', 'task="_other"')
    assert await reconcile(watched.backend, metrics={"page": page}) == []


async def test_text_that_is_not_a_metrics_page_is_refused(watched: Watched) -> None:
    with pytest.raises(ConfigurationError, match="page is not a metrics page"):
        await reconcile(watched.backend, metrics={"page": "<html>{"})


def drop_send(exports: list[dict[str, Any]]) -> None:
    spans_of(exports).remove(named(spans_of(exports), "name", "send good"))


def drop_attempt(exports: list[dict[str, Any]]) -> None:
    spans_of(exports).remove(named(spans_of(exports), "name", "process bad"))


def double_attempt(exports: list[dict[str, Any]]) -> None:
    spans_of(exports).append(named(spans_of(exports), "name", "process good"))


def calm(exports: list[dict[str, Any]]) -> None:
    named(spans_of(exports), "name", "process bad")["status"] = {}


def unlink(exports: list[dict[str, Any]]) -> None:
    named(spans_of(exports), "name", "process good")["links"] = []


def drop_log(exports: list[dict[str, Any]]) -> None:
    logs_of(exports).remove(named(logs_of(exports), "eventName", "taskflow.task.failed"))


def drop_line(exports: list[dict[str, Any]]) -> None:
    logs_of(exports).remove(named(logs_of(exports), "eventName", "taskflow.task.log"))


def double_log(exports: list[dict[str, Any]]) -> None:
    logs_of(exports).append(named(logs_of(exports), "eventName", "taskflow.task.succeeded"))


@pytest.mark.parametrize(
    ("damage", "witness", "what"),
    [
        (drop_send, "spans", "send span of good"),
        (drop_attempt, "spans", "ended attempts of bad"),
        (double_attempt, "spans", "ended attempts of good"),
        (calm, "spans", "status of process bad"),
        (unlink, "spans", "links of process good"),
        (drop_log, "logs", "taskflow.task.failed of bad"),
        (drop_line, "logs", "taskflow.task.log of good"),
        (double_log, "logs", "taskflow.task.succeeded of good"),
    ],
)
async def test_what_was_exported_wrongly_is_named(watched: Watched, damage: Any, witness: str, what: str) -> None:
    exports = watched.exported()
    damage(exports)
    [difference] = await reconcile(watched.backend, exported=taken(exports))
    assert difference.witness == witness
    assert difference.what.startswith(what)


async def test_what_was_exported_of_unknown_tasks_is_named(watched: Watched) -> None:
    exports = watched.exported()
    await watched.backend.delete_finished(FAR_AWAY, 100)
    differences = await reconcile(watched.backend, exported=taken(exports))
    assert [difference.witness for difference in differences] == ["ledger"] * 4
    assert await reconcile(watched.backend, since=FAR_AWAY, exported=taken(exports)) == []


def live(record: TaskRecord) -> None:
    record.status = TaskStatus.PENDING


def retried(record: TaskRecord) -> None:
    record.retries_used = 3


def endless(record: TaskRecord) -> None:
    record.end_time = None


def silent(record: TaskRecord) -> None:
    record.timeline = ()


def impossible(record: TaskRecord) -> None:
    record.timeline += (replace(record.timeline[0], transition=Transition.STARTED),)


@pytest.mark.parametrize(
    ("damage", "what"),
    [(live, "status"), (retried, "retries"), (endless, "end"), (silent, "timeline"), (impossible, "timeline")],
)
async def test_a_record_that_contradicts_itself_is_named(damage: Callable[[TaskRecord], None], what: str) -> None:
    backend = MemoryBackend()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = TaskRecord("id", "send", TaskStatus.SUCCESS, now, start_time=now, end_time=now, duration=0.0)
    for transition in (Transition.ENQUEUED, Transition.STARTED, Transition.SUCCEEDED):
        record.timeline += (TimelineEntry(transition, now, 0, "one"),)
    damage(record)
    await backend.apply([Insert(record)])
    [difference] = await reconcile(backend)
    assert (difference.witness, difference.what) == ("ledger", f"{what} of send id")
