"""The command `taskflow-otel reconcile`; its former name `audit` still works."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.reconcile.compare import Difference, reconcile
from taskflow_otel.reconcile.otlp_file import read_exports
from taskflow_otel.reconcile.pages import read_page
from taskflow_otel.reconcile.totals import prometheus_totals
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import say

METRICS_VARIABLE = "TASKFLOW_METRICS_TOKEN"
"""A variable of the environment: every user of the machine can read arguments."""


def add_reconcile(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(
        "reconcile",
        aliases=["audit"],
        help="compare the ledger with metrics, spans and logs",
        description="Compare the ledger with metrics, spans and logs, and print every difference. Run it while no task "
        "runs. The exit status is 1 if there is a difference.",
    )
    parser.add_argument(
        "--backend",
        required=True,
        metavar="URL|PATH",
        help="where the tasks are stored: postgresql://…, mysql://…, redis://… or the path of a SQLite database",
    )
    parser.add_argument(
        "--since", type=_moment, metavar="TIME", help="only tasks created at or after TIME (ISO 8601; UTC)"
    )
    parser.add_argument("--until", type=_moment, metavar="TIME", help="only tasks created before TIME")
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="URL|FILE",
        help="a metrics page, such as http://localhost:8000/tasks/metrics; may be given several times",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="the pages are those of all targets: compare their sum, not each of them",
    )
    parser.add_argument(
        "--prometheus",
        metavar="URL",
        help="a Prometheus server that scrapes all targets, such as http://localhost:9090",
    )
    parser.add_argument(
        "--selector",
        default="",
        metavar="MATCHERS",
        help="which series of Prometheus to add up, such as 'job=\"shop\"' (default: all)",
    )
    parser.add_argument(
        "--metrics-token",
        type=_token,
        # An empty variable counts as absent.
        default=os.environ.get(METRICS_VARIABLE) or None,
        metavar="TOKEN",
        help="the bearer token of the metrics pages and of Prometheus; better in the variable "
        f"${METRICS_VARIABLE}, since other users of the machine can read arguments",
    )
    parser.add_argument(
        "--baseline",
        metavar="FILE",
        type=Path,
        help="the metrics page as it was at --since, subtracted from the others",
    )
    parser.add_argument(
        "--export",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="spans, logs or metrics as the collector's file exporter writes them (OTLP/JSON, one export per line)",
    )
    parser.set_defaults(run=run_reconcile)


def run_reconcile(options: argparse.Namespace) -> int:
    """Print every difference; return 1 if there is one."""
    if (options.metrics or options.prometheus) and options.since is not None and options.baseline is None:
        raise ConfigurationError(
            "counters count from the start of the service: with --since, give the page of that moment as --baseline"
        )
    differences = asyncio.run(_compare(options))
    for difference in differences:
        say(str(difference), sys.stdout)
    say(f"{len(differences)} differences", sys.stdout)
    return 1 if differences else 0


async def _compare(options: argparse.Namespace) -> list[Difference]:
    pages = {without_passwords(where): read_page(where, options.metrics_token) for where in options.metrics}
    baseline = None if options.baseline is None else read_page(str(options.baseline), None)
    totals = {}
    if options.prometheus:
        ask = partial(read_page, token=options.metrics_token)
        name = without_passwords(options.prometheus)
        totals[name] = prometheus_totals(ask, options.prometheus, options.selector)
    exported = read_exports(options.export) if options.export else None
    backend = open_backend(options.backend)
    await backend.open()
    try:
        return await reconcile(
            backend,
            since=options.since,
            until=options.until,
            metrics=pages,
            together=options.together,
            totals=totals,
            baseline=baseline,
            exported=exported,
        )
    finally:
        await backend.close()


def open_backend(where: str) -> Backend:
    """The backend that a URL or path names; raises `ConfigurationError` if it names no backend."""
    scheme = where.partition("://")[0].partition("+")[0] if "://" in where else ""
    match scheme:
        case "postgresql" | "postgres":
            return PostgresBackend(where)
        case "mysql" | "mariadb":
            return MySQLBackend(where)
        case "redis" | "rediss" | "unix":
            return RedisBackend(where)
        case "" | "sqlite":
            path = Path(where.removeprefix("sqlite:///"))
            if not path.is_file():
                raise ConfigurationError(f"there is no database {str(path)!r}")
            return SqliteBackend(path)
        case _:
            raise ConfigurationError(
                f"--backend must be a postgresql, mysql or redis URL, or a path, not {without_passwords(where)!r}"
            )


def _token(text: str) -> str:
    # The message of a failed request would contain a token that no header can have.
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise argparse.ArgumentTypeError("a token consists of printable ASCII characters")
    return text.strip()


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an ISO 8601 time, such as 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
