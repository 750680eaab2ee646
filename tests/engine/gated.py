"""Task functions that end when a test says so, by a file: understood in a thread and in another process alike."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from taskflow_otel import TaskManager, task_log
from taskflow_otel.model.options import ExecutorName
from tests.inside import own_context


class GateError(Exception):
    """The gate said `fail`."""


async def gated_async(gate: str) -> None:
    """Say at `<gate>.in` that the function was entered, and do what the file `gate` says once it is there."""
    _enter(gate)
    while not _obey(gate):
        await asyncio.sleep(0.002)


def gated(gate: str) -> None:
    """The same for threads and processes, giving up when asked to."""
    _enter(gate)
    context = own_context()
    while not _obey(gate):
        context.raise_if_cancelled()
        time.sleep(0.002)


def declare_gated(manager: TaskManager, executor: ExecutorName, **options: object) -> object:
    """Register the gated function of this executor under the name `gated`."""
    function = gated_async if executor == "async" else gated
    return manager.task(name="gated", executor=executor, **options)(function)  # type: ignore[arg-type]  # options vary


class Gate:
    """The test's side of one gate."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self.path = directory / name
        self._entered = directory / f"{name}.in"

    @property
    def entries(self) -> int:
        """How often the function was entered."""
        return len(self._entered.read_text()) if self._entered.exists() else 0

    def open(self, word: str = "succeed") -> None:
        """Let the function end, by `succeed` or `fail`; after `say` it writes a log entry and waits again."""
        waiting = self.path.with_suffix(".new")
        waiting.write_text(word)
        # A reader never sees half a word.
        waiting.rename(self.path)

    def shut(self) -> None:
        """Make the next attempt wait again."""
        self.path.unlink(missing_ok=True)


def _enter(gate: str) -> None:
    with Path(f"{gate}.in").open("a") as entered:
        entered.write("x")


def _obey(gate: str) -> bool:
    """Do what the gate says, if it says anything; whether that is the end."""
    path = Path(gate)
    if not path.exists():
        return False
    word = path.read_text()
    if word == "fail":
        raise GateError("the gate said so")
    if word == "say":
        path.unlink()
        task_log("hello", rows=1)
    return word == "succeed"
