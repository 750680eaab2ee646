"""Reading what is stored, where it may have been damaged by hand or written by another version."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from taskflow_otel.runtime.throttled_report import Once

T = TypeVar("T")

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The exceptions of decoders for a stored text or row that they cannot read."""


class Readable:
    """Reads stored items one by one; an unreadable item is reported once and left out."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._reported = Once()

    def read(self, what: str, load: Callable[..., T], *args: Any) -> T | None:
        """The result of `load(*args)`, or `None` if it fails; `what` names the stored thing in the report."""
        try:
            return load(*args)
        except UNREADABLE as exc:
            if self._reported.passes(what):
                self._logger.error("%s cannot be read and is left out: %s: %s", what, type(exc).__name__, exc)
            return None
