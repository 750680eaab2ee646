"""The command many times, without loading it each time: `python -m tests.cli.forked` reads lists of arguments as JSON.

Each list runs in a process of its own, forked from this one after it has loaded the command, and ends as the installed
command does: by `sys.exit(main())`. Prints exit status, standard output and standard error of each, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import taskflow_otel.cli.orders
import taskflow_otel.client
import taskflow_otel.reconcile.compare
import taskflow_otel.reconcile.otlp_file
import taskflow_otel.reconcile.pages
import taskflow_otel.reconcile.totals
from taskflow_otel.cli.main import main

ROOT = Path(__file__).parents[2]
__all__ = ["Ended", "run_each", "taskflow_otel"]


class Ended(NamedTuple):
    """How one run of the command ended."""

    status: int
    out: str
    err: str


def run_each(lists: Sequence[Sequence[str]], cwd: Path) -> list[Ended]:
    """Run the command with each of these lists of arguments, in this directory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.forked"],
        input=json.dumps(list(lists)), cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=True, timeout=240,
    )  # fmt: skip
    return [Ended(*one) for one in json.loads(done.stdout)]


def _run(arguments: list[str]) -> Ended:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["taskflow-otel", *arguments]
            status = 70
            try:
                status = main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 71
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
        return Ended(os.waitstatus_to_exitcode(ended), *texts)


if __name__ == "__main__":
    print(json.dumps([_run(arguments) for arguments in json.load(sys.stdin)]))  # noqa: T201  # its answer
