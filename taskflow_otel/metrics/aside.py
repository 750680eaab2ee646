"""Texts in files, by which the workers of one host answer for each other while the ledger is away or late."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path


class Aside:
    """The files of the workers behind one address, in a directory that only their user can open.

    `what`: sets the directory apart from that of other texts.
    """

    def __init__(self, address: str, what: str = "") -> None:
        self._user = os.getuid() if hasattr(os, "getuid") else 0
        root = Path(tempfile.gettempdir()) / f"taskflow-otel-{self._user}"
        self._directory = root / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}{what}"

    @property
    def there(self) -> bool:
        """Whether there is any text."""
        try:
            with os.scandir(self._directory) as found:
                return any(True for _ in found)
        except OSError:
            return False

    def put(self, source: str, text: str) -> bool:
        """Write the text of one process; return `False` where that is not possible."""
        try:
            for directory in (self._directory.parent, self._directory):
                directory.mkdir(mode=0o700, exist_ok=True)
            if not self._own():
                return False
            draft = self._directory / f"{source}.draft"
            draft.write_text(text, encoding="utf-8")
            draft.replace(self._directory / f"{source}.json")
        except OSError:
            return False
        return True

    def read(self) -> dict[str, str]:
        """All texts, by the name of their process."""
        found: dict[str, str] = {}
        if self._own():
            for path in self._directory.glob("*.json"):
                # If a file has been deleted since, the ledger has its counts.
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    found[path.stem] = path.read_text(encoding="utf-8")
        return found

    def drop(self, source: str) -> None:
        """Delete the text of a process."""
        with contextlib.suppress(OSError):
            (self._directory / f"{source}.json").unlink(missing_ok=True)

    def drop_older(self, seconds: float) -> None:
        """Delete the texts that were written so long before the newest one."""
        written: dict[Path, float] = {}
        if self._own():
            for path in self._directory.iterdir():
                with contextlib.suppress(OSError):
                    written[path] = path.stat().st_mtime
        newest = max(written.values(), default=0.0)
        for path, moment in written.items():
            if moment < newest - seconds:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _own(self) -> bool:
        """Whether no other user can write there: counts of someone else could be false."""
        try:
            states = [directory.lstat() for directory in (self._directory.parent, self._directory)]
        except OSError:
            return False
        return all(stat.S_ISDIR(one.st_mode) and one.st_uid == self._user and not one.st_mode & 0o022 for one in states)
