"""Reading what is stored, where it may have been damaged by hand or written by another version."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from taskflow_otel.runtime.throttled_report import Once

T = TypeVar("T")

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What the decoder of a stored text or row raises for one that it does not understand."""


class Readable:
    """Reads stored things one by one: what cannot be read is reported once and left out, the others count."""

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
