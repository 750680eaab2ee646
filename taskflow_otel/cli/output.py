"""What the command prints about its arguments and its work: each message on one line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from taskflow_otel.runtime.terminal import say, writable


class Arguments(argparse.ArgumentParser):
    """Names what is wrong with an argument; an argument may hold anything, so it is escaped."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message; exit with status 2."""
        sys.stderr.write(writable(self.format_usage(), sys.stderr))
        say(f"{self.prog}: {message}", sys.stderr)
        sys.exit(2)


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
