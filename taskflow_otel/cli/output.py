"""What the command prints: plain lines for programs and pipes, tables and bars for people at a terminal.

A terminal gets them if `rich` is installed (extra `cli`); `NO_COLOR` turns the colours off. Text from elsewhere is
escaped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import escape, say, writable

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {
    TaskStatus.PENDING.value: "blue",
    TaskStatus.RUNNING.value: "cyan",
    TaskStatus.SUCCESS.value: "green",
    TaskStatus.FAILED.value: "red",
    TaskStatus.INTERRUPTED.value: "magenta",
    TaskStatus.REJECTED.value: "yellow",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
    "alive": "green",
    "dead": "red",
}
"""Of a cell that is one of these words."""


def say_json(value: Any, stream: TextIO) -> None:
    """Print a JSON object on one line, without the passwords of URLs in its texts."""
    # ASCII: no text of a task can control a terminal.
    stream.write(json.dumps(_shown(value)) + "\n")


def _shown(value: Any) -> Any:
    """A value that may say anything: the error of a task often contains the address of a database."""
    match value:
        case str():
            return without_passwords(value)
        case list():
            return [_shown(one) for one in value]
        case dict():
            return {without_passwords(name): _shown(one) for name, one in value.items()}
        case _:
            return value


def terminal(stream: TextIO) -> Console | None:
    """The stream as a terminal with colours and tables; `None` if a program reads it, or without `rich`."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, highlight=False, emoji=False, markup=False)


def say_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], stream: TextIO, *, head: bool = True) -> None:
    """Print rows below the names of their columns; `head`: whether a program gets the names too."""
    console = terminal(stream)
    cells = [[text_of(value) for value in row] for row in rows]
    if console is None:
        lines = [list(columns), *cells] if head else cells
        widths = [max((len(row[index]) for row in lines), default=0) for index in range(len(columns))]
        for row in lines:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), stream)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # The first is what a person copies.
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == columns[0])
    for row in cells:
        table.add_row(*(Text(_safe(cell, stream), style=COLOURS.get(cell, "")) for cell in row))
    console.print(table)


def text_of(value: Any) -> str:
    """One cell."""
    return "-" if value is None else str(value)


def _safe(text: str, stream: TextIO) -> str:
    return writable(escape(without_passwords(text)), stream)


@contextmanager
def bar(what: str, stream: TextIO) -> Iterator[Callable[[int, int | None], None]]:
    """A bar while the block runs: call what it gives with how many are done, and of how many if that is known.

    Nothing is printed where no person looks.
    """
    console = terminal(stream)
    if console is None:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def messages_on(stream: TextIO) -> Iterator[None]:
    """Print what the library logs; without a handler, Python would print it as it is."""
    handler = _Lines(stream)
    logger = logging.getLogger("taskflow_otel")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.WARNING)
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        say(f"taskflow-otel: {record.getMessage()}", self._stream)
