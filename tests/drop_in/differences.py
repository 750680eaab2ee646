"""What differs from fastapi-taskflow, and why: the table of the page `docs/coming-from/fastapi-taskflow.md`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class Difference(NamedTuple):
    """One row: the items it is about (`*` is any text), what to write here, and why."""

    items: tuple[str, ...]
    here: str
    why: str
    behaves: bool = False
    """The items have the same shape here, and behave differently."""

    def covers(self, item: str) -> bool:
        """Whether an item belongs to this row."""
        # Brackets are text in an item.
        return any(fnmatchcase(item.replace("[", "("), pattern.replace("[", "(")) for pattern in self.items)


class Topic(NamedTuple):
    """A part of the page."""

    title: str
    rows: tuple[Difference, ...]


_ = Difference

TOPICS = (
    Topic(
        "The manager",
        (
            _(
                ("TaskManager(snapshot_interval)",),
                "1.0 is the default",
                "Tasks with `persist=True` are committed before the response; the interval is only for the history of "
                "the others.",
            ),
            _(
                ("TaskManager(merged_list_ttl)", "TaskManager.merged_list()"),
                "`await task_manager.find(limit=1000)`",
                "History is not loaded as a whole: `find()` asks the backend for what is wanted, with the filters of "
                "the API.",
            ),
            _(
                ("TaskManager(instance_url)", "TaskManager(instance_tasks_prefix)", "TaskManager(registry_*)"),
                "leave them out",
                "Instances that share a backend see each other's tasks through it. They need no address, no calls to "
                "each other, and no registry.",
            ),
            _(
                ("TaskManager(retry_replaces_original)", "TaskManager.retry_replaces_original"),
                "leave it out, or `False`",
                "History is never rewritten: the new task and the original name each other in `retry_of` and "
                "`retried_by`. `True` raises an error that says so.",
            ),
            _(
                ("TaskManager.fernet", "TaskManager.logger", "TaskManager.registry", "TaskManager.enqueue_priority()"),
                "none",
                "These are parts of its engine. `task_manager.engine` has ours, without a promise to stay as they are.",
            ),
            _(
                ("TaskManager.get_tasks()", "TaskManager.get_tasks(…)", "TaskManager.get_tasks(background_tasks)"),
                "`Depends(task_manager.get_tasks)`, unchanged",
                "FastAPI calls it. It reads the request too, so that tasks start after the request's dependencies have "
                "finished. To call it by hand: `ManagedBackgroundTasks(task_manager, background_tasks)`.",
            ),
            _(
                ("TaskManager.update_queue_config()",),
                "`await task_manager.update_queue_config(...)`",
                "The new limits are stored in the backend, and hold on all instances.",
            ),
            _(
                ("TaskManager.queue_stats()",),
                "a dictionary of `QueueStats` by the name of the queue",
                "The peer returns a list of dictionaries.",
                behaves=True,
            ),
            _(
                ("TaskManager.install()",),
                "unchanged",
                "It changes this application only. The peer's changes every application of the process.",
                behaves=True,
            ),
            _(
                ("TaskManager.schedule_once()", "TaskManager.list_scheduled()", "TaskManager.cancel_scheduled()"),
                "unchanged, also without a backend; `ScheduledOnce` is a `ScheduledRun`",
                "`schedule_once` returns the plan, with the id that the task will have.",
                behaves=True,
            ),
            _(
                ("TaskManager.task(name)", "TaskManager.task(queue)"),
                "unchanged, but two tasks of one name, or the name of a queue that does not exist, are an error",
                "The name is the identity of a task type in stored tasks, metrics and retries. The peer lets the "
                "later function replace the earlier one, and puts tasks of an unknown queue into `default`.",
                behaves=True,
            ),
            _(
                ("TaskManager.store.*",),
                "`task_manager.store.get(task_id)` and `.list()` for live tasks; `await task_manager.get(task_id)` and "
                "`.find()` for all",
                "The engine is the only writer of a record, and readers get copies.",
            ),
        ),
    ),
    Topic(
        "Tasks",
        (
            _(
                ("ManagedBackgroundTasks(task_manager)",),
                "unchanged",
                "By hand and outside a request, a task starts once it is added; nobody needs to call the object.",
                behaves=True,
            ),
            _(
                ("ManagedBackgroundTasks.add_task()",),
                "unchanged",
                "A task with `persist=True` is committed before the response. If the request fails, its tasks do not "
                "run. An argument that cannot be stored is an error at the call.",
                behaves=True,
            ),
            _(
                ("TaskRecord(*)", "TaskRecord.from_dict()"),
                "`await task_manager.get(task_id)`",
                "Records are made by the engine alone, so their fields may be in another order and have other "
                "defaults: a `priority` that was not given is 5.",
            ),
            _(
                ("TaskRecord.encrypted_payload",),
                "none",
                "The stored arguments are one text, plain or encrypted; `args` and `kwargs` are empty if it is "
                "encrypted.",
            ),
            _(
                ("TaskRecord.args", "TaskRecord.kwargs"),
                "the arguments as JSON data",
                "Arguments are stored as JSON and never as pickle. The function gets them back in their own types; a "
                "record shows them to people.",
                behaves=True,
            ),
            _(
                ("TaskRecord.logs",),
                "a list of `LogEntry`; `None` where a record was read without its log",
                "An entry has its level, time, attempt and extra values. `str(entry)` is its message.",
                behaves=True,
            ),
            _(
                ("TaskRecord.to_dict()",),
                "the same fields, and more",
                "`logs` are objects, as in the API.",
                behaves=True,
            ),
            _(
                ("TaskConfig(name)", "TaskConfig(executor)"),
                "an empty name, `async`",
                "The decorator makes it, when the function and so its name and executor are known.",
            ),
            _(
                ("TaskContext(…)", "TaskContext(tags)"),
                "`with taskflow_otel.testing.task_context(attempt=1) as context:`",
                "Only a test makes a context; this one also records what the function logs.",
            ),
            _(
                ("TaskExecutionContext",),
                "none",
                "It carries data into the peer's executors, that nobody replaces. `get_task_context()` has its fields.",
            ),
            _(
                ("task_log(level)",),
                "unchanged",
                "A level that does not exist is an error, and `critical` exists.",
                behaves=True,
            ),
        ),
    ),
    Topic(
        "Planned runs",
        (
            _(
                ("ScheduledOnce(*)",),
                "`await task_manager.schedule_once(...)`",
                "Plans are made by the engine alone.",
            ),
            _(
                (
                    "ScheduledOnce.args",
                    "ScheduledOnce.kwargs",
                    "ScheduledOnce.encrypted_payload",
                    "ScheduledOnce.created_at",
                ),
                "none",
                "A plan shows what will run and when. Its arguments are stored as JSON, or as ciphertext.",
            ),
        ),
    ),
    Topic(
        "Backends",
        (
            _(
                ("SqliteBackend(…)", "SqliteBackend(db_path)", "SqliteBackend(max_workers)"),
                "`SqliteBackend(path)`",
                "The file has to be named. There is one writing connection, because SQLite has one writer.",
            ),
            _(
                ("RedisBackend(url)", "RedisBackend(prefix)", "RedisBackend(ttl)"),
                "`RedisBackend(url, prefix=...)`",
                "The address has to be named. Finished tasks expire by `retention_days`, and others never.",
            ),
            _(
                ("SqliteBackend.*", "RedisBackend.*", "SnapshotBackend"),
                "the protocol `taskflow_otel.backends.Backend`",
                "A backend of the peer takes snapshots. One of ours is a ledger: each transition is a write that "
                "checks a fencing token, which the methods of the peer cannot express. A backend of your own has to be "
                "rewritten; `taskflow_otel.testing.backends` is its test suite. Stored tasks are not taken over: let "
                "the old process finish its tasks first.",
            ),
            _(
                ("SnapshotScheduler",),
                "none",
                "It is a part of the peer's engine.",
            ),
        ),
    ),
    Topic(
        "Observers",
        (
            _(
                ("TaskObserver(min_level)",),
                "`debug` is the default",
                "An observer gets every log entry unless it says otherwise.",
            ),
            _(
                ("TaskObserver.on_lifecycle()", "LoggerChain.on_lifecycle()"),
                "unchanged",
                "There are more events: a task that is added, retried, cancelled or taken over is reported too, see "
                "`event.transition`.",
                behaves=True,
            ),
            _(
                ("FileLogger(min_level)", "StdoutLogger(min_level)"),
                "unchanged",
                "It also selects the lines of transitions: a retry or a cancellation counts as `warning`, a failure as "
                "`error`, others as `info`.",
                behaves=True,
            ),
        ),
    ),
    Topic(
        "The administration",
        (
            _(
                ("TaskAdmin(poll_interval)", "TaskAdmin(title)"),
                "5.0 and `Tasks`",
                "The interval is that of the totals; everything else comes through the live stream.",
            ),
            _(
                ("TaskAdmin(auth)",),
                "unchanged",
                "Changes need a proof against cross-site requests, which the page and the client send. Scripts use "
                "HTTP Basic or `tokens`.",
                behaves=True,
            ),
            _(
                ("GET /tasks",),
                "the newest 100; `limit`, `cursor` and filters",
                "History can have millions of tasks.",
                behaves=True,
            ),
            _(
                ("GET /tasks/metrics",),
                "`GET /tasks/stats`, or `/tasks/metrics` with `Accept: application/json`",
                "For any other `Accept` it is the page that Prometheus scrapes.",
                behaves=True,
            ),
            _(
                ("POST /tasks/{task_id}/retry → task", "POST /tasks/{task_id}/cancel", "POST /tasks/{task_id}/retry"),
                "202 with the task itself; 409 instead of 400 if its state does not allow it",
                "One shape for a task everywhere. What was asked for happens after the answer.",
                behaves=True,
            ),
            _(
                (
                    "POST /tasks/bulk-retry → dispatched",
                    "POST /tasks/bulk-retry → results",
                    "POST /tasks/retry-failed → dispatched",
                    "POST /tasks/retry-failed → results",
                ),
                "202 with `retried` (pairs of ids), `skipped` (ids with reasons), `matched`, `operation_id`",
                "An action on many tasks is a stored operation that survives a restart.",
            ),
            _(
                ("DELETE /tasks/history?*", "DELETE /tasks/history → *"),
                "`?before=7d`, and the answer has `deleted`",
                "The window is written as everywhere in the API: an age, or a time.",
            ),
            _(
                ("GET /tasks/audit → timestamp",),
                "`at`",
                "An entry also says how the user was known, from where, and whether it was refused.",
            ),
            _(
                ("GET /tasks/queues → *", "PATCH /tasks/queues/{queue_name} → pending"),
                "`ready` and `delayed` instead of `pending`",
                "A task that waits for a slot and one that waits for its time are different news. Finished and "
                "rejected tasks are in the metrics.",
            ),
            _(
                ("* /tasks/auth/*",),
                "`/tasks/login`, `POST /tasks/logout`",
                "Logging out changes something, so a link cannot do it.",
            ),
            _(
                ("GET /tasks/__peer/tasks", "GET /tasks/dashboard/*"),
                "`/tasks/events`, `/tasks/stats`, `/tasks/queues`, `/tasks`",
                "The page uses the public API. Instances do not call each other.",
            ),
        ),
    ),
)
ROWS = tuple(row for topic in TOPICS for row in topic.rows)
