"""The reference of settings, from signatures and docstrings: each setting with its default and its meaning.

python -m tests.settings_page        # write docs/configuration.md anew
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from taskflow_otel import (
    SLO,
    FileLogger,
    ManagedBackgroundTasks,
    QueueConfig,
    StdoutLogger,
    TaskAdmin,
    TaskManager,
    Telemetry,
    configure_telemetry,
)
from taskflow_otel.backends import MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from taskflow_otel.model.task_options import TASK_OPTIONS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"


class Part(NamedTuple):
    """One table: what is called, under which name, and where its docstring is."""

    title: str
    call: Callable[..., Any]
    described_by: Any


PARTS = (
    Part("TaskManager", TaskManager, TaskManager),
    Part("TaskAdmin", TaskAdmin, TaskAdmin),
    Part("@task_manager.task", TaskManager.task, TaskManager.task),
    Part("@task_manager.schedule", TaskManager.schedule, TaskManager.schedule),
    Part("add_task", ManagedBackgroundTasks.add_task, ManagedBackgroundTasks.add_task),
    Part("schedule_once", TaskManager.schedule_once, TaskManager.schedule_once),
    Part("QueueConfig", QueueConfig, QueueConfig),
    Part("SLO", SLO, SLO),
    Part("Telemetry", Telemetry, Telemetry),
    Part("configure_telemetry", configure_telemetry, configure_telemetry),
    Part("SqliteBackend", SqliteBackend, SqliteBackend),
    Part("PostgresBackend", PostgresBackend, PostgresBackend),
    Part("MySQLBackend", MySQLBackend, MySQLBackend),
    Part("RedisBackend", RedisBackend, RedisBackend),
    Part("FileLogger", FileLogger, FileLogger),
    Part("StdoutLogger", StdoutLogger, StdoutLogger),
)


def parameters(part: Part) -> list[inspect.Parameter]:
    """The settings of a call."""
    found = inspect.signature(part.call).parameters.values()
    shared = set() if part.title != "@task_manager.schedule" else TASK_OPTIONS.keys()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one for one in found if one.name not in NOT_SETTINGS | shared and one.kind not in variable]


def meanings(part: Part) -> dict[str, str]:
    """What the docstring says of each setting: the sentences from its name to the name of the next one."""
    names = [one.name for one in parameters(part)]
    text = " ".join((inspect.getdoc(part.described_by) or "").split())
    named = "|".join(map(re.escape, names))
    # A setting is introduced where a sentence begins with its name, or in the list that one begins with.
    starts = list(re.finditer(rf"(?:(?<=^)|(?<=[.;)] )|(?<=`, ))`(?:{named})(?:=[^`]*)?`", text))
    found: dict[str, str] = {}
    for index, start in enumerate(starts):
        end = starts[index + 1].start() if index + 1 < len(starts) else len(text)
        name = re.split(r"[`=]", start[0])[1]
        said = text[start.start() : end].strip()
        said = (
            re.split(r" Raises `| `clock` is for tests| The decorator may be used| Methods, `", said)[0]
            .strip()
            .rstrip(",")
        )
        found.setdefault(name, said)
    # Where several begin a sentence together, it is about each of them.
    for name in reversed(list(found)):
        if re.fullmatch(r"`[^`]*`", found[name]):
            order = list(found)
            found[name] = found[order[order.index(name) + 1]]
    return found


TOLD = {
    "TaskManager": {
        "loggers": "observers. Each has a bounded queue and a worker of its own.",
        "log_file": "a file for task logs, shorthand for one `FileLogger`.",
        "log_file_max_bytes": "`FileLogger(max_bytes=)` of `log_file`.",
        "log_file_backup_count": "`FileLogger(backup_count=)` of `log_file`.",
        "log_file_mode": "`FileLogger(mode=)` of `log_file`: `rotate` or `watched`.",
        "log_lifecycle": "`FileLogger(log_lifecycle=)` of `log_file`.",
    },
    "TaskAdmin": {
        "path": "where the API and the page are.",
        "role": "for an `auth` that is a dependency: a function from the user to `viewer`, `operator` or `None`.",
        "secret_key": "signs sessions. Without it each process makes one at its start, so that a restart ends all "
        "sessions, and several workers do not accept each other's.",
        "token_expiry": "seconds that a session lasts.",
        "title": "the title of the page.",
    },
    "@task_manager.task": {
        "delay": "seconds before the first retry.",
        "backoff": "the factor by which the wait grows with each further retry; 1 keeps it constant.",
        "max_delay": "the longest wait for a retry, in seconds.",
        "jitter": "the share by which each wait is spread at random: 0.1 is ±10 %.",
        "retry_on": "exceptions that are worth another attempt.",
        "no_retry_on": "exceptions that are not, even if `retry_on` includes them.",
    },
    "@task_manager.schedule": {
        "timezone": "the zone of `cron`, by its IANA name.",
        "name": "the name of the schedule, and of the task type if the function is not a task yet.",
    },
    "add_task": {
        "delay": "the earliest start, in seconds from now, or as a `timedelta`.",
        "run_at": "the earliest start, as an aware datetime.",
    },
    "schedule_once": {
        "run_key": "a later plan with the same key replaces the earlier one.",
        "idempotency_key": "that of `add_task`, for the task that the plan becomes.",
        "tags": "those of `add_task`.",
        "priority": "that of `add_task`.",
        "queue": "that of `add_task`.",
    },
    "Telemetry": {
        "tracer_provider": "for spans; without it the global one.",
        "logger_provider": "for log records; without it the global one.",
        "meter_provider": "for metrics of OpenTelemetry; without it the global one. Prometheus needs none.",
        "registry": "the registry of Prometheus; without it one of its own.",
        "propagation": "which attempts continue the trace of their request: see `docs/telemetry.md`.",
        "metrics_target": "how a scraper names this process, with several targets: see `docs/metrics.md`.",
        "max_label_values": "values of one label; further ones are counted as `_other`.",
        "buckets": "upper bounds in seconds, by the name of the histogram, in place of the defaults.",
        "keep_spans": "keeps the spans inside each attempt for the page of the task: see `docs/telemetry.md`.",
        "span_attributes": "attributes that are kept of these spans beside the usual ones, such as `db.query.text`.",
    },
    "configure_telemetry": {
        "service_name": "the name of the service; `OTEL_SERVICE_NAME` overrides it.",
        "resource_attributes": "what else describes the service; `OTEL_RESOURCE_ATTRIBUTES` overrides them.",
        "log_correlation": "puts `trace_id`, `span_id` and `task_id` on every record of the standard `logging`.",
    },
    "RedisBackend": {
        "url": "`redis://user:password@host/0`, `rediss://` for TLS.",
        "prefix": "begins every key.",
        "namespace": "separates applications that share a server.",
        "require_aof": "refuses to start if the server has no append-only file that is synced for each write.",
        "cluster": "for a Redis Cluster; all keys share one slot.",
        "wait_replicas": "replicas for which each write waits.",
        "wait_aof": "each write waits until the server's append-only file is synced (from Redis 7.2 on).",
        "max_connections": "connections of this process.",
    },
    "FileLogger": {"mode": "`rotate`, or `watched` for rotation by another program.", "format": "`text` or `json`."},
    "StdoutLogger": {"format": "`text` or `json`."},
    "SqliteBackend": {"namespace": "separates applications that share a file."},
    "PostgresBackend": {"namespace": "separates applications that share a database."},
}
"""Settings whose docstrings speak of several at once, or of more than the setting."""
VARIABLES = {
    "TASKFLOW_RUN": (
        "`here`",
        (
            "what this process runs. `here`: as each queue says; `pool`: tasks of shared queues, and all are shared; "
            "`none`: no task. See [workers](workers.md)."
        ),
    ),
    "TASKFLOW_QUEUES": ("all", "the shared queues from which it claims tasks, with commas."),
    "TASKFLOW_CONCURRENCY": (
        "none of its own",
        "claimed tasks that it runs at once, besides the limits of queues and executors.",
    ),
    "TASKFLOW_KIND": ("`web`", "what it was started as. `taskflow-otel worker` sets `worker`; leave it alone."),
    "TASKFLOW_METRICS_TARGET": ("its host and port", "that of `Telemetry(metrics_target=)`, which wins over it."),
    "TASKFLOW_URL": ("none", "the address of the administration, for the [command line](command-line.md)."),
    "TASKFLOW_TOKEN": ("none", "the API token of the command line."),
    "TASKFLOW_METRICS_TOKEN": ("none", "the token of the metrics pages, for `taskflow-otel reconcile`."),
    "TASKFLOW_CRASH_AT": ("none", "the moment at which a process under test dies: see [testing](testing.md)."),
    "DEMO_HOST": (
        "`127.0.0.1`",
        "that of `taskflow-otel demo --host`. `DEMO_PORT`, `DEMO_DB` and `DEMO_LOAD` are those of its other options.",
    ),
    "OTEL_SDK_DISABLED": ("`false`", "with `true`, `configure_telemetry` sets up nothing."),
    "OTEL_SERVICE_NAME": (
        "`service_name=`",
        "overrides it. `OTEL_RESOURCE_ATTRIBUTES` does the same with `resource_attributes=`.",
    ),
    "OTEL_TRACES_EXPORTER": (
        "`otlp`",
        "`otlp`, `console` or `none`. `OTEL_METRICS_EXPORTER` and `OTEL_LOGS_EXPORTER` are for the other signals.",
    ),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "`http://localhost:4317`",
        (
            "the collector. `OTEL_EXPORTER_OTLP_PROTOCOL` and the other variables of OTLP hold too, each also for one "
            "signal: see [telemetry](telemetry.md)."
        ),
    ),
    "OTEL_BSP_MAX_QUEUE_SIZE": (
        "2,048",
        (
            "spans that wait for the collector; `OTEL_BLRP_MAX_QUEUE_SIZE` is that of log records. Further ones are "
            "dropped and counted."
        ),
    ),
    "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": (
        "`OTEL_PYTHON_EXCLUDED_URLS`",
        "requests without a span, besides those for metrics and probes.",
    ),
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": (
        "none",
        "with `logs/dup`, exceptions are also events of spans, and not log records alone.",
    ),
}
"""Variables of the environment, each with its default and its meaning."""
CONSEQUENCES = {
    "TaskManager": {
        "snapshot_interval": "A shorter one writes history more often; a crash loses at most this much of it.",
        "requeue_pending": "Each task then costs a commit before the response.",
        "retention_days": "`None` keeps everything: the file or database grows without an end.",
        "capture_logs": "A library that logs much fills the 1,000 entries of a task.",
        "encrypt_args_key": "A process without the key leaves the task to one that has it.",
        "max_concurrent_tasks": "A queue's `concurrency` holds besides. `None` is no limit.",
        "max_sync_threads": "Plain `def` tasks beyond it wait; the threads of your sync routes are not touched.",
        "max_size": "Beyond it `add_task` raises `QueueFullError`; retries and requeues are not refused.",
        "shutdown_timeout": "The platform must wait longer before it kills: `terminationGracePeriodSeconds`, "
        "`stop_grace_period`, `--timeout-graceful-shutdown`.",
        "commit_timeout": "A slow database shows as 503 after this time, and the task does not run.",
        "lease_seconds": "A longer one survives longer pauses; with a shorter one, others take over sooner.",
    },
    "TaskAdmin": {
        "display_func_args": "Everyone who may read the page then reads the arguments.",
        "metrics_token": "Without it, and with `auth`, Prometheus needs a user and a password.",
        "auto_install": "Only routes of this application change.",
    },
    "@task_manager.task": {
        "persist": "The response waits for the commit. Without a backend it has no effect, and a warning.",
        "requeue_on_interrupt": "The function may then run twice: it has to be idempotent. Needs `persist`.",
        "timeout": "A thread cannot be stopped: it is asked, and reported as stuck if it does not end.",
        "eager": "It runs even if the request fails later.",
        "executor": "`process` needs the extra `process`, and arguments that can be sent to one.",
    },
}
"""What follows from a setting, and which others it meets."""
NOT_SETTINGS = {"app", "task_manager", "self", "func", "clock"}


def told(part: Part) -> dict[str, str]:
    """What each setting means."""
    texts = meanings(part) | TOLD.get(part.title, {})
    return texts | {
        name: f"{texts[name].rstrip('.')}. {more}" for name, more in CONSEQUENCES.get(part.title, {}).items()
    }


def page() -> str:
    """The page, as Markdown."""
    pieces = [_HEAD]
    for part in PARTS:
        known = told(part)
        rows = [f"| `{one.name}` | {_default(one)} | {_cell(known[one.name], one.name)} |" for one in parameters(part)]
        table = "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
        tail = (
            "\n\nIt also takes the options of [`@task_manager.task`](#task_managertask)."
            if "schedule" in part.title
            else ""
        )
        pieces.append(f"## {part.title}\n\n{table}{tail if part.title.startswith('@') else ''}")
    rows = [f"| `{name}` | {default} | {meaning} |" for name, (default, meaning) in VARIABLES.items()]
    pieces.append("\n".join([_VARIABLES, *rows]))
    return "\n\n".join(pieces) + "\n"


def _default(one: inspect.Parameter) -> str:
    if one.default is one.empty:
        return "required"
    if isinstance(one.default, timedelta):
        return f"{one.default.days} days"
    shown = repr(one.default)
    # A class by its name, and a default that is made anew by what it is.
    shown = getattr(one.default, "__name__", shown) if isinstance(one.default, type) else shown
    return "its own" if shown.startswith("<") else f"`{shown}`"


def _cell(text: str, name: str) -> str:
    said = re.sub(rf"^`{re.escape(name)}(?:=[^`]*)?`(?: \(([^)]*)\))?:? ", r"", text).rstrip(";,").strip()
    said = said if said.endswith((".", ")")) else f"{said}."
    return said.replace("|", "\\|")


_SHARED = "\n\nIt also takes the options of [`@task_manager.task`](#task_managertask)."
_HEAD = """\
# Configuration

Every setting with its default, its meaning and, where there is one, its consequence. The page is made from the
signatures and docstrings of the code. A wrong value raises `ConfigurationError` where it is given. Durations are
seconds; most settings also accept a `timedelta`."""

_VARIABLES = """\
## Variables of the environment

They are read when the process starts. An empty one counts as absent.

| variable | default | meaning |
|---|---|---|"""


def code() -> str:
    """All modules of the package."""
    return "\n".join(path.read_text("utf-8") for path in (ROOT / "taskflow_otel").rglob("*.py"))


def undescribed() -> list[str]:
    """The settings of which no docstring says anything."""
    return [f"{part.title}({one.name})" for part in PARTS for one in parameters(part) if one.name not in told(part)]


if __name__ == "__main__":
    PAGE.write_text(page())
