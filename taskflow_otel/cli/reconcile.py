"""The command `taskflow-otel reconcile`; its former name `audit` still works."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskflow_otel.cli.options import BEARER, MOMENT, as_json, namespace
from taskflow_otel.cli.output import bar, say_json
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import say

if TYPE_CHECKING:
    from taskflow_otel.reconcile.compare import Difference

METRICS_VARIABLE = "TASKFLOW_METRICS_TOKEN"
"""A variable of the environment: every user of the machine can read arguments."""


@click.command()
@click.option(
    "--backend",
    required=True,
    metavar="URL|PATH",
    help="Where the tasks are stored: postgresql://…, mysql://…, redis://… or the path of a SQLite database.",
)
@namespace
@click.option("--since", type=MOMENT, help="Only tasks created at or after TIME (ISO 8601; UTC).")
@click.option("--until", type=MOMENT, help="Only tasks created before TIME.")
@click.option(
    "--metrics",
    multiple=True,
    metavar="URL|FILE",
    help="A metrics page, such as http://localhost:8000/tasks/metrics; may be given several times.",
)
@click.option(
    "--together", is_flag=True, help="The pages are those of all targets: compare their sum, not each of them."
)
@click.option(
    "--prometheus",
    metavar="URL",
    help="A Prometheus server that scrapes all targets, such as http://localhost:9090.",
)
@click.option(
    "--selector",
    default="",
    metavar="MATCHERS",
    help="Which series of Prometheus to add up, such as 'job=\"shop\"' (default: all).",
)
@click.option(
    "--metrics-token",
    type=BEARER,
    envvar=METRICS_VARIABLE,
    help="The bearer token of the metrics pages and of Prometheus; better in the variable "
    f"${METRICS_VARIABLE}, since other users of the machine can read arguments.",
)
@click.option(
    "--baseline",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The metrics page as it was at --since, subtracted from the others.",
)
@click.option(
    "--export",
    "exports",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Spans, logs or metrics as the collector's file exporter writes them (OTLP/JSON, one export per line); may be "
    "given several times.",
)
@as_json
def reconcile(as_json: bool, **options: Any) -> int:
    """Compare the ledger with metrics, spans and logs.

    Prints every difference. Run it while no task runs. The exit status is 1 if there is a difference.
    """
    asked = Asked(**options)
    if (asked.metrics or asked.prometheus) and asked.since is not None and asked.baseline is None:
        raise ConfigurationError(
            "counters count from the start of the service: with --since, give the page of that moment as --baseline"
        )
    differences = asyncio.run(_compare(asked))
    for difference in differences:
        if as_json:
            say_json(asdict(difference), sys.stdout)
        else:
            say(str(difference), sys.stdout)
    if not as_json:
        say(f"{len(differences)} differences", sys.stdout)
    return 1 if differences else 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What to compare."""

    backend: str
    namespace: str | None
    since: datetime | None
    until: datetime | None
    metrics: tuple[str, ...]
    together: bool
    prometheus: str | None
    selector: str
    metrics_token: str | None
    baseline: Path | None
    exports: tuple[Path, ...]


async def _compare(asked: Asked) -> list[Difference]:
    # Help and completion load nothing of this.
    from taskflow_otel.cli.ledger import open_backend
    from taskflow_otel.reconcile.compare import reconcile as compare
    from taskflow_otel.reconcile.otlp_file import read_exports
    from taskflow_otel.reconcile.pages import read_page
    from taskflow_otel.reconcile.totals import prometheus_totals

    pages = {without_passwords(where): read_page(where, asked.metrics_token) for where in asked.metrics}
    baseline = None if asked.baseline is None else read_page(str(asked.baseline), None)
    totals = {}
    if asked.prometheus:
        ask = partial(read_page, token=asked.metrics_token)
        name = without_passwords(asked.prometheus)
        totals[name] = prometheus_totals(ask, asked.prometheus, asked.selector)
    exported = read_exports(asked.exports) if asked.exports else None
    backend = open_backend(asked.backend, asked.namespace)
    await backend.open()
    try:
        with bar("tasks compared", sys.stderr) as advance:
            return await compare(
                backend,
                since=asked.since,
                until=asked.until,
                metrics=pages,
                together=asked.together,
                totals=totals,
                baseline=baseline,
                exported=exported,
                progress=lambda done: advance(done, None),
            )
    finally:
        await backend.close()
