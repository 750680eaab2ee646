"""The commands that ask a running application: `ls`, `show`, `retry` and `cancel`, through the client of the API."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from taskflow_otel.cli.output import say_json
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import say

if TYPE_CHECKING:
    from taskflow_otel.client import Client
    from taskflow_otel.wire.bodies import TaskDetailOut, TaskOut

URL, TOKEN = "TASKFLOW_URL", "TASKFLOW_TOKEN"
"""Variables of the environment. A token is never an argument, since every user of the machine can read arguments."""
_OF_THE_TASK = {404, 409, 422}
"""Statuses that say something of one task. After another one, no other task would fare better."""
FILTERS = (
    "status", "func_name", "queue", "tag", "source", "since", "until", "ended_since", "ended_until", "trace_id", "q",
)  # fmt: skip
"""The names of `Filters`, which cannot be imported without httpx."""


def add_remote(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    ls = add_command("ls", help="list the tasks of a running application, the newest first")
    for name in FILTERS:
        ls.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT", help=f"the filter {name} of the API")
    ls.add_argument("--limit", type=_count, default=100, metavar="N", help="how many at most (default: 100)")
    ls.set_defaults(work=_list)
    show = add_command("show", help="one task with its log, its error and its timeline")
    show.set_defaults(work=_show)
    retry = add_command("retry", help="retry finished tasks")
    retry.add_argument("--rerun", action="store_true", help="also a task that succeeded")
    retry.set_defaults(work=_retry)
    cancel = add_command("cancel", help="cancel tasks that wait or run")
    cancel.set_defaults(work=_cancel)
    show.add_argument("task_ids", nargs=1, type=_task_id, metavar="ID")
    for command in (retry, cancel):
        command.add_argument("task_ids", nargs="+", type=_task_id, metavar="ID")
        command.add_argument("--reason", metavar="TEXT", help="kept in the audit")
    for command in (ls, show, retry, cancel):
        add_address(command)


def add_address(command: argparse.ArgumentParser) -> None:
    """Let a command ask the application that the user names; its `work` gets the client and the options."""
    command.add_argument(
        "--url",
        default=os.environ.get(URL),
        help=f"address of the administration, such as http://ada:secret@localhost:8000/tasks (or: ${URL}); "
        f"a bearer token is taken from ${TOKEN}",
    )
    command.add_argument("--json", action="store_true", help="one JSON object for each entry")
    command.set_defaults(run=_run)


def filters_of(options: argparse.Namespace) -> Any:
    """The filters that were given."""
    return {name: getattr(options, name) for name in FILTERS if getattr(options, name) is not None}


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tasks (1 to 1000000)")
    return int(text)


def _task_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a task, which is a UUID in lower case")
    return text


def _run(options: argparse.Namespace) -> int:
    if not options.url:
        raise ConfigurationError(f"which application? Give --url http://localhost:8000/tasks, or set {URL}")
    # Only these commands need httpx.
    from taskflow_otel.client import Client

    with Client(options.url, token=os.environ.get(TOKEN) or None) as client:
        status: int = options.work(client, options)
    return status


def _list(client: Client, options: argparse.Namespace) -> int:
    for task in islice(client.iter_tasks(limit=min(options.limit, 1000), **filters_of(options)), options.limit):
        _print(task, options)
    return 0


def _show(client: Client, options: argparse.Namespace) -> int:
    task = client.get_task(options.task_ids[0])
    _print(task, options)
    if not options.json:
        for line in _details(task):
            say(line, sys.stdout)
    return 0


def _retry(client: Client, options: argparse.Namespace) -> int:
    return _each(options, lambda one: client.retry_task(one, rerun=options.rerun or None, reason=options.reason))


def _cancel(client: Client, options: argparse.Namespace) -> int:
    return _each(options, lambda one: client.cancel_task(one, reason=options.reason))


def _each(options: argparse.Namespace, act: Callable[[str], TaskOut]) -> int:
    """Act on every task. One that is refused hides no other; the exit status is then 1."""
    from taskflow_otel.client.errors import ProblemError

    refused = 0
    for task_id in options.task_ids:
        try:
            _print(act(task_id), options)
        except ProblemError as exc:
            if exc.status not in _OF_THE_TASK:
                raise
            refused += 1
            say(f"{task_id}: {exc.detail}", sys.stderr)
    return 1 if refused else 0


def _print(task: TaskOut, options: argparse.Namespace) -> None:
    if options.json:
        say_json(task.model_dump(mode="json"))
        return
    error = f"  {task.error_type}: {task.error}" if task.error else ""
    say(f"{task.task_id}  {task.created_at:%Y-%m-%d %H:%M:%S}  {task.status:11}  {task.func_name}{error}", sys.stdout)


def _details(task: TaskDetailOut) -> Iterable[str]:
    for entry in task.timeline:
        reason = f" ({entry.reason})" if entry.reason else ""
        yield f"  {entry.timestamp:%H:%M:%S.%f}  attempt {entry.attempt}  {entry.transition}{reason}  {entry.instance}"
    for log in task.logs or ():
        yield f"  {log.timestamp:%H:%M:%S.%f}  {log.level}  {log.message}"
    for line in without_passwords(task.stacktrace or "").splitlines():
        yield f"  {line}"
