"""Task logs in a file: `FileLogger`."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.lines.base import LineLogger
from taskflow_otel.exporters.lines.text import Format
from taskflow_otel.model.options import whole
from taskflow_otel.model.vocabulary import LogLevel
from taskflow_otel.runtime.file_lock import check_lockable, lock, unlock
from taskflow_otel.runtime.private_files import open_private, warn_of_readers

FileMode = Literal["rotate", "watched"]
MODES: tuple[str, ...] = get_args(FileMode)
_LINE_END = b"\n"
_log = logging.getLogger("taskflow_otel")


# Not by `logging.handlers`: these print a full disk to stderr instead of raising it, and write each record by itself.
class FileLogger(LineLogger):
    """Appends task logs to a file: `[task_id] [func_name] 2026-01-01T12:00:00 message`, or JSON lines.

    `path`: the file; its directory must exist. `max_bytes`: the size at which `mode="rotate"` starts a new file (0:
    never); `backup_count` old files are kept as `path.1`, `path.2`, … `mode="watched"` never rotates; it opens the path
    again after another program (logrotate) has moved the file. Several processes may write one file in both modes.
    `log_lifecycle`: also write a line for each transition. `min_level`: log entries below it are skipped, and so
    are transitions: most count as `info`, a retry or a cancellation as `warning`, a failure as `error`.

    The file is created for this account alone (mode 0600); one that others can read gives a warning. After a rotation
    the new file has the permissions and the group of the old one.

    Raises `ConfigurationError` if the file cannot be opened for writing or be locked, or for an invalid option. An
    error while writing (a full disk) is counted, and logged once a minute; writing continues when there is space again.
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
        # A task, or a server that becomes a daemon, may change the working directory.
        self.path: Path = Path(path).absolute()
        self._max_bytes = whole("max_bytes", max_bytes, minimum=0, maximum=2**63 - 1) if mode == "rotate" else 0
        self._backup_count = whole("backup_count", backup_count, minimum=0)
        self._file: int | None = None
        self._torn = False
        """The last write ended in the middle of a line."""
        self._try_out()
        warn_of_readers(
            _log,
            f"the log file {str(self.path)!r}",
            [self.path, *(self._backup(number) for number in range(1, self._backup_count + 1) if self._max_bytes)],
        )

    def write(self, lines: list[str]) -> None:
        """Append lines; raises `OSError` if some could not be written."""
        encoded = (line.encode("utf-8", "backslashreplace") for line in lines)
        if self._max_bytes:
            self._write_and_rotate(encoded)
            return
        if self._was_moved():
            self.release()
        self._append(b"".join(encoded))

    def release(self) -> None:
        """Close the file; the next write opens it again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _write_and_rotate(self, lines: Iterable[bytes]) -> None:
        size = self._take()
        try:
            chunk: list[bytes] = []
            for line in lines:
                if size and size + len(line) > self._max_bytes:
                    self._append(b"".join(chunk))
                    self._rotate()
                    chunk, size = [], self._take()
                chunk.append(line)
                size += len(line)
            self._append(b"".join(chunk))
        finally:
            if self._file is not None:
                unlock(self._file)

    def _take(self) -> int:
        """Lock the file that is at the path now, and return its size."""
        while True:
            file = self._opened()
            lock(file)
            if not self._was_moved():
                break
            # Another process has rotated it.
            unlock(file)
            self.release()
        size = os.fstat(file).st_size
        # Also where another process wrote last: a line that a full disk cut off must not swallow the next one.
        self._torn = bool(size) and os.pread(file, 1, size - 1) != _LINE_END
        return size

    def _try_out(self) -> None:
        try:
            file = self._opened()
        except OSError as exc:
            raise ConfigurationError(
                f"the log file {str(self.path)!r} cannot be written: {exc.strerror}. "
                "Create its directory, and let this process write there."
            ) from exc
        try:
            if self._max_bytes:
                check_lockable(file)
        except OSError as exc:
            raise ConfigurationError(
                f"the log file {str(self.path)!r} cannot be locked: {exc.strerror}. Put it on a local disk, or let "
                'another program rotate it: FileLogger(mode="watched").'
            ) from exc
        finally:
            self.release()

    def _opened(self) -> int:
        if self._file is None:
            # To rotate it, the end of the last line is read too.
            access = os.O_RDWR if self._max_bytes else os.O_WRONLY
            self._file = open_private(self.path, access | os.O_APPEND | os.O_CREAT)
        return self._file

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
        file = self._opened()
        if self._torn:
            data = _LINE_END + data
        view = memoryview(data)
        try:
            while view:
                written = os.write(file, view)
                self._torn = view[written - 1] != _LINE_END[0]
                view = view[written:]
        except OSError:
            # Open the path again next time: it may be another file by then.
            if self._max_bytes:
                unlock(file)
            self.release()
            raise

    def _rotate(self) -> None:
        """Move the locked file away, after all older ones, and make its successor."""
        old = self._opened()
        before = os.fstat(old)
        if self._backup_count == 0:
            self.path.unlink(missing_ok=True)
        for number in range(self._backup_count, 0, -1):
            source = self.path if number == 1 else self._backup(number - 1)
            with contextlib.suppress(FileNotFoundError):
                source.replace(self._backup(number))
        # From here on another process may have made the successor.
        unlock(old)
        self.release()
        new = self._opened()
        # Someone may have let the program read it that ships the lines.
        if stat.S_IMODE(before.st_mode) != stat.S_IMODE(os.fstat(new).st_mode):
            with contextlib.suppress(PermissionError):
                os.fchown(new, -1, before.st_gid)
                os.fchmod(new, stat.S_IMODE(before.st_mode))

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
