"""The command `taskflow-otel`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from taskflow_otel.cli.doctor import add_doctor
from taskflow_otel.cli.output import Arguments, messages_on
from taskflow_otel.cli.remote import add_remote
from taskflow_otel.cli.views import add_views
from taskflow_otel.cli.worker import add_worker
from taskflow_otel.errors import ConfigurationError, TaskflowError
from taskflow_otel.reconcile.command import add_reconcile
from taskflow_otel.runtime.terminal import say
from taskflow_otel.version import __version__

FAILED = 2
INTERRUPTED = 130

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process); return its exit status.

    0: done. 1: it found a difference, or a task was refused. 2: it could not do its work, and says why in one line.
    """
    options = _parser().parse_args(arguments)
    with messages_on(sys.stderr):
        try:
            status: int = options.run(options)
            sys.stdout.flush()
        except BrokenPipeError:
            # The program that reads the output has ended. The interpreter flushes once more when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except (TaskflowError, OSError) as exc:
            say(f"taskflow-otel: {exc}", sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="taskflow-otel", description="Tools around taskflow-otel.")
    parser.add_argument("--version", action="version", version=f"taskflow-otel {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_dashboards(commands.add_parser)
    add_doctor(commands.add_parser)
    add_reconcile(commands.add_parser)
    add_remote(commands.add_parser)
    add_worker(commands.add_parser)
    add_views(commands.add_parser)
    return parser


def _add_dashboards(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    dashboards = add_command("dashboards", help="the observability stack: dashboards, rules, configuration")
    actions = dashboards.add_subparsers(metavar="ACTION", required=True)
    export = actions.add_parser(
        "export",
        help="write the stack's files into a directory",
        description=f"Write Grafana dashboards, Prometheus rules, the configuration of the stack and {COMPOSE} "
        "into a directory, which is created if it does not exist.",
    )
    export.add_argument("directory", type=Path, metavar="DIR")
    export.add_argument("--force", action="store_true", help="overwrite existing files")
    export.add_argument(
        "--runbooks",
        metavar="URL",
        type=_address,
        default=RUNBOOKS,
        help=f"the address of the runbooks that the alerts link to (default: {RUNBOOKS}, relative to DIR)",
    )
    export.set_defaults(run=_export)


def _address(text: str) -> str:
    # It is written into YAML, where a space or a quote would end it.
    if not re.fullmatch(r"[\w./][\w.~:/?#@!$&()*+,;=%-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address, such as https://wiki.example.com/taskflow")
    return text


def _export(options: argparse.Namespace) -> int:
    written = export_dashboards(options.directory, force=options.force, runbooks=options.runbooks)
    say(f"wrote {len(written)} files to {options.directory}; {RUNBOOKS} there explains each alert", sys.stdout)
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
    package = files("taskflow_otel")
    root = package / "stack"
    if not root.is_dir():
        # A checkout: the files are beside the package.
        root = Path(str(package)).parent
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


if __name__ == "__main__":
    sys.exit(main())
