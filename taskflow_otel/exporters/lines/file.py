"""Task logs in a file: `FileLogger`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal, get_args

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.lines.base import LineLogger
from taskflow_otel.exporters.lines.text import Format
from taskflow_otel.model.options import whole
from taskflow_otel.model.vocabulary import LogLevel

FileMode = Literal["rotate", "watched"]
MODES: tuple[str, ...] = get_args(FileMode)


# Not by `logging.handlers`: these print a full disk to stderr instead of raising it, and write each record by itself.
class FileLogger(LineLogger):
    """Appends task logs to a file: `[task_id] [func_name] 2026-01-01T12:00:00 message`, or JSON lines.

    `path`: the file; its directory must exist. `max_bytes`: the size at which `mode="rotate"` starts a new file (0:
    never); `backup_count` old files are kept as `path.1`, `path.2`, … `mode="watched"` never rotates; it opens the path
    again after another program (logrotate) has moved the file. Use it if several processes write one file.
    `log_lifecycle`: also write a line for each transition. `min_level`: log entries below it are skipped.

    Raises `ConfigurationError` if the file cannot be opened for writing, or for an invalid option. An error while
    writing (a full disk) is counted, and logged once a minute; writing continues when there is space again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = 10 * 1024 * 1024,
        backup_count: int = 5,
        mode: FileMode = "rotate",
        log_lifecycle: bool = False,
        min_level: str = LogLevel.INFO.value,
        format: Format = "text",
    ) -> None:
        super().__init__(log_lifecycle=log_lifecycle, min_level=min_level, format=format)
        if mode not in MODES:
            raise ConfigurationError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        self.path = Path(path)
        self._max_bytes = whole("max_bytes", max_bytes, minimum=0, maximum=2**63 - 1) if mode == "rotate" else 0
        self._backup_count = whole("backup_count", backup_count, minimum=0)
        self._watched = mode == "watched"
        self._file: int | None = None
        self._size = 0
        self._torn = False
        """The last write ended in the middle of a line."""
        try:
            self._open()
        except OSError as exc:
            raise ConfigurationError(
                f"the log file {str(self.path)!r} cannot be written: {exc.strerror}. "
                "Create its directory, and let this process write there."
            ) from exc
        self.release()

    def write(self, lines: list[str]) -> None:
        """Append lines; raises `OSError` if some could not be written."""
        if self._watched and self._file is not None and self._was_moved():
            self.release()
        chunk: list[bytes] = []
        length = 0
        for line in lines:
            data = line.encode("utf-8", "backslashreplace")
            if self._max_bytes:
                file_size = self._opened()[1]
                if file_size + length and file_size + length + len(data) > self._max_bytes:
                    self._append(b"".join(chunk))
                    chunk, length = [], 0
                    self._rotate()
            chunk.append(data)
            length += len(data)
        self._append(b"".join(chunk))

    def release(self) -> None:
        """Close the file; the next write opens it again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> int:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._file = file
        self._size = os.fstat(file).st_size
        return file

    def _opened(self) -> tuple[int, int]:
        file = self._file if self._file is not None else self._open()
        return file, self._size

    def _was_moved(self) -> bool:
        if self._file is None:
            return False
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _append(self, data: bytes) -> None:
        if not data:
            return
        file, _ = self._opened()
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        try:
            while view:
                written = os.write(file, view)
                self._torn = view[written - 1] != 0x0A
                self._size += written
                view = view[written:]
        except OSError:
            # Open the path again next time: it may be another file by then.
            self.release()
            raise

    def _rotate(self) -> None:
        self.release()
        if self._backup_count == 0:
            self.path.unlink(missing_ok=True)
            return
        for number in range(self._backup_count, 0, -1):
            source = self.path if number == 1 else self._backup(number - 1)
            with contextlib.suppress(FileNotFoundError):
                source.replace(self._backup(number))

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
