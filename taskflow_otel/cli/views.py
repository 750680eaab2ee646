"""The commands that show what an application runs with (`stats`, `queues`, `schedules`, `instances`), and `purge`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import click

from taskflow_otel.cli.options import asking, filters, ordering, reading, reason
from taskflow_otel.cli.output import bar, say_json, say_table
from taskflow_otel.model.vocabulary import OperationStatus
from taskflow_otel.runtime.terminal import say

if TYPE_CHECKING:
    from pydantic import BaseModel

    from taskflow_otel.cli.ledger import Ledger
    from taskflow_otel.cli.orders import Orders
    from taskflow_otel.client import Client
    from taskflow_otel.wire.bulk import DeletedOut

QUEUES = (
    "name", "running", "ready", "in_pool", "delayed", "claimers", "concurrency", "max_size", "paused",
    "oldest_ready_age_seconds",
)  # fmt: skip
SCHEDULES = ("name", "kind", "rule", "timezone", "next_run", "last_run", "paused", "missed", "errors")
TYPES = (
    "func_name", "finished", "failure_share", "retries", "run_p50_seconds", "run_p95_seconds", "run_p99_seconds",
    "wait_p95_seconds", "run_share", "change",
)  # fmt: skip
INSTANCES = ("instance_id", "state", "pid", "host", "started_at", "heartbeat_at")
_POLL = 0.5
"""Seconds between two looks at an operation."""


@click.command()
@filters
@reading
def stats(source: Client | Ledger, filters: Any, as_json: bool) -> int:
    """Show how many tasks are in each state."""
    found = source.get_stats(**filters).model_dump(mode="json")
    if as_json:
        say_json(found, sys.stdout)
    else:
        for name, value in found.items():
            say(f"{name:22}{'-' if value is None else value}", sys.stdout)
    return 0


@click.command()
@asking
def queues(source: Client, as_json: bool) -> int:
    """Show the queues, with their limits."""
    return _table(source.list_queues(), QUEUES, as_json)


@click.command()
@click.option("--window", type=click.Choice(["1h", "24h"]), default="1h", show_default=True, help="Over which time.")
@asking
def types(source: Client, window: Literal["1h", "24h"], as_json: bool) -> int:
    """Show the types of tasks, with their run times and the share of failures."""
    return _table(source.list_types(window=window).types, TYPES, as_json)


@click.command()
@asking
def schedules(source: Client, as_json: bool) -> int:
    """Show the schedules, with their next runs."""
    return _table(source.list_schedules(), SCHEDULES, as_json)


@click.command()
@reading
def instances(source: Client | Ledger, as_json: bool) -> int:
    """Show the processes that run the tasks."""
    return _table(source.list_instances(), INSTANCES, as_json)


@click.command()
@filters
@click.option(
    "--before", metavar="TIME", required=True, help="Those that ended before: an age (7d), or a time (ISO 8601)."
)
@click.option("--dry-run", is_flag=True, help="Delete nothing: only count them.")
@click.option("--wait", is_flag=True, help="Return when all are deleted, if that continues in the background.")
@reason
@ordering
def purge(
    source: Client | Orders, filters: Any, before: str, dry_run: bool, wait: bool, reason: str | None, as_json: bool
) -> int:
    """Delete finished tasks, for good."""
    done = source.delete_history(before=before, dry_run=dry_run or None, reason=reason, **filters)
    if wait:
        done = _ended(source, done)
    if as_json:
        say_json(done.model_dump(mode="json"), sys.stdout)
    elif dry_run:
        say(f"{done.matched} tasks would be deleted", sys.stdout)
    else:
        say(f"deleted {done.deleted} of {done.matched} tasks ({done.status})", sys.stdout)
    # One that runs on in the background may still come to the rest.
    refused = done.status != OperationStatus.RUNNING and not dry_run and done.deleted < done.matched
    return 1 if refused or done.status == OperationStatus.FAILED else 0


def _ended(source: Client | Orders, done: DeletedOut) -> DeletedOut:
    """The deletion once it has ended, with a bar for those who wait."""
    if done.operation_id is None:
        return done
    with bar("deleted", sys.stderr) as advance:
        while done.status == OperationStatus.RUNNING:
            Event().wait(_POLL)
            found = source.get_operation(done.operation_id)
            advance(found.done, found.total)
            done = done.model_copy(
                update={"deleted": found.succeeded, "matched": found.total, "more": False, "status": found.status}
            )
    return done


def _table(rows: Sequence[BaseModel], columns: Sequence[str], as_json: bool) -> int:
    """Print rows below the names of their columns, or each as JSON."""
    data = [row.model_dump(mode="json") for row in rows]
    if as_json:
        for one in data:
            say_json(one, sys.stdout)
    else:
        say_table(columns, [[one[column] for column in columns] for one in data], sys.stdout)
    return 0
