"""The commands about single tasks: `ls`, `show`, `logs`, `retry` and `cancel`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from taskflow_otel.cli.options import COUNT, TASK_ID, filters, ordering, reading, reason
from taskflow_otel.cli.output import bar, say_json, say_table, terminal
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.vocabulary import ItemOutcome, OperationKind
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import say

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from taskflow_otel.cli.ledger import Ledger
    from taskflow_otel.cli.orders import Order, Orders
    from taskflow_otel.client import Client
    from taskflow_otel.wire.tasks import LogOut, TaskDetailOut, TaskOut

_OF_THE_TASK = {404, 409, 422}
"""Statuses that say something of one task. After another one, no other task would fare better."""
_COLUMNS = ("task_id", "created_at", "status", "func_name", "error")
_TABLE = 1_000
"""Tasks of a table; a longer list is printed as it arrives."""
_POLL = 1.0
"""Seconds between two looks at a log that is followed."""


@click.command()
@filters
@click.option("--args", "arguments", metavar="NAME:VALUE", help="`name:value` of an argument that the API shows.")
@click.option("--limit", type=COUNT, default=100, show_default=True, help="How many at most.")
@reading
def ls(source: Client | Ledger, filters: Any, arguments: str | None, limit: int, as_json: bool) -> int:
    """List tasks, the newest first.

    With `--args`, tasks are searched until the limit is reached, or all of them; how far it came is said at the end.
    """
    found: Iterable[TaskOut] = islice(source.iter_tasks(limit=min(limit, 1000), **filters), limit)
    if arguments is not None:
        if _is_ledger(source):
            raise ConfigurationError("--args needs an application that displays arguments: give --url, not --backend")
        found = _searched(source, arguments, limit, filters)
    if not as_json and limit <= _TABLE and terminal(sys.stdout):
        say_table(_COLUMNS, [_cells(task) for task in found], sys.stdout)
        return 0
    for task in found:
        _print(task, as_json)
    return 0


def _searched(source: Client, arguments: str, limit: int, filters: Any) -> Iterator[TaskOut]:
    """The tasks with these arguments; says on standard error how far the search has come, also if it is ended."""
    number = unsearchable = 0
    back_to: datetime | None = None
    left, cursor = limit, None
    try:
        while left:
            page = source.list_tasks(limit=min(left, 1000), cursor=cursor, args=arguments, **filters)
            number += page.searched or 0
            unsearchable += page.unsearchable or 0
            back_to, cursor = page.back_to or back_to, page.next_cursor
            yield from page.tasks
            left -= len(page.tasks)
            if cursor is None:
                break
    finally:
        said = f"searched the arguments of {number} tasks"
        if back_to is not None:
            said += f", back to {back_to:%Y-%m-%d %H:%M:%S} UTC" if cursor else ", which are all"
        if unsearchable:
            said += f"; those of {unsearchable} more cannot be read (encrypted, damaged or unknown)"
        say(said, sys.stderr)


@click.command()
@click.argument("task_id", metavar="ID", type=TASK_ID)
@reading
def show(source: Client | Ledger, task_id: str, as_json: bool) -> int:
    """Show one task with its log, its error and its timeline."""
    task = source.get_task(task_id)
    _print(task, as_json)
    if not as_json:
        for line in _details(task):
            say(line, sys.stdout)
    return 0


@click.command()
@click.argument("task_id", metavar="ID", type=TASK_ID)
@click.option("--follow", "-f", is_flag=True, help="Print further lines as they come, until the task has finished.")
@reading
def logs(source: Client | Ledger, task_id: str, follow: bool, as_json: bool) -> int:
    """Print the log of one task."""
    last: int | None = None
    while True:
        task = source.get_task(task_id, logs_after=last)
        for log in task.logs or ():
            last = log.seq
            if as_json:
                say_json(log.model_dump(mode="json"), sys.stdout)
            else:
                say(_line(log), sys.stdout)
        sys.stdout.flush()
        if not follow or task.status.finished:
            return 0
        Event().wait(_POLL)


@click.command()
@click.argument("task_ids", metavar="ID...", type=TASK_ID, nargs=-1, required=True)
@click.option("--rerun", is_flag=True, help="Also a task that succeeded.")
@reason
@ordering
def retry(source: Client | Orders, task_ids: tuple[str, ...], rerun: bool, reason: str | None, as_json: bool) -> int:
    """Retry finished tasks."""
    if _stores(source):
        if rerun:
            raise ConfigurationError("--rerun needs a running application (--url): a stored order cannot ask for it")
        return _order(source, OperationKind.RETRY, task_ids, reason, as_json)
    return _each(task_ids, lambda one: source.retry_task(one, rerun=rerun or None, reason=reason), as_json)


@click.command()
@click.argument("task_ids", metavar="ID...", type=TASK_ID, nargs=-1, required=True)
@reason
@ordering
def cancel(source: Client | Orders, task_ids: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Cancel tasks that wait or run."""
    if _stores(source):
        return _order(source, OperationKind.CANCEL, task_ids, reason, as_json)
    return _each(task_ids, lambda one: source.cancel_task(one, reason=reason), as_json)


def _is_ledger(source: Client | Ledger) -> TypeIs[Ledger]:
    """Whether the command reads a backend; see `_stores`."""
    return not hasattr(source, "list_tasks")


def _stores(source: Client | Orders) -> TypeIs[Orders]:
    """Whether the command stores an order in a backend; otherwise it asks an application."""
    # Not `isinstance`: who asks an application does not load the engine for it.
    return hasattr(source, "carry_out")


def _each(task_ids: tuple[str, ...], act: Callable[[str], TaskOut], as_json: bool) -> int:
    """Act on every task. One that is refused hides no other; the exit status is then 1."""
    from taskflow_otel.client.errors import ProblemError

    refused = 0
    with bar("tasks", sys.stderr) as advance:
        for number, task_id in enumerate(task_ids):
            advance(number, len(task_ids))
            try:
                _print(act(task_id), as_json)
            except ProblemError as exc:
                if exc.status not in _OF_THE_TASK:
                    raise
                refused += 1
                say(f"{task_id}: {exc.detail}", sys.stderr)
    return 1 if refused else 0


def _order(source: Orders, kind: OperationKind, task_ids: Sequence[str], reason: str | None, as_json: bool) -> int:
    """Store what the instances shall do with tasks, and print what they have done."""
    with bar("tasks", sys.stderr) as advance:
        order = source.carry_out(kind, task_ids, reason, advance)
    refused = 0
    for item in order.items:
        if item.outcome == ItemOutcome.DONE:
            _print(source.get_task(item.new_task_id or item.task_id), as_json)
        elif item.outcome is not None:
            refused += 1
            say(f"{item.task_id}: {item.detail}", sys.stderr)
    if order.waits:
        say(_waits(order), sys.stderr)
    failed = order.operation is not None and order.operation.error is not None
    return 1 if refused or failed else 0


def _waits(order: Order) -> str:
    assert order.operation is not None
    who = "the instances carry it out" if order.anyone else "no instance runs, and the next one that starts does it"
    return f"stored as operation {order.operation.operation_id}: {who}"


def _print(task: TaskOut, as_json: bool) -> None:
    if as_json:
        say_json(task.model_dump(mode="json"), sys.stdout)
        return
    task_id, created, status, name, error = _cells(task)
    say(f"{task_id}  {created}  {status:11}  {name}{'  ' + error if error else ''}", sys.stdout)


def _cells(task: TaskOut) -> tuple[str, str, str, str, str]:
    error = f"{task.error_type}: {task.error}" if task.error else ""
    return task.task_id, f"{task.created_at:%Y-%m-%d %H:%M:%S}", task.status.value, task.func_name, error


def _line(log: LogOut) -> str:
    return f"{log.timestamp:%H:%M:%S.%f}  {log.level}  {log.message}"


def _details(task: TaskDetailOut) -> Iterable[str]:
    for entry in task.timeline:
        why = f" ({entry.reason})" if entry.reason else ""
        yield f"  {entry.timestamp:%H:%M:%S.%f}  attempt {entry.attempt}  {entry.transition}{why}  {entry.instance}"
    for log in task.logs or ():
        yield f"  {_line(log)}"
    for line in without_passwords(task.stacktrace or "").splitlines():
        yield f"  {line}"
