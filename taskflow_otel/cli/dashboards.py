"""`taskflow-otel dashboards export`: writes the observability stack, from a checkout and from an installed wheel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

import click

from taskflow_otel.cli.options import ADDRESS
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime.terminal import say

COMPOSE = "docker-compose.observability.yml"
RUNBOOKS = "docs/runbooks.md"
STACK = (
    COMPOSE,
    "dashboards/grafana",
    "dashboards/prometheus",
    "dashboards/loki.yaml",
    "dashboards/otel-collector.yaml",
    RUNBOOKS,
)
"""What `dashboards export` writes, relative to the checkout; the wheel has it in `taskflow_otel/stack`."""


@click.group(subcommand_metavar="ACTION", no_args_is_help=False)
def dashboards() -> None:
    """Write the observability stack's files."""


@dashboards.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "--runbooks",
    metavar="URL",
    type=ADDRESS,
    default=RUNBOOKS,
    help=f"The address of the runbooks that the alerts link to (default: {RUNBOOKS}, relative to DIR).",
)
def export(directory: Path, force: bool, runbooks: str) -> int:
    """Write the stack's files into a directory.

    Grafana dashboards, Prometheus rules, the configuration of the stack and its compose file. The directory is created
    if it does not exist.
    """
    written = export_dashboards(directory, force=force, runbooks=runbooks)
    say(f"wrote {len(written)} files to {directory}; {RUNBOOKS} there explains each alert", sys.stdout)
    return 0


def export_dashboards(directory: Path, *, force: bool = False, runbooks: str = RUNBOOKS) -> list[Path]:
    """Write the observability stack into a directory; return the files.

    `force`: overwrite existing files. `runbooks`: the URL of the runbooks in the alerts. Raises `ConfigurationError`
    if files exist, and then writes nothing; also if the directory cannot be written.
    """
    contents = {directory / path: source for path, source in _stack()}
    in_the_way = sorted(path for path in contents if path.exists())
    if in_the_way and not force:
        raise ConfigurationError(
            f"{in_the_way[0]} exists already ({len(in_the_way)} of {len(contents)} files do): "
            "choose another directory, or give --force to overwrite them"
        )
    try:
        for path, source in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            content = source.read_bytes()
            if runbooks != RUNBOOKS and path.suffix == ".yml":
                content = content.replace(f"runbook_url: {RUNBOOKS}".encode(), f"runbook_url: {runbooks}".encode())
            path.write_bytes(content)
    except OSError as exc:
        raise ConfigurationError(f"cannot write to {directory}: {exc}") from exc
    return list(contents)


def _stack() -> Iterator[tuple[PurePosixPath, Traversable]]:
    """Each file of the stack with its path."""
    root = carried()
    for part in STACK:
        found = root / part
        if not (found.is_dir() or found.is_file()):
            raise ConfigurationError(f"this installation lacks {part}: install the taskflow-otel wheel again")
        yield from _files(PurePosixPath(part), found)


def _files(path: PurePosixPath, found: Traversable) -> Iterator[tuple[PurePosixPath, Traversable]]:
    if found.is_file():
        yield path, found
        return
    for child in sorted(found.iterdir(), key=lambda item: item.name):
        yield from _files(path / child.name, child)


def carried() -> Path:
    """The directory with what the project keeps beside its package: in a checkout its root, in a wheel a folder."""
    package = Path(str(files("taskflow_otel")))
    inside = package / "stack"
    return inside if inside.is_dir() else package.parent
