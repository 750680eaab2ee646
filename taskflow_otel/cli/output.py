"""What the command prints about its arguments and its work: each message on one line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import say, writable


class Arguments(argparse.ArgumentParser):
    """Names what is wrong with an argument; an argument may hold anything, so it is escaped."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message; exit with status 2."""
        sys.stderr.write(writable(self.format_usage(), sys.stderr))
        say(f"{self.prog}: {message}", sys.stderr)
        sys.exit(2)


def say_json(value: Any) -> None:
    """Print a JSON object on one line, without the passwords of URLs in its texts."""
    # ASCII: no text of a task can control a terminal.
    sys.stdout.write(json.dumps(_shown(value)) + "\n")


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
