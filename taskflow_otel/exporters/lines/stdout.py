"""Task logs on standard output: `StdoutLogger`."""

from __future__ import annotations

import sys
from typing import TextIO

from taskflow_otel.exporters.lines.base import LineLogger
from taskflow_otel.exporters.lines.text import Format
from taskflow_otel.model.vocabulary import LogLevel
from taskflow_otel.runtime.terminal import writable


class StdoutLogger(LineLogger):
    """Prints task logs: the lines of `FileLogger`, for containers whose platform collects standard output.

    `log_lifecycle`: also a line for each transition. `min_level`: entries below it are skipped; a transition is an
    `info`, a retry, a cancellation or a refusal a `warning`, a failure an `error`.
    `stream`: where to print, by default the current standard output. Raises `ConfigurationError` for an unknown level
    or format.
    """

    def __init__(
        self,
        *,
        log_lifecycle: bool = True,
        min_level: str = LogLevel.INFO.value,
        format: Format = "text",
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(log_lifecycle=log_lifecycle, min_level=min_level, format=format)
        self._stream = stream

    def write(self, lines: list[str]) -> None:
        """Write lines and flush."""
        stream = sys.stdout if self._stream is None else self._stream
        # If the encoding lacks a character, print its escape: the line must not be lost.
        stream.write(writable("".join(lines), stream))
        stream.flush()
