"""The commands that show a running application as tables (`stats`, `queues`, `schedules`, `instances`), and `purge`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from taskflow_otel.cli.output import say_json
from taskflow_otel.cli.remote import FILTERS, add_address, filters_of
from taskflow_otel.model.vocabulary import OperationStatus
from taskflow_otel.runtime.terminal import say

if TYPE_CHECKING:
    from pydantic import BaseModel

    from taskflow_otel.client import Client

Work = Callable[["Client", argparse.Namespace], int]

QUEUES = ("name", "running", "ready", "delayed", "concurrency", "max_size", "paused", "oldest_ready_age_seconds")
SCHEDULES = ("name", "kind", "rule", "timezone", "next_run", "last_run", "paused", "missed", "errors")
INSTANCES = ("instance_id", "state", "pid", "host", "started_at", "heartbeat_at")


def add_views(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    stats = add_command("stats", help="how many tasks a running application has in each state")
    _filters(stats)
    queues = add_command("queues", help="the queues of a running application, with their limits")
    schedules = add_command("schedules", help="the schedules of a running application, with their next runs")
    instances = add_command("instances", help="the processes that run the tasks of an application")
    purge = add_command("purge", help="delete finished tasks of a running application, for good")
    _filters(purge)
    purge.add_argument(
        "--before", metavar="TIME", required=True, help="those that ended before: an age (7d), or a time (ISO 8601)"
    )
    purge.add_argument("--dry-run", action="store_true", help="delete nothing: only count them")
    purge.add_argument("--reason", metavar="TEXT", help="kept in the audit")
    works: dict[argparse.ArgumentParser, Work] = {
        stats: _stats,
        queues: lambda client, options: _table(client.list_queues(), QUEUES, options),
        schedules: lambda client, options: _table(client.list_schedules(), SCHEDULES, options),
        instances: lambda client, options: _table(client.list_instances(), INSTANCES, options),
        purge: _purge,
    }
    for command, work in works.items():
        add_address(command)
        command.set_defaults(work=work)


def _filters(command: argparse.ArgumentParser) -> None:
    for name in FILTERS:
        command.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT", help=f"the filter {name} of the API")


def _stats(client: Client, options: argparse.Namespace) -> int:
    found = client.get_stats(**filters_of(options)).model_dump(mode="json")
    if options.json:
        say_json(found)
    else:
        for name, value in found.items():
            say(f"{name:22}{_text(value)}", sys.stdout)
    return 0


def _purge(client: Client, options: argparse.Namespace) -> int:
    done = client.delete_history(
        before=options.before, dry_run=options.dry_run or None, reason=options.reason, **filters_of(options)
    )
    if options.json:
        say_json(done.model_dump(mode="json"))
    elif options.dry_run:
        say(f"{done.matched} tasks would be deleted", sys.stdout)
    else:
        say(f"deleted {done.deleted} of {done.matched} tasks ({done.status})", sys.stdout)
    # One that runs on in the background may still come to the rest.
    refused = done.status != OperationStatus.RUNNING and not options.dry_run and done.deleted < done.matched
    return 1 if refused or done.status == OperationStatus.FAILED else 0


def _table(rows: Sequence[BaseModel], columns: Sequence[str], options: argparse.Namespace) -> int:
    """Print rows below the names of their columns, or each as JSON."""
    data = [row.model_dump(mode="json") for row in rows]
    if options.json:
        for one in data:
            say_json(one)
        return 0
    cells = [list(columns), *([_text(one[column]) for column in columns] for one in data)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), sys.stdout)
    return 0


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
