"""The command `taskflow-otel`."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import get_completion_class, shell_complete

from taskflow_otel.cli.dashboards import dashboards
from taskflow_otel.cli.demo import demo
from taskflow_otel.cli.doctor import doctor
from taskflow_otel.cli.output import messages_on
from taskflow_otel.cli.reconcile import reconcile
from taskflow_otel.cli.remote import cancel, logs, ls, retry, show
from taskflow_otel.cli.views import instances, purge, queues, schedules, stats, types
from taskflow_otel.cli.worker import worker
from taskflow_otel.errors import ConfigurationError, TaskflowError
from taskflow_otel.runtime.terminal import say, writable
from taskflow_otel.version import __version__

NAME = "taskflow-otel"
FAILED = 2
INTERRUPTED = 130
COMPLETE = "_TASKFLOW_OTEL_COMPLETE"
"""The variable by which a shell asks for completions."""


@click.group(NAME, no_args_is_help=False, subcommand_metavar="COMMAND ...")
@click.version_option(__version__, message="taskflow-otel %(version)s")
def commands() -> None:
    """Ask a running application, look into a backend, run workers, and set up what watches them.

    Exit status: 0 if all was done, 1 if a task was refused or something is wrong, 2 if the command could not do its
    work, 130 if it was interrupted.
    """


@commands.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what a shell needs to complete commands and options.

    For bash: eval "$(taskflow-otel completion bash)", in ~/.bashrc.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigurationError(f"there is no completion for {shell!r}")
    sys.stdout.write(kind(commands, {}, NAME, COMPLETE).source() + "\n")
    return 0


for _one in (
    cancel, dashboards, demo, doctor, instances, logs, ls, purge, queues, reconcile, retry, schedules, show, stats,
    types, worker,
):  # fmt: skip
    commands.add_command(_one)
_former = copy.copy(reconcile)
_former.hidden = True
commands.add_command(_former, "audit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process); return its exit status.

    0: done. 1: it found a difference, or a task was refused. 2: it could not do its work, and says why in one line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = os.environ.get(COMPLETE)
    if asked and arguments is None:
        return shell_complete(commands, {}, NAME, COMPLETE, asked)
    with messages_on(sys.stderr):
        try:
            status = _run(given)
            sys.stdout.flush()
        except BrokenPipeError:
            # The program that reads the output has ended. The interpreter flushes once more when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except (TaskflowError, OSError) as exc:
            say(f"{NAME}: {exc}", sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
    return status


def _run(arguments: list[str]) -> int:
    """Run the command; a wrong argument ends the process with status 2, as everywhere."""
    try:
        with commands.make_context(NAME, arguments) as context:
            status: int = commands.invoke(context)
            return status
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        # An argument may hold anything, so it is escaped.
        where = NAME
        if error.ctx is not None:
            where = error.ctx.command_path
            sys.stderr.write(writable(error.ctx.get_usage(), sys.stderr) + "\n")
        say(f"{where}: {error.format_message()}", sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    sys.exit(main())
