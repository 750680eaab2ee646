"""`taskflow-otel demo`: the example app, from a checkout and from an installed wheel."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec

import click

from taskflow_otel.cli.dashboards import carried
from taskflow_otel.cli.options import PORT
from taskflow_otel.errors import ConfigurationError, MissingExtraError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, envvar="DEMO_HOST", help="Where it listens.")
@click.option("--port", type=PORT, default=8000, show_default=True, envvar="DEMO_PORT", help="The port.")
@click.option("--db", metavar="PATH", default="demo.db", show_default=True, envvar="DEMO_DB", help="The SQLite file.")
@click.option(
    "--load", type=click.FloatRange(0, 100), default=1.0, show_default=True, envvar="DEMO_LOAD",
    help="The orders per second that it places with itself; 0: none.",
)  # fmt: skip
def demo(host: str, port: int, db: str, load: float) -> int:
    """Start an example shop with tasks of each kind.

    With the extra `otel`, tracing is on, and each task links to its trace. Each option can also be set as a variable
    (DEMO_HOST, DEMO_PORT, DEMO_DB, DEMO_LOAD).
    """
    if find_spec("uvicorn") is None:
        raise MissingExtraError("the demo", "worker")
    # The example reads them when it is imported.
    os.environ.update(DEMO_HOST=host, DEMO_PORT=str(port), DEMO_DB=db, DEMO_LOAD=str(load))
    sys.path.insert(0, str(carried()))
    example = importlib.import_module("examples.demo")
    try:
        example.main()
    except SystemExit as end:
        # A sentence: the port is taken. A number: uvicorn has logged why.
        if isinstance(end.code, str):
            raise ConfigurationError(end.code) from None
        return 2
    return 0
